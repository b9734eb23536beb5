"""What a climbing image is and what it joins, asked of the surface and of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.downhill import (
    apart,
    descend_on_reference,
    same_bonds,
    side_of,
    walk_fmax,
)
from hybrid_calc.drivers.labelling import NORMAL_95, LabelBook, max_force
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.saddle import (
    CLEARLY_NEGATIVE,
    Descent,
    Saddle,
    descend,
    judge_saddle,
    pushed,
)
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of, turn_onto
from hybrid_calc.drivers.shelf import ShelfWay, ways_off_shelf
from hybrid_calc.drivers.walk import curvature_along
from hybrid_calc.errors import ReferenceFailed

NEAR_END = 0.5
"""A walk downhill has arrived with the bonds of an end, a smaller reference force, eV/A, and"""

LEFT_ABOVE_END = 0.25
"""no more than this share of the saddle's height above that end."""

AT_MINIMUM = 0.1
"""Another minimum has a smaller reference force, eV/A."""

LABELLED_CONFORMER_FMAX = 0.01
"""Where it is no end of the same bonds: twice the noise that forces are taken to have, eV/A."""

AT_CONFORMER_ANG = 0.05
"""So near to a conformer nothing can lie between, A."""

BETWEEN_EV = 0.01
"""A label half-way to a conformer that is higher by more shows a barrier, eV."""

WAY_REACH_ANG = 0.3
"""A way downhill is known where a label's distances all differ by less, A."""

MOST_LEGS = 20
"""Legs of such a way, each on a surface with a label more."""

PROBE = "confirmation: a mode of the saddle"
END = "confirmation: downhill end"
DESCENT = "confirmation: on the way downhill"

Ask = Callable[[NDArray[np.float64], str, Surface], SurfaceLabel | None]
"""Labels a geometry for a reason, forecast by a surface; None where the reference refuses."""


