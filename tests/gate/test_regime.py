"""The kind of a geometry, from flags and chemistry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from pydantic import ValidationError

from hybrid_calc.errors import SettingsError
from hybrid_calc.flags import bonds
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import FlagReport
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.regime import GEOMETRY_FLAGS, RegimeRule, check_rules, classify
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.geometry import composition_of
from tests.gate.scenes import BREAKING, CLASH, REACTIVE, STRANGER, WARM, flag, observe


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


@pytest.mark.parametrize("up", ["strained_bond", "strained_angle", "bond_length", "coordination"])
def test_bonds_intact_and_lengths_beyond_thermal_motion_are_high_energy(up):
    assert name(flag(up)) == "high-energy"
    assert name(flag(up), temperature=900) == "high-energy"
    assert name(flag(up), BREAKING) == "reactive"


def test_a_site_that_differs_from_the_bulk_is_a_defect():
    assert name(flag("site_coordination")) == "defect"
    assert name(flag("site_coordination"), flag("coordination")) == "defect"
    assert name(flag("site_coordination"), BREAKING) == "reactive"


def test_a_flag_of_a_new_kind_that_changes_the_chemistry_is_reactive():
    assert name(flag("something_new")) == "reactive"


def test_a_temperature_that_is_no_number_is_hot():
    assert name(temperature=float("nan")) == "hot"


# rules of the user


def rule(**more):
    return RegimeRule(**{"name": "mine", "parent": "reactive", **more})


def named(*flags, rules, temperature=None, atoms=None):
    report = FlagReport(flags=flags, mean_temperature=temperature)
    composition = composition_of(atoms or molecule("H2O"))
    return classify(composition, report, FlagLimits(), rules).name


FORMING = flag("bond_forming")


def test_a_rule_takes_its_part_out_of_its_parent():
    rules = (rule(flags=["bond_forming"]),)
    assert named(FORMING, rules=rules) == "mine"
    assert named(FORMING, BREAKING, rules=rules) == "mine"
    assert named(BREAKING, rules=rules) == "reactive"
    assert named(CLASH, FORMING, rules=rules) == "clash"  # of another parent
    assert named(rules=rules) == "equilibrium"


@pytest.mark.parametrize("name", ["large_force", "not_conservative", "small_gap", "bond_formng"])
def test_a_rule_cannot_rest_on_what_the_model_says_or_on_what_nobody_knows(name):
    with pytest.raises(ValidationError, match=f"{name}.* Flags of the geometry: .*bond_forming"):
        rule(flags=[name])


def test_every_flag_a_rule_may_rest_on_is_raised_by_the_geometry_somewhere():
    source = "".join(path.read_text() for path in Path(bonds.__file__).parent.glob("*.py"))
    for name in GEOMETRY_FLAGS:
        assert f'"{name}"' in source
        assert rule(flags=[name]).flags == [name]


def test_a_rule_may_have_a_rule_as_its_parent_and_the_first_that_holds_wins():
    rules = (
        rule(name="one", flags=["bond_forming"]),
        rule(name="two", flags=["bond_forming"]),
        rule(name="three", parent="one", elements=["O"]),
    )
    assert named(FORMING, rules=rules) == "three"
    assert named(FORMING, rules=rules, atoms=molecule("CH4")) == "one"


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(None, "equilibrium"), (150, "equilibrium"), (150.1, "mine"), (250, "mine")],
)
def test_a_rule_may_have_temperatures(temperature, expected):
    rules = (rule(parent="equilibrium", above_kelvin=150, up_to_kelvin=250),)
    assert named(rules=rules, temperature=temperature) == expected


def test_a_rule_may_ask_for_charges_and_elements():
    cation = Atoms("OH3", molecule("NH3").positions, info={"charge": 1})
    rules = (rule(parent="equilibrium", charges=[1], elements=["H", "O"]),)
    assert named(rules=rules, atoms=cation) == "mine"
    assert named(rules=rules) == "equilibrium"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([rule(name="hot")], "hot is there already"),
        ([rule(), rule()], "mine is there already"),
        ([rule(parent="later"), rule(name="later")], "later, which does not stand above it"),
    ],
)
def test_rules_that_are_no_tree_are_refused(rules, message):
    with pytest.raises(SettingsError, match=message):
        check_rules(rules)
    with pytest.raises(ValueError, match=message):
        GateSettings(regimes=rules)


def test_a_rule_with_an_element_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="Xx is no element"):
        rule(elements=["Xx"])


def test_what_was_validated_for_the_parent_does_not_count_for_the_child():
    judge = Gate(GateSettings(policies={"unseen"}, regimes=[rule()]))
    scene = observe(regime=REACTIVE)
    for _ in range(3):
        judge.learn(judge.decide(scene), scene, 0.01, 0.0)
    assert judge.decide(scene).reasons == ()
    child = dataclasses.replace(REACTIVE, name="mine")
    assert judge.decide(observe(regime=child)).policies == ("unseen",)


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
