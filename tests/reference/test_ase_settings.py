"""Any ASE calculator as reference, from settings; charges in the manner of ORCA."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from hybrid_calc.config.build import build_reference
from hybrid_calc.config.level import LevelSettings
from hybrid_calc.config.reference import AseSettings
from hybrid_calc.errors import InputError, ReferenceFailed
from hybrid_calc.reference.ase_backend import AseReference, ase_reference, physical
from hybrid_calc.reference.executor import ExecutorReference
from hybrid_calc.reference.recipes import ANI_1X_LEVEL
from tests.reference.executor_jobs import calculator_of_charge

ORCA_LIKE = "tests.reference.executor_jobs:calculator_of_charge"


def reference_of(calculator, **keys):
    return build_reference(AseSettings(calculator=calculator, **keys))


def test_emt_by_name_is_emt():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    reference = reference_of("ase.calculators.emt:EMT", arguments={"asap_cutoff": True})
    label = reference.label(atoms)
    atoms.calc = EMT(asap_cutoff=True)
    assert label.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(label.forces, atoms.get_forces())
    assert label.stress.shape == (6,)
    assert str(label.level) == "ase:emt(asap_cutoff=True)"


def test_arguments_are_part_of_the_level_and_where_it_runs_is_not():
    one, other = (
        reference_of("ase.calculators.emt:EMT", arguments={"asap_cutoff": on}).level
        for on in (True, False)
    )
    assert one.hash != other.hash
    assert physical({"xc": "PBE", "command": "orca", "profile": object(), "charge": 0}) == {
        "xc": "PBE"
    }


def test_gfn2_through_an_executor_says_what_it_says_here():
    pytest.importorskip("tblite")
    keys = {"arguments": {"method": "GFN2-xTB", "verbosity": 0}}
    here = reference_of("tblite.ase:TBLite", **keys)
    elsewhere = reference_of("tblite.ase:TBLite", **keys, executor={"kind": "local", "workers": 1})
    assert isinstance(elsewhere, ExecutorReference)
    assert elsewhere.level == here.level
    anion = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]], info={"charge": -1})
    assert elsewhere.label(anion).energy == pytest.approx(here.label(anion).energy, abs=1e-8)
    assert abs(here.label(anion).energy - here.label(Atoms("OH", anion.positions)).energy) > 1
    elsewhere.close()


def test_charge_and_multiplicity_reach_a_calculator_that_keeps_them_as_parameters():
    """Energies of this calculator are 100 times the charge plus the multiplicity."""
    reference = reference_of(ORCA_LIKE)
    water = molecule("H2O")
    assert reference.label(water).energy == 1.0
    cation = water.copy()
    cation.info["charge"] = 1
    assert reference.label(cation).energy == 102.0  # a doublet, the lowest possible
    assert reference.label(water).energy == 1.0
    triplet = water.copy()
    triplet.info["spin"] = 3
    assert reference.label(triplet).energy == 3.0


def test_a_calculator_with_a_charge_of_its_own_is_refused():
    with pytest.raises(InputError, match=r'atoms\.info\["charge"\]'):
        reference_of(ORCA_LIKE, arguments={"charge": -1})
    with pytest.raises(InputError):
        AseReference(calculator_of_charge(2))


def test_a_level_in_words_of_physics_can_be_compared_with_a_committees():
    level = LevelSettings(functional="wB97X", basis="6-31G*", cart=True)
    reference = reference_of(ORCA_LIKE, level=level)
    assert reference.level.same_physics(ANI_1X_LEVEL)
    assert reference.level.program == f"ase:{ORCA_LIKE}"
    assert reference.level.hash != ANI_1X_LEVEL.hash
    assert reference.level.grid_level == 0  # PySCF's numerics are not this calculator's
    other = reference_of(ORCA_LIKE, level=level, arguments={"charge": 0})
    assert other.level == reference.level


def test_the_checks_apply(monkeypatch):
    calculator = calculator_of_charge()
    original = type(calculator).calculate

    def pushed(self, atoms=None, properties=("energy",), system_changes=()):
        original(self, atoms, properties, system_changes)
        self.results["forces"] += [0.2, 0, 0]

    monkeypatch.setattr(type(calculator), "calculate", pushed)
    with pytest.raises(ReferenceFailed, match=r"add up to 0\.6 eV/A"):
        AseReference(calculator).label(molecule("H2O"))
    assert AseReference(calculator, max_net_force_ev_per_ang=1.0).label(molecule("H2O"))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nowhere:EMT", {}, "cannot be found"),
        ("ase.calculators.emt:XMT", {}, "cannot be found"),
        ("", {}, "cannot be found"),
        ("tests.reference.executor_jobs:not_a_calculator", {}, "an ASE calculator is needed"),
        ("tests.reference.executor_jobs:not_a_calculator", {"a": 1}, "could not be made"),
    ],
)
def test_what_makes_no_calculator_is_refused(name, arguments, said):
    with pytest.raises(InputError, match=said):
        ase_reference(name, arguments)
