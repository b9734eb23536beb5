"""Ways over more than one saddle: which minima they lead over, and in which order."""

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.labelling import LabelBook, surface_label
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.relax import RelaxResult
from hybrid_calc.drivers.search import BarrierSearch
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shelf import highest_between, ways_off_shelf
from hybrid_calc.drivers.step import Stop
from hybrid_calc.drivers.walk import next_uphill
from hybrid_calc.drivers.way import way_over
from hybrid_calc.errors import ReferenceFailed
from tests.drivers.conftest import (
    SHELF,
    Reference,
    committee_of,
    distance,
    hop,
    killed_and_resumed,
    negative_modes,
    numerical,
    shelved,
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
    result, asked = killed_and_resumed(
        lambda ask, **more: search(ends, ask, **more),
        stepwise,
        budget=kept,
    )
    assert result.confirmed, result.missing
    assert asked == len(whole.asked)
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


# --- a minimum that is hardly one


def nearly_shelved(positions):
    return 0.9 * shelved(positions)


@pytest.fixture
def decisive(monkeypatch):
    """What a saddle joins is always asked of the reference: a surface overlooks 2 meV."""
    monkeypatch.setattr("hybrid_calc.drivers.search.DECISIVE_CONFIRMATIONS", 0)


def over_shelf(ends, reference, **more):
    return HybridNEB(*ends, committee_of(nearly_shelved), reference, QUICK, **more)


@pytest.mark.usefixtures("decisive")
def test_a_shelf_is_left_without_a_saddle(ends):
    reference = Reference(shelved)
    result = over_shelf(ends, reference).run()
    assert result.confirmed, result.missing
    assert [step.names for step in result.steps] == NAMES
    first, second = result.steps
    assert not first.barrierless
    assert first.barrier == pytest.approx(SHELF(-0.5), abs=5e-3)
    assert second.barrierless
    assert second.confirmed
    assert second.transition_state is None
    # 2.2 meV above the middle by construction, whose relaxation may have stopped beside it.
    assert 0 <= second.barrier <= 0.005
    assert result.highest is first
    assert result.transition_state is first.transition_state
    # The path runs down to the product.
    down = result.path_energies[QUICK.images - 1 :]
    assert down.max() <= down[0] + 0.01
    assert result.path_energies[-1] == pytest.approx(SHELF(1.0), abs=5e-3)
    assert reference.repeats() == 0
    assert calls_of(result) == len(reference.asked)


@pytest.mark.usefixtures("decisive")
def test_a_step_is_not_given_up_before_the_way_off_its_shelf_was_tried(ends, monkeypatch):
    def collapsed(self, surface, doubt):
        self.progress.doubt, self.progress.phase = doubt, "search"
        self.progress.collapses += 1  # as if the bands had never been seen to collapse

    monkeypatch.setattr(BarrierSearch, "_collapsed", collapsed)
    result = over_shelf(ends, Reference(shelved), limits=SearchLimits(max_pathways=1)).run()
    assert result.confirmed, result.missing
    assert result.steps[1].barrierless


@pytest.mark.usefixtures("decisive")
@pytest.mark.parametrize("short", [1, 10, 40])
def test_a_walk_off_a_shelf_that_was_killed_is_repeated_for_nothing(ends, short):
    whole = Reference(shelved)
    expected = over_shelf(ends, whole).run()
    result, asked = killed_and_resumed(
        lambda ask, **more: over_shelf(ends, ask, **more),
        shelved,
        budget=len(whole.asked) - short,
    )
    assert result.confirmed, result.missing
    assert asked == len(whole.asked)
    assert calls_of(result) == calls_of(expected)
    assert np.array_equal(result.path, expected.path)
    assert result.steps[1].barrier == expected.steps[1].barrier


@pytest.mark.usefixtures("decisive")
def test_the_users_own_end_is_no_shelf(ends):
    # From the middle on downhill: a barrier of 2 meV is not told from none.
    middle = Atoms("CCH", positions=hop(0.0))
    result = over_shelf((middle, ends[1]), Reference(shelved)).run()
    assert not result.confirmed


def shelf_label(s, truth=shelved):
    """A label at a place of the way, which runs at r02 + r12 = 2.9 A."""
    here = hop(s)
    near, far = 1.45 + s / 2, 1.45 - s / 2
    x = (near**2 - far**2 + 2.4**2) / (2 * 2.4)
    here[2] = [x, np.sqrt(near**2 - x**2), 0]
    energy, forces = numerical(truth, here)
    prior = committee_of(nearly_shelved)
    return surface_label(Atoms("CCH", positions=here), prior, here, energy=energy, forces=forces)


@pytest.mark.parametrize(
    ("most", "found"),
    [
        pytest.param(0.005, True, id="2.2 meV are no barrier"),
        pytest.param(0.0005, False, id="2.2 meV are a barrier"),
    ],
)
def test_what_is_a_barrier_is_told(most, found):
    reference = Reference(shelved)
    low = shelf_label(0.0)
    committee = committee_of(nearly_shelved)
    book = LabelBook(Atoms("CCH", positions=low.positions), committee, reference, [low])
    book.know([shelf_label(s) for s in (-0.1, 0.05, 0.15)])

    def at_the_product(label):
        return bool(distance(label.positions, 1, 2) < 1.0)

    ways = ways_off_shelf(book, low, hop(1.0), at_the_product, max_rise=most)
    ends = [at_the_product(way.last) for way in ways]
    assert any(ends) is found


def test_walks_that_only_go_up_are_no_way(monkeypatch):
    wall = np.zeros((3, 3))
    wall[1, 0] = 0.3  # of the stiff distance

    def up(saddle):
        return [saddle.positions + wall, saddle.positions - wall]

    monkeypatch.setattr("hybrid_calc.drivers.shelf.pushed", up)
    low = shelf_label(0.0)
    prior = committee_of(nearly_shelved)
    book = LabelBook(Atoms("CCH", positions=low.positions), prior, Reference(shelved), [low])
    ways = list(ways_off_shelf(book, low, hop(1.0), lambda _: True, max_rise=0.005))
    assert ways  # they end where they begin
    assert all(distance(way.last.positions, 1, 2) > 1.2 for way in ways)


def test_a_cubic_between_two_labels_shows_what_is_higher_there():
    low, high = shelf_label(0.0), shelf_label(1.0)
    over = highest_between(low, high)
    energies = [shelf_label(s).energy for s in np.linspace(0.0, 0.4, 9)]
    assert over >= max(low.energy, high.energy)
    assert over == pytest.approx(max(energies), abs=0.1)
    assert highest_between(low, low) == pytest.approx(low.energy)


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
