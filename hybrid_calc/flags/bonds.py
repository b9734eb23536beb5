"""Every bond of one trajectory, watched against its start and against the training frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hybrid_calc.errors import StructureError
from hybrid_calc.flags.contacts import (
    Pairs,
    atoms_of,
    close_contacts,
)
from hybrid_calc.flags.coordination import coordination, coordination_flags
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.ranges import TrainingRanges, pair_name
from hybrid_calc.flags.report import Flag, Severity
from hybrid_calc.flags.topology import (
    BondGraph,
    bond_flags,
    breaking_bonds,
    forming_bonds,
    initial_graph,
    quiet_range,
    second_neighbours,
)
from hybrid_calc.flags.window import Recent, Window, bonds_of

THERMAL_KELVIN = 300.0
"""Up to here the strain limits hold as they are; above they grow as sqrt(T), as amplitudes do."""
FAR = 1e9
"""Further apart, A, than any pair is."""
QUIET_NEIGHBOUR_RATIOS = ((1.2, 1.45), (1.15, 1.6), (1.1, 1.75))
"""Between these distances over radii a pair is on its way from neighbour to stranger; the first
are taken under which no count can leave its range unseen."""


class BondWatch:
    """Raise the flags of successive geometries that distances alone decide.

    Parameters
    ----------
    numbers
        Atomic numbers, shape (N,).
    pairs
        Of the structure.
    distances
        Of the geometry that later ones are judged against, A, shape (P,).
    limits
        What to compare with.
    ranges
        Of the committee's training frames, or None where nobody knows.

    Attributes
    ----------
    graph
        Initial graph.
    window
        What the last steps looked like, for ranges to come.
    """

    def __init__(
        self,
        numbers: NDArray[np.integer],
        pairs: Pairs,
        distances: NDArray[np.float64],
        limits: FlagLimits,
        ranges: TrainingRanges | None,
    ) -> None:
        self._limits, self._pairs, self._atoms = limits, pairs, len(numbers)
        self.graph: BondGraph = initial_graph(distances, pairs, len(numbers), limits.bonded_ratio)
        self._strain_limits = np.full(len(distances), math.inf)
        self._strain_limits[second_neighbours(self.graph, len(numbers))] = limits.strained_angle
        self._strain_limits[self.graph.bonded] = limits.strained_bond
        self._shortest, self._longest = np.zeros(len(distances)), np.full(len(distances), math.inf)
        bonded = self.graph.bonded
        self._shortest[bonded], self._longest[bonded] = _length_bounds(
            numbers, bonds_of(self.graph), limits.length_margin_ang, ranges
        )
        self._fewest, self._most = _coordination_bounds(numbers, limits.coordination_margin, ranges)
        self._counts = bool(np.isfinite(self._most).any())
        self._quiet_bounds = self._quiet(distances)
        self._changed_for = np.zeros(len(distances), dtype=np.intp)
        self._strained_for = np.zeros(len(distances), dtype=np.intp)
        self._outside_for = np.zeros(len(distances), dtype=np.intp)
        self._crowded_for = np.zeros(len(numbers), dtype=np.intp)
        self._still = True
        self.window = Window(self.graph, limits.persistence_steps)

    def look(
        self, distances: NDArray[np.float64], *, moving: bool, temperature: float | None
    ) -> list[Flag]:
        """Return the flags of the next geometry.

        Parameters
        ----------
        distances
            Of each pair, A, shape (P,).
        moving
            Whether it belongs to dynamics, where a flag must persist.
        temperature
            Mean temperature, K; None outside dynamics.

        Raises
        ------
        StructureError
            A distance is not finite.
        """
        if self._quiet_bounds is not None:
            apart = distances - self._quiet_bounds
            if np.maximum.reduce(apart[0] * apart[1], initial=-math.inf) <= 0:
                if not self._still:
                    for memory in self._memories():
                        memory[:] = 0
                    self._still = True
                self.window.append(distances)
                return []
        if not np.isfinite(distances).all():  # never quiet, and no test below would see it
            raise StructureError("distances of atoms are not finite; the step before went wrong.")
        self.window.append(distances)
        self._still = False
        limits = self._limits
        lasting = limits.persistence_steps if moving else 1
        flags = list(close_contacts(distances, self._pairs, limits.close_contact_ratio))
        breaking = breaking_bonds(distances, self.graph, limits.breaking_ratio)
        forming = forming_bonds(
            distances, self.graph, limits.forming_bond_order, limits.breaking_ratio
        )
        changed = breaking | forming
        long_enough = _lasting(self._changed_for, changed, lasting)
        flags += bond_flags(
            distances,
            self.graph,
            breaking & long_enough,
            forming & long_enough,
            atoms=self._atoms,
            breaking_ratio=limits.breaking_ratio,
            forming_order=limits.forming_bond_order,
        )
        flags += self._strain(distances, changed, lasting, temperature)
        flags += self._lengths(distances, changed, lasting)
        if self._counts:
            counts = coordination(distances, self._pairs)
            outside = (counts < self._fewest) | (counts > self._most)
            crowded = _lasting(self._crowded_for, outside, lasting)
            flags += coordination_flags(counts, self._fewest, self._most, crowded)
        return flags

    def state(self) -> dict[str, Any]:
        """Return for how long each flag was nearly up, JSON-able."""
        return {
            "changed_for": self._changed_for.tolist(),
            "strained_for": self._strained_for.tolist(),
            "outside_for": self._outside_for.tolist(),
            "crowded_for": self._crowded_for.tolist(),
            "window": self.window.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._changed_for[:] = state["changed_for"]
        self._strained_for[:] = state["strained_for"]
        self._outside_for[:] = state["outside_for"]
        self._crowded_for[:] = state["crowded_for"]
        self.window.restore(state.get("window"))  # not kept by earlier versions
        self._still = False

    def _memories(self) -> tuple[NDArray[np.intp], ...]:
        return self._changed_for, self._strained_for, self._outside_for, self._crowded_for

    def _strain(
        self,
        distances: NDArray[np.float64],
        changed: NDArray[np.bool_],
        lasting: int,
        temperature: float | None,
    ) -> list[Flag]:
        """Flag bonds and angles (distances of second neighbours) outside the thermal range."""
        strain = np.abs(distances / self.graph.lengths - 1)
        hotter = math.sqrt(max(1.0, (temperature or 0.0) / THERMAL_KELVIN))
        allowed = hotter * self._strain_limits
        strained = _lasting(self._strained_for, (strain > allowed) & ~changed, lasting)
        flags = []
        for name, which in (
            ("strained_bond", strained & self.graph.bonded),
            ("strained_angle", strained & ~self.graph.bonded),
        ):
            places = np.flatnonzero(which)
            if len(places):
                places = places[np.argsort(-(strain - allowed)[places])]
                flags.append(
                    Flag(
                        name=name,
                        severity=Severity.REGIME,
                        atoms=atoms_of(places, self._pairs),
                        value=float(strain[places[0]]),
                        limit=float(allowed[places[0]]),
                    )
                )
        return flags

    def _lengths(
        self, distances: NDArray[np.float64], changed: NDArray[np.bool_], lasting: int
    ) -> list[Flag]:
        """Flag bonds whose length the training frames do not have."""
        beyond = np.maximum(self._shortest - distances, distances - self._longest)
        outside = _lasting(self._outside_for, self.graph.bonded & ~changed & (beyond > 0), lasting)
        places = np.flatnonzero(outside)
        if len(places) == 0:
            return []
        places = places[np.argsort(-beyond[places])]
        worst = places[0]
        short = distances[worst] < self._shortest[worst]
        limit = self._shortest[worst] if short else self._longest[worst]
        return [
            Flag(
                name="bond_length",
                severity=Severity.REGIME,
                atoms=atoms_of(places, self._pairs),
                value=float(distances[worst]),
                limit=float(limit) if math.isfinite(limit) else 0.0,
                unit="A",
            )
        ]

    def _quiet(self, distances: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the distances between which nothing is up, lower and upper, shape (2, P).

        Nearly every geometry is quiet; one product then stands for all tests.
        It has to be finite: `FAR` is no bound above.  None where no geometry is.
        """
        limits, graph = self._limits, self.graph
        lowest, highest = quiet_range(
            graph,
            contact_ratio=limits.close_contact_ratio,
            breaking_ratio=limits.breaking_ratio,
            forming_order=limits.forming_bond_order,
        )
        strain = self._strain_limits
        lowest = np.maximum.reduce([lowest, graph.lengths * (1 - strain), self._shortest])
        highest = np.minimum.reduce([highest, graph.lengths * (1 + strain), self._longest])
        if not self._counts:
            return _finite(lowest, highest)
        counts = coordination(distances, self._pairs)
        outside = bool(((counts < self._fewest) | (counts > self._most)).any())
        for ratios in () if outside else QUIET_NEIGHBOUR_RATIOS:
            near, far = (ratio * self._pairs.radii_sum for ratio in ratios)
            low = np.where(graph.bonded, lowest, np.maximum(lowest, far))
            high = np.where(graph.bonded, np.minimum(highest, near), highest)
            # Counts fall with every distance: they lie between those of the two bounds
            fewest, most = coordination(high, self._pairs), coordination(low, self._pairs)
            if (fewest >= self._fewest).all() and (most <= self._most).all():
                return _finite(low, high)
        return None


