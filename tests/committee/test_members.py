"""Any ASE calculators as a committee: what is asked of them, and what goes wrong in them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from hybrid_calc.committee.members import MembersCommittee
from hybrid_calc.errors import CommitteeError, PredictionFailed, StructureError


class Given(Calculator):
    """Returns the numbers it was given, and counts how often it was asked."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, **answers):
        super().__init__()
        self.answers = answers
        self.calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        charge = self.atoms.info.get("charge", 0)
        self.results = {"energy": 1.0 + charge, "forces": np.zeros((len(atoms), 3))}
        self.results |= self.answers


class Broken(Given):
    def calculate(self, *args, **kwargs):
        raise ZeroDivisionError("one over nothing")


class WithStress(Given):
    implemented_properties = ["energy", "forces", "stress"]


class WithoutForces(Given):
    implemented_properties = ["energy", "free_energy"]


class NoStressForSlabs(WithStress):
    def get_property(self, name, atoms=None, allow_calculation=True):
        if name == "stress" and not atoms.pbc.all():
            raise PropertyNotImplementedError("slabs have none")
        return super().get_property(name, atoms, allow_calculation)


def slab():
    atoms = bulk("Cu", cubic=True)
    atoms.center(vacuum=5, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def test_the_members_answers_are_stacked_in_order():
    atoms = molecule("H2O")
    forces = np.arange(9.0).reshape(3, 3)
    answer = MembersCommittee([Given(energy=2.0), Given(energy=5.0, forces=forces)]).predict(atoms)
    assert answer.energies.tolist() == [2.0, 5.0]
    assert answer.energy == 3.5
    assert np.array_equal(answer.forces, [np.zeros((3, 3)), forces])
    assert np.array_equal(answer.mean_forces, forces / 2)
    assert answer.mean_stress is None


def test_each_member_is_asked_once_a_geometry():
    members = [Given(), Given()]
    committee = MembersCommittee(members)
    committee.predict(molecule("H2O"))
    assert [calc.calls for calc in members] == [1, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_members_are_refused(count):
    with pytest.raises(CommitteeError, match=f"at least 2 members; got {count}"):
        MembersCommittee([Given() for _ in range(count)])


def test_one_object_twice_is_refused():
    calc = Given()
    with pytest.raises(CommitteeError, match="stands twice"):
        MembersCommittee([calc, Given(), calc])


def test_a_member_without_forces_is_refused_by_name():
    with pytest.raises(CommitteeError, match="WithoutForces does not compute forces"):
        MembersCommittee([Given(), WithoutForces()])


def test_a_member_that_crashes_is_a_failed_prediction_that_names_it():
    committee = MembersCommittee([Given(), Broken()])
    with pytest.raises(PredictionFailed, match=r"member 1 \(Broken\) failed: ZeroDivisionError"):
        committee.predict(molecule("H2O"))


@pytest.mark.parametrize(
    "answers",
    [
        {"energy": np.nan},
        {"energy": -np.inf},
        {"forces": np.full((3, 3), np.nan)},
        {"forces": np.zeros((3, 2))},
        {"forces": np.zeros((2, 3))},
        {"forces": None},
        {"energy": None},
    ],
    ids=str,
)
def test_a_member_that_returns_nonsense_is_a_failed_prediction(answers):
    with pytest.raises(PredictionFailed):
        MembersCommittee([Given(), Given(**answers)]).predict(molecule("H2O"))


def test_a_stress_of_another_shape_is_a_failed_prediction():
    members = [WithStress(stress=np.zeros(6)), WithStress(stress=np.zeros((3, 3)))]
    with pytest.raises(PredictionFailed, match=r"stress of shape \(3, 3\)"):
        MembersCommittee(members).predict(bulk("Cu", cubic=True))


def test_a_member_that_does_not_know_an_element_is_a_failed_prediction():
    with pytest.raises(PredictionFailed, match="No EMT-potential for Xe"):
        MembersCommittee([EMT(), EMT()]).predict(Atoms("Xe"))


def test_no_member_is_asked_about_what_nobody_can_compute():
    members = [Given(), Given()]
    with pytest.raises(StructureError):
        MembersCommittee(members).predict(Atoms())
    assert [calc.calls for calc in members] == [0, 0]


def test_stress_is_there_where_every_member_has_it():
    crystal = bulk("Cu", cubic=True)
    stress = np.arange(6.0)
    both = MembersCommittee([WithStress(stress=stress), WithStress(stress=3 * stress)])
    assert np.array_equal(both.predict(crystal).mean_stress, 2 * stress)
    assert both.predict(molecule("H2O")).stress is None
    one = MembersCommittee([WithStress(stress=stress), Given()])
    assert one.predict(crystal).stress is None


def test_a_slab_has_the_members_stress():
    answer = MembersCommittee([EMT(), EMT(asap_cutoff=True)]).predict(slab())
    assert answer.stress.shape == (2, 6)


def test_a_member_without_stress_for_slabs_takes_it_from_all_but_not_their_forces():
    committee = MembersCommittee([EMT(), NoStressForSlabs(stress=np.zeros(6))])
    assert committee.predict(slab()).stress is None
    assert committee.predict(bulk("Cu", cubic=True)).stress.shape == (2, 6)


def test_another_charge_of_the_same_geometry_is_another_question():
    # ASE's calculators do not compare atoms.info: a cached answer would come back
    members = [Given(), Given()]
    committee = MembersCommittee(members)
    atoms = molecule("H2O")
    assert committee.predict(atoms).energy == 1.0
    atoms.info["charge"] = 2
    assert committee.predict(atoms).energy == 3.0
    del atoms.info["charge"]
    assert committee.predict(atoms).energy == 1.0
    assert [calc.calls for calc in members] == [3, 3]


def test_constraints_do_not_reach_the_members():
    class Looking(Given):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            assert not atoms.constraints

    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    MembersCommittee([Looking(), Looking()]).predict(atoms)
    assert len(atoms.constraints) == 1


def test_identity_follows_the_parameters_and_may_be_given():
    def identity(*depths, **more):
        calculators = [LennardJones(epsilon=depth) for depth in depths]
        return MembersCommittee(calculators, **more).info.identity

    assert identity(0.1, 0.2) == identity(0.1, 0.2)
    assert identity(0.1, 0.2) != identity(0.1, 0.3)
    assert identity(0.1, 0.2, identity="abc") == "abc"


def test_info_says_what_the_members_are():
    info = MembersCommittee([EMT(), LennardJones()], name="odd pair").info
    assert (info.name, info.size, info.source) == ("odd pair", 2, "EMT, LennardJones")
    assert (info.level, info.domain.elements) == (None, None)
