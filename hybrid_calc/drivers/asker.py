"""Labels of a search, and what is asked instead where the reference refuses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel
from hybrid_calc.drivers.labelling import LabelBook
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.shape import frozen_atoms
from hybrid_calc.errors import ReferenceFailed

RETREATS = 2
"""How often a refused geometry is moved down its forces and asked again."""

RETREAT_ANG = 0.12
"""How far, A."""

WIDEST = "acquisition: least certain image"


class Asker:
    """Asks for labels and counts what is refused.

    Parameters
    ----------
    book
        Labels of the molecule.
    progress
        Of the search: its last reason and its failures are written.
    """

    def __init__(self, book: LabelBook, progress: Progress) -> None:
        self.book = book
        self.progress = progress

    def ask(
        self, positions: NDArray[np.float64], reason: str, surface: Surface
    ) -> SurfaceLabel | None:
        """Label; where the answer is beyond sense, step down its forces and ask again.

        Parameters
        ----------
        positions
            Shape (N, 3), A.
        reason
            For the record.
        surface
            Forecasts the label.

        Returns
        -------
        The label at these positions, None where the reference refuses it.

        Raises
        ------
        BudgetExhausted, RunInterrupted
            No more labels.
        """
        self.progress.last = reason
        here = positions
        for _ in range(1 + RETREATS):
            try:
                label = self.book.ask(here, reason, surface)
            except ReferenceFailed:
                self.progress.failures += 1
            else:
                return label if here is positions else None
            refused = self.book.find(here)
            if refused is None:
                return None
            step = refused.forces / np.linalg.norm(refused.forces, axis=1).max()
            step[frozen_atoms(self.book.template)] = 0.0
            here = here + RETREAT_ANG * step
        return None

    def learn(self, surface: Surface, band: NDArray[np.float64]) -> bool:
        """Label the image between the ends of a band (B, N, 3), A, that is known least.

        Of those that are not labelled and were not refused; tell whether there was one.

        Raises
        ------
        BudgetExhausted, RunInterrupted
            No more labels.
        """
        inside = band[1:-1]
        wide = self.book.half_widths(surface, inside, band[0])
        for index in np.argsort(-wide):
            if self.book.find(inside[index]) is None and not self.book.refused(inside[index]):
                self.ask(inside[index], WIDEST, surface)
                return True
        return False
