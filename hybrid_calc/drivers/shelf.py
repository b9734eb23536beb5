"""The way off a minimum so shallow that no saddle can be told from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, pairwise

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.correction.surface import SurfaceLabel
from hybrid_calc.drivers.downhill import walk_downhill
from hybrid_calc.drivers.labelling import LabelBook, max_force
from hybrid_calc.drivers.saddle import Descent, judge_saddle, pushed
from hybrid_calc.drivers.shape import displacement_between
from hybrid_calc.drivers.walk import labelled_hessian, next_uphill

SHELF = "acquisition: off a shallow minimum"
DOWN = "confirmation: down from a shallow minimum"
HESSIAN = "confirmation: Hessian of a shallow minimum"

FLAT = 0.01
"""Forces on a shelf are small everywhere: a walk ends at a smaller one, eV/A."""

STEEP_EV = 0.05
"""A walk uphill that rises by more leads off no shelf, eV."""

SOFT_MODES = 2
"""Modes along which a way off is sought, the softest ones."""

NUDGE_ANG = 0.05
"""How far they are followed before the walk begins, and its longest step, A."""

SAME_ANG = 0.3
"""So flat a minimum is where all atoms are nearer to it, A."""

LEAST_UPHILL, MOST_UPHILL = 3, 25
"""Labels of one walk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfWay:
    """A way down from a shallow minimum, labelled step by step.

    Attributes
    ----------
    rise
        How far the reference rises above the minimum on it, at least zero, eV.
    way
        Its geometries.
    last
        The label where it ends.
    """

    rise: float
    way: Descent
    last: SurfaceLabel


def ways_off_shelf(
    book: LabelBook,
    minimum: SurfaceLabel,
    ahead: NDArray[np.float64],
    arrived: Callable[[SurfaceLabel], bool],
    *,
    max_rise: float,
) -> Iterator[ShelfWay]:
    """Yield ways down on the reference itself that do not rise by more than `max_rise`, eV.

    First along its forces, as far as they go; from there uphill along a soft mode, which on a
    shelf is soon over, and along the forces again.

    Parameters
    ----------
    book
        Labels of the molecule.
    minimum
        The shallow one.
    ahead
        Where the way should lead: of the two directions of a mode the one that leads there
        is taken first, shape (N, 3), A.
    arrived
        Tells whether a label ends a walk.
    max_rise
        What is no barrier, eV.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels, or a walk that does not end.
    """

    def ends(label: SurfaceLabel) -> bool:
        return arrived(label) or max_force(book.template, label) < FLAT

    def way_over(labels: list[SurfaceLabel]) -> ShelfWay:
        pairs = pairwise(labels)
        highest = max((highest_between(*pair) for pair in pairs), default=labels[0].energy)
        return ShelfWay(
            rise=max(highest, minimum.energy) - minimum.energy,
            way=Descent(walked=np.array([one.positions for one in labels]), unsure=False),
            last=labels[-1],
        )

    first = way_over([minimum, *_down(book, minimum.positions, ends, minimum)])
    if first.rise <= max_rise:
        yield first
    low = first.last
    # No surface knows modes as soft as a shelf's.
    hessian, modes = labelled_hessian(book, low, HESSIAN)
    for mode in modes[:SOFT_MODES]:
        nudge = NUDGE_ANG * mode / np.linalg.norm(mode, axis=1).max()
        starts = [low.positions + sign * nudge for sign in (1.0, -1.0)]
        for start in sorted(starts, key=lambda one: displacement_between(one, ahead)):
            top = _edge(book, start, hessian, minimum.energy + STEEP_EV)
            if top is None or top.energy > minimum.energy + max_rise:
                continue
            saddle = judge_saddle(book.template, book.surface(), top.positions, inflation=1.0)
            one, two = ([top, *_down(book, start, ends, top)] for start in pushed(saddle))
            for back, forth in ((one, two), (two, one)):
                if displacement_between(back[-1].positions, low.positions) > SAME_ANG:
                    continue
                found = way_over([*back[::-1], *forth[1:]])
                if found.rise <= max_rise:
                    yield found


def _down(
    book: LabelBook,
    start: NDArray[np.float64],
    ends: Callable[[SurfaceLabel], bool],
    top: SurfaceLabel,
) -> list[SurfaceLabel]:
    """Return the labels of a walk downhill from a place (N, 3), A, that lie below its top.

    A push aside may have gone up a wall that the way itself does not touch.
    """
    walk = (book.ask(one, DOWN, strict=False) for one in walk_downhill(book, start, DOWN, ends))
    return list(dropwhile(lambda label: label.energy > top.energy, walk))


def _edge(
    book: LabelBook, start: NDArray[np.float64], hessian: NDArray[np.float64], highest: float
) -> SurfaceLabel | None:
    """Return the top that a walk uphill comes to, None where it rises above `highest`, eV."""
    walk = [book.ask(start, SHELF)]
    while max_force(book.template, walk[-1]) > FLAT or len(walk) < LEAST_UPHILL:
        if walk[-1].energy > highest or len(walk) == MOST_UPHILL:
            return None
        here = next_uphill(book.template, walk, hessian, max_step=NUDGE_ANG)
        walk.append(book.ask(here, SHELF))
    return walk[-1]


def highest_between(one: SurfaceLabel, two: SurfaceLabel) -> float:
    """Return the highest energy, eV, of the cubic through energies and forces of two labels."""
    step = two.positions - one.positions
    slopes = [-float(np.sum(label.forces * step)) for label in (one, two)]
    t = np.linspace(0.0, 1.0, 21)
    energies = (
        (2 * t**3 - 3 * t**2 + 1) * one.energy
        + (t**3 - 2 * t**2 + t) * slopes[0]
        + (3 * t**2 - 2 * t**3) * two.energy
        + (t**3 - t**2) * slopes[1]
    )
    return float(energies.max())