def outside_ranges(
    numbers: NDArray[np.integer], recent: Recent, limits: FlagLimits, ranges: TrainingRanges
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which bonds, and which atoms, the training frames do not have, step by step.

    As `BondWatch` sees them, which flags what lasts long enough: a bond that is
    breaking at a step is not outside there.

    Parameters
    ----------
    numbers
        Atomic numbers, shape (N,).
    recent
        The steps.
    limits
        Margins, and what is breaking.
    ranges
        Of the training frames.

    Returns
    -------
    tuple
        By its length each bond, shape (S, B), and by its neighbours each atom, shape (S, N).
    """
    shortest, longest = _length_bounds(numbers, recent.bonds, limits.length_margin_ang, ranges)
    fewest, most = _coordination_bounds(numbers, limits.coordination_margin, ranges)
    outside = (recent.lengths < shortest) | (recent.lengths > longest)
    outside &= ~(recent.lengths > limits.breaking_ratio * recent.initial)
    return outside, (recent.counts < fewest) | (recent.counts > most)


def _finite(lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return bounds whose products with distances are finite, shape (2, P)."""
    bounds = np.minimum((lowest, highest), FAR)
    bounds[:, lowest > highest] = FAR  # a length that fits nowhere
    return np.asarray(bounds)


def _length_bounds(
    numbers: NDArray[np.integer],
    bonds: NDArray[np.intp],
    margin: float,
    ranges: TrainingRanges | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shortest and longest length of each bond; one never seen fits nowhere."""
    shortest, longest = np.zeros(len(bonds)), np.full(len(bonds), math.inf)
    if ranges is None or not ranges.lengths:
        return shortest, longest
    symbols = [chemical_symbols[number] for number in numbers.tolist()]
    for place, (i, j) in enumerate(bonds.tolist()):
        known = ranges.lengths.get(pair_name(symbols[i], symbols[j]))
        low, high = (math.inf, -math.inf) if known is None else known
        shortest[place], longest[place] = low - margin, high + margin
    return shortest, longest


def _coordination_bounds(
    numbers: NDArray[np.integer], margin: float, ranges: TrainingRanges | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return fewest and most neighbours of each atom; no bound where nobody knows."""
    table = {} if ranges is None else ranges.coordination
    bounds = [
        table.get(chemical_symbols[number], (-math.inf, math.inf)) for number in numbers.tolist()
    ]
    both = np.array(bounds, dtype=np.float64).reshape(-1, 2)
    return both[:, 0] - margin, both[:, 1] + margin


def _lasting(memory: NDArray[np.intp], now: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Count the steps in a row that something holds; tell where they are enough."""
    np.multiply(memory + 1, now, out=memory)
    return np.asarray(now & (memory >= steps))
