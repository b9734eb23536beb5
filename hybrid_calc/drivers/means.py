"""What every pathway of a barrier search works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from hybrid_calc.correction.surface import PredictMany, SurfaceLabel
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.labelling import Answer, AskReference, LabelBook
from hybrid_calc.drivers.receipts import Receipts
from hybrid_calc.drivers.relax import HybridRelax
from hybrid_calc.drivers.saddle import CLEARLY_NEGATIVE
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of
from hybrid_calc.drivers.step import Stop
from hybrid_calc.errors import BudgetExhausted, HybridCalcError, RunInterrupted

SADDLE_EV_PER_ANG2 = -0.5
"""A minimum between the user's ends may be as flat as a shelf: a stationary point with a lower
curvature on the surface is no minimum, eV/A^2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Molecule, committee, reference and settings of one search.

    Attributes
    ----------
    template
        The molecule with its constraints.
    predict_many
        The committee, or None.
    label
        The reference, for relaxations, which remember every label themselves.
    receipts
        The reference, for rounds.
    settings, limits
        Of the search.
    known
        Labels of the molecule from before.
    record, remember
        Called between two rounds, and after a label of a relaxation.
    """

    template: Atoms
    predict_many: PredictMany | None
    label: AskReference
    receipts: Receipts
    settings: NebSettings
    limits: SearchLimits
    known: Sequence[SurfaceLabel]
    record: Callable[[], None]
    remember: Callable[[], None]

    def frame(self, positions: ArrayLike) -> Atoms:
        """Return the molecule at positions (N, 3), A."""
        frame: Atoms = self.template.copy()
        frame.set_positions(positions, apply_constraint=False)
        return frame

    def book(self, state: Mapping[str, Any] | None = None) -> LabelBook:
        """Return an empty book of labels, or the one of a state."""
        process = self.settings.process
        book = LabelBook(self.template, self.predict_many, self.receipts, settings=process)
        if state is not None:
            book.restore(state)
        return book

    def bonds(self, positions: NDArray[np.float64]) -> frozenset[tuple[int, int]]:
        """Return the bonded pairs at positions (N, 3), A."""
        return bonds_of(self.template.numbers, positions)

    def stop(self, name: str, start: ArrayLike, state: dict[str, Any] | None = None) -> Stop:
        """Return a minimum that is to be relaxed from a start (N, 3), A."""
        return Stop(name=name, atoms=self.frame(start), state=state)

    def relax(
        self,
        stop: Stop,
        labels: Sequence[SurfaceLabel] = (),
        check: Callable[[Atoms], None] | None = None,
    ) -> None:
        """Relax a minimum, as far as labels go.

        Parameters
        ----------
        stop
            Changed: where it was found, and what that took.
        labels
            Of this search, beside those from before.
        check
            Called before every label; what it raises ends the relaxation.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            There was not one label; with a check, not enough of them.
        """
        ended: list[HybridCalcError] = []

        def save(state: Mapping[str, Any]) -> None:
            stop.state = dict(state)
            self.remember()

        def label(frame: Atoms, reason: str) -> Answer:
            if check is not None:
                check(frame)
            try:
                return self.label(frame, f"{stop.name}: {reason}")
            except (BudgetExhausted, RunInterrupted) as error:
                ended.append(error)
                raise

        driver = HybridRelax(
            stop.atoms,
            self.predict_many,
            label,
            self.settings.ends,
            known=[*self.known, *labels],
            save=save,
            saddle_below=SADDLE_EV_PER_ANG2 if stop.inner else -CLEARLY_NEGATIVE,
        )
        if stop.state is not None:
            driver.restore(stop.state)
        stop.found = driver.run()
        stop.state = driver.state()  # without a label of its own nothing was saved
        if ended and check is not None:
            raise ended[0]
