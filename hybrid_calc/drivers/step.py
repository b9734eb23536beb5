"""One elementary step of a way: its labels, the search for its saddle, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.surface import SurfaceLabel, evaluate_surface
from hybrid_calc.drivers.band import band_through
from hybrid_calc.drivers.barrier import ElementaryStep, SearchLimits
from hybrid_calc.drivers.finish import Finish
from hybrid_calc.drivers.labelling import LabelBook, max_force
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.relax import RelaxResult
from hybrid_calc.drivers.search import BarrierSearch
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of, distance_between
from hybrid_calc.errors import ReferenceFailed

INTERMEDIATE = "intermediate"
"""Name of every minimum between the user's ends while its place is not known."""

SAME_IMAGE_ANG = 1e-3
"""An image whose distances differ by less from a label's carries that label, A."""


@dataclass(slots=True, kw_only=True, eq=False)
class Stop:
    """A minimum on the way.

    Attributes
    ----------
    name
        Of an end; that of a minimum between them depends on its place.
    atoms
        Where its relaxation starts.
    state
        Of that relaxation, JSON-able, once begun.
    found
        Its result, once there is one.
    leads_to
        The known minimum whose bonds it took on, where that ended it.
    """

    name: str
    atoms: Atoms
    state: dict[str, Any] | None = None
    found: RelaxResult | None = None
    leads_to: Stop | None = None

    @property
    def minimum(self) -> RelaxResult:
        """What the relaxation found.

        Raises
        ------
        ReferenceFailed
            It was not relaxed.
        """
        if self.found is None:
            raise ReferenceFailed(f"{self.name} was never relaxed.")
        return self.found

    @property
    def inner(self) -> bool:
        """Whether it lies between the user's ends."""
        return self.name == INTERMEDIATE

    @property
    def bonds(self) -> frozenset[tuple[int, int]]:
        """Bonded pairs of the minimum."""
        return bonds_of(self.atoms.numbers, self.minimum.atoms.positions)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data."""
        start = self.atoms.positions.tolist()
        return {"name": self.name, "start": start, "state": self.state}


class Step:
    """The search for the saddle between two minima.

    Parameters
    ----------
    start, end
        The minima, relaxed.
    book
        Labels of the molecule; those of the minima are added.
    settings, limits
        Of the search.
    path
        Geometries between them that the first band is led through.
    record
        Called when something is to be remembered.
    """

    def __init__(
        self,
        start: Stop,
        end: Stop,
        book: LabelBook,
        settings: NebSettings,
        limits: SearchLimits,
        *,
        path: Sequence[Atoms],
        record: Callable[[], None],
    ) -> None:
        self.start, self.end = start, end
        self.book = book
        self.path = list(path)
        self.progress = Progress()
        self._begun: dict[str, Any] = {}
        self._was_concluded = False
        self.finish = Finish(book, settings, self._begun, record)
        minima = [stop.minimum for stop in (start, end)]

        def through(between: Sequence[Atoms]) -> NDArray[np.float64]:
            return band_through([minima[0].atoms, *between, minima[1].atoms], settings.images)

        book.know([label for one in minima for label in one.labels])
        self.search = BarrierSearch(
            start.atoms,
            book,
            settings,
            self.progress,
            limits=limits,
            ends=(_label_of(minima[0]), _label_of(minima[1])),
            inner=(start.inner, end.inner),
            through=through,
            start=through(self.path),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        return {
            "book": self.book.to_dict(),
            "progress": asdict(self.progress),
            "begun": dict(self._begun),
            "path": [one.positions.tolist() for one in self.path],
            "concluded": self._was_concluded or self.finish.label is not None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `to_dict` returned."""
        self.book.restore(state["book"])
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        self._begun.update(state["begun"])
        self._was_concluded = state["concluded"]

    def at_saddle(self, label: SurfaceLabel) -> None:
        """Begin with confirming a labelled climbing image."""
        self.progress.phase = "confirm"
        self.progress.saddle = label.positions.tolist()
        self.progress.force = max_force(self.book.template, label)

    def along_ridge(self, saddle: NDArray[np.float64]) -> None:
        """Begin with a walk to another saddle along the ridge of one (N, 3), A."""
        self.progress.phase = "ridge"
        self.progress.walk = [saddle.tolist()]

    def turn_back(self, labels: Sequence[SurfaceLabel], *, joined: bool) -> None:
        """Go on with labels of minima that the way does not lead over.

        Joined, they showed that the climbing image belongs to this step.
        """
        self.book.know(labels)
        if self.progress.elsewhere is not None:
            self.progress.elsewhere = None
            self.progress.detours += not joined
            self.progress.phase = "confirm" if joined else "search"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.finish.label is not None or self.progress.shelf is not None

    @property
    def confirmed(self) -> bool:
        """Whether everything that is checked holds."""
        return self.finished and not self.finish.doubts

    def conclude(self) -> list[str]:
        """Do what is wanted with the confirmed transition state; return what is missing.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            No more labels.
        """
        if self.progress.shelf is not None:
            return []
        label = self.search.saddle_label()
        if label is None:
            raise ReferenceFailed("a confirmed transition state has no label.")
        return self.finish.run(label, self.search.ends, self.search.judged)

    def settle(self) -> None:
        """Conclude again what was concluded before a kill; its labels are known."""
        if self._was_concluded:
            self.conclude()

    def result(self, names: tuple[str, str]) -> ElementaryStep:
        """Return the step between minima of these names as it stands."""
        low = self.search.ends[0].energy
        label = self.finish.label or self.search.saddle_label()
        surface, path = self.book.surface(), self.search.last_positions
        energies, _ = evaluate_surface(surface, path)
        barrier = half = fmax = float("nan")
        shelf = self.progress.shelf
        if shelf is not None:
            label = None
            barrier = max(end.energy for end in self.search.ends) + shelf - low
            half = float(self.book.half_widths(surface, path[:1], path[0])[0])
        elif label is not None:
            barrier, fmax = label.energy - low, max_force(self.book.template, label)
            half = float(self.book.half_widths(surface, label.positions[None], path[0])[0])
        return ElementaryStep(
            start=self.start.minimum.atoms,
            end=self.end.minimum.atoms,
            names=names,
            barrier=barrier,
            half_width=half,
            transition_state=None if label is None else label.positions,
            transition_fmax=fmax,
            curvatures=tuple(self.finish.curvatures or self.progress.curvatures),
            confirmed=self.confirmed,
            barrierless=shelf is not None,
            labels=self.book.asked,
            path=path,
            path_energies=energies - low,
            path_half_widths=self.book.half_widths(surface, path, path[0]),
            labelled_images=_labelled(path, self.book.labels),
            prior=surface.prior,
            polish=self.finish.polish,
            downhill=self.finish.downhill,
        )


def _label_of(end: RelaxResult) -> SurfaceLabel:
    """Return the label of a relaxed end."""
    return min(end.labels, key=lambda one: float(np.abs(one.positions - end.atoms.positions).max()))


def _labelled(positions: NDArray[np.float64], labels: Sequence[SurfaceLabel]) -> tuple[int, ...]:
    """Return the images that carry a label, whatever their orientation."""
    return tuple(
        index
        for index, image in enumerate(positions)
        if any(distance_between(image, one.positions) < SAME_IMAGE_ANG for one in labels)
    )