class SaddleCheck:
    """Asks of one climbing image after another whether it is the top of this step.

    Parameters
    ----------
    book
        Labels of the molecule.
    progress
        What is missing is written into it.
    settings, limits
        Of the search.
    ends
        Labels of the two minima.
    ask
        How labels are asked.
    """

    def __init__(
        self,
        book: LabelBook,
        progress: Progress,
        settings: NebSettings,
        limits: SearchLimits,
        *,
        ends: tuple[SurfaceLabel, SurfaceLabel],
        ask: Ask,
    ) -> None:
        self.book = book
        self.progress = progress
        self.settings = settings
        self.limits = limits
        self.ends = ends
        self._ask = ask

    def judged(self, surface: Surface, label: SurfaceLabel, here: NDArray[np.float64]) -> Saddle:
        """Count the negative modes at a stationary point (N, 3) beside its label.

        Where the posterior leaves one of the two lowest open a label along it decides.
        """
        inflation = self.book.factor() / NORMAL_95
        saddle = judge_saddle(self.book.template, surface, here, inflation=inflation)
        self.progress.curvatures = saddle.curvatures[:2].tolist()
        if saddle.verdict in ("first order", "no saddle"):
            return saddle
        open_, (first, second) = 2 * saddle.curvature_std, saddle.curvatures[:2]
        if first >= -open_[0] and self._probe(surface, label, saddle.modes[0]) > -CLEARLY_NEGATIVE:
            return replace(saddle, verdict="no saddle")
        rises = second > open_[1] or self._probe(surface, label, saddle.modes[1]) > 0
        return replace(saddle, verdict="first order" if rises else "higher order")

    def ways_on_surface(self, saddle: Saddle) -> list[Descent] | None:
        """Return the ways on the surface to start and end, None where that is not sure."""
        found = [self._way_from(saddle, start) for start in pushed(saddle)]
        ways = [one for one in found if one is not None]
        if len(ways) < len(found):
            self.progress.doubt = "the way downhill from the climbing image is uncertain"
            return None
        return self._joining(ways)

    def _way_from(self, saddle: Saddle, start: NDArray[np.float64]) -> Descent | None:
        """Walk downhill on the surface, which learns a label wherever it is too far from all."""
        walked = [saddle.positions[None]]
        fmax = walk_fmax(self.book.template.numbers, self.ends)
        for _ in range(MOST_LEGS):
            surface = self.book.surface()
            known = [one.positions for one in self.book.usable()]
            leg = descend(self.book.template, surface, start, known, reach=WAY_REACH_ANG, fmax=fmax)
            walked.append(leg.walked)
            if not leg.unsure:
                return Descent(walked=np.concatenate(walked), unsure=False)
            start = leg.positions
            if self._ask(start, DESCENT, surface) is None:
                break
        return None

    def _joining(self, found: list[Descent]) -> list[Descent] | None:
        """Return ways as start and end come, None where they lead elsewhere."""
        ways = self._in_order(found)
        if ways is None:
            # A label at each minimum that is not an end tells whether it is there; where they
            # have the bonds of the ends, a label at both.
            surface = self.book.surface()
            places = [one.positions for one in found]
            others = [one for one in places if self._bonds(one) not in self._wanted] or places
            labels = [self._ask(other, END, surface) for other in others]
            if all(one and max_force(self.book.template, one) < AT_MINIMUM for one in labels):
                self.progress.elsewhere = [place.tolist() for place in places]
        return ways

    def ways_on_reference(self, saddle: Saddle, label: SurfaceLabel) -> list[Descent] | None:
        """Return the reference's own ways to start and end, None where they lead elsewhere.

        Relaxations on the reference itself, which need no surface to be believed.

        Parameters
        ----------
        saddle
            Where they begin.
        label
            Of the climbing image.
        """
        numbers = self.book.template.numbers
        conformers = same_bonds(numbers, self.ends)
        elsewhere = LABELLED_CONFORMER_FMAX if conformers else self.settings.end_fmax_ev_per_ang

        def arrived(one: SurfaceLabel) -> bool:
            side = side_of(numbers, one.positions, self.ends)
            at_an_end = side != "neither"
            if at_an_end:
                end = self.ends[side == "end"]
                at_an_end = one.energy - end.energy < LEFT_ABOVE_END * (label.energy - end.energy)
                # Of conformers it may be near the one that it is leaving.
                at_an_end = at_an_end and not (conformers and _leaves(one, end))
            return max_force(self.book.template, one) < (NEAR_END if at_an_end else elsewhere)

        try:
            most = self._confirming_left
            found = descend_on_reference(self.book, saddle, DESCENT, arrived, most_labels=most)
        except ReferenceFailed:
            self.progress.failures += 1
            self.progress.phase = "search"
            self.progress.doubt = "the way downhill from the climbing image was not found"
            return None
        ways = self._in_order(found)
        if ways is None:
            self.progress.elsewhere = [one.positions.tolist() for one in found]
        return ways

    def off_shelf(self, ahead: NDArray[np.float64], high: int) -> ShelfWay | None:
        """Return the reference's way down from end number `high` to the other one.

        None where it has a barrier or leads elsewhere; `ahead` (N, 3), A, is where it should
        lead.
        """
        top, bottom = self.ends[high], self.ends[1 - high]

        def arrived(label: SurfaceLabel) -> bool:
            near = label.energy - bottom.energy < LEFT_ABOVE_END * (top.energy - bottom.energy)
            at_end = near and self._bonds(label.positions) == self._wanted[1 - high]
            return at_end and max_force(self.book.template, label) < NEAR_END

        try:
            most = self.limits.collapse_ev
            for found in ways_off_shelf(self.book, top, ahead, arrived, max_rise=most):
                bonds = self._bonds(found.last.positions)
                if bonds == self._wanted[1 - high]:
                    return found
                if bonds != self._wanted[high]:
                    self.progress.doubt = "the way down from a shallow minimum leads elsewhere"
                    places = [top.positions, found.last.positions]
                    self.progress.elsewhere = [one.tolist() for one in places]
                    return None
        except ReferenceFailed:
            self.progress.failures += 1
        return None

    def _in_order(self, found: list[Descent]) -> list[Descent] | None:
        """Return two ways as start and end come, None where they end elsewhere."""
        sides = [self._side(one.positions) for one in found]
        if sorted(sides) == ["end", "start"]:
            return found if sides[0] == "start" else found[::-1]
        words = [
            f"another minimum ({_changes(self._wanted[0], self._bonds(one.positions))})"
            if side == "neither"
            else f"its {side}"
            for side, one in zip(sides, found, strict=True)
        ]
        self.progress.doubt = f"the saddle joins {words[0]} and {words[1]}"
        return None

    def _side(self, place: NDArray[np.float64]) -> str:
        """Return the end that a walk has come to at a place (N, 3), A, or ``neither``.

        Between a place near a conformer and that conformer a label must see no barrier.
        """
        side = side_of(self.book.template.numbers, place, self.ends)
        if side == "neither" or not same_bonds(self.book.template.numbers, self.ends):
            return side
        end = self.ends[side == "end"]
        if apart(place, end.positions) < AT_CONFORMER_ANG:
            return side
        between = 0.5 * (place + turn_onto(end.positions, place).positions)
        here, middle = (self.book.ask(one, END) for one in (place, between))
        return side if middle.energy <= max(here.energy, end.energy) + BETWEEN_EV else "neither"

    def _probe(self, surface: Surface, label: SurfaceLabel, mode: NDArray[np.float64]) -> float:
        """Return the reference's curvature along a mode, eV/A^2, for one label."""
        step = self.limits.probe_ang
        return curvature_along(self.book, label, mode, PROBE, step=step, surface=surface)

    @property
    def _confirming_left(self) -> int:
        """Labels that confirming this step may still take, at least one."""
        return max(1, self.settings.max_confirmation_labels - self.book.asked_for("confirmation"))

    @property
    def _wanted(self) -> list[frozenset[tuple[int, int]]]:
        return [self._bonds(end.positions) for end in self.ends]

    def _bonds(self, positions: NDArray[np.float64]) -> frozenset[tuple[int, int]]:
        return bonds_of(self.book.template.numbers, positions)


def _leaves(one: SurfaceLabel, end: SurfaceLabel) -> bool:
    """Tell whether the forces of a label lead away from an end."""
    ahead = turn_onto(end.positions, one.positions).positions - one.positions
    return float((one.forces * ahead).sum()) < 0.0


def _changes(before: frozenset[tuple[int, int]], after: frozenset[tuple[int, int]]) -> str:
    """Say which bonds differ from those at the start."""
    parts = [
        f"bond {first}-{second} {what}"
        for what, bonds in (("formed", after - before), ("broken", before - after))
        for first, second in sorted(bonds)
    ]
    return ", ".join(parts) or "the same bonds"
