"""One committee with its training frames and its tests: what every comparison starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from ase.formula import Formula
from ase.symbols import Symbols
from gate_signals import Trained, atom_signals, signals
from gate_tables import Table
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.observation import Observation, Outcome
from hybrid_calc.gate.replay import ReplayFrame
from hybrid_calc.gate.settings import KCAL_PER_MOL, GateSettings

TOLERANCES = (0.2, 2 * KCAL_PER_MOL)
"""Beyond which an answer is bad at least, eV/A and eV: the defaults of the gate."""
AT_ITS_BEST = 0.95
"""Share of the training frames within the tolerance.

A tolerance below what a committee reaches at its best means the reference at
every step, which judges the committee and no gate; these small ones need more
than the default.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What one committee was trained on and what it is judged on.

    Attributes
    ----------
    name
        Of the committee.
    info
        Who it is.
    trained
        What its training frames show.
    tables
        To judge it on.
    observations, signals, atoms
        Of each table, by its name.
    tolerances
        Beyond which an answer is bad, eV/A and eV.
    """

    name: str
    info: CommitteeInfo
    trained: Trained
    tables: Sequence[Table]
    observations: Mapping[str, Sequence[Observation]]
    signals: Mapping[str, Mapping[str, NDArray[np.float64]]]
    atoms: Mapping[str, Mapping[str, NDArray[np.float64]]]
    tolerances: tuple[float, float]

    @classmethod
    def of(
        cls, name: str, info: CommitteeInfo, training: Sequence[Table], tables: Sequence[Table]
    ) -> Domain:
        """Look at every frame once."""
        trained = Trained.of(training, info)
        seen = {table.name: table.observations(info, trained.novelty) for table in tables}
        return cls(
            name=name,
            info=info,
            trained=trained,
            tables=tuple(tables),
            observations=seen,
            signals={t.name: signals(t, seen[t.name], trained) for t in tables},
            atoms={t.name: atom_signals(t, seen[t.name], trained) for t in tables},
            tolerances=tolerances_of(training),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Temperatures and reactions, in order."""
        return tuple(dict.fromkeys(table.kind for table in self.tables))

    @property
    def molecules(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(dict.fromkeys(table.molecule for table in self.tables))

    def excess(self, table: Table) -> NDArray[np.float64]:
        """Return the larger of both errors over its tolerance, shape (F,)."""
        force, energy = self.tolerances
        return np.maximum(table.force_errors / force, table.energy_errors / energy)

    def gate(self, calibration: CommitteeCalibration | None = None, **settings: object) -> Gate:
        """Return a gate with this domain's tolerances."""
        force, energy = self.tolerances
        values = {"force_tolerance_ev_per_ang": force, "energy_tolerance_ev": energy}
        return Gate(GateSettings.model_validate(values | settings), calibration)

    def bad(self, table: Table) -> NDArray[np.bool_]:
        """Return which answers are wrong by more than the tolerance, shape (F,)."""
        return self.excess(table) > 1

    def labelled(self, tables: Sequence[Table], *, second: bool = False) -> LabelledFrames:
        """Return tables as calibration takes them; every frame is labelled.

        Parameters
        ----------
        tables
            Which.
        second
            Whether a second opinion was asked everywhere; by default it is off.
        """
        names = [table.name for table in tables]
        count = sum(map(len, tables))
        observations = [o for name in names for o in self.observations[name]]
        known = self.signals[names[0]].keys() - {"flags"}
        if not second:
            known = known - {"second_opinion"}
        return LabelledFrames(
            regimes=[o.regime for o in observations],
            molecules=[name for t in tables for name in [formula(t)] * len(t)],
            signals={
                key: np.concatenate([self.signals[name][key] for name in names])
                for key in sorted(known)
            },
            force_errors=np.concatenate([table.force_errors for table in tables]),
            energy_errors=np.concatenate([table.energy_errors for table in tables]),
            temperatures=np.array(
                [np.nan if o.mean_temperature is None else o.mean_temperature for o in observations]
            ),
            weights=np.ones(count),
            heaviest=np.ones(count),
            trajectories=trajectories(tables),
            steps=np.concatenate([np.arange(len(table)) for table in tables]),
        )

    def replayed(self, tables: Sequence[Table]) -> list[ReplayFrame]:
        """Return tables as a gate meets them."""
        return [
            ReplayFrame(
                observation=observation,
                outcome=Outcome(force_error=float(force), energy_error=float(energy)),
                trajectory=table.name,
                step=step,
            )
            for table in tables
            for step, (observation, force, energy) in enumerate(
                zip(
                    self.observations[table.name],
                    table.force_errors,
                    table.energy_errors,
                    strict=True,
                )
            )
        ]


BLOCKS = 10
"""Parts that independent frames of one trajectory are divided into, in their order."""


def trajectories(tables: Sequence[Table]) -> NDArray[np.intp]:
    """Return the number of each frame's trajectory, or of its part where frames are independent."""
    found: list[NDArray[np.intp]] = []
    for table in tables:
        first = found[-1][-1] + 1 if found else 0
        parts = 1 if table.momenta is not None else min(BLOCKS, len(table))
        found.append(first + np.arange(len(table)) * parts // len(table))
    return np.concatenate(found)


def tolerances_of(training: Sequence[Table]) -> tuple[float, float]:
    """Return the default tolerances, or what the training frames reach where that is more."""
    force = np.concatenate([table.force_errors for table in training])
    energy = np.concatenate(
        [
            np.abs(shift - shift.mean())
            for shift in (table.energies.mean(1) - table.true_energies for table in training)
        ]
    )
    reached = (float(np.quantile(values, AT_ITS_BEST)) for values in (force, energy))
    least_force, least_energy = TOLERANCES
    first, second = reached
    return max(least_force, round(first, 2)), max(least_energy, round(second, 3))


def formula(table: Table) -> str:
    """Return the chemical formula."""
    return str(Formula(str(Symbols(table.numbers))).format("hill"))
