"""What the gate's benchmark counts, by hand."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def ranking(monkeypatch):
    """Return the benchmark's module; benchmarks are scripts beside the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import gate_ranking

    yield gate_ranking
    for name in ("gate_ranking", "bench"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("place", "found"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_the_worst_of_twenty_is_found_among_the_first_two(ranking, place, found):
    errors = np.arange(20.0)  # the worst 5 % is the last frame
    scores = np.arange(20.0)[::-1].copy()  # frame 0 first, frame 1 next, ...
    scores[19] = scores[place] + 0.5  # now at this place
    assert ranking.recall(scores, errors, 0.10) == found


def test_scores_that_are_all_alike_find_what_the_price_pays_for(ranking):
    assert ranking.recall(np.zeros(200), np.arange(200.0), 0.10) == pytest.approx(0.10)


def test_frames_on_the_edge_of_the_price_count_by_their_share(ranking):
    errors = np.arange(20.0)
    scores = np.zeros(20)
    scores[0] = 1.0  # one of two labels is spent on a good frame, the other on one of 19
    assert ranking.recall(scores, errors, 0.10) == pytest.approx(1 / 19)


def test_proxima_falls_silent_where_its_first_frames_were_calm(ranking):
    metric = np.full(100, 0.1)
    errors = np.where(np.arange(100) < 20, 0.1, 5.0)  # the metric does not see what comes
    loop = ranking.proxima(
        metric,
        errors,
        errors > 0.2,
        target=0.2,
        random=np.random.default_rng(0),
        fraction=0.0,
    )
    # Eight labels give alpha 1 and a threshold of 0.1, which 0.1 does not stay
    # below; the ninth moves it by 0.2 - 0.1 to 0.2, and nothing is asked again.
    assert np.flatnonzero(loop.asked).tolist() == list(range(9))
    assert loop.missed == 1.0


def test_proxima_labels_by_chance_even_where_it_is_calm(ranking):
    metric, errors = np.full(5000, 0.1), np.full(5000, 0.1)
    random = np.random.default_rng(0)
    loop = ranking.proxima(metric, errors, errors > 0.2, target=0.2, random=random)
    assert loop.asked[9:].mean() == pytest.approx(0.05, abs=0.01)


def test_proximas_metric_is_the_mean_distance_of_the_worst_atom(ranking):
    forces = np.zeros((1, 2, 3, 3))
    forces[0, 1, 2] = [3.0, 0.0, 4.0]  # both members are 2.5 from their mean
    assert ranking.proxima_metric(forces) == pytest.approx([2.5])


def test_a_ranker_that_is_better_everywhere_has_a_gain_without_doubt(ranking):
    errors = np.arange(100.0)
    units = [
        ranking.Unit(name=f"m{k}-x", kind="x", errors=errors, scores={"a": errors, "b": -errors})
        for k in range(6)
    ]
    assert ranking.gain(units, "a", "b", np.random.default_rng(0)) == (1.0, 1.0, 1.0)
    assert ranking.mean_over_units(units, "b") == 0.0


def hump(ranking, name="m-x", frames=200):
    """Return a unit of two trajectories whose errors only descriptors tell, and only by labels."""
    places = np.tile(np.linspace(0, 10, frames // 2), 2)
    errors = 0.1 + np.exp(-((places - 7) ** 2) / 0.5)
    spreads = np.random.default_rng(0).uniform(0.5, 1.5, frames)
    return ranking.Unit(
        name=name,
        kind="x",
        errors=errors,
        scores={"spread": spreads},
        pool=ranking.Pool(spreads=spreads, descriptors=places[:, None, None]),
        trajectories=np.repeat([0, 1], frames // 2),
    )


def test_labels_in_rounds_count_every_label_and_rank_the_rest(ranking):
    unit = ranking.with_search(hump(ranking))
    scores = unit.scores[ranking.IN_ROUNDS]
    assert sorted(scores) == list(range(200))  # every frame has its own place
    first = int(np.argmax(scores))
    assert first == int(np.argmax(unit.scores["spread"]))  # nothing was known before
    assert ranking.recall(scores, unit.errors, 0.10) >= 0.8
    assert ranking.recall(unit.scores["spread"], unit.errors, 0.10) <= 0.3


def test_a_campaign_searches_all_kinds_of_a_molecule_together(ranking):
    both = ranking.together([hump(ranking, "m-x"), hump(ranking, "m-y")])
    assert [(unit.name, len(unit.errors)) for unit in both] == [("m-all", 400)]
    assert len(ranking.pool_of(both[0])) == 400
    found = ranking.with_search(both[0])
    assert ranking.recall(found.scores[ranking.IN_ROUNDS], found.errors, 0.10) >= 0.8


def test_an_oracle_knows_the_other_trajectories_only(ranking):
    unit = hump(ranking)
    logs = np.log([ranking.oracle(unit), unit.errors])
    assert np.corrcoef(logs)[0, 1] > 0.95  # it saw the same hump in the other one
    first = unit.trajectories == 0
    other = dataclasses.replace(unit, errors=np.where(first, unit.errors, 0.1))
    assert ranking.oracle(other)[first].max() < 0.2  # the hump of this one it did not see
    doubled = dataclasses.replace(unit, errors=2 * unit.scores["spread"])
    assert ranking.oracle(doubled, ["spread"]) == pytest.approx(np.log(doubled.errors))


@pytest.mark.parametrize(
    ("spreads", "recall"),
    [
        # ever calmer, then fifteen that are not: five labels are spent, fifteen are left
        (np.append(np.linspace(0.2, 0.1, 185), np.linspace(1, 2, 15)), 1.0),
        # ever worse: each is the worst so far, and twenty labels end with the twentieth
        (np.linspace(0.1, 2.0, 200), 0.0),
    ],
)
def test_a_run_cannot_go_back(ranking, spreads, recall):
    unit = ranking.Unit(
        name="m-x",
        kind="x",
        errors=spreads,
        scores={},
        pool=ranking.Pool(spreads=spreads, descriptors=np.linspace(0, 9, 200)[:, None, None]),
    )
    assert ranking.in_order(unit, learning=False) == recall
