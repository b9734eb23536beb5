"""Committees, references and gates that do as they are told, for the engine's and ASE's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from hybrid_calc import Gate, GateSettings, HybridCalculator, ToyCommittee, ToyReference
from hybrid_calc.committee.prediction import CommitteeInfo, Domain, Prediction
from hybrid_calc.committee.toy import lennard_jones
from hybrid_calc.errors import PredictionFailed
from hybrid_calc.gate.policy import Decision


def pair(length: float, *, momentum: float = 0.0, **info: object) -> Atoms:
    """H2 with one atom in the origin, moving across its axis where there is a momentum."""
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, length]], info=info)
    if momentum:
        atoms.set_momenta([[momentum, 0, 0], [-momentum, 0, 0]])
    return atoms


def settings(*policies: str, **more: object) -> GateSettings:
    return GateSettings(policies=frozenset(policies), **more)


def always(**more: object) -> GateSettings:
    """Settings with which the reference is asked everywhere."""
    return settings("unseen", trust=False, **more)


def hybrid(
    gate: GateSettings | Gate | None = None,
    *,
    committee: object = None,
    reference: object = None,
    **more: object,
) -> HybridCalculator:
    """Return a calculator over the toys."""
    return HybridCalculator(
        committee or ToyCommittee(), reference or ToyReference(), gate or settings(), **more
    )


class ScriptedGate(Gate):
    """Asks the reference for the geometries whose number is in the script."""

    def __init__(self, script: Callable[[int], bool], given: GateSettings | None = None) -> None:
        super().__init__(given or settings())
        self._script = script
        self.seen = 0

    def decide(self, *args: object, **kwargs: object) -> Decision:
        self.seen += 1
        if self._script(self.seen - 1):
            kwargs["wanted"] = "the script says so"
        return super().decide(*args, **kwargs)


class Failing(ToyCommittee):
    """A toy committee that fails where it is told to."""

    def __init__(self, fails: Callable[[Atoms], bool]) -> None:
        super().__init__()
        self._fails = fails

    def predict(self, atoms: Atoms) -> Prediction:
        if self._fails(atoms):
            raise PredictionFailed("the committee was told to fail here.")
        return super().predict(atoms)


class Plain(Calculator):
    """The toy reference as an ordinary ASE calculator: what drivers do without hybrid_calc."""

    implemented_properties = ["energy", "forces"]

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[bytes] = set()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.asked.add(self.atoms.positions.tobytes())
        energy, forces, _ = lennard_jones(self.atoms)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


class Charged:
    """Members whose energy is the charge plus ten times the multiplicity."""

    info = CommitteeInfo(name="charged", identity="c", size=2, domain=Domain())

    def predict(self, atoms: Atoms) -> Prediction:
        energy = atoms.info.get("charge", 0) + 10.0 * atoms.info.get("spin", 1)
        return Prediction(energies=np.full(2, energy), forces=np.zeros((2, len(atoms), 3)))

    def predict_many(self, frames: list[Atoms]) -> list[Prediction]:
        return [self.predict(atoms) for atoms in frames]
