"""The settings of one job.

Every key is defined and described here, beside it, or in the settings class of its room
(`GateSettings`, `FlagLimits`, `MdSettings`, ...).  An unknown key is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hybrid_calc.config.base import Settings
from hybrid_calc.config.committee import AniSettings, CommitteeSettings
from hybrid_calc.config.reference import PySCFSettings, ReferenceSettings
from hybrid_calc.drivers.settings import (
    AnyNebSettings,
    AnyRelaxSettings,
    MdSettings,
    NebSettings,
    RelaxSettings,
)
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.settings import GateSettings


class StructureSettings(Settings):
    """Where the job starts: a file, or a molecule that ASE knows."""

    file: Path | None = Field(
        None, description="Any file ASE reads; relative to the settings file. Its last frame."
    )
    molecule: str | None = Field(
        None, description="Name or formula in ase.build.molecule, such as CH3CH2OH."
    )
    charge: int | None = Field(None, description="Total charge; what the file says by default.")
    multiplicity: int | None = Field(
        None, ge=1, description="2S+1; the lowest possible by default."
    )
    fixed: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Indices of atoms that stay where they are, beside those the file fixes."
    )


class RunSettings(Settings):
    """One job."""

    task: Literal["md", "relax", "neb"] = Field(..., description="What to do.")
    structure: StructureSettings = Field(..., description="Where to start.")
    end: StructureSettings | None = Field(None, description="The other end of a band.")
    committee: CommitteeSettings = Field(AniSettings(), description="Who predicts every geometry.")
    reference: ReferenceSettings = Field(
        PySCFSettings(), description="Who answers where the committee cannot."
    )
    allow_level_mismatch: bool = Field(
        False,
        description="Go on although committee and reference were made at different levels "
        "of theory; the difference then counts as an error of the committee.",
    )
    gate: GateSettings = Field(GateSettings(), description="When to ask.")
    flags: FlagLimits = Field(FlagLimits(), description="Limits of the flags.")
    store: Path | None = Field(
        None, description="HDF5 store, relative to the settings file; DIR/run.h5 by default."
    )
    threads: int = Field(1, ge=1, description="Threads of the committee; one is best for 10 atoms.")
    md: MdSettings = Field(MdSettings(), description="For task md.")
    relax: AnyRelaxSettings = Field(RelaxSettings(), description="For task relax.")
    neb: AnyNebSettings = Field(NebSettings(), description="For task neb.")


class LabelSettings(Settings):
    """A label farm: what of a job it needs."""

    reference: ReferenceSettings = Field(
        PySCFSettings(), description="Who labels, and where: reference.executor."
    )
    flags: FlagLimits = Field(FlagLimits(), description="Limits of the flags, for the regimes.")
