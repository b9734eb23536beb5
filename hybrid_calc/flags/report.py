"""What physics says about one geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """What a flag does to the decision."""

    HARD = "hard"
    """The committee's answer is worthless here until shown otherwise."""
    REGIME = "regime"
    """The chemistry has changed; what was validated before says nothing."""
    SOFT = "soft"
    """Worth recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One thing physics objects to.

    Attributes
    ----------
    name
        Which test, ``bond_breaking``.
    severity
        What it does to the decision.
    atoms
        Indices of the atoms concerned, worst first; empty for the whole structure.
    value
        What was measured, in `unit`.
    limit
        What it was compared with, in `unit`.
    unit
        Unit of both, empty for a ratio or a count.
    trustable
        Whether validated frames nearby may silence it.
    """

    name: str
    severity: Severity
    atoms: tuple[int, ...] = ()
    value: float = 0.0
    limit: float = 0.0
    unit: str = ""
    trustable: bool = True

    def __str__(self) -> str:
        where = f" at atoms {', '.join(map(str, self.atoms))}" if self.atoms else ""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}{where}: {self.value:.3g}{unit} against {self.limit:.3g}{unit}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "name": self.name,
            "severity": self.severity.value,
            "atoms": list(self.atoms),
            "value": self.value,
            "limit": self.limit,
            "unit": self.unit,
            "trustable": self.trustable,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Flag:
        """Return what `to_dict` described."""
        more = {"severity": Severity(data["severity"]), "atoms": tuple(data["atoms"])}
        return cls(**{**data, **more})


@dataclass(slots=True, kw_only=True)
class FlagReport:
    """Every flag of one geometry.

    Attributes
    ----------
    flags
        Those that are up.
    mean_temperature
        Mean over the window, K; None outside molecular dynamics.
    """

    flags: tuple[Flag, ...] = ()
    mean_temperature: float | None = None

    def plus(self, flags: tuple[Flag, ...]) -> FlagReport:
        """Return the report with more flags."""
        if not flags:
            return self
        return FlagReport(flags=self.flags + flags, mean_temperature=self.mean_temperature)

    def of(self, severity: Severity) -> tuple[Flag, ...]:
        """Return the flags of one severity."""
        return tuple(flag for flag in self.flags if flag.severity is severity)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the flags that are up, each once, in order."""
        return tuple(dict.fromkeys(flag.name for flag in self.flags))
