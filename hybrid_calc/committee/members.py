"""A committee of any ASE calculators, one after another."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BaseCalculator,
    Calculator,
    PropertyNotImplementedError,
)
from numpy.typing import NDArray

from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.prediction import CommitteeInfo, Domain, Prediction
from hybrid_calc.errors import CommitteeError, HybridCalcError, PredictionFailed
from hybrid_calc.geometry import charge_of, multiplicity_of
from hybrid_calc.reference.level import LevelOfTheory


class MembersCommittee:
    """Any list of ASE calculators that compute energy and forces.

    Use it for members of different kinds or cut-offs.  Their cost adds up.

    Parameters
    ----------
    calculators
        At least two, no object twice.
    name
        Short name for people.
    domain
        What the members were trained on; without it every element, charge
        and spin is passed on to them.
    level
        Level of theory of their training data.
    identity
        Hash of the weights where the calculators' own parameters do not tell
        one set of weights from another; made from the parameters by default.

    Raises
    ------
    CommitteeError
        Fewer than two members, one object twice, or one without forces.
    """

    def __init__(
        self,
        calculators: Sequence[BaseCalculator],
        *,
        name: str = "members",
        domain: Domain | None = None,
        level: LevelOfTheory | None = None,
        identity: str | None = None,
    ) -> None:
        self._calculators = list(calculators)
        self._charge_and_spin: tuple[int, int] | None = None
        _check_members(self._calculators)
        described = [[_kind(calc), calc.todict()] for calc in self._calculators]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        self._info = CommitteeInfo(
            name=name,
            identity=identity or digest.hexdigest()[:16],
            size=len(self._calculators),
            domain=domain or Domain(),
            level=level,
            source=", ".join(_kind(calc) for calc in self._calculators),
        )

    @property
    def info(self) -> CommitteeInfo:
        """Who is answering."""
        return self._info

    def predict(self, atoms: Atoms) -> Prediction:
        """Answer one geometry; see `hybrid_calc.committee.prediction.Committee`."""
        refuse_outside(atoms, self._info)
        self._forget_another_charge(atoms)
        stress_wanted = bool(atoms.pbc.any()) and all(
            "stress" in calc.implemented_properties for calc in self._calculators
        )
        answers = [
            _answer(calc, atoms, number, stress_wanted)
            for number, calc in enumerate(self._calculators)
        ]
        stresses = [stress for _, _, stress in answers if stress is not None]
        return Prediction(
            energies=np.array([energy for energy, _, _ in answers]),
            forces=np.array([forces for _, forces, _ in answers]),
            stress=np.array(stresses) if len(stresses) == len(answers) else None,
        )

    def predict_many(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer several geometries, one after another."""
        return [self.predict(atoms) for atoms in frames]

    def close(self) -> None:
        """End the members that live in other processes; calling it again does nothing."""
        for calc in self._calculators:
            end = getattr(calc, "close", None)
            if end is not None:
                end()

    def _forget_another_charge(self, atoms: Atoms) -> None:
        """Empty the members' caches where charge or spin changed: ASE's do not look at ``info``."""
        now = (charge_of(atoms), multiplicity_of(atoms))
        if self._charge_and_spin not in {None, now}:
            for calc in self._calculators:
                if isinstance(calc, Calculator):
                    calc.reset()
        self._charge_and_spin = now


def _check_members(calculators: list[BaseCalculator]) -> None:
    if len(calculators) < 2:
        raise CommitteeError(
            f"a committee needs at least 2 members; got {len(calculators)}. "
            "One member has no spread to tell it is wrong: train a second one with another seed."
        )
    if len({id(calc) for calc in calculators}) < len(calculators):
        raise CommitteeError(
            "the same calculator object stands twice in the committee; its spread would be "
            "smaller than it is. Make one object per member."
        )
    for calc in calculators:
        missing = {"energy", "forces"} - set(calc.implemented_properties)
        if missing:
            raise CommitteeError(
                f"member {_kind(calc)} does not compute {', '.join(sorted(missing))}; "
                "every member must compute energy and forces."
            )


def _answer(
    calc: BaseCalculator, atoms: Atoms, number: int, stress_wanted: bool
) -> tuple[float, NDArray[np.float64], NDArray[np.float64] | None]:
    """Ask one member; whatever goes wrong in it becomes one typed error."""
    copy = atoms.copy()
    copy.set_constraint()
    try:
        forces = np.array(calc.get_property("forces", copy), dtype=np.float64)
        energy = float(calc.get_property("energy", copy))
        stress = None
        if stress_wanted:
            with contextlib.suppress(PropertyNotImplementedError):  # none for slabs, say
                stress = np.array(calc.get_property("stress", copy), dtype=np.float64)
    except HybridCalcError:
        raise
    except Exception as error:
        raise PredictionFailed(
            f"member {number} ({_kind(calc)}) failed: {type(error).__name__}: {error}"
        ) from error
    if forces.shape != (len(atoms), 3) or (stress is not None and stress.shape != (6,)):
        raise PredictionFailed(
            f"member {number} ({_kind(calc)}) returned forces of shape {forces.shape} and stress "
            f"of shape {None if stress is None else stress.shape} for {len(atoms)} atoms; "
            "forces must be (N, 3) and stress (6,)."
        )
    return energy, forces, stress


def _kind(calc: BaseCalculator) -> str:
    return type(calc).__name__
