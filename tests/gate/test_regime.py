"""The kind of a geometry, from flags and chemistry."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import FlagReport
from hybrid_calc.gate.regime import classify
from hybrid_calc.geometry import composition_of
from tests.gate.scenes import BREAKING, CLASH, STRANGER, WARM


def name(*flags, temperature=None):
    report = FlagReport(flags=flags, mean_temperature=temperature)
    return classify(composition_of(molecule("H2O")), report, FlagLimits()).name


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (None, "equilibrium"),
        (0.0, "equilibrium"),
        (350.0, "equilibrium"),
        (350.1, "warm"),
        (700.0, "warm"),
        (700.1, "hot"),
    ],
)
def test_temperature_decides_where_no_bond_changed(temperature, expected):
    assert name(temperature=temperature) == expected


def test_changed_bonds_count_before_temperature():
    assert name(BREAKING, temperature=900) == "reactive"


def test_a_clash_counts_before_changed_bonds():
    assert name(BREAKING, CLASH) == "clash"


def test_outside_the_domain_counts_before_everything():
    assert name(BREAKING, CLASH, STRANGER) == "outside"


def test_a_soft_flag_changes_no_regime():
    assert name(WARM) == "equilibrium"


def calm(atoms):
    return classify(composition_of(atoms), FlagReport(), FlagLimits())


def test_elements_charge_and_multiplicity_are_part_of_it():
    assert str(calm(molecule("H2O"))) == "equilibrium H O"
    assert calm(molecule("CH3CH2OH")).elements == "H C O"
    cation = Atoms("OH3", molecule("NH3").positions, info={"charge": 1})
    assert str(calm(cation)) == "equilibrium H O, charge +1"
    assert str(calm(molecule("OH"))) == "equilibrium H O, multiplicity 2"
    assert len({calm(molecule("H2O")), calm(cation), calm(molecule("OH"))}) == 3


def test_two_waters_are_in_the_same_regime():
    one = molecule("H2O")
    moved = one.copy()
    moved.positions += 9
    assert calm(one) == calm(moved)
