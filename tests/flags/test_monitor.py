"""The memory of a trajectory: initial graph, persistence, temperatures, state and restore."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from hybrid_calc.committee.prediction import CommitteeInfo, Domain
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor


def monitor(*, domain=None, **limits):
    info = CommitteeInfo(name="test", identity="0", size=2, domain=domain or Domain())
    return Monitor(FlagLimits(**limits), info)


def pair(length, *, momentum=0.0, **info):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, length]], info=info)
    if momentum:
        atoms.set_momenta([[momentum, 0, 0], [-momentum, 0, 0]])
    return atoms


def heated(kelvin):
    """H2 at rest length whose momenta are those of exactly this temperature: K = 3 k T."""
    momentum = np.sqrt(3 * units.kB * kelvin * 1.008)  # two atoms, p^2 / m each half of 2 K
    return pair(0.74, momentum=momentum)


def names(watch, atoms):
    return watch.survey(atoms).report.names


def test_the_first_geometry_is_the_one_others_are_judged_against():
    watch = monitor()
    assert names(watch, pair(0.74)) == ()
    assert names(watch, pair(0.85)) == ()
    assert names(watch, pair(0.92)) == ("strained_bond",)
    assert names(watch, pair(0.93)) == ("bond_breaking", "fragments")


def test_start_takes_another_geometry_instead():
    watch = monitor()
    watch.start(pair(0.60))
    assert "bond_breaking" not in names(watch, pair(0.74))
    assert "bond_breaking" in names(watch, pair(0.76))


def test_other_elements_start_anew():
    watch = monitor()
    watch.survey(pair(0.74))
    assert names(watch, molecule("H2O")) == ()
    assert names(watch, pair(1.5)) == ()


def test_without_momenta_a_bond_counts_as_broken_at_once():
    watch = monitor()
    watch.survey(pair(0.74))
    assert "bond_breaking" in names(watch, pair(1.0))


def test_in_dynamics_a_bond_must_stay_broken_for_three_steps():
    watch = monitor(max_step_displacement_ang=9)
    watch.survey(pair(0.74, momentum=0.1))
    broken = ["bond_breaking" in names(watch, pair(1.0, momentum=0.1)) for _ in range(4)]
    assert broken == [False, False, True, True]


def test_a_bond_that_comes_back_starts_its_count_again():
    watch = monitor(max_step_displacement_ang=9)
    lengths = [0.74, 1.0, 1.0, 0.8, 1.0, 1.0, 1.0]
    flagged = ["bond_breaking" in names(watch, pair(length, momentum=0.1)) for length in lengths]
    assert flagged == [False] * 6 + [True]


def test_each_bond_has_a_count_of_its_own():
    # two molecules that stretch in turn: neither stays broken
    watch = monitor(max_step_displacement_ang=9)

    def both(first, second):
        atoms = Atoms("H4", [[0, 0, 0], [0, 0, first], [9, 0, 0], [9, 0, second]])
        atoms.set_momenta(np.full((4, 3), 0.1))
        return atoms

    watch.survey(both(0.74, 0.74))
    turns = [(1.0, 0.74), (0.74, 1.0)] * 4
    assert all("bond_breaking" not in names(watch, both(*turn)) for turn in turns)


def test_a_forming_bond_must_last_too():
    watch = monitor(max_step_displacement_ang=9, persistence_steps=2)
    watch.survey(pair(3.0, momentum=0.1))
    formed = ["bond_forming" in names(watch, pair(0.7, momentum=0.1)) for _ in range(2)]
    assert formed == [False, True]


def test_a_jump_is_flagged_in_dynamics_and_not_in_optimisations():
    watch = monitor()
    watch.survey(pair(0.74, momentum=0.1))
    moved = pair(0.74, momentum=0.1)
    moved.positions += [0, 0.31, 0]
    assert "step_displacement" in names(watch, moved)
    watch = monitor()
    watch.survey(pair(0.74))
    jumped = pair(0.74)
    jumped.positions += [0, 5, 0]
    assert names(watch, jumped) == ()


def test_the_first_step_of_a_dynamics_is_not_a_jump():
    watch = monitor()
    watch.survey(pair(0.74))
    moved = pair(0.74, momentum=0.1)
    moved.positions += 5
    assert names(watch, moved) == ()


def test_the_mean_temperature_is_that_of_the_window():
    watch = monitor(temperature_window_fs=1.0)
    means = [watch.survey(heated(kelvin)).report.mean_temperature for kelvin in (300, 500, 900)]
    assert means == pytest.approx([300, 400, 700], rel=1e-6)


def test_a_hot_spike_is_not_a_hot_mean():
    watch = monitor(temperature_window_fs=1.5)
    kelvins = (300, 300, 1400, 500)  # means 300, 300, 667, 733
    flagged = ["mean_temperature" in names(watch, heated(kelvin)) for kelvin in kelvins]
    assert flagged == [False, False, False, True]


def test_an_optimisation_has_no_temperature():
    assert monitor().survey(pair(0.74)).report.mean_temperature is None


def test_a_change_of_charge_alone_changes_the_domain_flags():
    watch = monitor(domain=Domain(charges=frozenset({0}), multiplicities=frozenset({1})))
    assert names(watch, pair(0.74)) == ()
    assert names(watch, pair(0.74, charge=1)) == ("unknown_charge", "unknown_multiplicity")
    assert names(watch, pair(0.74, spin=3)) == ("unknown_multiplicity",)
    assert names(watch, pair(0.74)) == ()


def test_a_change_of_periodicity_alone_changes_the_domain_flags():
    watch = monitor(domain=Domain(periodic=False))
    atoms = pair(0.74)
    atoms.cell = [9, 9, 9]
    assert names(watch, atoms) == ()
    atoms.pbc = True
    assert names(watch, atoms) == ("periodic_cell",)


def test_a_clash_and_a_stranger_are_both_reported():
    watch = monitor(domain=Domain(elements=frozenset({6})))
    watch.start(pair(0.74))
    assert names(watch, pair(0.3)) == ("unknown_element_H", "close_contact", "strained_bond")


def test_an_empty_monitor_has_no_state():
    assert monitor().state() is None
    watch = monitor()
    watch.restore(None)
    assert names(watch, pair(0.74)) == ()


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_restored_monitor_sees_what_the_first_would_have_seen(stop):
    lengths = [0.74, 0.9, 1.0, 1.0, 1.0, 1.5, 1.0, 0.8]
    frames = [pair(length, momentum=1 + number) for number, length in enumerate(lengths)]
    whole = monitor(temperature_window_fs=1.5)
    want = [whole.survey(atoms).report for atoms in frames]
    first = monitor(temperature_window_fs=1.5)
    for atoms in frames[:stop]:
        first.survey(atoms)
    second = monitor(temperature_window_fs=1.5)
    second.restore(json.loads(json.dumps(first.state())))
    assert [second.survey(atoms).report for atoms in frames[stop:]] == want[stop:]


def test_a_state_is_not_changed_by_going_on():
    watch = monitor(max_step_displacement_ang=9)
    watch.survey(pair(0.74, momentum=0.1))
    watch.survey(pair(1.0, momentum=0.1))
    state = watch.state()
    text = json.dumps(state)
    watch.survey(pair(2.0, momentum=0.3))
    assert json.dumps(state) == text
