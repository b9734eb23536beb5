"""Who predicts every geometry, in settings files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hybrid_calc.config.base import DEVICES, Settings
from hybrid_calc.config.level import LevelSettings, named_level


class AniSettings(Settings):
    """The committee of eight networks inside the torchani package."""

    kind: Literal["ani"] = "ani"
    model: Literal["ani-1x", "ani-1ccx"] = Field("ani-1x", description="Which ANI model.")


class MaceSettings(Settings):
    """A committee of MACE models of one architecture."""

    kind: Literal["mace"] = "mace"
    files: list[str] | str = Field(
        ...,
        description="Model files or a pattern such as models/*.model; relative to the "
        "settings file.",
    )
    trust: bool = Field(
        False,
        description=".model files are pickles, that is code: say true only for files whose "
        "maker you trust.",
    )
    dtype: Literal["float64", "float32"] = Field(
        "float64", description="float64 for optimisation and bands, float32 is enough for MD."
    )
    device: str = Field("cpu", pattern=DEVICES, description="cpu, cuda or cuda:1.")
    compile: bool = Field(
        False,
        description="Compile the networks with torch: faster up to some tens of atoms, after a "
        "minute or two at the first geometry of a composition, and needs a C++ compiler. "
        "Refused where it changes a force.",
    )
    level: LevelSettings | None = Field(
        None,
        description="Level of theory of the training data, as in reference.level. Without "
        "it nothing is checked.",
    )

    _named = field_validator("level", mode="before")(named_level)


class BundleSettings(Settings):
    """A committee in one file, made by hybrid-calc committee import."""

    kind: Literal["bundle"] = "bundle"
    file: Path = Field(..., description="NAME.bundle, relative to the settings file.")
    dtype: Literal["float64", "float32"] = Field(
        "float64", description="float64 for optimisation and bands, float32 is enough for MD."
    )
    device: str = Field("cpu", pattern=DEVICES, description="cpu, cuda or cuda:1.")
    compile: bool = Field(
        False,
        description="Compile the networks with torch: faster up to some tens of atoms, after a "
        "minute or two at the first geometry of a composition, and needs a C++ compiler. "
        "Refused where it changes a force.",
    )


class FoundationSettings(Settings):
    """Two or more published MACE models of one family, one after another."""

    kind: Literal["mace-foundation"] = "mace-foundation"
    models: list[str] = Field(
        ..., description="Names (small, medium, large), fetched at the first use, or paths."
    )
    family: Literal["off", "mp"] = Field(
        "off", description="MACE-OFF (organic molecules) or MACE-MP (materials)."
    )
    trust: bool = Field(
        False, description="The files are pickles, that is code: true if you trust their maker."
    )
    dtype: Literal["float64", "float32"] = Field(
        "float64", description="float64 for optimisation and bands, float32 is enough for MD."
    )
    device: str = Field("cpu", pattern=DEVICES, description="cpu, cuda or cuda:1.")


class ExternalMemberSettings(Settings):
    """One ASE calculator in a process of its own, in any Python environment."""

    calculator: str | None = Field(
        None, description="module:callable that makes the calculator there."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the callable."
    )
    python: Path | None = Field(
        None,
        description="Interpreter of the other environment, which has ASE; this one by default.",
    )
    command: list[str] | None = Field(
        None,
        description="Instead of the three above: a program that speaks i-PI, with {socket} "
        "and {structure} where it wants them.",
    )
    timeout_s: float = Field(
        120.0, gt=0, description="Longest wait for the start and for one answer, s."
    )


class ExternalSettings(Settings):
    """Members of any kind, each in a process of its own."""

    kind: Literal["external"] = "external"
    members: list[ExternalMemberSettings] = Field(..., description="At least two.")
    level: LevelSettings | None = Field(
        None,
        description="Level of theory of the training data, as in reference.level. Without "
        "it nothing is checked.",
    )


class ToySettings(Settings):
    """Perturbed Lennard-Jones; for trying things out."""

    kind: Literal["toy"] = "toy"
    members: int = Field(4, ge=2, description="Number of members.")
    perturbation: float = Field(0.02, ge=0, description="Relative spread of the well depths.")
    seed: int = Field(0, ge=0, description="Of the perturbations.")


CommitteeSettings = Annotated[
    AniSettings
    | BundleSettings
    | MaceSettings
    | FoundationSettings
    | ExternalSettings
    | ToySettings,
    Field(discriminator="kind"),
]
