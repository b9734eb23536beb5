"""References that die, dawdle or fail on purpose, made in other processes by their names."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

from hybrid_calc.errors import MissingPackageError, ReferenceNotConverged
from hybrid_calc.reference.toy import ToyReference


def frames(count: int, *, far: tuple[int, ...] = ()) -> list[Atoms]:
    """Return rattled waters; those at the places `far` stand a thousand A away."""
    made = []
    for seed in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.03, seed=seed)
        if seed in far:
            atoms.positions += 1000.0
        made.append(atoms)
    return made


def is_far(atoms: Atoms) -> bool:
    return bool(np.abs(atoms.positions).max() > 500)


class Slow(ToyReference):
    """Takes its time over every label."""

    def label(self, atoms):
        time.sleep(0.15)
        return super().label(atoms)


class DyingAtFarFrames(Slow):
    """Kills its own process at a far frame; where a folder is given, once in all."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self._folder = folder

    def label(self, atoms):
        if is_far(atoms) and self._may_die():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(atoms)

    def _may_die(self) -> bool:
        if self._folder is None:
            return True
        try:
            (self._folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Failing(ToyReference):
    """Does not converge at far frames."""

    def label(self, atoms):
        if is_far(atoms):
            raise ReferenceNotConverged("too far away", details={"cycles": 50})
        return super().label(atoms)


class Lacking(ToyReference):
    def label(self, atoms):
        raise MissingPackageError("pip install something.")


class Raising(ToyReference):
    def label(self, atoms):
        raise ZeroDivisionError("a bug")


class Environment(ToyReference):
    """Says in a check how many threads its process was given."""

    def label(self, atoms):
        import dataclasses

        threads = float(os.environ.get("OMP_NUM_THREADS", "-1"))
        return dataclasses.replace(super().label(atoms), checks={"threads": threads})


class Sleeping(ToyReference):
    def label(self, atoms):
        time.sleep(60)
        return super().label(atoms)


def threads(count: int) -> Executor:
    return ThreadPoolExecutor(count)


def not_an_executor() -> int:
    return 3


def calculator_of_charge(charge: int = 0):
    """A calculator of ORCA's manner: charge and multiplicity are parameters, the atoms' are not
    looked at."""
    from ase.calculators.calculator import Calculator

    class ORCA(Calculator):
        implemented_properties = ["energy", "forces"]
        default_parameters = {"charge": 0, "mult": 1}

        def calculate(self, atoms=None, properties=("energy",), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            energy = 100.0 * self.parameters["charge"] + self.parameters["mult"]
            self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3))}

    return ORCA(charge=charge)


def not_a_calculator():
    return 3
