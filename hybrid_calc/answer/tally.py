"""Counts over all geometries of an engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hybrid_calc.answer.step import Step


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all geometries of an engine.

    Attributes
    ----------
    geometries
        Different geometries answered.
    labels
        Geometries labelled by the reference, reused ones included.
    reused
        Labels that the store had already.
    failures
        Reference failures.
    unverified
        Geometries whose answer should have been the reference's and is not.
    reasons
        Times each policy asked.
    seconds
        Wall time by stage, s.
    """

    geometries: int = 0
    labels: int = 0
    reused: int = 0
    failures: int = 0
    unverified: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        why = ", ".join(f"{policy} {times}" for policy, times in self.reasons.most_common())
        asked = f"{self.geometries} geometries, {self.labels} labelled by the reference"
        return f"{asked} ({why})" if why else asked

    def add(self, step: Step) -> None:
        """Take in one answered geometry."""
        self.geometries += 1
        self.labels += step.label is not None
        self.unverified += not step.verified
        if step.decision.reasons:
            self.reasons.update(step.decision.policies)
        seconds = self.seconds
        for stage, spent in step.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent

    def spend(self, stage: str, seconds: float) -> None:
        """Add wall time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "geometries": self.geometries,
            "labels": self.labels,
            "reused": self.reused,
            "failures": self.failures,
            "unverified": self.unverified,
            "reasons": dict(self.reasons),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Tally:
        """Return what `state` described."""
        counts = dict(state)
        reasons, seconds = Counter(counts.pop("reasons")), dict(counts.pop("seconds"))
        return cls(reasons=reasons, seconds=seconds, **counts)
