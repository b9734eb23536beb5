"""The memory that flags need: the initial graph, the step before, the last temperatures.

One monitor belongs to one trajectory; images of a band and replicas have one each.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.contacts import (
    Pairs,
    close_contacts,
    own_image_contacts,
    pair_distances,
    pairs_of,
)
from hybrid_calc.flags.coverage import domain_flags, fingerprint, fingerprint_columns
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import Flag, FlagReport
from hybrid_calc.flags.thermal import (
    high_temperature,
    in_dynamics,
    step_displacement,
    temperature,
)
from hybrid_calc.flags.topology import (
    BondGraph,
    bond_flags,
    breaking_bonds,
    forming_bonds,
    initial_graph,
    quiet_range,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was looked at in one geometry.

    Attributes
    ----------
    report
        The flags.
    fingerprint
        Environment of each atom, shape (N, D).
    """

    report: FlagReport
    fingerprint: NDArray[np.float64]


class Monitor:
    """Raise the flags of successive geometries of one trajectory.

    Parameters
    ----------
    limits
        What to compare with.
    info
        Of the committee whose domain is checked.
    """

    def __init__(self, limits: FlagLimits, info: CommitteeInfo) -> None:
        self._limits = limits
        self._info = info
        self._initial: Atoms | None = None
        self._numbers = b""
        self._pairs: Pairs | None = None
        self._graph: BondGraph | None = None
        self._columns: NDArray[np.intp] = np.zeros((2, 0, 0), dtype=np.intp)
        self._quiet: tuple[NDArray[np.float64], ...] = (np.zeros(0), np.zeros(0))
        self._before: NDArray[np.float64] | None = None
        self._changed_for: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._temperatures: deque[float] = deque(maxlen=limits.temperature_window_steps)
        self._domain_known: tuple[tuple[object, ...], tuple[Flag, ...]] | None = None

    def start(self, atoms: Atoms) -> None:
        """Take this geometry as the initial graph and forget the past.

        Called by itself at the first geometry and when the elements change.
        """
        self._initial = Atoms(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
        )
        self._numbers = atoms.numbers.tobytes()
        self._pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, self._pairs)
        self._columns = fingerprint_columns(self._pairs)
        self._graph = initial_graph(distances, self._pairs, len(atoms), self._limits.bonded_ratio)
        self._quiet = quiet_range(
            self._graph,
            contact_ratio=self._limits.close_contact_ratio,
            breaking_ratio=self._limits.breaking_ratio,
            forming_order=self._limits.forming_bond_order,
        )
        self._changed_for = np.zeros(len(distances), dtype=np.intp)
        self._before = None
        self._domain_known = None
        self._temperatures.clear()

    def survey(self, atoms: Atoms) -> Survey:
        """Look at the next geometry; every geometry is looked at once."""
        if self._numbers != atoms.numbers.tobytes():
            self.start(atoms)
        if self._pairs is None or self._graph is None:
            raise RuntimeError("a started monitor has pairs and a graph")
        limits = self._limits
        distances = pair_distances(atoms, self._pairs)
        lowest, highest = self._quiet
        quiet = bool((distances >= lowest).all() and (distances <= highest).all())
        flags = list(self._domain(atoms))
        if not quiet:
            flags += close_contacts(distances, self._pairs, limits.close_contact_ratio)
        flags += own_image_contacts(atoms, limits.close_contact_ratio)
        mean_temperature = None
        moving = in_dynamics(atoms)
        if moving:
            if self._before is not None:
                flags += step_displacement(atoms, self._before, limits.max_step_displacement_ang)
            self._before = atoms.positions.copy()
            self._temperatures.append(temperature(atoms))
            mean_temperature = sum(self._temperatures) / len(self._temperatures)
            flags += high_temperature(mean_temperature, limits.hot_above_kelvin)
        if quiet:
            self._changed_for[:] = 0
        else:
            flags += self._topology(distances, self._graph, len(atoms), moving)
        return Survey(
            report=FlagReport(flags=tuple(flags), mean_temperature=mean_temperature),
            fingerprint=fingerprint(distances, self._pairs, self._columns),
        )

    def _domain(self, atoms: Atoms) -> tuple[Flag, ...]:
        """Return the flags of the domain; they change with charge, spin and periodicity only."""
        question = (atoms.info.get("charge"), atoms.info.get("spin"), atoms.pbc.tobytes())
        if self._domain_known is None or self._domain_known[0] != question:
            self._domain_known = (question, domain_flags(atoms, self._info))
        return self._domain_known[1]

    def _topology(
        self, distances: NDArray[np.float64], graph: BondGraph, atoms: int, moving: bool
    ) -> tuple[Flag, ...]:
        limits = self._limits
        breaking = breaking_bonds(distances, graph, limits.breaking_ratio)
        forming = forming_bonds(distances, graph, limits.forming_bond_order, limits.breaking_ratio)
        self._changed_for = np.where(breaking | forming, self._changed_for + 1, 0)
        if moving:
            lasting = self._changed_for >= limits.persistence_steps
            breaking, forming = breaking & lasting, forming & lasting
        return bond_flags(
            distances,
            graph,
            breaking,
            forming,
            atoms=atoms,
            breaking_ratio=limits.breaking_ratio,
            forming_order=limits.forming_bond_order,
        )

    def state(self) -> dict[str, Any] | None:
        """Return the memory as JSON-able data, None before the first geometry."""
        if self._initial is None:
            return None
        return {
            "numbers": self._initial.numbers.tolist(),
            "positions": self._initial.positions.tolist(),
            "cell": np.asarray(self._initial.cell).tolist(),
            "pbc": self._initial.pbc.tolist(),
            "before": None if self._before is None else self._before.tolist(),
            "changed_for": self._changed_for.tolist(),
            "temperatures": list(self._temperatures),
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take the memory back that `state` returned."""
        if state is None:
            return
        initial = Atoms(
            numbers=state["numbers"],
            positions=state["positions"],
            cell=state["cell"],
            pbc=state["pbc"],
        )
        self.start(initial)
        self._before = None if state["before"] is None else np.array(state["before"])
        self._changed_for = np.array(state["changed_for"], dtype=np.intp)
        self._temperatures.extend(state["temperatures"])
