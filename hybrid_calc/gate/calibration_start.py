"""Which calibration a gate relies on once committee and level are known."""

from __future__ import annotations

import warnings

from hybrid_calc.committee.prediction import CalibratedCommittee, Committee
from hybrid_calc.errors import CalibrationError
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.gate import Gate
from hybrid_calc.reference.level import LevelOfTheory


def settle_calibration(gate: Gate, committee: Committee, level: LevelOfTheory) -> None:
    """Give a gate the calibration inside its committee's bundle, or refuse the one it has.

    One that the gate has, given or named by its settings, goes before the one
    in the bundle.  That of a bundle which was made for another level or
    tolerance is set aside with a warning: nothing then counts as validated.

    Parameters
    ----------
    gate
        Who decides.
    committee
        That answers.
    level
        Of the reference.

    Raises
    ------
    CalibrationError
        The gate's calibration was made for something else, or the bundle's
        cannot be read.
    """
    calibration = gate.calibration
    if calibration is None:
        gate.calibration = _embedded(gate, committee, level)
    elif isinstance(calibration, CommitteeCalibration) and (
        gate.settings.calibration is not None or calibration.identity == committee.info.identity
    ):  # one that was given and belongs to another committee is set aside by the gate
        _check(calibration, gate, committee, level)


def _embedded(
    gate: Gate, committee: Committee, level: LevelOfTheory
) -> CommitteeCalibration | None:
    blob = committee.calibration if isinstance(committee, CalibratedCommittee) else None
    if blob is None:
        return None
    name = f"the calibration in the bundle of {committee.info.name}"
    calibration = CommitteeCalibration.from_bytes(blob, name)
    try:
        _check(calibration, gate, committee, level)
    except CalibrationError as error:
        warnings.warn(f"not used: {error}", CalibrationMismatchWarning, stacklevel=4)
        return None
    return calibration


def _check(
    calibration: CommitteeCalibration, gate: Gate, committee: Committee, level: LevelOfTheory
) -> None:
    calibration.check(
        committee=committee.info.identity,
        level_hash=level.hash,
        force_tolerance=gate.settings.force_tolerance_ev_per_ang,
        energy_tolerance=gate.settings.energy_tolerance_ev,
    )
