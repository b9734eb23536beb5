"""What is done once a transition state is confirmed: judged again, polished, its ends labelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel
from hybrid_calc.drivers.downhill import DownhillEnd, label_downhill_ends, missing_of
from hybrid_calc.drivers.labelling import NORMAL_95, LabelBook
from hybrid_calc.drivers.polish import Polish, polish_on_reference
from hybrid_calc.drivers.saddle import Saddle, judge_saddle, surface_hessian
from hybrid_calc.drivers.settings import NebSettings

FAR_ANG = 0.3
"""A polished transition state that moved farther may join other minima, A."""

Judge = Callable[[Surface, SurfaceLabel, NDArray[np.float64]], Saddle]
"""Counts the negative modes of a surface at a stationary point (N, 3), A, beside its label."""


class Finish:
    """The last steps of a barrier search; without wishes they cost no label.

    Parameters
    ----------
    book
        Labels of the molecule.
    settings
        What is wanted.
    begun
        What was begun before, JSON-able; added to, and taken up again by a resumed run.
    record
        Called when something was added.

    Attributes
    ----------
    label
        The transition state, polished where that was wanted; None before `run`.
    curvatures
        The two lowest of the surface with all labels there, eV/A^2.
    polish, downhill
        What was wanted and done.
    doubts
        What is missing.
    """

    def __init__(
        self,
        book: LabelBook,
        settings: NebSettings,
        begun: dict[str, Any],
        record: Callable[[], None],
    ) -> None:
        self.label: SurfaceLabel | None = None
        self.curvatures: list[float] = []
        self.polish: Polish | None = None
        self.downhill: tuple[DownhillEnd, ...] = ()
        self.doubts: list[str] = []
        self._book, self._settings, self._begun, self._record = book, settings, begun, record

    def run(
        self, label: SurfaceLabel, ends: tuple[SurfaceLabel, SurfaceLabel], judge: Judge
    ) -> list[str]:
        """Do what is wanted with a confirmed transition state; return what is missing.

        Parameters
        ----------
        label
            The transition state.
        ends
            Labels of the minima it joins.
        judge
            Counts the negative modes of a polished one.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            No more labels.
        """
        if self._settings.polish != "none":
            label = self._polish_from(label)
        doubts = [self._doubt_of(label, judge)]
        if self._settings.label_downhill_ends:
            rounds = self._begun.setdefault("downhill", [])
            found = label_downhill_ends(self._book, label, ends, rounds, self._record)
            self.downhill = tuple(found)
            doubts.append(missing_of(found))
        self.label = label
        self.doubts = [doubt for doubt in doubts if doubt]
        return self.doubts

    def _polish_from(self, label: SurfaceLabel) -> SurfaceLabel:
        """Refine the transition state on the reference."""
        settings, begun = self._settings, self._begun
        if "hessian" not in begun:  # of the surface as it is now, for a resumed run too
            begun["hessian"] = surface_hessian(self._book.surface(), label.positions).tolist()
            self._record()
        self.polish = polish_on_reference(
            self._book,
            label,
            np.array(begun["hessian"]),
            method="sella" if settings.polish == "sella" else "dimer",
            fmax=settings.polish_fmax_ev_per_ang,
            max_labels=settings.polish_labels,
            record=self._record,
        )
        return self.polish.label

    def _doubt_of(self, label: SurfaceLabel, judge: Judge) -> str:
        """Judge the transition state on all labels; return what speaks against a polished one."""
        book, polish, surface = self._book, self.polish, self._book.surface()
        if polish is None:
            inflation = book.factor() / NORMAL_95
            saddle = judge_saddle(book.template, surface, label.positions, inflation=inflation)
            self.curvatures = saddle.curvatures[:2].tolist()
            return ""
        saddle = judge(surface, label, label.positions)
        self.curvatures = saddle.curvatures[:2].tolist()
        if not polish.converged:
            return (
                f"polishing with {polish.method} ended at {polish.fmax:.3f} eV/A after "
                f"{polish.labels} labels; raise neb.polish_labels"
            )
        if saddle.verdict in ("no saddle", "higher order"):
            return f"polishing led to a point that is {saddle.verdict}"
        if polish.moved_ang > FAR_ANG and not self._settings.label_downhill_ends:
            return (
                f"polishing moved the transition state by {polish.moved_ang:.2f} A, and what it "
                "joins there was not asked; set neb.label_downhill_ends"
            )
        return ""
