"""Members in other processes over ASE's socket protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hybrid_calc.committee.external import ExternalMember
from hybrid_calc.committee.members import MembersCommittee
from hybrid_calc.errors import InputError, MemberLost

LJ = "ase.calculators.lj:LennardJones"


@pytest.fixture
def member():
    external = ExternalMember(LJ, {"sigma": 1.2, "epsilon": 0.1}, timeout_s=60)
    yield external
    external.close()


def test_an_external_member_answers_as_the_calculator_does_here(member):
    atoms = molecule("H2O")
    atoms.calc = member
    forces = atoms.get_forces()
    atoms.calc = LennardJones(sigma=1.2, epsilon=0.1)
    assert forces == pytest.approx(atoms.get_forces(), abs=1e-12)


def test_an_external_member_gives_the_stress_of_a_cell():
    member = ExternalMember("ase.calculators.emt:EMT", timeout_s=60)
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += 0.1
    atoms.calc = member
    stress = atoms.get_stress()
    member.close()
    atoms.calc = EMT()
    assert stress == pytest.approx(atoms.get_stress(), abs=1e-10)


def test_another_molecule_is_served_by_a_new_process(member):
    committee = MembersCommittee([member, LennardJones(sigma=1.2, epsilon=0.11)])
    water = committee.predict(molecule("H2O"))
    first = member._connection._process.pid
    methane = committee.predict(molecule("CH4"))
    assert member._connection._process.pid != first
    assert water.forces.shape == (2, 3, 3)
    assert methane.forces.shape == (2, 5, 3)


def test_another_charge_is_served_by_a_new_process(member):
    committee = MembersCommittee([member, LennardJones(sigma=1.2, epsilon=0.11)])
    water = molecule("H2O")
    committee.predict(water)
    first = member._connection._process.pid
    water.info["charge"] = 1
    committee.predict(water)
    assert member._connection._process.pid != first


def test_a_member_that_dies_is_named_and_can_be_asked_again(member):
    atoms = molecule("H2O")
    atoms.calc = member
    atoms.get_forces()
    os.kill(member._connection._process.pid, signal.SIGKILL)
    atoms.positions[0] += 0.01
    with pytest.raises(MemberLost, match="external member"):
        atoms.get_forces()
    assert np.isfinite(atoms.get_forces()).all()


def test_a_member_that_cannot_start_says_why():
    member = ExternalMember("no_such_package:Calculator", timeout_s=60)
    atoms = molecule("H2O")
    atoms.calc = member
    with pytest.raises(MemberLost, match="no_such_package"):
        atoms.get_forces()


def test_a_member_that_never_connects_is_killed_at_the_time_limit():
    command = [sys.executable, "-c", "import time; time.sleep(600) # {socket}"]
    member = ExternalMember(command=command, timeout_s=1.0)
    atoms = molecule("H2O")
    atoms.calc = member
    start = time.monotonic()
    with pytest.raises(MemberLost, match="within 1 s"):
        atoms.get_forces()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either calculator"),
        ({"calculator": LJ, "command": ["x", "{socket}"]}, "either calculator"),
        ({"calculator": "ase.calculators.lj"}, "module:callable"),
        ({"command": ["program"]}, "{socket}"),
    ],
)
def test_what_cannot_be_started_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ExternalMember(**arguments)


@pytest.mark.slow
def test_a_member_lives_in_another_virtual_environment(tmp_path):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", str(other)], check=True)
    python = other / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "ase"]
    subprocess.run(install, check=True)
    assert subprocess.run(
        [str(python), "-c", "import torch"], check=False, capture_output=True
    ).returncode
    member = ExternalMember(LJ, {"sigma": 1.2, "epsilon": 0.1}, python=python, timeout_s=120)
    committee = MembersCommittee([member, LennardJones(sigma=1.2, epsilon=0.1)])
    forces = committee.predict(molecule("CH3CH2OH")).forces
    member.close()
    assert forces[0] == pytest.approx(forces[1], abs=1e-12)
