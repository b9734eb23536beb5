"""Which minima a way leads over, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hybrid_calc.drivers.shape import distance_between
from hybrid_calc.drivers.step import Stop


def way_over(stops: Sequence[Stop], start: Stop, sides: Sequence[Stop]) -> list[Stop]:
    """Return the minima of a way that takes in what was found between two of them.

    Parameters
    ----------
    stops
        Minima of the way so far.
    start
        Of the step that was searched; it ends at the next of them.
    sides
        The two minima that a saddle joins, or one that lies between; those on the way
        already shorten it, new ones are put into the step.
    """
    stops = list(stops)
    after = stops.index(start) + 1
    new = [one for one in sides if one not in stops]
    old = sorted(stops.index(one) for one in sides if one in stops)
    if not new and len(old) == 2:
        return [*stops[: old[0] + 1], *stops[max(old[1], old[0] + 1) :]]
    if any(index not in (after - 1, after) for index in old):
        return stops
    if len(new) == 2:
        if new[0].bonds == new[1].bonds:
            return stops
        if _length([start, *new, stops[after]]) > _length([start, *new[::-1], stops[after]]):
            new.reverse()
    return [*stops[:after], *new, *stops[after:]]


def _length(way: Sequence[Stop]) -> float:
    """Return how far distances change along a way, A."""
    places = [stop.minimum.atoms.positions for stop in way]
    return sum(distance_between(one, two) for one, two in pairwise(places))
