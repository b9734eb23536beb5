"""The reasons to ask the reference, policy by policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_calc.flags.report import Severity
from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.evidence import Trust
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Reason
from hybrid_calc.gate.settings import GateSettings


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What the gate makes of the committee's answer.

    Attributes
    ----------
    calibrated
        What stands behind the threshold, None without calibration.
    elsewhere
        A calibration of the regime that does not speak for this molecule.
    factor, score, threshold
        As in `Decision`.
    objects
        Whether the committee is uncertain: the score passes the threshold or is NaN.
    relative
        Score over threshold, 1 at least where it objects.
    trust
        Validated frames of this run nearby; None where nothing hinges on them.
    trusted
        Whether they are enough.
    """

    calibrated: RegimeCalibration | None
    elsewhere: RegimeCalibration | None
    factor: float
    score: float
    threshold: float
    objects: bool
    relative: float
    trust: Trust | None
    trusted: bool


def hinges_on_trust(observation: Observation, known: RegimeCalibration | None) -> bool:
    """Tell whether validated frames nearby could change who answers.

    In a calibrated regime, with no flag up and no environment new, they could not.

    Parameters
    ----------
    observation
        The geometry.
    known
        What stands behind its regime for its molecule, None without calibration.
    """
    if known is None or observation.asking_flags():
        return True
    limit = known.novelty_limit
    return limit is not None and not observation.signal("novelty") <= limit  # a NaN is new


def reasons_to_ask(
    observation: Observation, verdict: Verdict, settings: GateSettings, held: bool
) -> list[Reason]:
    """Return every reason that holds, budget and chance aside.

    Parameters
    ----------
    observation
        The geometry.
    verdict
        On the committee's answer.
    settings
        Which policies are on.
    held
        Whether the reference keeps answering after the committee objected.
    """
    reasons = _outside(observation)
    if "contradiction" in settings.policies:
        reasons += _contradiction(observation, verdict, settings)
    if "uncertain" in settings.policies:
        reasons += _uncertain(observation, verdict, settings, held)
    if "unseen" in settings.policies and not verdict.trusted:
        reasons += _unseen(observation, verdict, settings)
    return reasons


def _outside(observation: Observation) -> list[Reason]:
    """Return what no policy switches off: nobody but the reference has an answer."""
    flags = [flag for flag in observation.report.flags if not flag.trustable]
    if flags:
        return [Reason(policy="outside", detail=str(flag)) for flag in flags]
    if not math.isfinite(observation.spread):
        return [Reason(policy="outside", detail="the committee's force spread is not finite")]
    temperature = observation.mean_temperature
    if temperature is not None and not math.isfinite(temperature):
        return [Reason(policy="outside", detail="the mean temperature is not finite")]
    return []


def _contradiction(
    observation: Observation, verdict: Verdict, settings: GateSettings
) -> list[Reason]:
    """Return where flags and committee disagree, either way.

    Where both object nothing contradicts and ``uncertain`` asks; where that is
    switched off the flag still does.  In a calibrated regime the flags that
    make it one were up in its calibration frames as well and contradict
    nothing; hard ones always do.
    """
    flags = observation.asking_flags()
    if verdict.calibrated is not None:
        flags = tuple(flag for flag in flags if flag.severity is Severity.HARD)
    if not flags:
        if verdict.objects:
            detail = f"{_score(verdict, observation)}, and no flag asks"
            return [Reason(policy="contradiction", detail=detail, doubt=True)]
        return []
    if verdict.trusted or (verdict.objects and "uncertain" in settings.policies):
        return []
    return [Reason(policy="contradiction", detail=str(flag)) for flag in flags]


def _uncertain(
    observation: Observation, verdict: Verdict, settings: GateSettings, held: bool
) -> list[Reason]:
    if verdict.objects:
        if verdict.calibrated is None:
            detail = (
                f"{verdict.factor:.2g} x spread {observation.spread:.3g} = {verdict.score:.3g} "
                f"eV/A, tolerance {verdict.threshold:g}"
            )
        else:
            detail = _score(verdict, observation)
        return [Reason(policy="uncertain", detail=detail, doubt=True)]
    if held:
        detail = (
            f"{_score(verdict, observation)}; it was above, and {settings.hysteresis_steps} calm "
            "steps in a row have not passed"
        )
        return [Reason(policy="uncertain", detail=detail, doubt=True)]
    return []


def _unseen(observation: Observation, verdict: Verdict, settings: GateSettings) -> list[Reason]:
    """Return what is not validated: the regime, the molecule, or the environment of an atom."""
    known, trust = verdict.calibrated, verdict.trust
    if trust is None:
        return []
    near = f"{trust.neighbours} of {settings.trust_frames} validated frames nearby"
    if known is None and verdict.elsewhere is not None:
        among = listed(sorted(verdict.elsewhere.molecules or ()))
        detail = (
            f"{observation.molecule}: {observation.regime} is validated for {among} only, {near}"
        )
        return [Reason(policy="unseen", detail=detail)]
    if known is None:
        return [Reason(policy="unseen", detail=f"{observation.regime}: {near}")]
    limit, novelty = known.novelty_limit, observation.signal("novelty")
    if limit is None or novelty <= limit:  # a NaN is not covered
        return []
    who = observation.worst_atoms.get("novelty")
    where = "" if who is None else f" at atom {who}"
    detail = f"environment{where}: novelty {novelty:.3g} against {limit:.3g}, {near}"
    return [Reason(policy="unseen", detail=detail)]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return some names in words, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _score(verdict: Verdict, observation: Observation) -> str:
    """Return score and threshold in words, and what the score lacks."""
    known = verdict.calibrated
    if known is not None and not known.unit:
        words = f"P(bad) {verdict.score:.2g} against {verdict.threshold:.2g}"
        lacking = [name for name in known.signals if math.isnan(observation.signal(name))]
        return f"{words}: {', '.join(lacking)} unknown" if lacking else words
    return f"score {verdict.score:.3g} eV/A against {verdict.threshold:.3g}"
