"""Settings files: YAML in, validated settings out, objects made from them.

Every key is defined and described here or in the settings class of its room
(`GateSettings`, `FlagLimits`, `MdSettings`, ...).  An unknown key is an error.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from ase import Atoms
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.drivers.settings import AseNebSettings, AseRelaxSettings, MdSettings
from hybrid_calc.errors import SettingsError, StoreDamagedError, StructureError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.label import Reference
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import PySCFReference, check_solvent
from hybrid_calc.reference.recipes import RECIPES
from hybrid_calc.reference.user_function import level_parameters
from hybrid_calc.store.frames import FrameStore

LowerCase = Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True)]


DEVICES = r"^(cpu|cuda(:\d+)?)$"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StructureSettings(_Settings):
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


class LevelSettings(_Settings):
    """A level of theory that PySCF solves."""

    functional: LowerCase = Field(
        "", description="Exchange-correlation functional in PySCF's spelling."
    )
    basis: Annotated[LowerCase, Field(min_length=1)] = Field(
        ..., description="Orbital basis in PySCF's spelling."
    )
    cart: bool = Field(False, description="Cartesian d and f functions, as Gaussian runs 6-31G(d).")
    dispersion: LowerCase = Field(
        "", description="Dispersion correction such as d3bj; needs pyscf-dispersion."
    )
    nlc: Literal["", "vv10"] = Field("", description="Non-local correlation.")
    solvent: LowerCase = Field(
        "", description="Implicit solvent: c-pcm:78.36, ief-pcm:78.36 or smd:water."
    )
    auxiliary_basis: LowerCase = Field(
        "auto", description="Density-fitting basis; auto is PySCF's choice, empty is no fitting."
    )
    grid_level: int = Field(3, ge=0, le=9, description="PySCF's integration grid.")
    convergence_hartree: float = Field(1e-7, gt=0, description="SCF energy convergence, hartree.")
    project_net_force: bool = Field(
        True, description="Remove the net force and torque that the grid leaves."
    )

    function: str = Field(
        "",
        description="Instead of a functional: module:function that gets PySCF's Mole and "
        "returns a mean field. Its source is part of the level's identity.",
    )

    @model_validator(mode="after")
    def _solvable(self) -> LevelSettings:
        if not (self.functional or self.function):
            raise ValueError("a level needs a functional or a function")
        check_solvent(self.solvent)
        return self

    def to_level(self) -> LevelOfTheory:
        """Return the level with its identity."""
        keys = self.model_dump(exclude={"function"})
        return LevelOfTheory(program="pyscf", **keys, parameters=level_parameters(self.function))


def _named_level(value: object) -> object:
    """Return the keys of a level given by name."""
    if not isinstance(value, str):
        return value
    if value not in RECIPES:
        raise ValueError(f"known names are {', '.join(RECIPES)}; give other levels by keys")
    level = RECIPES[value].level.to_dict()
    return {key: level[key] for key in LevelSettings.model_fields if key in level}


def level_from_text(text: str) -> LevelOfTheory:
    """Return a level of theory from a name, or from YAML such as ``{functional: pbe, ...}``.

    Raises
    ------
    SettingsError
        Neither a known name nor the keys of a level.
    """
    try:
        return LevelSettings.model_validate(_named_level(yaml.safe_load(text))).to_level()
    except yaml.YAMLError as error:
        raise SettingsError(f"level {text!r} is not valid YAML.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "level"
        raise SettingsError(f"level {text!r}: {key}: {first['msg']}.") from error
    except ValueError as error:
        raise SettingsError(f"level {text!r}: {error}.") from error


class AniSettings(_Settings):
    """The committee of eight networks inside the torchani package."""

    kind: Literal["ani"] = "ani"
    model: Literal["ani-1x", "ani-1ccx"] = Field("ani-1x", description="Which ANI model.")


class MaceSettings(_Settings):
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

    _named = field_validator("level", mode="before")(_named_level)


class BundleSettings(_Settings):
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


class FoundationSettings(_Settings):
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


class ExternalMemberSettings(_Settings):
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


class ExternalSettings(_Settings):
    """Members of any kind, each in a process of its own."""

    kind: Literal["external"] = "external"
    members: list[ExternalMemberSettings] = Field(..., description="At least two.")
    level: LevelSettings | None = Field(
        None,
        description="Level of theory of the training data, as in reference.level. Without "
        "it nothing is checked.",
    )


class ToySettings(_Settings):
    """Perturbed Lennard-Jones; for trying things out."""

    kind: Literal["toy"] = "toy"
    members: int = Field(4, ge=2, description="Number of members.")
    perturbation: float = Field(0.02, ge=0, description="Relative spread of the well depths.")
    seed: int = Field(0, ge=0, description="Of the perturbations.")


class PySCFSettings(_Settings):
    """DFT by PySCF in a worker process."""

    kind: Literal["pyscf"] = "pyscf"
    level: LevelSettings = Field(
        LevelSettings.model_validate(_named_level("ani-1x")),
        description="Level of theory: ani-1x (wB97X/6-31G(d), what ANI-1x learned), mace-off, "
        "rmd17, pbe-d3, balanced, fast, one of them with -strict, or the keys of a level.",
    )
    threads: int = Field(1, ge=1, description="Threads of the worker; one is best for 10 atoms.")
    max_memory_mb: int = Field(4000, ge=100, description="What PySCF may use, MB.")
    wall_limit_s: float = Field(3600.0, gt=0, description="Time for one label, s.")
    warm_start: bool = Field(
        False,
        description="Start from the densities of geometries before: labels then depend on them "
        "within the SCF's convergence, and a resumed run is no longer the same to the bit.",
    )
    cold_share: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of warm-started labels solved cold as well, to detect a locked state.",
    )
    stability: Literal["auto", "always", "never"] = Field(
        "never",
        description="Whether to ask if the state is a minimum; auto: where bonds look broken, "
        "gaps are small, shells open. Each question costs one to three times the SCF.",
    )
    when_unstable: Literal["unrestricted", "reject"] = Field(
        "unrestricted",
        description="What to do with an unstable restricted singlet: take the unrestricted state "
        "below it, or reject the label as multireference suspected.",
    )

    _named = field_validator("level", mode="before")(_named_level)


class XtbSettings(_Settings):
    """GFN2-xTB through tblite: a cheap stand-in for DFT."""

    kind: Literal["xtb"] = "xtb"


class ToyReferenceSettings(_Settings):
    """The Lennard-Jones truth behind the toy committee."""

    kind: Literal["toy"] = "toy"


CommitteeSettings = Annotated[
    AniSettings
    | BundleSettings
    | MaceSettings
    | FoundationSettings
    | ExternalSettings
    | ToySettings,
    Field(discriminator="kind"),
]
ReferenceSettings = Annotated[
    PySCFSettings | XtbSettings | ToyReferenceSettings, Field(discriminator="kind")
]


class RunSettings(_Settings):
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
    relax: AseRelaxSettings = Field(AseRelaxSettings(), description="For task relax.")
    neb: AseNebSettings = Field(AseNebSettings(), description="For task neb.")


def load_settings(path: Path, overrides: list[str] | None = None) -> RunSettings:
    """Return the validated settings of a file.

    Parameters
    ----------
    path
        YAML file.
    overrides
        ``key=value`` with dots between levels, ``gate.budget=20``; values are YAML.

    Raises
    ------
    SettingsError
        The file cannot be read, is not YAML, or a key or value is wrong; the
        message names the key and the nearest known one.
    """
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingsError(f"settings file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"settings file {path} is not valid YAML: {where}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"settings file {path} must hold keys and values; see configs/.")
    for override in overrides or []:
        _override(data, override)
    try:
        return RunSettings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_explain(error)}") from error


def build_structure(settings: StructureSettings, base: Path) -> Atoms:
    """Return the structure of a job.

    Parameters
    ----------
    settings
        Of the structure.
    base
        Folder that relative paths start from.

    Raises
    ------
    SettingsError
        Neither or both of file and molecule, or one that is not there.
    StructureError
        The structure cannot be computed by anybody.
    """
    if (settings.file is None) == (settings.molecule is None):
        raise SettingsError("structure needs either file or molecule, not both and not neither.")
    atoms = (
        _from_file(base / settings.file)
        if settings.file is not None
        else _from_name(str(settings.molecule))
    )
    if settings.charge is not None:
        atoms.info["charge"] = settings.charge
    if settings.multiplicity is not None:
        atoms.info["spin"] = settings.multiplicity
    check_structure(atoms)
    charge_of(atoms), multiplicity_of(atoms)
    return atoms


def build_committee(settings: CommitteeSettings, base: Path) -> Committee:
    """Return the committee; paths start from `base`."""
    if isinstance(settings, ToySettings):
        from hybrid_calc.committee.toy import ToyCommittee

        return ToyCommittee(
            settings.members, perturbation=settings.perturbation, seed=settings.seed
        )
    if isinstance(settings, AniSettings):
        from hybrid_calc.committee.ani import AniCommittee

        return AniCommittee(settings.model)
    if isinstance(settings, ExternalSettings):
        return _external_committee(settings)
    if isinstance(settings, BundleSettings):
        from hybrid_calc.committee.bundle import load_committee

        return load_committee(
            base / settings.file,
            dtype=settings.dtype,
            device=settings.device,
            compile=settings.compile,
        )
    if isinstance(settings, FoundationSettings):
        from hybrid_calc.committee.foundation import foundation_committee

        return foundation_committee(
            settings.models,
            family=settings.family,
            trust=settings.trust,
            dtype=settings.dtype,
            device=settings.device,
        )
    from hybrid_calc.committee.mace import MaceCommittee

    return MaceCommittee.from_files(
        _model_files(settings.files, base),
        trust=settings.trust,
        dtype=settings.dtype,
        device=settings.device,
        compile=settings.compile,
        level=None if settings.level is None else settings.level.to_level(),
    )


def _external_committee(settings: ExternalSettings) -> Committee:
    from hybrid_calc.committee.external import ExternalMember
    from hybrid_calc.committee.members import MembersCommittee

    members = [
        ExternalMember(
            one.calculator,
            one.arguments,
            python=one.python or sys.executable,
            command=one.command,
            timeout_s=one.timeout_s,
        )
        for one in settings.members
    ]
    level = None if settings.level is None else settings.level.to_level()
    return MembersCommittee(members, name="external", level=level)


def build_reference(settings: ReferenceSettings) -> Reference:
    """Return the reference; its worker starts at the first label."""
    if isinstance(settings, ToyReferenceSettings):
        from hybrid_calc.reference.toy import ToyReference

        return ToyReference()
    if isinstance(settings, XtbSettings):
        from hybrid_calc.reference.ase_backend import gfn2_xtb

        return gfn2_xtb()
    return PySCFReference(
        settings.level.to_level(),
        threads=settings.threads,
        max_memory_mb=settings.max_memory_mb,
        wall_limit_s=settings.wall_limit_s,
        warm_start=settings.warm_start,
        cold_share=settings.cold_share,
        stability=settings.stability,
        when_unstable=settings.when_unstable,
    )


def build_calculator(settings: RunSettings, base: Path, output: Path) -> HybridCalculator:
    """Return the calculator of a job.

    Parameters
    ----------
    settings
        Of the job.
    base
        Folder of the settings file.
    output
        Folder of the run, which holds the store unless the settings name another.

    Raises
    ------
    SettingsError
        The store's path is some other file.
    """
    path = output / "run.h5" if settings.store is None else base / settings.store
    try:
        store = FrameStore(path)
    except StoreDamagedError as error:
        raise SettingsError(f"store: {error}") from error
    return HybridCalculator(
        build_committee(settings.committee, base),
        build_reference(settings.reference),
        settings.gate,
        store,
        limits=settings.flags,
        allow_level_mismatch=settings.allow_level_mismatch,
    )


def _model_files(files: Sequence[str] | str, base: Path) -> list[Path]:
    """Return the files of names and patterns; a name without a file is kept as it is."""
    found: list[Path] = []
    for name in [files] if isinstance(files, str) else files:
        found += [base / match for match in sorted(glob(name, root_dir=base)) or [name]]
    return found


def _from_file(path: Path) -> Atoms:
    import ase.io

    if not path.is_file():
        raise SettingsError(f"structure file {path} is not there.")
    try:
        atoms = ase.io.read(path)
    except Exception as error:  # ASE's readers raise whatever they meet
        raise StructureError(
            f"structure file {path} cannot be read by ASE: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(atoms, Atoms):
        raise StructureError(f"structure file {path} holds no single structure.")
    atoms.calc = None
    return atoms


def _from_name(name: str) -> Atoms:
    from ase.build import molecule
    from ase.collections import g2

    try:
        atoms: Atoms = molecule(name)
        return atoms
    except KeyError as error:
        near = difflib.get_close_matches(name, g2.names, n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise SettingsError(
            f"ase.build.molecule knows no {name!r}{hint}. Give structure.file instead."
        ) from error


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set takes key=value, such as gate.budget=20; got {text!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise SettingsError(f"--set {text}: {parent} has no keys below it.")
    try:
        data[last] = yaml.load(value, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: the value is not valid YAML.") from error


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key given twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _explain(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line; a misspelt key before what it left out."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    keys, models = _follow(first["loc"])
    key = ".".join(keys) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = sorted({name for model in models for name in model.model_fields})
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        return f"unknown key {key}; {hint}{more}"
    if first["type"].startswith("union_tag"):
        kinds = ", ".join(_kind(model) for model in models)
        return f"{key}.kind must be one of {kinds}; got {_short(first.get('input'))}.{more}"
    if first["type"] == "missing":
        return f"{key} is needed and not there.{more}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{key}: {what}; got {_short(first.get('input'))}.{more}"


def _follow(location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the keys of an error's place and the settings classes there.

    pydantic puts the name of a union's member between the keys; it is no key.
    """
    keys: list[str] = []
    inside: list[type[BaseModel]] = [RunSettings]
    models = inside
    for part in location:
        if isinstance(part, int):
            keys.append(str(part))
            continue
        chosen = [model for model in inside if _kind(model) == part]
        if chosen:
            inside = chosen
            continue
        keys.append(str(part))
        models = inside
        annotations = [m.model_fields[str(part)] for m in inside if str(part) in m.model_fields]
        inside = [found for field in annotations for found in _models_in(field.annotation)]
    return keys, inside or models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _kind(model: type[BaseModel]) -> str:
    """Return what a settings file calls a member of a union; empty for other classes."""
    kind = model.model_fields.get("kind")
    return "" if kind is None else str(kind.default)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
