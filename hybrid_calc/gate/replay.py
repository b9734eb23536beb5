"""A gate run over frames whose outcome is known: what it would have asked, seen and missed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import BudgetExhausted
from hybrid_calc.gate.audit import Missed
from hybrid_calc.gate.control import Streak
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.observation import Observation, Outcome
from hybrid_calc.gate.policy import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFrame:
    """One geometry of a store or a table.

    Attributes
    ----------
    observation
        What the gate would have known.
    outcome
        How wrong the committee was; the gate learns it only where it asks.
    trajectory
        Which dynamics or path it belongs to; hysteresis does not cross them.
    step
        Its place there.
    """

    observation: Observation
    outcome: Outcome
    trajectory: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a gate did with F frames, in their order.

    Attributes
    ----------
    asked
        Whether the reference was asked, audits included, shape (F,).
    audited
        Whether nothing but chance asked, shape (F,).
    bad
        Whether the committee was wrong by more than the tolerance, shape (F,).
    scores, thresholds
        What was judged and what it was compared with, shape (F,).
    force_errors
        Of the committee, eV/A, shape (F,).
    validated
        Whether a calibration stood behind the decision, shape (F,).
    reasons
        Policies that asked, of each frame.
    regimes
        Name of the regime of each frame.
    missed
        What the audits say about bad frames that were not flagged, as a run would know it.
    stopped
        Why the gate stopped before the last frame; empty where it did not.
    """

    asked: NDArray[np.bool_]
    audited: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    scores: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    force_errors: NDArray[np.float64]
    validated: NDArray[np.bool_]
    reasons: tuple[tuple[str, ...], ...]
    regimes: tuple[str, ...]
    missed: Missed
    stopped: str = ""

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Whether anything but chance asked, shape (F,)."""
        return np.asarray(self.asked & ~self.audited)

    @property
    def call_rate(self) -> float:
        """Share of frames labelled, audits included; NaN without frames."""
        return float(self.asked.mean()) if len(self.asked) else float("nan")

    @property
    def missed_share_given_bad(self) -> float:
        """Share of the bad frames that nothing but chance asked about; NaN where none is bad."""
        return float((~self.flagged)[self.bad].mean()) if self.bad.any() else float("nan")

    @property
    def missed_share(self) -> float:
        """Share of all frames that are bad and were not flagged: what `missed` estimates."""
        return float((self.bad & ~self.flagged).mean()) if len(self.bad) else float("nan")


def replay(frames: Iterable[ReplayFrame], gate: Gate) -> Replay:
    """Show frames to a gate one after another and tell it the outcome where it asks.

    The gate goes on learning; give it a fresh one for a fresh start.

    Parameters
    ----------
    frames
        In the order in which a run would meet them.
    gate
        Who decides.
    """
    streaks: dict[str, Streak] = {}
    rows: list[tuple[bool, bool, bool, float, float, float, bool]] = []
    reasons: list[tuple[str, ...]] = []
    regimes: list[str] = []
    stopped = ""
    for frame in frames:
        observation, outcome = frame.observation, frame.outcome
        streak = streaks.setdefault(frame.trajectory, Streak())
        try:
            decision = gate.decide(observation, streak=streak)
        except BudgetExhausted as error:
            stopped = str(error)
            break
        errors = outcome.force_error, outcome.energy_error
        asked = decision.source is Source.REFERENCE
        if asked:
            gate.budget.spend(audit=decision.is_audit)
            gate.learn(decision, observation, *errors, streak=streak)
        rows.append(
            (
                asked,
                decision.is_audit,
                not gate.within_tolerance(*errors),
                decision.score,
                decision.threshold,
                outcome.force_error,
                decision.validated,
            )
        )
        reasons.append(decision.policies)
        regimes.append(str(observation.regime))
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return Replay(
        asked=np.array(columns[0], dtype=bool),
        audited=np.array(columns[1], dtype=bool),
        bad=np.array(columns[2], dtype=bool),
        scores=np.array(columns[3], dtype=np.float64),
        thresholds=np.array(columns[4], dtype=np.float64),
        force_errors=np.array(columns[5], dtype=np.float64),
        validated=np.array(columns[6], dtype=bool),
        reasons=tuple(reasons),
        regimes=tuple(regimes),
        missed=gate.audits.missed(),
        stopped=stopped,
    )
