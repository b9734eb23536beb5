"""The gate: committee or reference, from spread, physics and what was validated so far."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.committee.spread import max_force_spread
from hybrid_calc.errors import BudgetExhausted
from hybrid_calc.flags.monitor import Survey
from hybrid_calc.flags.report import Flag, Severity
from hybrid_calc.gate.budget import Budget
from hybrid_calc.gate.evidence import Evidence, Trust, Validated
from hybrid_calc.gate.policy import Decision, Reason, Source
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.settings import GateSettings

NOTICE_AFTER = 20
"""Geometries without flags after which a tolerance that is never met is spoken of."""


class ToleranceWarning(UserWarning):
    """The tolerance is below what the committee reaches at its best."""


class Gate:
    """Decide, geometry by geometry, who answers.

    Parameters
    ----------
    settings
        Tolerances, policies, budget.
    """

    def __init__(self, settings: GateSettings | None = None) -> None:
        self.settings = settings or GateSettings()
        self.evidence = Evidence()
        audits = "audit" in self.settings.policies and self.settings.audit_probability > 0
        self.budget = Budget(
            total=self.settings.budget,
            audit_reserve=self.settings.audit_reserve if audits else 0.0,
        )
        self.audited = 0
        self.audited_bad = 0
        self._random = np.random.default_rng(self.settings.seed)
        self._calm_scores: list[float] = []
        self._notice: str | None = None

    @property
    def notice(self) -> str | None:
        """One line about a tolerance the committee cannot meet, or None."""
        return self._notice

    def decide(
        self,
        prediction: Prediction | None,
        survey: Survey,
        regime: Regime,
        *,
        wanted: str = "",
    ) -> Decision:
        """Return who answers and every reason.

        Parameters
        ----------
        prediction
            Of the committee, or None where it could not be asked or failed.
        survey
            Flags and fingerprint of the geometry.
        regime
            Of the geometry.
        wanted
            Why a driver wants this label whatever the scores say.

        Raises
        ------
        BudgetExhausted
            A reason held, the budget is spent, and the user chose to stop or a
            hard flag is up.
        """
        settings = self.settings
        draw = float(self._random.random())  # one draw per geometry, asked or not
        factor = self.factor(regime)
        spread = _spread(prediction)
        trust = self.evidence.trust(
            regime,
            survey.fingerprint,
            _concerned(survey),
            settings.trust_radius,
            settings.trust_frames,
        )
        reasons = [Reason(policy="acquisition", detail=wanted)] if wanted else []
        reasons += self._reasons(survey, regime, trust, spread, factor)
        # What a driver chose was not left to chance: it says nothing about what is missed.
        audited = "audit" in settings.policies and not wanted
        audit_probability = settings.audit_probability if audited else 0.0
        if not reasons and draw < audit_probability and self.budget.allows(audit=True):
            reasons = [Reason(policy="audit", detail=f"chosen with p = {audit_probability:g}")]
        if prediction is not None and not survey.report.flags:
            self._watch_tolerance(factor * spread)
        paid = self._afford(reasons, survey)
        return Decision(
            source=Source.REFERENCE if reasons and paid else Source.COMMITTEE,
            reasons=tuple(reasons) if paid else (),
            unpaid=() if paid else tuple(reasons),
            regime=regime,
            spread=spread,
            factor=factor,
            threshold=settings.force_tolerance_ev_per_ang,
            trust=trust,
            audit_probability=audit_probability,
        )

    def factor(self, regime: Regime) -> float:
        """Return the expected force error over spread in a regime."""
        settings = self.settings
        return self.evidence.factor(
            regime,
            start=settings.factor,
            labels=settings.factor_labels,
            quantile=settings.factor_quantile,
            bounds=settings.factor_bounds,
        )

    def within_tolerance(self, force_error: float, energy_error: float) -> bool:
        """Tell whether errors (eV/A, eV) are good; a NaN is not."""
        return bool(
            force_error <= self.settings.force_tolerance_ev_per_ang
            and abs(energy_error) <= self.settings.energy_tolerance_ev
        )

    def learn(
        self, decision: Decision, survey: Survey, force_error: float, energy_error: float
    ) -> bool:
        """Take in what the reference said about a prediction; return whether it was good.

        Parameters
        ----------
        decision, survey
            Of the geometry.
        force_error
            Largest force error of any atom, eV/A.
        energy_error
            Error of the aligned energy, eV.
        """
        good = self.within_tolerance(force_error, energy_error)
        if decision.is_audit:
            self.audited += 1
            if not good:
                self.audited_bad += 1
                self.evidence.distrust(decision.regime)
        self.evidence.add(
            decision.regime,
            Validated(
                fingerprint=survey.fingerprint,
                spread=decision.spread,
                error=force_error,
                good=good,
            ),
        )
        return good

    def _reasons(
        self, survey: Survey, regime: Regime, trust: Trust, spread: float, factor: float
    ) -> list[Reason]:
        settings = self.settings
        trusted = settings.trust and trust.neighbours >= settings.trust_frames
        reasons = [
            Reason(policy="outside", detail=str(flag))
            for flag in survey.report.flags
            if not flag.trustable
        ]
        if "contradiction" in settings.policies and not trusted:
            reasons += [
                Reason(policy="contradiction", detail=str(flag)) for flag in _asking(survey)
            ]
        score, limit = factor * spread, settings.force_tolerance_ev_per_ang
        if "uncertain" in settings.policies and score > limit:
            detail = f"{factor:.2g} x spread {spread:.3g} = {score:.3g} eV/A, tolerance {limit:g}"
            reasons.append(Reason(policy="uncertain", detail=detail))
        if "unseen" in settings.policies and not trusted:
            detail = (
                f"{regime}: {trust.neighbours} of {settings.trust_frames} validated frames nearby"
            )
            reasons.append(Reason(policy="unseen", detail=detail))
        return reasons

    def _afford(self, reasons: list[Reason], survey: Survey) -> bool:
        """Return whether the call can be paid; raise where it must not be skipped."""
        if not reasons or self.budget.allows(audit=reasons[0].policy == "audit"):
            return True
        hard = survey.report.of(Severity.HARD)
        wanted = reasons[0].policy == "acquisition"
        if self.settings.when_budget_ends == "continue" and not hard and not wanted:
            return False
        why = "; ".join(reason.detail for reason in reasons)
        raise BudgetExhausted(
            f"the budget of {self.budget.total} reference calls is spent and this geometry needs "
            f"one ({why}). Resume with a larger gate.budget"
            + ("." if hard or wanted else ", or set gate.when_budget_ends: continue.")
        )

    def _watch_tolerance(self, score: float) -> None:
        """Say once that the tolerance is below what the committee reaches at its best."""
        if len(self._calm_scores) >= NOTICE_AFTER or not math.isfinite(score):
            return
        self._calm_scores.append(score)
        limit = self.settings.force_tolerance_ev_per_ang
        low, high = min(self._calm_scores), max(self._calm_scores)
        if len(self._calm_scores) == NOTICE_AFTER and low > limit:
            self._notice = (
                f"the force tolerance {limit:g} eV/A is below what this committee reaches: factor "
                f"x spread was {low:.2g} to {high:.2g} eV/A on {NOTICE_AFTER} calm geometries, so "
                f"the reference is asked at every step. Set a tolerance above {high:.2g} or train "
                "a better committee."
            )
            warnings.warn(self._notice, ToleranceWarning, stacklevel=2)

    def state(self) -> dict[str, Any]:
        """Return everything learned as JSON-able data."""
        return {
            "evidence": self.evidence.state(),
            "spent": self.budget.spent,
            "audits": self.budget.audits,
            "audited": self.audited,
            "audited_bad": self.audited_bad,
            "calm_scores": list(self._calm_scores),
            "notice": self._notice,
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned; the budget's total stays the settings'."""
        self.evidence.restore(state["evidence"])
        self.budget.spent, self.budget.audits = state["spent"], state["audits"]
        self.audited, self.audited_bad = state["audited"], state["audited_bad"]
        self._calm_scores = list(state["calm_scores"])
        self._notice = state["notice"]
        self._random.bit_generator.state = state["random"]


def _spread(prediction: Prediction | None) -> float:
    if prediction is None:
        return math.nan
    return max_force_spread(prediction.forces, prediction.mean_forces)


def _asking(survey: Survey) -> tuple[Flag, ...]:
    """Return the flags that ask and that evidence may silence."""
    if not survey.report.flags:
        return ()
    return tuple(
        flag
        for flag in survey.report.flags
        if flag.trustable and flag.severity is not Severity.SOFT
    )


def _concerned(survey: Survey) -> NDArray[np.intp] | slice:
    """Return the atoms evidence must cover: the flagged ones, or all where no flag is up."""
    if not survey.report.flags:
        return slice(None)
    flagged = {index for flag in _asking(survey) for index in flag.atoms}
    return np.array(sorted(flagged), dtype=np.intp) if flagged else slice(None)
