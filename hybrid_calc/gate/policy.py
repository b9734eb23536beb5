"""What was decided about one geometry, and every reason for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybrid_calc.gate.calibrated import RegimeCalibration
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
    doubt
        Whether nothing but the committee's own doubt stands behind it: no flag,
        no missing validation, no chance.  Where calls are scarce the worst
        doubts are paid for first.
    """

    policy: str
    detail: str
    doubt: bool = False


@dataclass(slots=True, kw_only=True)
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
        Expected error over spread: of the calibration where the regime has
        one, else of this run.
    score
        What was judged: the calibration's score, else factor times spread, eV/A.
    threshold
        What it was compared with: the calibration's threshold, else the
        user's force tolerance, eV/A.
    molecule
        As `geometry.molecule_of` names it, None where nobody says.
    calibration
        What the threshold comes from: a valid calibration of this committee that speaks for
        this molecule; None without.
    elsewhere
        Whether there is one that speaks for other molecules alone.
    trusted
        Whether validated frames of this run nearby silence flags and the
        missing validation.
    trust
        Those frames; None where nothing hinged on them: the committee answered in a
        calibrated regime, with no flag up.
    audit_probability
        Probability with which this geometry was going to be audited; 0 for one that a
        driver chose, and where the budget pays for no audit.
    """

    source: Source
    reasons: tuple[Reason, ...]
    regime: Regime
    spread: float
    factor: float
    score: float
    threshold: float
    trust: Trust | None
    audit_probability: float
    molecule: str | None = None
    calibration: RegimeCalibration | None = None
    elsewhere: bool = False
    trusted: bool = False
    unpaid: tuple[Reason, ...] = ()

    @property
    def validated(self) -> bool:
        """Whether a calibration of this committee, and for this molecule, stands behind it."""
        return self.calibration is not None

    @property
    def standing(self) -> str:
        """What the regime rests on, in words."""
        if self.calibration is not None:
            return self.calibration.standing
        words = "unvalidated"
        if self.elsewhere:
            words += f": too few frames of {self.molecule} were among the validated ones"
        if self.trusted and self.trust is not None:
            words += f", trusted by {self.trust.neighbours} frames of this run"
        return words

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies that asked."""
        return tuple(dict.fromkeys(reason.policy for reason in self.reasons))

    @property
    def is_audit(self) -> bool:
        """Whether nothing but chance asked."""
        return self.policies == ("audit",)
