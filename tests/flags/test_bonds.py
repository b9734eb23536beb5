"""Strain, training ranges and coordination, bond by bond, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.errors import InputError, StructureError
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coordination import coordination
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.flags.ranges import TrainingRanges, large_force, pair_name
from hybrid_calc.flags.report import Severity

INFO = CommitteeInfo(name="test", identity="0", size=2)
LOOSE = {"strained_bond": 9.0, "strained_angle": 9.0}
"""Limits under which nothing is strained, where training ranges are the matter."""


def monitor(ranges=None, **limits):
    return Monitor(FlagLimits(**limits), INFO, ranges)


def water(length=0.96, angle=104.5, momentum=0.0):
    half = math.radians(angle) / 2
    place = length * np.array([math.sin(half), 0, math.cos(half)])
    atoms = Atoms("OH2", [[0, 0, 0], place, place * [-1, 1, 1]])
    if momentum:
        atoms.set_momenta(np.full((3, 3), momentum))
    return atoms


def flags(watch, atoms):
    return {flag.name: flag for flag in watch.survey(atoms).report.flags}


# strain against the start


@pytest.mark.parametrize(
    ("ratio", "up"), [(0.84, True), (0.86, False), (1.14, False), (1.16, True)]
)
def test_a_bond_is_strained_when_its_length_changes_by_15_percent(ratio, up):
    watch = monitor(strained_angle=9.0)
    watch.start(water())
    found = flags(watch, water(length=0.96 * ratio))
    assert set(found) == ({"strained_bond"} if up else set())
    if up:
        flag = found["strained_bond"]
        assert flag.severity is Severity.REGIME
        assert flag.value == pytest.approx(0.16)
        assert flag.limit == 0.15
        assert set(flag.atoms) == {0, 1, 2}


def test_an_angle_is_strained_when_the_distance_of_its_ends_changes_by_a_fifth():
    watch = monitor()
    watch.start(water(angle=104.5))
    # distance of the hydrogens: 2 l sin(angle / 2); sin(52.25 deg) = 0.7907, a fifth less 0.6326
    assert flags(watch, water(angle=79.0)) == {}  # sin(39.5 deg) = 0.6361
    found = flags(watch, water(angle=78.0))  # sin(39 deg) = 0.6293
    assert set(found) == {"strained_angle"}
    assert set(found["strained_angle"].atoms) == {1, 2}
    assert found["strained_angle"].value == pytest.approx(1 - 0.6293 / 0.7907, abs=1e-4)


def test_what_is_thermal_grows_as_the_root_of_the_temperature():
    def strained(kelvin_factor):
        watch = monitor(strained_angle=9.0, persistence_steps=1, max_step_displacement_ang=9)
        quiet, pulled = water(momentum=0.0), water(length=0.96 * 1.2)
        for atoms in (quiet, pulled):
            atoms.set_momenta(np.full((3, 3), 1.0))
            mean = atoms.get_temperature()
            atoms.set_momenta(np.full((3, 3), math.sqrt(kelvin_factor * 300 / mean)))
        watch.start(quiet)
        return "strained_bond" in flags(watch, pulled)

    # 20 % of strain; the limit is 15 % times sqrt(T / 300)
    assert strained(1.0)
    assert strained(1.7)  # 19.6 %
    assert not strained(1.85)  # 20.4 %
    assert strained(0.1)  # never less than at 300 K


def test_in_dynamics_strain_must_last():
    watch = monitor(max_step_displacement_ang=9, strained_angle=9.0)
    watch.start(water(momentum=0.1))
    seen = ["strained_bond" in flags(watch, water(1.12, momentum=0.1)) for _ in range(4)]
    assert seen == [False, False, True, True]
    assert flags(watch, water(momentum=0.1)) == {}
    assert flags(watch, water(1.12, momentum=0.1)) == {}  # and starts anew


def test_a_breaking_bond_is_not_also_strained():
    watch = monitor(strained_angle=9.0)
    watch.start(water())
    stretched = water()
    stretched.positions[1] *= 1.3
    assert set(flags(watch, stretched)) == {"bond_breaking", "fragments"}


# training ranges


def ranges(**more):
    known = {"lengths": {"H-O": (0.90, 1.05)}, "coordination": {"O": (2, 2), "H": (1, 1)}}
    return TrainingRanges(**{**known, **more})


@pytest.mark.parametrize(
    ("length", "up"), [(0.86, True), (0.88, False), (1.07, False), (1.09, True)]
)
def test_a_bond_outside_the_training_range_by_more_than_the_margin_is_flagged(length, up):
    watch = monitor(ranges(), **LOOSE)
    watch.start(water())
    found = flags(watch, water(length=length))
    assert set(found) == ({"bond_length"} if up else set())
    if up:
        assert found["bond_length"].value == pytest.approx(length)
        assert found["bond_length"].limit == pytest.approx(0.87 if length < 1 else 1.08)
        assert found["bond_length"].unit == "A"


def test_a_bond_the_training_frames_never_had_is_flagged_at_any_length():
    watch = monitor(ranges(lengths={"C-H": (1.0, 1.2)}), **LOOSE)
    assert set(flags(watch, water())) == {"bond_length"}


def test_the_first_geometry_is_judged_as_well():
    assert set(flags(monitor(ranges(), **LOOSE), water(length=1.2))) == {"bond_length"}


def test_an_atom_alone_has_no_neighbours_which_its_range_may_want():
    watch = monitor(ranges(), **LOOSE)
    assert set(flags(watch, Atoms("H"))) == {"coordination"}
    assert flags(monitor(ranges(coordination={}), **LOOSE), Atoms("H")) == {}


@pytest.mark.parametrize("shown", [None, ranges()])
def test_distances_that_overflow_raise_though_every_position_is_finite(shown):
    watch = monitor(shown, **LOOSE)
    watch.start(water())
    far = water()
    far.positions[1], far.positions[2] = 1.7e308, -1.7e308
    with np.errstate(over="ignore"), pytest.raises(StructureError, match="not finite"):
        watch.survey(far)
    watch.survey(water())
    assert np.isfinite(watch.recent().lengths).all()  # nothing of it is kept


def test_ranges_that_say_nothing_flag_nothing():
    assert flags(monitor(TrainingRanges(), **LOOSE), water(length=1.15)) == {}


def test_a_third_neighbour_is_outside_a_range_of_two():
    crowded = water()
    crowded += Atoms("H", [[0, 0, -3.0]])
    watch = monitor(ranges(), forming_bond_order=5.0, **LOOSE)
    watch.start(crowded)
    assert set(flags(watch, crowded)) == {"coordination"}  # the lone H has no neighbour
    crowded.positions[3] = [0, 0, -1.1]  # of the limit of 1.26 A
    found = flags(watch, crowded)
    assert set(found) == {"coordination"}
    assert found["coordination"].atoms[0] == 0
    # 1.1 A is 1.134 of the radii: 1 / (1 + exp(-3.32)) = 0.965
    assert found["coordination"].value == pytest.approx(2.96, abs=0.01)
    assert found["coordination"].limit == 2.5


def test_a_neighbour_half_way_counts_half():
    # 1.3 x (0.66 + 0.31) = 1.261 A
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1.261]])
    pairs = pairs_of(atoms.numbers)
    assert coordination(pair_distances(atoms, pairs), pairs) == pytest.approx([0.5, 0.5])


def test_coordination_is_chemistry():
    atoms = molecule("CH3CH2OH")
    pairs = pairs_of(atoms.numbers)
    counts = coordination(pair_distances(atoms, pairs), pairs)
    want = {"C": 4, "O": 2, "H": 1}
    assert counts == pytest.approx([want[symbol] for symbol in atoms.symbols], abs=0.05)
    order = np.random.default_rng(0).permutation(len(atoms))
    mixed = atoms[order]
    assert coordination(
        pair_distances(mixed, pairs_of(mixed.numbers)), pairs_of(mixed.numbers)
    ) == (pytest.approx(counts[order]))


@pytest.mark.parametrize(("margin", "up"), [(0.2, True), (0.5, False)])
def test_no_count_leaves_its_range_while_every_bond_is_still_a_bond(margin, up):
    methane = molecule("CH4")
    known = TrainingRanges(coordination={"C": (3.99, 4.0), "H": (0.9, 1.1)})
    watch = monitor(known, coordination_margin=margin, **LOOSE)
    assert flags(watch, methane) == {}
    methane.positions[1:] *= 1.27 / 1.09  # each counts 0.9
    found = flags(watch, methane)
    assert set(found) == ({"coordination"} if up else set())
    assert not up or found["coordination"].value == pytest.approx(3.62, abs=0.02)


def test_a_watch_goes_on_where_it_was_saved():
    moves = [water(1.12 if n in (2, 3, 4, 7, 8, 9) else 0.96, momentum=0.1) for n in range(12)]
    whole = monitor(ranges(), max_step_displacement_ang=9)
    want = [set(flags(whole, atoms)) for atoms in moves]
    assert {"strained_bond", "bond_length"} in want
    for cut in range(1, 11):
        first, second = (monitor(ranges(), max_step_displacement_ang=9) for _ in range(2))
        for atoms in moves[:cut]:
            first.survey(atoms)
        second.restore(first.state())
        assert [set(flags(second, atoms)) for atoms in moves[cut:]] == want[cut:]


# the ranges themselves


@pytest.mark.parametrize(
    "bad",
    [
        {"lengths": {"C-H": (1.2, 1.0)}},
        {"lengths": {"C-H": (float("nan"), 1.0)}},
        {"coordination": {"C": (-1, 4)}},
        {"coordination": {"C": (1, math.inf)}},
        {"largest_force": 0.0},
        {"largest_force": float("nan")},
    ],
)
def test_a_range_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=r"calibrate again|Calibrate again"):
        TrainingRanges(**bad)


def test_ranges_survive_json():
    import json

    full = ranges(largest_force=3.5, frames=500)
    assert TrainingRanges.from_dict(json.loads(json.dumps(full.to_dict()))) == full


def test_the_name_of_a_pair_has_no_order():
    assert pair_name("O", "H") == pair_name("H", "O") == "H-O"


def test_a_force_beyond_the_training_frames_is_soft():
    known = ranges(largest_force=3.5)
    assert large_force(3.5, 1, known) == ()
    (flag,) = large_force(3.6, 1, known)
    assert (flag.severity, flag.atoms, flag.value, flag.limit) == (Severity.SOFT, (1,), 3.6, 3.5)
    assert large_force(99.0, 1, ranges()) == ()
