"""Ways over more than one saddle: which minima they lead over, and in which order."""

import json

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.relax import RelaxResult
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.step import Stop
from hybrid_calc.drivers.walk import next_uphill
from hybrid_calc.drivers.way import way_over
from hybrid_calc.errors import ReferenceFailed
from tests.drivers.conftest import (
    Reference,
    committee_of,
    distance,
    hop,
    negative_modes,
    stepwise,
    transfer,
)

QUICK = NebSettings(images=7)
NAMES = [("reactant", "intermediate 1"), ("intermediate 1", "product")]


def almost(positions):
    return 0.9 * stepwise(positions)


def search(ends, reference, **more):
    return HybridNEB(*ends, committee_of(almost), reference, QUICK, **more)


def calls_of(result):
    return result.end_calls + result.interior_labels + result.confirmation_labels


def test_a_way_over_an_intermediate_is_searched_step_by_step(ends):
    reference = Reference(stepwise)
    result = search(ends, reference).run()
    assert result.confirmed, result.missing
    assert [step.names for step in result.steps] == NAMES
    middle = result.steps[0].end.positions
    assert distance(middle, 0, 2) - distance(middle, 1, 2) == pytest.approx(0.0, abs=0.05)
    for step in result.steps:
        assert step.confirmed
        # 0.8 eV each by construction, all minima at zero.
        assert step.barrier == pytest.approx(0.8, abs=5e-3)
        assert step.reaction_energy == pytest.approx(0.0, abs=5e-3)
        assert negative_modes(stepwise, step.transition_state) == 1
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert len(result.path) == len(result.path_energies) == 2 * QUICK.images - 1
    assert result.path_energies[[0, QUICK.images - 1, -1]] == pytest.approx([0, 0, 0], abs=5e-3)
    assert 0 in result.labelled_images
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


def test_the_highest_saddle_is_the_barrier(ends):
    def uneven(positions):
        s = distance(positions, 0, 2) - distance(positions, 1, 2)
        return stepwise(positions) + 0.3 * np.exp(-(((s - 0.577) / 0.2) ** 2))

    result = HybridNEB(*ends, committee_of(almost), Reference(uneven), QUICK).run()
    assert result.confirmed, result.missing
    assert result.highest is result.steps[1]
    over = result.steps[0].reaction_energy + result.steps[1].barrier
    assert result.barrier == pytest.approx(over)
    assert result.steps[0].barrier == pytest.approx(0.8, abs=0.01)
    assert result.steps[1].barrier == pytest.approx(1.1, abs=0.01)
    assert result.reverse_barrier == pytest.approx(result.barrier - result.reaction_energy)
    assert result.path_energies.max() == pytest.approx(result.barrier, abs=0.05)


@pytest.mark.parametrize("kept", range(4, 9))
def test_a_way_that_was_killed_goes_on_where_it_was(ends, kept):
    whole = Reference(stepwise)
    expected = search(ends, whole).run()
    saved = []
    first = Reference(stepwise, budget=kept)
    search(ends, first, save=saved.append).run()
    second = Reference(stepwise)
    driver = search(ends, second)
    driver.restore(json.loads(json.dumps(saved[-1])))
    result = driver.run()
    assert result.confirmed, result.missing
    assert len(first.asked) + len(second.asked) == len(whole.asked)
    assert result.barrier == expected.barrier
    assert calls_of(result) == calls_of(expected)
    assert np.array_equal(result.path, expected.path)


def test_no_budget_for_the_second_step_is_no_confirmation(ends):
    whole = search(ends, Reference(stepwise)).run()
    short = Reference(stepwise, budget=calls_of(whole) - 1)
    result = search(ends, short).run()
    assert not result.confirmed
    assert "spent" in result.missing
    assert result.steps[0].barrier == pytest.approx(0.8, abs=5e-3)


def test_a_third_structure_that_relaxes_to_an_end_is_no_intermediate(ends):
    # Half-way the atom is bonded to neither side; below the saddle lie only the two ends.
    reference = Reference(transfer)
    limits = SearchLimits(hard_band_labels=1)
    result = HybridNEB(*ends, committee_of(almost), reference, QUICK, limits=limits).run()
    assert result.confirmed, result.missing
    assert len(result.steps) == 1
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert calls_of(result) == len(reference.asked)


