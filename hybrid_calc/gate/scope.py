"""The scope card: for which frames a committee was shown to be right, and for which it was not.

One entry per regime, elements, charge, spin and temperature band.  A statement
("within 2 kcal/mol and 0.2 eV/A for 95 % of frames with 95 % confidence") is
made only where the labelled frames support it; what has none is named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.scope_entry import CONFIDENCE, ChosenEntry, ScopeEntry, band_of, many
from hybrid_calc.gate.scope_gaps import gaps_between
from hybrid_calc.gate.settings import KCAL_PER_MOL

NOISE_FACTOR = 3.0
"""A tolerance below so many times the label noise means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeCard:
    """What one committee is validated for, and what not.

    Attributes
    ----------
    committee, committee_name
        Identity (hash) and name of the committee; a card says nothing about another.
    level
        Level of theory of the labels, in words.
    force_tolerance, energy_tolerance
        Beyond which a frame is a failure, eV/A and eV.
    entries
        By regime and temperature, only those with labelled frames.
    chosen
        Labels that relaxations and bands chose, by regime.
    left_out
        Labelled frames that do not count, by the reason.
    label_noise
        How far labels are from the tight solution of their level, at most,
        eV/A; None where nobody measured it.
    """

    committee: str
    committee_name: str
    level: str
    force_tolerance: float
    energy_tolerance: float
    entries: tuple[ScopeEntry, ...] = ()
    chosen: tuple[ChosenEntry, ...] = ()
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    label_noise: float | None = None

    def covers(self, regime: Regime, temperature: float | None, molecule: str | None) -> bool:
        """Tell whether frames of this kind and molecule were validated."""
        return molecule in self.molecules(str(regime), band_of(temperature))

    def molecules(self, regime: str, band: tuple[float | None, float | None]) -> frozenset[str]:
        """Return the molecules for which a regime, by its name, was validated in a band.

        As `geometry.molecule_of` names them: other isomers count as the same.
        """
        return frozenset(
            molecule
            for entry in self.entries
            if entry.validated
            and str(entry.regime) == regime
            and (entry.above, entry.up_to) == band
            for molecule in entry.molecules
        )

    def statements(self) -> list[str]:
        """Return what is validated, one sentence each; empty where nothing is."""
        return [
            f"{entry.name}: {self.statement(entry)}" for entry in self.entries if entry.validated
        ]

    def statement(self, entry: ScopeEntry) -> str:
        """Return the strongest statement that an entry's frames allow, in words."""
        frames = f"{entry.frames} decorrelated {many('frame', entry.frames)}"
        if entry.frames_counted < entry.frames - 0.5:
            frames += f" (worth {entry.frames_counted:.0f} of equal weight)"
        evidence = (
            f"{frames}, {entry.failures} {many('failure', entry.failures)}, "
            f"{entry.trajectories} {many('trajectory', entry.trajectories)} of "
            f"{', '.join(entry.molecules)}"
        )
        if entry.share is None:
            return f"no statement; {evidence}"
        return f"{self._within(entry.share)}; {evidence}"

    def not_validated(self) -> list[str]:
        """Return everything that nothing was shown about, by name."""
        gaps = [
            f"{entry.name}: {self.statement(entry)}; {self._bounds(entry)}{entry.remedy}"
            for entry in self.entries
            if not entry.validated
        ]
        return gaps + gaps_between(self.entries)

    def noise(self) -> str:
        """Return the share of the errors that lies in the labels, in words."""
        if self.label_noise is None:
            return "label noise: not known for this level; errors include it"
        floor = f"label noise (aleatoric): up to {self.label_noise:.2g} eV/A"
        if self.force_tolerance < NOISE_FACTOR * self.label_noise:
            return (
                f"{floor}; the tolerance of {self.force_tolerance:g} eV/A is less than "
                f"{NOISE_FACTOR:g} times that and means nothing"
            )
        return floor

    def model_part(self, entry: ScopeEntry) -> float | None:
        """Return the 95 % quantile of the force error that is not label noise, eV/A.

        Errors of both kinds add in squares; None where the noise is not known.
        """
        if self.label_noise is None:
            return None
        return math.sqrt(max(entry.force_quantiles[2] ** 2 - self.label_noise**2, 0.0))

    def errors(self, entry: ScopeEntry) -> str:
        """Return the errors of an entry's frames in words, and the model's part of them."""
        words = f"{entry.name}: {entry.errors}"
        part = self.model_part(entry)
        return words if part is None else f"{words}; the model's part (epistemic) {part:.2g} eV/A"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "committee": self.committee,
            "committee_name": self.committee_name,
            "level": self.level,
            "force_tolerance": self.force_tolerance,
            "energy_tolerance": self.energy_tolerance,
            "entries": [
                entry.to_dict()
                | {"statement": self.statement(entry), "model_part": self.model_part(entry)}
                for entry in self.entries
            ],
            "chosen": [entry.to_dict() for entry in self.chosen],
            "left_out": dict(self.left_out),
            "label_noise": self.label_noise,
            "validated": self.statements(),
            "not_validated": self.not_validated(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScopeCard:
        """Rebuild a card from `to_dict`."""
        return cls(
            committee=data["committee"],
            committee_name=data["committee_name"],
            level=data["level"],
            force_tolerance=data["force_tolerance"],
            energy_tolerance=data["energy_tolerance"],
            entries=tuple(ScopeEntry.from_dict(entry) for entry in data["entries"]),
            chosen=tuple(ChosenEntry.from_dict(entry) for entry in data["chosen"]),
            left_out=dict(data["left_out"]),
            label_noise=data["label_noise"],
        )

    def _within(self, share: float) -> str:
        return (
            f"within {self.energy_tolerance / KCAL_PER_MOL:.1f} kcal/mol and "
            f"{self.force_tolerance:g} eV/A for {share:.0%} of frames with "
            f"{CONFIDENCE:.0%} confidence"
        ).replace("%", " %")

    def _bounds(self, entry: ScopeEntry) -> str:
        if entry.force_bound is None or entry.energy_bound is None:
            return ""
        return (
            f"95 % of frames are within {entry.force_bound:.2g} eV/A, and 95 % within "
            f"{entry.energy_bound / KCAL_PER_MOL:.2g} kcal/mol; "
        )
