"""Defects of a solid, the drift of dynamics, and what a label's state says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.coordination import Sites, site_counts
from hybrid_calc.flags.electronic import electronic_flags
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.gate.regime import classify
from hybrid_calc.geometry import composition_of

MARGIN = 0.75
INFO = CommitteeInfo(name="test", identity="0", size=2)


def copper(vacancy=False):
    atoms = bulk("Cu", cubic=True).repeat(2)
    if vacancy:
        del atoms[0]
    return atoms


CRYSTALS = [
    (bulk("Cu"), {12}),
    (copper(), {12}),
    (bulk("Al"), {12}),
    (bulk("Mg"), {12}),
    (bulk("Si"), {4}),
    (bulk("C"), {4}),
    (bulk("Fe"), {8 + 6}),
    (bulk("Li"), {8 + 6}),
    (bulk("GaAs", "zincblende", a=5.65), {4}),
    # Sodium ions are within the reach of each other, chloride ions are not.
    (bulk("NaCl", "rocksalt", a=5.64), {6 + 12, 6}),
    (bulk("MgO", "rocksalt", a=4.21), {6 + 12, 6}),
]


@pytest.mark.parametrize(
    ("solid", "expected"), CRYSTALS, ids=[f"{len(c)} {c.symbols}" for c, _ in CRYSTALS]
)
def test_a_perfect_crystal_has_the_coordination_of_the_textbook(solid, expected):
    sites = Sites(solid, MARGIN)
    counts = site_counts(solid, sites.ratio)
    assert sorted(counts) == pytest.approx(
        sorted(list(expected) * (len(solid) // len(expected))), abs=0.2
    )
    assert sites.look(solid, lasting=1) == ()


@pytest.mark.parametrize(
    "solid", [c for c, _ in CRYSTALS], ids=[f"{len(c)} {c.symbols}" for c, _ in CRYSTALS]
)
def test_thermal_motion_is_no_defect_a_vacancy_is_one(solid):
    solid, random = solid.repeat(3 if len(solid) < 8 else 1), np.random.default_rng(0)
    sites = Sites(solid, MARGIN)
    for _ in range(20):
        shaken = solid.copy()
        shaken.positions += random.normal(0, 0.06, (len(shaken), 3))
        assert sites.look(shaken, lasting=1) == ()
        assert Sites(shaken, MARGIN).ratio == pytest.approx(sites.ratio, abs=0.05)
    del solid[0]
    assert Sites(solid, MARGIN).look(solid, lasting=1) != ()


def test_the_twelve_neighbours_of_a_vacancy_are_a_defect():
    watch = Monitor(FlagLimits(), INFO)
    report = watch.survey(copper(vacancy=True)).report
    (flag,) = report.flags
    assert flag.name == "site_coordination"
    assert len(flag.atoms) == 12
    assert (flag.value, flag.limit) == pytest.approx((11, 12), abs=0.25)
    solid = copper(vacancy=True)
    assert str(classify(composition_of(solid), report, FlagLimits())) == (
        "defect Cu, multiplicity 2"
    )


def test_a_vacancy_that_appears_later_counts_in_dynamics_after_three_steps():
    sites = Sites(copper(), MARGIN)
    moved = copper()
    moved.positions[0] += [0.0, 0.0, 1.8]  # an interstitial
    seen = [bool(sites.look(moved, lasting=3)) for _ in range(4)]
    assert seen == [False, False, True, True]
    again = Sites(copper(), MARGIN)
    again.restore(json.loads(json.dumps(sites.state())))
    assert again.look(moved, lasting=3)
    assert sites.look(copper(), lasting=3) == ()


@pytest.mark.parametrize("name", ["CH3CONH2", "H2O"])
def test_a_molecule_in_a_box_has_no_bulk(name):
    box = molecule(name, vacuum=4.0, pbc=True)
    assert not Sites(box, MARGIN).extended
    assert Monitor(FlagLimits(), INFO).survey(box).report.flags == ()


def test_thermal_motion_of_copper_is_no_defect():
    watch, random = Monitor(FlagLimits(), INFO), np.random.default_rng(0)
    watch.survey(copper())
    for _ in range(20):
        shaken = copper()
        shaken.positions += random.normal(0, 0.08, (len(shaken), 3))  # of copper at 300 K
        assert "site_coordination" not in watch.survey(shaken).report.names


def test_the_drift_of_dynamics_is_flagged_per_atom():
    watch = Monitor(FlagLimits(), INFO)
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    atoms.set_momenta([[0.1, 0, 0], [-0.1, 0, 0]])
    watch.survey(atoms)
    watch.drift_ev = 0.0099
    assert watch.survey(atoms).report.names == ()
    watch.drift_ev = -0.0101
    (flag,) = watch.survey(atoms).report.flags
    assert (flag.name, flag.severity.value) == ("energy_drift", "soft")
    assert flag.value == pytest.approx(-0.00505)


def names(multiplicity=1, **checks):
    return [flag.name for flag in electronic_flags(checks, multiplicity, FlagLimits())]


def test_a_pure_singlet_with_a_gap_raises_nothing():
    assert names(s_squared=0.0, gap_ev=8.0, internally_stable=1.0, stability_hartree=0.1) == []
    assert names() == []


def test_a_doublet_has_three_quarters():
    assert names(2, s_squared=0.76) == []
    assert names(2, s_squared=0.86) == ["spin_contamination"]
    assert names(1, s_squared=0.96) == ["spin_contamination"]  # stretched O-H


def test_a_small_gap_is_flagged_and_a_missing_one_is_not():
    assert names(gap_ev=0.9) == ["small_gap"]
    assert names(gap_ev=-1.0) == []


def test_an_unstable_state_is_flagged():
    assert names(restricted_above_hartree=0.07) == ["restricted_unstable"]
    assert names(internally_stable=0.0) == ["unstable_state"]