def test_more_steps_than_allowed_are_said_not_confirmed(ends):
    result = search(ends, Reference(stepwise), limits=SearchLimits(max_steps=1)).run()
    assert not result.confirmed
    assert "more than 1 steps" in result.missing


def test_a_saddle_is_walked_to_on_the_reference_where_refining_brings_nothing(ends, monkeypatch):
    reference, walked = Reference(transfer), []

    def counted(*arguments):
        walked.append(1)
        return next_uphill(*arguments)

    monkeypatch.setattr("hybrid_calc.drivers.search.next_uphill", counted)

    def wrong(positions):
        return 0.3 * transfer(positions, barrier=2.0)

    limits = SearchLimits(max_refinements=0)
    result = HybridNEB(*ends, committee_of(wrong), reference, QUICK, limits=limits).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.8, abs=2e-3)
    assert walked
    assert reference.repeats() == 0


@pytest.mark.parametrize(
    ("truth", "names"), [(transfer, [("reactant", "product")]), (stepwise, NAMES)]
)
def test_the_reference_itself_tells_what_a_saddle_joins(ends, monkeypatch, truth, names):
    monkeypatch.setattr("hybrid_calc.drivers.search.DECISIVE_CONFIRMATIONS", 0)
    reference = Reference(truth)
    result = HybridNEB(*ends, committee_of(almost), reference, QUICK).run()
    assert result.confirmed, result.missing
    assert [step.names for step in result.steps] == names
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert result.confirmation_labels > 10
    # Along the ways downhill the band has no other top than the saddle.
    assert result.path_energies.max() <= result.barrier + 0.01
    assert reference.repeats() == 0


# --- which minima


def stop(s, symbols="CCH"):
    """A relaxed minimum at a place of the hop; bonded to the left, to neither or to the right."""
    atoms = Atoms(symbols, positions=hop(s))
    found = RelaxResult(
        atoms=atoms,
        fmax=0.0,
        confirmed=True,
        missing="",
        method="surface",
        reference_calls=1,
        prior="none",
        labels=(),
        forecasts=(),
    )
    return Stop(name=f"{s}", atoms=atoms, found=found)


LEFT, MIDDLE, RIGHT = stop(-1.0), stop(0.0), stop(1.0)
FAR = stop(1.4)


@pytest.mark.parametrize(
    ("stops", "start", "sides", "expected"),
    [
        # the saddle that was sought
        ([LEFT, RIGHT], LEFT, [RIGHT, LEFT], [LEFT, RIGHT]),
        # a minimum between, found beside an end or by itself
        ([LEFT, RIGHT], LEFT, [LEFT, MIDDLE], [LEFT, MIDDLE, RIGHT]),
        ([LEFT, RIGHT], LEFT, [MIDDLE, RIGHT], [LEFT, MIDDLE, RIGHT]),
        ([LEFT, RIGHT], LEFT, [MIDDLE], [LEFT, MIDDLE, RIGHT]),
        # two new minima, in either order
        ([LEFT, FAR], LEFT, [RIGHT, MIDDLE], [LEFT, MIDDLE, RIGHT, FAR]),
        ([LEFT, FAR], LEFT, [MIDDLE, RIGHT], [LEFT, MIDDLE, RIGHT, FAR]),
        # a shorter way
        ([LEFT, MIDDLE, RIGHT], MIDDLE, [RIGHT, LEFT], [LEFT, RIGHT]),
        # nothing learned: both sides one minimum, a step elsewhere, nothing found
        ([LEFT, RIGHT], LEFT, [LEFT, LEFT], [LEFT, RIGHT]),
        ([LEFT, MIDDLE, RIGHT], MIDDLE, [LEFT, FAR], [LEFT, MIDDLE, RIGHT]),
        ([LEFT, RIGHT], LEFT, [LEFT], [LEFT, RIGHT]),
        ([LEFT, RIGHT], LEFT, [], [LEFT, RIGHT]),
    ],
)
def test_a_way_takes_in_what_was_found(stops, start, sides, expected):
    assert way_over(stops, start, sides) == expected


def test_two_new_minima_with_the_same_bonds_are_one():
    other = stop(0.001)
    assert way_over([LEFT, RIGHT], LEFT, [MIDDLE, other]) == [LEFT, RIGHT]


def test_a_stop_that_was_never_relaxed_has_no_minimum():
    with pytest.raises(ReferenceFailed, match="never relaxed"):
        _ = Stop(name="reactant", atoms=Atoms("CCH", positions=hop(0.0))).bonds
