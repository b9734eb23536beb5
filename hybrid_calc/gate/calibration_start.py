"""Which calibration a gate relies on once committee and level are known."""

from __future__ import annotations

import warnings

from hybrid_calc.committee.prediction import CalibratedCommittee, Committee
from hybrid_calc.errors import CalibrationError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.regime import BUILT_IN, Regime, always_flagged, classes_of
from hybrid_calc.gate.signals import OF_EVERY_PREDICTION
from hybrid_calc.reference.level import LevelOfTheory


def settle_calibration(
    gate: Gate,
    committee: Committee,
    level: LevelOfTheory,
    limits: FlagLimits,
    *,
    second_opinion: bool,
) -> None:
    """Give a gate the calibration inside its committee's bundle, or refuse the one it has.

    One that the gate has, given or named by its settings, goes before the one
    in the bundle.  That of a bundle which was made for another level, tolerance or
    regimes, or needs signals that the run lacks, is set aside with a warning:
    nothing then counts as validated.

    Parameters
    ----------
    gate
        Who decides.
    committee
        That answers.
    level
        Of the reference.
    limits
        Of the flags.
    second_opinion
        Whether another method stands by to be asked.

    Raises
    ------
    CalibrationError
        The gate's calibration was made for something else, or needs a signal
        that the run does not have of every geometry; or the bundle's cannot be
        read.
    """
    calibration = gate.calibration
    if calibration is None:
        gate.calibration = _embedded(gate, committee, level, limits, second_opinion=second_opinion)
    elif isinstance(calibration, CommitteeCalibration) and (
        gate.settings.calibration is not None or calibration.identity == committee.info.identity
    ):  # one that was given and belongs to another committee is set aside by the gate
        _check(calibration, gate, committee, level, limits, second_opinion=second_opinion)


def _embedded(
    gate: Gate,
    committee: Committee,
    level: LevelOfTheory,
    limits: FlagLimits,
    *,
    second_opinion: bool,
) -> CommitteeCalibration | None:
    blob = committee.calibration if isinstance(committee, CalibratedCommittee) else None
    if blob is None:
        return None
    name = f"the calibration in the bundle of {committee.info.name}"
    calibration = CommitteeCalibration.from_bytes(blob, name)
    try:
        _check(calibration, gate, committee, level, limits, second_opinion=second_opinion)
    except CalibrationError as error:
        warnings.warn(f"not used: {error}", CalibrationMismatchWarning, stacklevel=4)
        return None
    return calibration


def _check(
    calibration: CommitteeCalibration,
    gate: Gate,
    committee: Committee,
    level: LevelOfTheory,
    limits: FlagLimits,
    *,
    second_opinion: bool,
) -> None:
    calibration.check(
        committee=committee.info.identity,
        level_hash=level.hash,
        force_tolerance=gate.settings.force_tolerance_ev_per_ang,
        energy_tolerance=gate.settings.energy_tolerance_ev,
        classes=classes_of(gate.settings.regimes, limits),
    )
    regimes = {*BUILT_IN, *(rule.name for rule in gate.settings.regimes)}
    for entry in calibration.entries:
        if entry.threshold is None or entry.regime.name not in regimes:
            continue  # not used
        for signal in entry.score.signals:
            if not _known_everywhere(signal, entry.regime, calibration, gate, second_opinion):
                raise CalibrationError(
                    f"the calibration judges {entry.regime} by {signal} as well, which this run "
                    f"does not have of every geometry there; all others would count as bad. "
                    f"{_remedy(signal)}"
                )


def _known_everywhere(
    signal: str,
    regime: Regime,
    calibration: CommitteeCalibration,
    gate: Gate,
    second_opinion: bool,
) -> bool:
    """Tell whether a run has a signal of every geometry of a regime."""
    settings = gate.settings
    if signal == "novelty":
        return calibration.novelty_model is not None
    if signal == "second_opinion":
        everywhere = settings.second_opinion_for == "all"
        return second_opinion and (everywhere or always_flagged(regime.name, settings.regimes))
    return signal in OF_EVERY_PREDICTION


def _remedy(signal: str) -> str:
    again = "calibrate again without it"
    if signal == "second_opinion":
        return f"Set gate.second_opinion: gfn2-xtb and gate.second_opinion_for: all, or {again}."
    return f"{again.capitalize()}."
