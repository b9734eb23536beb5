"""A level of theory is its hash: the same for the same physics, another for anything else."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from hybrid_calc.errors import InputError
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL

OTHER_VALUES = {
    "program": "orca",
    "functional": "pbe",
    "nlc": "vv10",
    "dispersion": "d3bj",
    "basis": "def2-svp",
    "cart": False,
    "solvent": "water",
    "auxiliary_basis": "",
    "grid_level": 3,
    "convergence_hartree": 1e-8,
    "project_net_force": False,
    "parameters": {"frozen_core": True},
}


def test_every_field_is_tried_below():
    assert set(OTHER_VALUES) == {f.name for f in dataclasses.fields(LevelOfTheory)}


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_changing_any_field_changes_the_hash(name):
    other = dataclasses.replace(ANI_1X_LEVEL, **{name: OTHER_VALUES[name]})
    assert other.hash != ANI_1X_LEVEL.hash


def test_hash_is_the_same_in_another_process():
    code = (
        "from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL;"
        "import sys; sys.stdout.write(ANI_1X_LEVEL.hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert hashes == {ANI_1X_LEVEL.hash}


def test_hash_of_the_default_level_is_the_one_stores_were_written_with():
    # Pinned from the release that moved to grid 4 (18e2287e80c5d4ed with grid 3 before):
    # a store whose level hashes otherwise would be refused by its own program.
    assert ANI_1X_LEVEL.hash == "e87cfea7b83ceced"


def test_order_of_parameters_does_not_matter():
    one = LevelOfTheory(program="ase:x", parameters={"a": 1, "b": {"c": 2, "d": 3}})
    two = LevelOfTheory(program="ase:x", parameters={"b": {"d": 3, "c": 2}, "a": 1})
    assert one.hash == two.hash
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    assert one.same_physics(two)


def test_tuple_and_list_parameters_are_the_same_level():
    one = LevelOfTheory(program="ase:x", parameters={"kpts": (2, 2, 1)})
    two = LevelOfTheory(program="ase:x", parameters={"kpts": [2, 2, 1]})
    assert one.hash == two.hash


def test_numpy_parameters_are_the_same_level_as_plain_ones_and_fit_into_json():
    plain = LevelOfTheory(program="ase:x", parameters={"kpts": [2, 2, 1], "rc": 3.5, "pbc": True})
    numpy = LevelOfTheory(
        program="ase:x",
        parameters={"kpts": np.array([2, 2, 1]), "rc": np.float64(3.5), "pbc": np.bool_(True)},
    )
    assert numpy.hash == plain.hash
    assert json.loads(json.dumps(numpy.to_dict())) == plain.to_dict()


def test_set_parameters_have_one_order():
    one = LevelOfTheory(program="ase:x", parameters={"skip": {"b", "a", "c"}})
    assert one.to_dict()["parameters"] == {"skip": ["a", "b", "c"]}


def test_whole_numbers_as_keys_are_the_same_level_as_after_json():
    level = LevelOfTheory(program="ase:x", parameters={"types": {1: "H", 8: "O", "10": "Ne"}})
    again = LevelOfTheory.from_dict(json.loads(json.dumps(level.to_dict())))
    assert again.hash == level.hash


def test_from_dict_gives_back_an_equal_level():
    assert LevelOfTheory.from_dict(ANI_1X_LEVEL.to_dict()) == ANI_1X_LEVEL


def test_unknown_keys_are_refused_by_name():
    with pytest.raises(InputError, match=r"unknown keys bassis, grid; .*basis, cart"):
        LevelOfTheory.from_dict({"program": "pyscf", "bassis": "sto-3g", "grid": 3})


@pytest.mark.parametrize(
    "name", ["auxiliary_basis", "grid_level", "convergence_hartree", "project_net_force", "program"]
)
def test_numerics_and_program_are_not_the_physics_of_a_functional(name):
    other = dataclasses.replace(ANI_1X_LEVEL, **{name: OTHER_VALUES[name]})
    assert ANI_1X_LEVEL.same_physics(other)
    assert other.same_physics(ANI_1X_LEVEL)


@pytest.mark.parametrize("name", ["functional", "nlc", "dispersion", "basis", "cart", "solvent"])
def test_functional_basis_and_environment_are_the_physics(name):
    other = dataclasses.replace(ANI_1X_LEVEL, **{name: OTHER_VALUES[name]})
    assert not ANI_1X_LEVEL.same_physics(other)


def test_program_and_parameters_are_the_physics_of_a_calculator():
    deep = LevelOfTheory(program="toy", parameters={"well_depth_ev": 0.4})
    shallow = LevelOfTheory(program="toy", parameters={"well_depth_ev": 0.3})
    other = LevelOfTheory(program="ase:emt", parameters={"well_depth_ev": 0.4})
    assert deep.same_physics(LevelOfTheory(program="toy", parameters={"well_depth_ev": 0.4}))
    assert not deep.same_physics(shallow)
    assert not deep.same_physics(other)


def test_level_reads_as_a_chemist_writes_it():
    level = dataclasses.replace(ANI_1X_LEVEL, dispersion="d3bj", solvent="water")
    assert str(ANI_1X_LEVEL) == "wb97x/6-31g* (Cartesian d)"
    assert str(level) == "wb97x-d3bj/6-31g* (Cartesian d) in water"
    assert str(LevelOfTheory(program="toy")) == "toy"
    assert str(LevelOfTheory(program="ase:lj", parameters={"rc": 3, "epsilon": 1})) == (
        "ase:lj(epsilon=1, rc=3)"
    )
