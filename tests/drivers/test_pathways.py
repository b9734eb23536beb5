"""More than one pathway: when another one is sought, which is the result, what it costs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hybrid_calc.drivers import pathway
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.pathway import Pathway
from hybrid_calc.drivers.search import BarrierSearch
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.step import INTERMEDIATE
from tests.drivers.conftest import (
    Reference,
    committee_of,
    height_of,
    hop,
    killed_and_resumed,
    negative_modes,
    ridged,
    stepwise,
    transfer,
)

QUICK = NebSettings(images=7)
HARD = SearchLimits(hard_band_labels=1)
"""Every band is a hard one."""


def near(positions):
    return transfer(positions, barrier=0.6, stiffness=5.0)


def near_ridged(positions):
    return 0.9 * ridged(positions)


def search(ends, reference, settings=QUICK, limits=HARD, **more):
    committee = committee_of(near if len(ends[0]) == 3 else near_ridged)
    return HybridNEB(*ends, committee, reference, settings, limits=limits, **more)


def calls_of(result):
    return result.end_calls + result.interior_labels + result.confirmation_labels


@pytest.fixture
def hopeful(monkeypatch):
    """The surface always sees a lower band."""
    monkeypatch.setattr(BarrierSearch, "top_on_surface", lambda _: -np.inf)


@pytest.fixture
def hopeless(monkeypatch):
    """The surface never sees a lower band."""
    monkeypatch.setattr(BarrierSearch, "top_on_surface", lambda _: np.inf)


def test_a_band_that_was_not_hard_is_not_doubted(ends):
    easy = SearchLimits(hard_band_labels=100)
    driver = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK, limits=easy)
    result = driver.run()
    assert result.confirmed, result.missing
    assert [one.confirmed for one in result.pathways] == [True]
    assert result.pathways[0].barrier == result.barrier


@pytest.mark.usefixtures("hopeless")
def test_along_the_ridge_of_a_saddle_that_is_alone_nothing_is_found(ends):
    reference = Reference(transfer)
    result = search(ends, reference).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert [one.confirmed for one in result.pathways] == [True, False]
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


@pytest.mark.usefixtures("hopeless")
def test_the_ridge_of_a_saddle_leads_to_a_lower_one(planar_ends):
    reference = Reference(ridged)
    one = replace(HARD, max_pathways=1)
    direct = search(planar_ends, Reference(ridged), limits=one).run()
    assert direct.confirmed, direct.missing
    assert direct.barrier == pytest.approx(0.8, abs=5e-3)
    assert height_of(direct.transition_state) == pytest.approx(0.0, abs=0.05)
    result = search(planar_ends, reference).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.403, abs=5e-3)
    assert abs(height_of(result.transition_state)) == pytest.approx(np.sqrt(0.8), abs=0.05)
    assert negative_modes(ridged, result.transition_state) == 1
    assert [one.confirmed for one in result.pathways[:2]] == [True, True]
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


@pytest.mark.usefixtures("hopeless")
def test_one_that_was_given_up_and_may_be_lower_leaves_the_other_unconfirmed(planar_ends):
    driver = search(planar_ends, Reference(ridged))
    assert driver.run().confirmed
    lower = next(one for one in driver._pathways if one.confirmed and one.beside is not None)
    lower.missing = "120 labels were not enough"  # its saddle is confirmed, the rest is not
    driver._pathways = driver._pathways[:2]
    result = driver._result("")
    assert not result.confirmed
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert "over 0.403 eV so far, may be lower" in result.missing
    assert "labels were not enough" in result.missing
    again = search(planar_ends, Reference(ridged), limits=replace(HARD, max_pathways=2))
    again.restore(json.loads(json.dumps({**driver._now(), "receipts": []})))
    resumed = again.run()
    assert not resumed.confirmed
    assert resumed.missing == result.missing


@pytest.mark.usefixtures("hopeless")
def test_a_walk_along_a_ridge_that_was_killed_goes_on_where_it_was(planar_ends):
    whole = Reference(ridged)
    expected = search(planar_ends, whole).run()
    direct = search(planar_ends, Reference(ridged), limits=replace(HARD, max_pathways=1))
    before = len(direct.run().labels)
    for done in (before + 3, before + 12):
        result, asked = killed_and_resumed(
            lambda ask, **more: search(planar_ends, ask, **more),
            ridged,
            budget=done,
        )
        assert asked == len(whole.asked)
        assert result.pathways == expected.pathways
        assert np.array_equal(result.path, expected.path)


def test_the_surface_sees_the_confirmed_saddle_on_top_of_its_band(ends):
    driver = search(ends, Reference(transfer))
    result = driver.run()
    top = driver._pathways[0].steps[0].search.top_on_surface()
    low = float(result.reactant.get_potential_energy())
    assert top - low == pytest.approx(result.barrier, abs=0.02)


@pytest.mark.usefixtures("hopeful")
@pytest.mark.parametrize("truth", [transfer, stepwise])
def test_another_one_that_is_no_lower_changes_nothing(ends, truth):
    reference = Reference(truth)
    result = search(ends, reference).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert 1 < len(result.pathways) <= HARD.max_pathways
    confirmed = [one.barrier for one in result.pathways if one.confirmed]
    assert result.barrier == min(confirmed)
    assert all(bool(one.missing) != one.confirmed for one in result.pathways)
    # They share their labels.
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


def test_where_one_is_given_up_another_goes_on_with_its_labels(ends):
    reference = Reference(transfer)
    few = QUICK.model_copy(update={"max_labels": 2})
    result = search(ends, reference, few).run()
    assert "labels were not enough" in result.pathways[0].missing
    assert len(result.pathways) > 1
    assert result.confirmed == any(one.confirmed for one in result.pathways)
    assert bool(result.missing) != result.confirmed
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


@pytest.mark.usefixtures("hopeful")
def test_a_path_of_the_users_is_not_left(ends):
    whole = search(ends, Reference(transfer)).run()
    guess = ends[0].copy()
    guess.positions = whole.transition_state
    result = search(ends, Reference(transfer), path=[guess]).run()
    assert result.confirmed, result.missing
    assert len(result.pathways) == 1


@pytest.mark.usefixtures("hopeful")
@pytest.mark.parametrize("short", [1, 3, 6, 10])
def test_a_search_that_was_killed_goes_on_where_it_was(ends, short):
    whole = Reference(stepwise)
    expected = search(ends, whole).run()
    result, asked = killed_and_resumed(
        lambda ask, **more: search(ends, ask, **more),
        stepwise,
        budget=len(whole.asked) - short,
    )
    assert result.confirmed, result.missing
    assert asked == len(whole.asked)
    assert result.pathways == expected.pathways
    assert calls_of(result) == calls_of(expected)
    assert np.array_equal(result.path, expected.path)


@pytest.mark.usefixtures("hopeful")
def test_a_budget_that_ends_while_a_lower_one_is_sought_is_said(ends):
    whole = Reference(stepwise)
    search(ends, whole).run()
    result = search(ends, Reference(stepwise, budget=len(whole.asked) - 1)).run()
    assert not result.confirmed
    assert "spent" in result.missing
    assert result.barrier == pytest.approx(0.8, abs=5e-3)


@pytest.mark.parametrize(("truth", "is_one"), [(transfer, False), (stepwise, True)])
def test_the_reference_tells_a_minimum_from_a_saddle(ends, monkeypatch, truth, is_one):
    driver = search(ends, Reference(truth))
    means = driver._means()
    for stop in driver._ends:
        means.relax(stop)
    way = Pathway(means, driver._ends)
    way.set_out()
    half_way = means.stop(INTERMEDIATE, hop(0.0))  # symmetry keeps it there
    means.relax(half_way)
    assert half_way.minimum.confirmed
    along = np.array([[-0.2, 0, 0], [-0.2, 0, 0], [1.0, 0, 0]])
    modes = np.array([along / np.linalg.norm(along)])
    monkeypatch.setattr(pathway, "modes_at", lambda *_: (np.array([-1.0]), modes))
    assert way._is_minimum(way.steps[0], half_way) is is_one
    assert way.steps[0].book.reasons[-1] == pathway.SOFTEST
