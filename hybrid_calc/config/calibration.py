"""Which calibration a job's gate may rely on."""

from __future__ import annotations

import warnings
from pathlib import Path

from hybrid_calc.committee.bundle import embedded_calibration
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.config.committee import BundleSettings
from hybrid_calc.config.job import RunSettings
from hybrid_calc.errors import CalibrationError
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning
from hybrid_calc.gate.calibration_file import CommitteeCalibration, read_calibration
from hybrid_calc.reference.label import Reference


def build_calibration(
    settings: RunSettings, base: Path, committee: Committee, reference: Reference
) -> CommitteeCalibration | None:
    """Return the calibration of a job: the file it names, else the one inside its bundle.

    One inside a bundle that was made for another level or tolerance is set
    aside with a warning: nothing then counts as validated.

    Parameters
    ----------
    settings
        Of the job.
    base
        Folder that relative paths start from.
    committee, reference
        Of the job.

    Raises
    ------
    CalibrationError
        The file the settings name cannot be read, or was made for something else.
    """
    named = settings.gate.calibration
    if named is not None:
        calibration = read_calibration(base / named)
    elif isinstance(settings.committee, BundleSettings):
        path = base / settings.committee.file
        blob = embedded_calibration(path)
        if blob is None:
            return None
        calibration = CommitteeCalibration.from_bytes(blob, f"the calibration in {path}")
    else:
        return None
    try:
        calibration.check(
            committee=committee.info.identity,
            level_hash=reference.level.hash,
            force_tolerance=settings.gate.force_tolerance_ev_per_ang,
            energy_tolerance=settings.gate.energy_tolerance_ev,
        )
    except CalibrationError as error:
        if named is not None:
            raise
        warnings.warn(f"not used: {error}", CalibrationMismatchWarning, stacklevel=2)
        return None
    return calibration
