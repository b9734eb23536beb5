"""What a search has paid for since it last remembered itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.drivers.labelling import SAME_GEOMETRY, Answer, AskReference, LabelBook
from hybrid_calc.errors import ReferenceCrashed, ReferenceFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One answer at a geometry, both (N, 3), A and eV/A; the energy in eV."""

    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A geometry (N, 3), A, that the reference refused, and why in words."""

    positions: NDArray[np.float64]
    why: str


class Receipts:
    """The reference, which keeps every answer until what it was asked for is remembered.

    A refusal is an answer, too; a worker that died is not.

    A round that was killed is repeated from its start; asked the same again, it pays nothing.

    Parameters
    ----------
    ask
        The reference.
    keep
        Called after every answer that was paid for.
    """

    def __init__(self, ask: AskReference, keep: Callable[[], None]) -> None:
        self._ask = ask
        self._keep = keep
        self._kept: list[Receipt] = []
        self._refused: list[Refusal] = []

    def __call__(self, frame: Atoms, reason: str) -> Answer:
        """Answer from what is kept, else from the reference; raises what that raises."""
        for one in self._kept:
            if np.abs(one.positions - frame.positions).max() < SAME_GEOMETRY:
                return one
        for refusal in self._refused:
            if np.abs(refusal.positions - frame.positions).max() < SAME_GEOMETRY:
                raise ReferenceFailed(refusal.why)
        positions = np.array(frame.positions)
        try:
            answer = self._ask(frame, reason)
        except ReferenceCrashed:
            raise
        except ReferenceFailed as error:
            self._refused.append(Refusal(positions=positions, why=str(error)))
            self._keep()
            raise
        self._kept.append(
            Receipt(positions=positions, energy=answer.energy, forces=np.array(answer.forces))
        )
        self._keep()
        return answer

    def forget(self, books: Sequence[LabelBook]) -> None:
        """Forget those whose labels are in a book."""
        self._kept = [
            one for one in self._kept if not any(book.find(one.positions) for book in books)
        ]
        self._refused = [
            one for one in self._refused if not any(book.refused(one.positions) for book in books)
        ]

    def to_list(self) -> list[dict[str, Any]]:
        """Return JSON-able data."""
        answers: list[dict[str, Any]] = [
            {
                "positions": one.positions.tolist(),
                "energy": one.energy,
                "forces": one.forces.tolist(),
            }
            for one in self._kept
        ]
        refusals = [{"positions": one.positions.tolist(), "why": one.why} for one in self._refused]
        return answers + refusals

    def restore(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Go back to what `to_list` returned."""
        self._kept = [
            Receipt(
                positions=np.array(one["positions"]),
                energy=float(one["energy"]),
                forces=np.array(one["forces"]),
            )
            for one in data
            if "why" not in one
        ]
        self._refused = [
            Refusal(positions=np.array(one["positions"]), why=str(one["why"]))
            for one in data
            if "why" in one
        ]
