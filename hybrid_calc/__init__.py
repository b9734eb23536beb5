"""Machine-learned potentials in ASE that ask DFT where they cannot be trusted.

Everything public is importable from here; nothing heavy is imported before
it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_calc.answer.step import Step
    from hybrid_calc.calculator import HybridCalculator, HybridHandle
    from hybrid_calc.committee.ani import AniCommittee
    from hybrid_calc.committee.mace import MaceCommittee
    from hybrid_calc.committee.members import MembersCommittee
    from hybrid_calc.committee.prediction import Committee, CommitteeInfo, Domain, Prediction
    from hybrid_calc.committee.toy import ToyCommittee
    from hybrid_calc.drivers.neb import HybridNEB
    from hybrid_calc.drivers.relax import HybridRelax
    from hybrid_calc.farm import label_frames
    from hybrid_calc.flags.coverage import Surroundings
    from hybrid_calc.flags.limits import FlagLimits
    from hybrid_calc.gate.calibration_file import CommitteeCalibration, read_calibration
    from hybrid_calc.gate.gate import Gate
    from hybrid_calc.gate.observation import Observation, Outcome
    from hybrid_calc.gate.regime import Regime
    from hybrid_calc.gate.replay import ReplayFrame, replay
    from hybrid_calc.gate.scope import ScopeCard
    from hybrid_calc.gate.settings import GateSettings
    from hybrid_calc.reference.ase_backend import AseReference, gfn2_xtb
    from hybrid_calc.reference.executor import ExecutorReference
    from hybrid_calc.reference.label import Label, Reference
    from hybrid_calc.reference.level import LevelOfTheory
    from hybrid_calc.reference.local_executor import LocalExecutor
    from hybrid_calc.reference.pyscf_backend import PySCFReference
    from hybrid_calc.reference.recipes import ANI_1X_LEVEL
    from hybrid_calc.reference.toy import ToyReference
    from hybrid_calc.store.frames import FrameStore
    from hybrid_calc.store.record import Record

__all__ = [
    "ANI_1X_LEVEL",
    "AniCommittee",
    "AseReference",
    "Committee",
    "CommitteeCalibration",
    "CommitteeInfo",
    "Domain",
    "ExecutorReference",
    "FlagLimits",
    "FrameStore",
    "Gate",
    "GateSettings",
    "HybridCalculator",
    "HybridHandle",
    "HybridNEB",
    "HybridRelax",
    "Label",
    "LevelOfTheory",
    "LocalExecutor",
    "MaceCommittee",
    "MembersCommittee",
    "Observation",
    "Outcome",
    "Prediction",
    "PySCFReference",
    "Record",
    "Reference",
    "Regime",
    "ReplayFrame",
    "ScopeCard",
    "Step",
    "Surroundings",
    "ToyCommittee",
    "ToyReference",
    "gfn2_xtb",
    "label_frames",
    "read_calibration",
    "replay",
]

_HOMES = {
    "ANI_1X_LEVEL": "reference.recipes",
    "AniCommittee": "committee.ani",
    "AseReference": "reference.ase_backend",
    "Committee": "committee.prediction",
    "CommitteeCalibration": "gate.calibration_file",
    "CommitteeInfo": "committee.prediction",
    "Domain": "committee.prediction",
    "ExecutorReference": "reference.executor",
    "FlagLimits": "flags.limits",
    "FrameStore": "store.frames",
    "Gate": "gate.gate",
    "GateSettings": "gate.settings",
    "HybridCalculator": "calculator",
    "HybridHandle": "calculator",
    "HybridNEB": "drivers.neb",
    "HybridRelax": "drivers.relax",
    "Label": "reference.label",
    "LevelOfTheory": "reference.level",
    "LocalExecutor": "reference.local_executor",
    "MaceCommittee": "committee.mace",
    "MembersCommittee": "committee.members",
    "Observation": "gate.observation",
    "Outcome": "gate.observation",
    "Prediction": "committee.prediction",
    "PySCFReference": "reference.pyscf_backend",
    "Record": "store.record",
    "Reference": "reference.label",
    "Regime": "gate.regime",
    "ReplayFrame": "gate.replay",
    "ScopeCard": "gate.scope",
    "Step": "answer.step",
    "Surroundings": "flags.coverage",
    "ToyCommittee": "committee.toy",
    "ToyReference": "reference.toy",
    "gfn2_xtb": "reference.ase_backend",
    "label_frames": "farm",
    "read_calibration": "gate.calibration_file",
    "replay": "gate.replay",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
