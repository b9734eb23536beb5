"""The bands of one search: where they begin, what is read from them, where they have collapsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel, evaluate_surface, frames_at
from hybrid_calc.drivers.band import Band, relax_band
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.labelling import LabelBook
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.saddle import Descent
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import displacement_between, distance_between, frozen_atoms

BandThrough = Callable[[Sequence[Atoms]], NDArray[np.float64]]
"""Interpolates a band (B, N, 3), A, between the ends through geometries between them."""


class Bands:
    """Bands between two labelled minima on one surface after another.

    Parameters
    ----------
    book
        Labels of the molecule.
    progress
        The last band is written into it.
    settings, limits
        Of the search.
    ends
        Labels of the minima.
    through
        Interpolates bands between them.
    start
        The first band, shape (B, N, 3), A.
    """

    def __init__(
        self,
        book: LabelBook,
        progress: Progress,
        settings: NebSettings,
        limits: SearchLimits,
        *,
        ends: tuple[SurfaceLabel, SurfaceLabel],
        through: BandThrough,
        start: NDArray[np.float64],
    ) -> None:
        self.book = book
        self.progress = progress
        self.settings = settings
        self.limits = limits
        self.ends = ends
        self.through = through
        self.start = start

    @property
    def last_positions(self) -> NDArray[np.float64]:
        """Band that was relaxed last, shape (B, N, 3), A."""
        return self.start if self.progress.band is None else np.array(self.progress.band)

    def relax(self, surface: Surface, start: NDArray[np.float64], max_std: float) -> Band:
        """Relax a band (B, N, 3), A, until it is at rest or less sure than `max_std`, eV."""
        band = relax_band(
            self.book.template,
            surface,
            start,
            max_step=self.settings.max_step_ang,
            max_std=max_std,
        )
        self.progress.band = band.positions.tolist()
        return band

    def top(self, surface: Surface) -> float:
        """Return the highest energy of the first band, relaxed on a surface, eV."""
        return float(relax_band(self.book.template, surface, self.start).energies.max())

    def displaced(self) -> NDArray[np.float64]:
        """Return the first band, pushed off its symmetry as often as that was broken."""
        if self.progress.push is None:
            return self.start
        rng = np.random.default_rng([self.settings.seed, self.progress.breaks])
        push = np.array(self.progress.push)
        push *= self.limits.break_ang / np.linalg.norm(push, axis=1).max()
        push *= 1.0 if self.progress.breaks % 2 else -1.0
        push = push + rng.normal(0.0, 0.1 * self.limits.break_ang, push.shape)
        push[frozen_atoms(self.book.template)] = 0.0
        envelope = np.sin(np.linspace(0.0, np.pi, len(self.start)))
        return np.asarray(self.start + envelope[:, None, None] * push)

    def over(self, top: NDArray[np.float64], ways: Sequence[Descent]) -> NDArray[np.float64]:
        """Return a band over a saddle (N, 3) along the ways down to start and end."""
        aside = (self.settings.images - 3) // 2
        back, forth = (way.spread(aside) for way in ways)
        between = np.concatenate([back[::-1], top[None], forth])
        return self.through(frames_at(self.book.template, between))

    def may_rise(self, band: Band, surface: Surface) -> int | None:
        """Return the image that may be above the climbing one by more than the margin."""
        wide = self.book.half_widths(surface, band.positions, band.positions[0])
        over = band.energies + wide - band.energies[band.top]
        over[[0, band.top, -1]] = -np.inf
        worst = int(np.argmax(over))
        return worst if over[worst] > self.limits.margin_ev else None

    def beside_an_end(self, here: NDArray[np.float64], surface: Surface) -> bool:
        """Tell whether a climbing image (N, 3), A, is an end or hardly above the higher one."""
        # Superposed, a light atom's way is shared by all; a mirror image has equal distances.
        measures = (displacement_between, distance_between)
        near = min(max(far(here, end.positions) for far in measures) for end in self.ends)
        highest = max(self.relative(surface, end.positions) for end in self.ends)
        lifted = self.relative(surface, here) - highest
        return near < self.limits.collapse_ang or lifted < self.limits.collapse_ev

    def relative(self, surface: Surface, positions: NDArray[np.float64]) -> float:
        """Return the surface's energy above the first end's label, eV."""
        energies, _ = evaluate_surface(surface, positions[None])
        return float(energies[0]) - self.ends[0].energy
