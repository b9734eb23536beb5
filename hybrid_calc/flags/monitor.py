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
from hybrid_calc.flags.bonds import BondWatch
from hybrid_calc.flags.contacts import Pairs, own_image_contacts, pair_distances, pairs_of
from hybrid_calc.flags.coordination import Sites
from hybrid_calc.flags.coverage import Surroundings, domain_flags, fingerprint_columns
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.flags.report import Flag, FlagReport
from hybrid_calc.flags.thermal import (
    energy_drift,
    high_temperature,
    step_displacement,
    temperature,
)
from hybrid_calc.flags.window import Recent

DEFAULT_TIMESTEP_FS = 0.5
"""Of dynamics that say nothing about it."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """What was looked at in one geometry.

    Attributes
    ----------
    report
        The flags.
    surroundings
        Of each atom.
    """

    report: FlagReport
    surroundings: Surroundings


class Monitor:
    """Raise the flags of successive geometries of one trajectory.

    Parameters
    ----------
    limits
        What to compare with.
    info
        Of the committee whose domain is checked.
    ranges
        Of the committee's training frames, or None where nobody knows.

    Attributes
    ----------
    drift_ev
        How far the conserved quantity has drifted, eV; a driver that has one
        says so here.
    """

    def __init__(
        self, limits: FlagLimits, info: CommitteeInfo, ranges: TrainingRanges | None = None
    ) -> None:
        self._limits = limits
        self._info = info
        self._ranges = ranges
        self._initial: Atoms | None = None
        self._numbers = b""
        self._pairs: Pairs | None = None
        self._bonds: BondWatch | None = None
        self._sites: Sites | None = None
        self._columns: NDArray[np.intp] = np.zeros((2, 0, 0), dtype=np.intp)
        self._before: NDArray[np.float64] | None = None
        self._temperatures: deque[float] = deque()
        self._domain_known: tuple[tuple[object, ...], tuple[Flag, ...]] | None = None
        self.drift_ev = 0.0
        self.timestep_fs = DEFAULT_TIMESTEP_FS

    @property
    def timestep_fs(self) -> float:
        """Time between two geometries of the dynamics, fs."""
        return self._timestep_fs

    @timestep_fs.setter
    def timestep_fs(self, value: float) -> None:
        self._timestep_fs = value
        window = max(1, round(self._limits.temperature_window_fs / value))
        self._temperatures = deque(self._temperatures, maxlen=window)

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
        self._bonds = BondWatch(atoms.numbers, self._pairs, distances, self._limits, self._ranges)
        self._sites = None
        if atoms.pbc.all():
            limits = self._limits
            self._sites = Sites(self._initial, limits.site_margin)
        self._before = None
        self._domain_known = None
        self._temperatures.clear()
        self.drift_ev = 0.0

    def survey(self, atoms: Atoms) -> Survey:
        """Look at the next geometry; every geometry is looked at once."""
        if self._numbers != atoms.numbers.tobytes():
            self.start(atoms)
        if self._pairs is None or self._bonds is None:
            raise RuntimeError("a started monitor has pairs and bonds")
        limits = self._limits
        distances = pair_distances(atoms, self._pairs)
        flags = list(self._domain(atoms))
        mean_temperature = None
        kelvin = temperature(atoms)
        moving = kelvin is not None
        if kelvin is not None:
            self._temperatures.append(kelvin)
            mean_temperature = sum(self._temperatures) / len(self._temperatures)
        flags += self._bonds.look(distances, moving=moving, temperature=mean_temperature)
        flags += own_image_contacts(atoms, limits.close_contact_ratio)
        if self._sites is not None and atoms.pbc.all():
            flags += self._sites.look(atoms, lasting=limits.persistence_steps if moving else 1)
        if mean_temperature is not None:
            flags += self._motion(atoms, mean_temperature)
        return Survey(
            report=FlagReport(flags=tuple(flags), mean_temperature=mean_temperature),
            surroundings=Surroundings(distances, self._pairs, self._columns),
        )

    def _domain(self, atoms: Atoms) -> tuple[Flag, ...]:
        """Return the flags of the domain; they change with charge, spin and periodicity only."""
        question = (atoms.info.get("charge"), atoms.info.get("spin"), atoms.pbc.tobytes())
        if self._domain_known is None or self._domain_known[0] != question:
            self._domain_known = (question, domain_flags(atoms, self._info))
        return self._domain_known[1]

    def _motion(self, atoms: Atoms, mean_temperature: float) -> tuple[Flag, ...]:
        """Return the flags of dynamics: jumps, temperature, drift."""
        limits = self._limits
        flags: tuple[Flag, ...] = ()
        if self._before is not None:
            flags = step_displacement(atoms, self._before, limits.max_step_displacement_ang)
        self._before = atoms.positions.copy()
        flags += high_temperature(mean_temperature, limits.hot_above_kelvin)
        return flags + energy_drift(self.drift_ev / len(atoms), limits.energy_drift_ev_per_atom)

    def recent(self) -> Recent | None:
        """Return the bonds of the last geometries, None where those before it are not known."""
        return None if self._bonds is None else self._bonds.window.recent()

    def state(self) -> dict[str, Any] | None:
        """Return the memory as JSON-able data, None before the first geometry."""
        if self._initial is None or self._bonds is None:
            return None
        return {
            "numbers": self._initial.numbers.tolist(),
            "positions": self._initial.positions.tolist(),
            "cell": np.asarray(self._initial.cell).tolist(),
            "pbc": self._initial.pbc.tolist(),
            "before": None if self._before is None else self._before.tolist(),
            "bonds": self._bonds.state(),
            "sites": None if self._sites is None else self._sites.state(),
            "temperatures": list(self._temperatures),
            "timestep_fs": self.timestep_fs,
            "drift_ev": self.drift_ev,
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
        self.timestep_fs = state["timestep_fs"]
        self.start(initial)
        if self._bonds is not None:
            self._bonds.restore(state["bonds"])
        if self._sites is not None:
            self._sites.restore(state["sites"])
        self._before = None if state["before"] is None else np.array(state["before"])
        self._temperatures.extend(state["temperatures"])
        self.drift_ev = state["drift_ev"]
