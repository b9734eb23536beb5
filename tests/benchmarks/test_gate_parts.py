"""What the gate's benchmark measures distances by and averages over, by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.novelty import Cloud, Novelty
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.score import Score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_path(monkeypatch):
    """Let benchmarks be imported; they are scripts beside the package."""
    pytest.importorskip("tblite")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for name in set(sys.modules) - before:
        if name in {"bench", "reference"} or name.startswith("gate_"):
            sys.modules.pop(name, None)


def table(gate_tables, molecule, places, *, dynamics=True, kind="x"):
    """Return frames of two atoms (H, C) with one descriptor each, F of them."""
    frames = len(places)
    zeros = np.zeros((frames, 2, 3))
    return gate_tables.Table(
        molecule=molecule,
        kind=kind,
        seed=0,
        numbers=np.array([1, 6]),
        positions=zeros,
        momenta=zeros if dynamics else None,
        starts=zeros[:1],
        kelvin=None,
        energies=np.zeros((frames, 2)),
        forces=np.zeros((frames, 2, 2, 3)),
        descriptors=np.array(places, dtype=np.float32)[:, :, None],
        true_energies=np.zeros(frames),
        true_forces=zeros,
        second_forces=zeros,
    )


def line():
    """Return clouds of one axis on which one is one, for H and C."""
    cloud = Cloud(
        mean=np.zeros(1, dtype=np.float32),
        axes=np.ones((1, 1), dtype=np.float32),
        spans=np.ones(1),
        off_span=1.0,
        atoms=10,
    )
    return Novelty({1: cloud, 6: cloud})


@pytest.mark.usefixtures("benchmark_path")
def test_a_frame_is_as_far_as_its_strangest_atom_from_the_nearest_of_its_element():
    import gate_distance
    import gate_tables

    labelled = gate_distance.Labelled([table(gate_tables, "a", [[0, 5], [4, 9]])], line())
    other = table(gate_tables, "b", [[1, 5], [4, 12], [2, 5]])
    # H 1 from 0, C 0; H 0, C 3 from 9; H 2 from either, C 0
    assert labelled.distances([other]) == pytest.approx([1, 3, 2], abs=1e-3)


@pytest.mark.usefixtures("benchmark_path")
def test_a_frame_is_not_compared_with_its_own_molecule():
    import gate_distance
    import gate_tables

    both = [table(gate_tables, "a", [[0, 0]]), table(gate_tables, "b", [[0, 7]])]
    labelled = gate_distance.Labelled(both, line())
    assert labelled.distances(both) == pytest.approx([7, 7], abs=1e-3)
    alone = gate_distance.Labelled(both[:1], line())
    assert alone.distances(both[:1]) == pytest.approx([gate_distance.FAR])


@pytest.mark.usefixtures("benchmark_path")
def test_independent_frames_are_compared_with_other_tenths():
    import gate_distance
    import gate_tables

    frames = table(gate_tables, "a", [[k // 2, 0] for k in range(20)], dynamics=False)
    labelled = gate_distance.Labelled([frames], line())
    # Two to a part: the twin at the same place does not count, the next part is one away.
    assert labelled.distances([frames]) == pytest.approx(np.ones(20), abs=1e-3)


@pytest.mark.usefixtures("benchmark_path")
def test_an_audit_is_paid_for_and_has_missed_what_it_finds():
    import gate_promises

    asked = np.array([True, True, False, False, True])
    audited = np.array([False, True, False, False, False])
    bad = np.array([True, True, True, False, False])
    covered = np.array([True, True, True, True, False])
    judged = gate_promises.Judged(asked=asked, audited=audited, bad=bad, covered=covered)
    assert judged.row() == {
        "missed": pytest.approx(2 / 3),
        "asked": 0.5,
        "bad": 0.75,
        "price": pytest.approx(2 / 3),
        "covered": 0.8,
    }
    assert judged.row(~covered) == gate_promises.NOTHING
    good = judged.row(np.array([False, False, False, True, True]))
    assert math.isnan(good["missed"])
    assert math.isnan(good["price"])
    assert (good["bad"], good["covered"]) == (0.0, 0.5)


@pytest.mark.usefixtures("benchmark_path")
def test_splits_without_a_bad_frame_say_nothing_about_what_was_missed():
    import gate_promises

    row = {"missed": 0.1, "asked": 0.4, "bad": 0.2, "price": 2.0, "covered": 1.0}
    calm = {"missed": math.nan, "asked": 0.2, "bad": 0.0, "price": math.nan, "covered": 0.5}
    found = gate_promises.averages([row, row, calm, gate_promises.NOTHING], "x")
    assert found == {
        "covered_share_x": pytest.approx(0.625),
        "call_rate_calibrated_x": pytest.approx(1 / 3),
        "bad_share_covered_x": pytest.approx(0.4 / 3),
        "missed_share_calibrated_mean_x": pytest.approx(0.1),
        "call_rate_over_bad_share_x": pytest.approx(2.0),
        "price_of_asking_all_x": pytest.approx(5.0),
        "missed_share_calibrated_upper_x": pytest.approx(0.1),
    }


@pytest.mark.usefixtures("benchmark_path")
def test_frames_that_several_models_score_rank_by_their_probability_with_every_digit():
    from gate_rankers import log_odds

    random = np.random.default_rng(0)
    one = Score(signals=("force_spread", "novelty"), weights=(1.5, 0.5), bias=2.0)
    other = Score(signals=("force_spread",), weights=(4.0,), bias=-3.0)
    signals = {name: np.exp(random.normal(0, 1, 200)) for name in ("force_spread", "novelty")}
    signals["novelty"][0], signals["force_spread"][1:3] = np.nan, (1e-9, 1e9)
    odds = np.concatenate([log_odds(score, signals) for score in (one, other)])
    chances = np.concatenate([score.probabilities(signals) for score in (one, other)])
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(chances, rel=1e-12)
    assert np.all(np.diff(chances[np.argsort(odds)]) >= 0)
    far = {"force_spread": np.array([900.0, 901.0])}
    sure = Score(signals=("force_spread",), weights=(9.0,), bias=0.0)
    assert np.ptp(sure.probabilities(far)) == 0
    assert np.ptp(log_odds(sure, far)) > 0


@pytest.mark.usefixtures("benchmark_path")
def test_every_part_of_the_gate_is_left_out_once():
    import gate_promises

    from hybrid_calc.gate.settings import PRESETS, GateSettings

    left_out = [
        PRESETS["all"] - GateSettings.model_validate(settings).policies
        for settings in gate_promises.WITHOUT.values()
    ]
    assert sorted(policy for policies in left_out for policy in policies) == sorted(PRESETS["all"])


def regime(name):
    """Return a regime of hydrocarbons."""
    return Regime(name=name, elements="H C", charge=0, multiplicity=1)


@pytest.mark.usefixtures("benchmark_path")
def test_rarely_bad_is_said_of_regimes_that_have_a_calibration():
    import gate_domain
    import gate_promises

    domain = gate_domain.Domain(
        name="x",
        info=None,
        trained=None,
        tables=(),
        observations={},
        signals={},
        atoms={},
        tolerances=(0.2, 0.1),
    )
    # Every second frame is good; of the others 30 of 200, 7.5 % of all, exceed 8.5 but not 8.45.
    excess = np.zeros(1400)
    excess[1:400:2] = np.random.default_rng(0).permutation(np.linspace(0, 10, 200))
    frames = LabelledFrames(
        regimes=[regime("warm")] * 400 + [regime("equilibrium")] * 1000,
        molecules=["CH4"] * 1400,
        signals={},
        force_errors=0.2 * excess,
        energy_errors=np.zeros(1400),
        temperatures=np.full(1400, 600.0),
        weights=np.ones(1400),
        heaviest=np.ones(1400),
        trajectories=np.repeat([0, 1], [400, 1000]),
        steps=np.arange(1400),
    )
    arena = gate_promises.Arena(domain=domain, frames=frames, met=[], kinds=np.full(1400, "x"))
    assert arena.rarely_bad().domain.tolerances == pytest.approx((1.7, 0.85))
