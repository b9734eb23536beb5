"""What was decided about one geometry, and every reason for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybrid_calc.gate.evidence import Trust
from hybrid_calc.gate.regime import Regime


class Source(StrEnum):
    """Who is to answer."""

    COMMITTEE = "committee"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason to ask the reference.

    Attributes
    ----------
    policy
        ``outside``, ``uncertain``, ``contradiction``, ``unseen``, ``audit`` or
        ``acquisition`` (a driver wants this label).
    detail
        The reason in words, with the figures.
    """

    policy: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who answers one geometry, and why.

    Attributes
    ----------
    source
        Who is to answer.
    reasons
        Every reason that held, not only the first; empty where the committee answers.
    unpaid
        Reasons that held but could not be followed: the budget is spent.
    regime
        Kind of geometry.
    spread
        Largest force spread, eV/A; NaN without a prediction.
    factor
        Expected error over spread.
    score
        Expected force error, factor times spread, eV/A.
    threshold
        The user's force tolerance, eV/A.
    trust
        Validated frames nearby.
    audit_probability
        Probability with which this geometry was going to be audited; 0 for one that a
        driver chose.
    """

    source: Source
    reasons: tuple[Reason, ...]
    regime: Regime
    spread: float
    factor: float
    threshold: float
    trust: Trust
    audit_probability: float
    unpaid: tuple[Reason, ...] = ()

    @property
    def score(self) -> float:
        """Expected force error, eV/A."""
        return self.factor * self.spread

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies that asked."""
        return tuple(dict.fromkeys(reason.policy for reason in self.reasons))

    @property
    def is_audit(self) -> bool:
        """Whether nothing but chance asked."""
        return self.policies == ("audit",)
