"""Labelling at random, whatever the scores say: the only way to see what they miss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybrid_calc.gate.calibration import missed_failures
from hybrid_calc.gate.regime import Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """The share of all geometries that are bad and were not flagged, as audits see it.

    Attributes
    ----------
    estimate
        Of the share; NaN without audits.
    low, high
        Its interval, 95 %.
    audits, bad
        Geometries labelled by chance alone, and those of them that were bad.
    unflagged_share
        Share of all geometries that nothing but chance could have labelled.
    unsampled
        Geometries decided while no audit could be paid, about which this says nothing.
    """

    estimate: float
    low: float
    high: float
    audits: int
    bad: int
    unflagged_share: float
    unsampled: int = 0

    def __str__(self) -> str:
        after = f"; not of {self.unsampled} steps with no budget for audits"
        after = after if self.unsampled else ""
        if not self.audits:
            return f"missed failures: unknown, no audits yet{after}"
        low, high = (f"{100 * value:.1f}" for value in (self.low, self.high))
        many = "audit" if self.audits == 1 else "audits"
        return (
            f"missed failures: {100 * self.estimate:.1f} % ({low} to {high} %, 95 %), "
            f"from {self.audits} {many}{after}"
        )


@dataclass(slots=True)
class AuditLog:
    """What audits found, and how often each regime is due.

    Attributes
    ----------
    geometries, unflagged
        Decided so far, and those of them that nothing but chance could have labelled.
    unsampled
        Decided beside these while no audit could be paid.
    found
        Audits, and bad ones, by the probability they were drawn with.
    ended
        Whether a bad one ended the sampling that found it: a calibration was
        set aside, or its regime is audited more often from then on.
    settled
        Audits of each regime in a row that found nothing.
    """

    geometries: int = 0
    unflagged: int = 0
    unsampled: int = 0
    found: dict[float, list[int]] = field(default_factory=dict)
    ended: bool = False
    settled: dict[Regime, int] = field(default_factory=dict)

    def count(self, *, flagged: bool, sampled: bool = True) -> None:
        """Take in one decided geometry, which chance could have chosen if it was `sampled`."""
        if not sampled:
            self.unsampled += 1
            return
        self.geometries += 1
        self.unflagged += not flagged

    def add(self, regime: Regime, probability: float, *, bad: bool, new: bool = True) -> None:
        """Take in one audited geometry, whether it was bad, and whether it was unvalidated.

        What a calibration speaks for settles nothing for molecules that it does not.
        """
        entry = self.found.setdefault(probability, [0, 0])
        entry[0] += 1
        entry[1] += bad
        if new:
            self.settled[regime] = 0 if bad else self.settled.get(regime, 0) + 1

    def end_sampling(self) -> None:
        """Take in that the last audit, a bad one, changed how geometries are asked or audited."""
        self.ended = True

    @property
    def audits(self) -> int:
        """Geometries labelled by chance alone."""
        return sum(audits for audits, _ in self.found.values())

    @property
    def bad(self) -> int:
        """Those of them that were bad."""
        return sum(bad for _, bad in self.found.values())

    def missed(self) -> Missed:
        """Return the share of bad geometries that were not flagged, with its interval."""
        unknown = 1.0 if self.unsampled else math.nan  # of no step is it known that it was asked
        share = self.unflagged / self.geometries if self.geometries else unknown
        bad: list[bool] = []
        probabilities: list[float] = []
        for probability, (audits, wrong) in self.found.items():
            bad += [True] * wrong + [False] * (audits - wrong)
            probabilities += [probability] * audits
        estimate, low, high = missed_failures(
            np.array(bad, dtype=bool),
            np.array(probabilities),
            share,
            ended=self.ended,
            unflagged=self.unflagged,
        )
        return Missed(
            estimate=estimate,
            low=low,
            high=high,
            audits=self.audits,
            bad=self.bad,
            unflagged_share=share,
            unsampled=self.unsampled,
        )

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "geometries": self.geometries,
            "unflagged": self.unflagged,
            "unsampled": self.unsampled,
            "found": [[probability, *counts] for probability, counts in self.found.items()],
            "ended": self.ended,
            "settled": [[regime.to_dict(), count] for regime, count in self.settled.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.geometries, self.unflagged = state["geometries"], state["unflagged"]
        self.unsampled = state.get("unsampled", 0)  # not kept by earlier versions
        self.found = {probability: [audits, bad] for probability, audits, bad in state["found"]}
        self.ended = state["ended"]
        self.settled = {Regime(**regime): count for regime, count in state["settled"]}
