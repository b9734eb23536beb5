"""The gate: committee or reference, from spread, physics and what was validated so far."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import replace
from typing import Any

from hybrid_calc.errors import BudgetExhausted, InputError
from hybrid_calc.flags.report import Severity
from hybrid_calc.gate.audit import AuditLog
from hybrid_calc.gate.budget import Budget
from hybrid_calc.gate.calibrated import (
    Calibration,
    CalibrationMismatchWarning,
    RegimeCalibration,
)
from hybrid_calc.gate.calibration_file import read_calibration
from hybrid_calc.gate.control import Draws, Streak, affordable
from hybrid_calc.gate.doubts import Doubts
from hybrid_calc.gate.evidence import Evidence, Trust, Validated
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Decision, Reason, Source
from hybrid_calc.gate.reasons import Verdict, hinges_on_trust, reasons_to_ask
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.gate.tolerance import ToleranceWatch

REMEMBERED_SCORES = 200
"""Latest scores over threshold from which the price of a call is judged."""


class EvidenceVoidWarning(UserWarning):
    """What a run had learned belongs to another committee and is forgotten."""


class Gate:
    """Decide, geometry by geometry, who answers.

    It needs no structures and no models: `Observation` in, `Decision` out.

    Parameters
    ----------
    settings
        Tolerances, policies, budget.
    calibration
        What labelled frames said about this committee before the run; None for
        the file that `settings` name, and where they name none for what an
        engine finds in its committee's bundle.

    Attributes
    ----------
    committee
        Identity of the committee that is judged; empty until `bind`.
    horizon
        Geometries the whole run is going to have, None where nobody knows.

    Raises
    ------
    CalibrationError
        The file that the settings name cannot be read.
    InputError
        A calibration is given, and the settings name one as well.
    """

    def __init__(
        self, settings: GateSettings | None = None, calibration: Calibration | None = None
    ) -> None:
        self.settings = settings or GateSettings()
        named = self.settings.calibration
        if named is not None:
            if calibration is not None:
                raise InputError(
                    f"the gate is given a calibration and its settings name {named} as well; "
                    "give one of them."
                )
            calibration = read_calibration(named)
        self.calibration = calibration
        self.evidence = Evidence()
        audits = "audit" in self.settings.policies
        self.budget = Budget(
            total=self.settings.budget,
            audit_reserve=self.settings.audit_reserve if audits else 0.0,
        )
        self.audits = AuditLog()
        self.committee = ""
        self.horizon: int | None = None
        self._doubts = Doubts()
        self._relative: deque[float] = deque(maxlen=REMEMBERED_SCORES)
        self._draws = Draws(self.settings.seed)
        self._tolerance = ToleranceWatch(self.settings.force_tolerance_ev_per_ang)

    @property
    def notice(self) -> str | None:
        """One line about a tolerance the committee cannot meet, or None."""
        return self._tolerance.notice

    @property
    def usable_calibration(self) -> Calibration | None:
        """The calibration, None where it belongs to another committee."""
        calibration = self.calibration
        if calibration is None or self.committee not in ("", calibration.identity):
            return None
        return calibration

    @property
    def doubted(self) -> dict[str, str]:
        """Regimes whose calibration audits contradict, and why."""
        return self._doubts.why

    def bind(self, identity: str) -> None:
        """Say which committee is judged; what belongs to another one is void.

        Parameters
        ----------
        identity
            `CommitteeInfo.identity` of the committee.
        """
        if identity == self.committee:
            return
        if self.committee and len(self.evidence):
            warnings.warn(
                f"evidence of this run belongs to committee {self.committee} and the one that "
                f"answers now is {identity}: trust starts anew.",
                EvidenceVoidWarning,
                stacklevel=2,
            )
        self._forget()
        self.committee = identity
        if self.calibration is not None and self.calibration.identity != identity:
            warnings.warn(
                f"the calibration belongs to committee {self.calibration.identity} and the one "
                f"that answers is {identity}: it is not used. Calibrate this committee.",
                CalibrationMismatchWarning,
                stacklevel=2,
            )

    def decide(
        self, observation: Observation, *, wanted: str = "", streak: Streak | None = None
    ) -> Decision:
        """Return who answers and every reason.

        Parameters
        ----------
        observation
            What is known of the geometry.
        wanted
            Why a driver wants this label whatever the scores say.
        streak
            Of the trajectory in molecular dynamics; without it nothing is
            remembered from one geometry to the next.

        Raises
        ------
        BudgetExhausted
            A reason held, the budget is spent, and the user chose to stop or a
            hard flag is up.
        """
        settings, regime = self.settings, observation.regime
        draw = next(self._draws)  # one draw per geometry, asked or not
        verdict = self._verdict(observation)
        reasons = reasons_to_ask(
            observation, verdict, settings, self._held(observation, verdict, streak)
        )
        saved: list[Reason] = []
        if wanted:
            reasons.insert(0, Reason(policy="acquisition", detail=wanted))
        else:
            reasons, saved = self._spare(reasons, verdict)
        flagged = bool(reasons or saved)
        due = self.audit_probability(regime, validated=verdict.calibrated is not None)
        payable = self.budget.allows(audit=True)
        if not flagged and draw < due:
            if payable:
                reasons = [Reason(policy="audit", detail=f"chosen with p = {due:g}")]
            else:
                saved = [Reason(policy="audit", detail="it was due, and the budget is spent")]
        if not observation.report.flags and verdict.calibrated is None:
            self._tolerance.look(verdict.score)
        paid = self._afford(reasons, observation)
        self.audits.count(flagged=flagged, sampled=payable or due == 0)
        trust = verdict.trust
        if trust is None and reasons and paid:
            trust = self._trust(observation)  # for the record that the label will have
        return Decision(
            source=Source.REFERENCE if reasons and paid else Source.COMMITTEE,
            reasons=tuple(reasons) if paid else (),
            unpaid=tuple(saved) if paid else tuple(reasons + saved),
            regime=regime,
            spread=observation.spread,
            factor=verdict.factor,
            score=verdict.score,
            threshold=verdict.threshold,
            molecule=observation.molecule,
            calibration=verdict.calibrated,
            elsewhere=verdict.elsewhere is not None,
            trusted=verdict.trusted,
            trust=trust,
            # Where a driver asked, or no audit can be paid, nothing was left to chance.
            audit_probability=due if payable and not wanted else 0.0,
        )

    def calibrated(self, regime: Regime) -> RegimeCalibration | None:
        """Return what stands behind a regime: a valid calibration of this committee, or None.

        It speaks for the molecules that it `covers`; for others it is none.
        """
        calibration = self.usable_calibration
        if calibration is None or regime in self._doubts:
            return None
        known = calibration.regime(regime)
        return known if known is not None and known.validated else None

    def factor(self, regime: Regime, spread: float = 0.0) -> float:
        """Return the force error over spread to expect of a geometry without calibration.

        Parameters
        ----------
        regime
            Of the geometry.
        spread
            Of the geometry, eV/A.
        """
        settings = self.settings
        return self.evidence.factor(
            regime,
            spread,
            start=settings.factor,
            labels=settings.factor_labels,
            quantile=settings.factor_quantile,
            bounds=settings.factor_bounds,
        )

    def audit_probability(self, regime: Regime, *, validated: bool = False) -> float:
        """Return the probability with which an unflagged geometry of a regime is labelled."""
        settings = self.settings
        if "audit" not in settings.policies:
            return 0.0
        if validated or self.audits.settled.get(regime, 0) >= settings.audits_until_settled:
            return settings.audit_probability
        return max(settings.audit_probability, settings.audit_probability_new)

    def within_tolerance(self, force_error: float, energy_error: float) -> bool:
        """Tell whether errors (eV/A, eV) are good; a NaN is not."""
        return bool(
            force_error <= self.settings.force_tolerance_ev_per_ang
            and abs(energy_error) <= self.settings.energy_tolerance_ev
        )

    def learn(
        self,
        decision: Decision,
        observation: Observation,
        force_error: float,
        energy_error: float,
        *,
        streak: Streak | None = None,
    ) -> bool:
        """Take in what the reference said about a prediction; return whether it was good.

        Parameters
        ----------
        decision, observation
            Of the geometry.
        force_error
            Largest force error of any atom, eV/A.
        energy_error
            Error of the aligned energy, eV.
        streak
            That `decide` was given.

        Raises
        ------
        InputError
            An error is not finite.
        """
        if not (math.isfinite(force_error) and math.isfinite(energy_error)):
            raise InputError(
                f"nothing can be learned from errors of {force_error} eV/A and {energy_error} eV; "
                "a label must be finite."
            )
        good = self.within_tolerance(force_error, energy_error)
        if streak is not None:
            streak.settle(good)
        known = self.calibrated(decision.regime)
        judged = decision.is_audit or not decision.score < decision.threshold
        if decision.validated and known is not None and not good and judged:
            self._doubts.add_bad(
                decision.regime,
                audited=decision.is_audit,
                probability=self.audit_probability(decision.regime, validated=True),
                missed_share=known.missed_share,
            )
        if decision.is_audit:
            new = not decision.validated
            self.audits.add(decision.regime, decision.audit_probability, bad=not good, new=new)
            if not good:
                self.evidence.distrust(decision.regime)
                still = self.calibrated(decision.regime) is not None
                validated = still and decision.validated
                now = self.audit_probability(decision.regime, validated=validated)
                if (known is not None and not still) or now > decision.audit_probability:
                    self.audits.end_sampling()
        self.evidence.add(
            decision.regime,
            Validated(
                fingerprint=observation.fingerprint,
                spread=observation.spread,
                error=force_error,
                good=good,
                weight=1 / decision.audit_probability if decision.is_audit else 1.0,
            ),
        )
        return good

    def _verdict(self, observation: Observation) -> Verdict:
        """Judge the committee's answer and what stands behind it."""
        settings, regime, spread = self.settings, observation.regime, observation.spread
        known = self.calibrated(regime)
        elsewhere = None
        if known is not None and not known.covers(observation.molecule):
            known, elsewhere = None, known
        trust = self._trust(observation) if hinges_on_trust(observation, known) else None
        if known is None:
            factor, threshold = self.factor(regime, spread), settings.force_tolerance_ev_per_ang
            score = factor * spread
            objects = not score <= threshold  # a NaN objects
        else:
            factor, threshold = known.error_factor, known.threshold
            score = known.score(observation)
            objects = not score < threshold
        relative = score / threshold if threshold > 0 else math.inf
        if math.isfinite(relative):
            self._relative.append(relative)
        return Verdict(
            calibrated=known,
            elsewhere=elsewhere,
            factor=factor,
            score=score,
            threshold=threshold,
            objects=objects,
            relative=max(relative, 1.0) if objects else relative,
            trust=trust,
            trusted=settings.trust
            and trust is not None
            and trust.neighbours >= settings.trust_frames,
        )

    def _trust(self, observation: Observation) -> Trust:
        """Look for validated frames near a geometry."""
        return self.evidence.trust(
            observation.regime,
            observation.fingerprint,
            observation.concerned_atoms(),
            self.settings.trust_radius,
            self.settings.trust_frames,
        )

    def _held(self, observation: Observation, verdict: Verdict, streak: Streak | None) -> bool:
        """Tell whether the reference keeps answering after the committee was uncertain."""
        if streak is None or observation.mean_temperature is None:
            return False
        settings = self.settings
        return streak.holds(
            verdict.relative, share=settings.hysteresis_share, steps=settings.hysteresis_steps
        )

    def _spare(self, reasons: list[Reason], verdict: Verdict) -> tuple[list[Reason], list[Reason]]:
        """Return the reasons to follow, and those that the rest of the budget cannot pay for.

        Only where the user chose to go on unverified, and only doubts of the
        committee, whichever policies name them: what the rest can pay for goes
        to the worst of them.
        """
        settings, left = self.settings, self.budget.left
        if (
            not reasons
            or left is None
            or self.horizon is None
            or settings.when_budget_ends != "continue"
            or not all(reason.doubt for reason in reasons)
        ):
            return reasons, []
        to_come = max(1, self.horizon - self.audits.geometries - self.audits.unsampled)
        price = affordable(self._relative, left / to_come)
        if price <= 1 or verdict.relative >= price or math.isnan(verdict.score):
            return reasons, []
        detail = (
            f"score {verdict.relative:.2g} times the threshold; the rest of the budget pays for "
            f"{price:.2g} times and more"
        )
        return [], [replace(reason, detail=detail) for reason in reasons]

    def _afford(self, reasons: list[Reason], observation: Observation) -> bool:
        """Return whether the call can be paid; raise where it must not be skipped."""
        if not reasons or self.budget.allows(audit=reasons[0].policy == "audit"):
            return True
        # Nobody but the reference has an answer outside, and is to be believed at a hard flag
        outside = any(reason.policy == "outside" for reason in reasons)
        hard = outside or observation.report.of(Severity.HARD)
        wanted = reasons[0].policy == "acquisition"
        if self.settings.when_budget_ends == "continue" and not hard and not wanted:
            return False
        why = "; ".join(reason.detail for reason in reasons)
        raise BudgetExhausted(
            f"the budget of {self.budget.total} reference calls is spent and this geometry needs "
            f"one ({why}). Resume with a larger gate.budget"
            + ("." if hard or wanted else ", or set gate.when_budget_ends: continue.")
        )

    def _forget(self) -> None:
        """Start anew with another committee; what was spent stays spent."""
        self.evidence = Evidence()
        self.audits = AuditLog()
        self._doubts = Doubts()
        self._relative.clear()

    def state(self) -> dict[str, Any]:
        """Return everything learned as JSON-able data."""
        return {
            "committee": self.committee,
            "evidence": self.evidence.state(),
            "spent": self.budget.spent,
            "paid_audits": self.budget.audits,
            "audits": self.audits.state(),
            "doubts": self._doubts.state(),
            "relative": list(self._relative),
            "tolerance": self._tolerance.state(),
            "draws": self._draws.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned; the budget's total stays the settings'.

        Where a committee is bound and the state belongs to another one, only
        what was spent and the random stream come back.

        Raises
        ------
        InputError
            An earlier version of hybrid_calc wrote the state.
        """
        if "draws" not in state:
            raise InputError(
                "this run was begun by an earlier version of hybrid_calc, whose gate kept less in "
                "mind: finish it with that version, or start a new run on the same store."
            )
        self.budget.spent, self.budget.audits = state["spent"], state["paid_audits"]
        self._draws.restore(state["draws"])
        now, self.committee = self.committee, state["committee"]
        self.evidence.restore(state["evidence"])
        if now and now != self.committee:
            self.bind(now)
            return
        self.audits.restore(state["audits"])
        self._doubts.restore(state["doubts"])
        self._relative = deque(state["relative"], maxlen=REMEMBERED_SCORES)
        self._tolerance.restore(state["tolerance"])
