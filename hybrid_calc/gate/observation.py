"""What the gate knows of one geometry before anyone asks the reference: arrays and words only.

No structure and no model: whatever can fill an `Observation`, a running engine,
a store or a table of frames, can be judged by a gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError
from hybrid_calc.flags.coverage import Surroundings
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.regime import Regime

SIGNALS = {
    "force_spread": "eV/A",
    "energy_spread_per_atom": "eV",
    "novelty": "",
    "largest_force": "eV/A",
    "second_opinion": "eV/A",
}
"""Signals that hybrid_calc fills, and their units; others may stand beside them."""


@dataclass(slots=True, kw_only=True)
class Observation:
    """One geometry of N atoms as the gate sees it.

    Attributes
    ----------
    regime
        Kind of geometry; from chemistry and flags, never from a model.
    report
        What physics said.
    signals
        By name (`SIGNALS`); absent or NaN where unknown.  ``force_spread``:
        of the members, worst atom, eV/A.  ``energy_spread_per_atom``: eV.
        ``novelty``: distance to the training cloud over the element's 99 %
        training quantile, worst atom.  ``largest_force``: of the mean, eV/A.
        ``second_opinion``: largest force difference from another method, eV/A.
    worst_atoms
        Index of the atom that gave a signal its value, by the signal's name.
    surroundings
        Of each atom; `Surroundings.of` takes fingerprints from elsewhere.
    molecule
        As `geometry.molecule_of` names it; None where nobody says, and the
        molecules of a calibration are then not compared with it.
    """

    regime: Regime
    surroundings: Surroundings
    report: FlagReport = field(default_factory=FlagReport)
    signals: Mapping[str, float] = field(default_factory=dict)
    worst_atoms: Mapping[str, int] = field(default_factory=dict)
    molecule: str | None = None

    @property
    def fingerprint(self) -> NDArray[np.floating]:
        """Environment of each atom, shape (N, D)."""
        return self.surroundings.fingerprint

    def signal(self, name: str) -> float:
        """Return a signal, NaN where it is unknown."""
        return self.signals.get(name, math.nan)

    @property
    def spread(self) -> float:
        """Largest force spread, eV/A; NaN where the committee did not answer."""
        return self.signals.get("force_spread", math.nan)

    @property
    def mean_temperature(self) -> float | None:
        """Mean over the last 50 fs, K; None outside molecular dynamics."""
        return self.report.mean_temperature

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the fingerprint, JSON-able; NaN becomes absent."""
        return {
            "regime": self.regime.to_dict(),
            "molecule": self.molecule,
            "flags": [flag.to_dict() for flag in self.report.flags],
            "mean_temperature": self.report.mean_temperature,
            "signals": {
                name: value for name, value in self.signals.items() if math.isfinite(value)
            },
            "worst_atoms": dict(self.worst_atoms),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], fingerprint: NDArray[np.floating]) -> Observation:
        """Return what `to_dict` described, with the fingerprint of its geometry.

        Earlier versions did not name the molecule; it is then unknown.
        """
        report = FlagReport(
            flags=tuple(Flag.from_dict(flag) for flag in data["flags"]),
            mean_temperature=data["mean_temperature"],
        )
        return cls(
            regime=Regime(**data["regime"]),
            report=report,
            signals=dict(data["signals"]),
            worst_atoms=dict(data["worst_atoms"]),
            surroundings=Surroundings.of(fingerprint),
            molecule=data.get("molecule"),
        )

    def asking_flags(self) -> tuple[Flag, ...]:
        """Return the flags that ask and that evidence may silence."""
        if not self.report.flags:
            return ()
        return tuple(
            flag
            for flag in self.report.flags
            if flag.trustable and flag.severity is not Severity.SOFT
        )

    def concerned_atoms(self) -> NDArray[np.intp] | slice:
        """Return the atoms evidence must cover: the flagged ones, or all where no flag is up."""
        if not self.report.flags:
            return slice(None)
        flagged = {index for flag in self.asking_flags() for index in flag.atoms}
        return np.array(sorted(flagged), dtype=np.intp) if flagged else slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How wrong the committee was at one geometry.

    Attributes
    ----------
    force_error
        Largest force error of any atom, eV/A.
    energy_error
        Error of the aligned energy, eV; 0 where only forces are known.

    Raises
    ------
    InputError
        A number is not finite.
    """

    force_error: float
    energy_error: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.force_error) and math.isfinite(self.energy_error)):
            raise InputError(
                f"an outcome must be finite; got a force error of {self.force_error} eV/A and an "
                f"energy error of {self.energy_error} eV. Leave such frames out and say so."
            )
