"""Every error that hybrid_calc raises on purpose.

    HybridCalcError
    ├── InputError (ValueError)                what came in cannot be used; nothing was computed
    │   ├── StructureError                     the geometry itself
    │   ├── UnknownElementError                an element the committee was not trained on
    │   ├── CommitteeError                     members that do not make a committee
    │   ├── UntrustedFileError                 a pickle nobody vouched for
    │   ├── BundleError                        a committee file that is not what it should be
    │   ├── CalibrationError                   a calibration that is none, or of something else
    │   ├── LevelMismatchError                 two levels of theory would be mixed
    │   └── SettingsError                      a settings file or value
    ├── MissingPackageError (ImportError)      an optional package is needed
    ├── PredictionFailed (CalculationFailed)   a member crashed or returned no number
    ├── MemberLost (CalculationFailed)         a member in another process died or fell silent
    ├── ReferenceFailed (CalculationFailed)    no label that can be trusted
    │   ├── ReferenceNotConverged (SCFError)   the ladder ended without a converged SCF
    │   ├── MultireferenceSuspected            the SCF's state is no minimum
    │   ├── ReferenceTimeout (TimeoutError)    the wall limit was reached, the worker killed
    │   └── ReferenceCrashed                   the worker died
    ├── BudgetExhausted (CalculationFailed)    the reference calls of this run are spent
    ├── RunInterrupted                         a signal asked the run to end
    └── StoreError (OSError)                   a frame could not be written or read
        └── StoreDamagedError                  what is on disk is not what was written

The second base is the class that callers of ASE or of the standard library
already catch.  A message says what was needed, what came and what to do.
"""

from __future__ import annotations

from ase.calculators.calculator import CalculationFailed, SCFError

__all__ = [
    "BudgetExhausted",
    "BundleError",
    "CalibrationError",
    "CommitteeError",
    "HybridCalcError",
    "InputError",
    "LevelMismatchError",
    "MemberLost",
    "MissingPackageError",
    "MultireferenceSuspected",
    "PredictionFailed",
    "ReferenceCrashed",
    "ReferenceFailed",
    "ReferenceNotConverged",
    "ReferenceTimeout",
    "RunInterrupted",
    "SettingsError",
    "StoreDamagedError",
    "StoreError",
    "StructureError",
    "UnknownElementError",
    "UntrustedFileError",
]


class HybridCalcError(Exception):
    """Base of every error raised on purpose."""


class InputError(HybridCalcError, ValueError):
    """What came in cannot be used; nothing was computed."""


class StructureError(InputError):
    """The geometry cannot be used: empty, not finite, or of a kind not supported."""


class UnknownElementError(InputError):
    """The structure has an element, charge or spin the committee was not trained on."""


class CommitteeError(InputError):
    """The members do not make a committee: too few, or they disagree about what they are."""


class UntrustedFileError(InputError):
    """A pickle (that is, code) would have to be loaded and nobody said it is trusted."""


class BundleError(InputError):
    """A committee bundle cannot be read or written, or is not what was written."""


class CalibrationError(InputError):
    """A calibration cannot be read or written, or was made for something else."""


class LevelMismatchError(InputError):
    """Two levels of theory would be mixed in one store or one run."""


class SettingsError(InputError):
    """A settings file, key or value cannot be used."""


class MissingPackageError(HybridCalcError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


class PredictionFailed(HybridCalcError, CalculationFailed):
    """A committee member crashed or returned something that is not a finite number."""


class MemberLost(HybridCalcError, CalculationFailed):
    """A committee member in another process died or did not answer in time."""


class ReferenceFailed(HybridCalcError, CalculationFailed):
    """The reference gave no label that can be trusted.

    Attributes
    ----------
    details
        What is known about the failure, JSON-able: rungs tried, cycles,
        checks that failed, the worker's last words.
    """

    def __init__(self, message: str, *, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, object] = details or {}


class ReferenceNotConverged(ReferenceFailed, SCFError):
    """The ladder of SCF settings ended without a converged, checked answer."""


class MultireferenceSuspected(ReferenceFailed):
    """The converged state is not a minimum, so one determinant does not describe the molecule."""


class ReferenceTimeout(ReferenceFailed, TimeoutError):
    """The reference took longer than its wall limit; its worker was killed."""


class ReferenceCrashed(ReferenceFailed):
    """The reference's worker process died."""


class BudgetExhausted(HybridCalcError, CalculationFailed):
    """The reference calls granted to this run are spent; the run can be resumed."""


class RunInterrupted(HybridCalcError):
    """A signal asked the run to end; nothing failed, and the run can be resumed."""


class StoreError(HybridCalcError, OSError):
    """A frame could not be written or read; nothing acknowledged was lost."""


class StoreDamagedError(StoreError):
    """What is on disk is not what was written; the message names the record."""
