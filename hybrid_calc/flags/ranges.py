"""What the training frames of a committee spanned; written by calibration, read by the flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_calc.errors import InputError
from hybrid_calc.flags.report import Flag, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRanges:
    """Ranges of one committee's training frames.

    Attributes
    ----------
    lengths
        Shortest and longest bond of each pair of elements, A, under the
        symbols in alphabetical order: ``C-H``.  A bond is a pair closer than
        `bonded_ratio` times the sum of its covalent radii, in each frame.
    coordination
        Fewest and most neighbours of each element, by symbol, as
        `flags.coordination.coordination` counts them.
    largest_force
        99.9 % quantile over frames of the largest force on any atom, eV/A;
        None where unknown.
    bonded_ratio
        With which the lengths were collected.
    frames
        Training frames they were taken from.

    Raises
    ------
    InputError
        A range is empty or not finite.
    """

    lengths: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    coordination: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    largest_force: float | None = None
    bonded_ratio: float = 1.3
    frames: int = 0

    def __post_init__(self) -> None:
        for table in (self.lengths, self.coordination):
            for key, (low, high) in table.items():
                if not 0 <= low <= high < float("inf"):
                    raise InputError(
                        f"the training range of {key} is {low} to {high}; it must be finite, the "
                        "lower end first. Calibrate again."
                    )
        if self.largest_force is not None and not 0 < self.largest_force < float("inf"):
            raise InputError(
                f"the largest training force is {self.largest_force} eV/A; calibrate again."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "lengths": {key: list(value) for key, value in self.lengths.items()},
            "coordination": {key: list(value) for key, value in self.coordination.items()},
            "largest_force": self.largest_force,
            "bonded_ratio": self.bonded_ratio,
            "frames": self.frames,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingRanges:
        """Return what `to_dict` described."""
        return cls(
            lengths={key: (low, high) for key, (low, high) in data["lengths"].items()},
            coordination={key: (low, high) for key, (low, high) in data["coordination"].items()},
            largest_force=data["largest_force"],
            bonded_ratio=data["bonded_ratio"],
            frames=data["frames"],
        )


def pair_name(first: str, second: str) -> str:
    """Return the name of a pair of elements, symbols in alphabetical order: ``C-H``."""
    return "-".join(sorted((first, second)))


def large_force(value: float, atom: int, ranges: TrainingRanges) -> tuple[Flag, ...]:
    """Flag a force (eV/A) that the training frames practically never have; softly.

    It is the model's own output, which may be wrong in either direction: it
    is recorded, and neither asks nor changes the regime.
    """
    if ranges.largest_force is None or value <= ranges.largest_force:
        return ()
    return (
        Flag(
            name="large_force",
            severity=Severity.SOFT,
            atoms=(atom,),
            value=value,
            limit=ranges.largest_force,
            unit="eV/A",
        ),
    )
