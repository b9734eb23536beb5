"""Settings files: YAML in, validated settings out, objects made from them.

Every key is defined and described here or in the settings class of its room
(`GateSettings`, `FlagLimits`, `MdSettings`, ...).  An unknown key is an error.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.drivers.settings import MdSettings, NebSettings, RelaxSettings
from hybrid_calc.errors import SettingsError, StructureError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.label import Reference


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class AniSettings(_Settings):
    """The committee of eight networks inside the torchani package."""

    kind: Literal["ani"] = "ani"
    model: Literal["ani-1x", "ani-1ccx"] = Field("ani-1x", description="Which ANI model.")


class MaceSettings(_Settings):
    """A committee of MACE models of one architecture."""

    kind: Literal["mace"] = "mace"
    files: list[str] | str = Field(
        ..., description="Model files or a pattern such as models/*.model; relative to the "
        "settings file."
    )
    trust: bool = Field(
        False, description=".model files are pickles, that is code: say true only for files whose "
        "maker you trust."
    )
    dtype: Literal["float64", "float32"] = Field(
        "float64", description="float64 for optimisation and bands, float32 is enough for MD."
    )
    device: str = Field("cpu", description="cpu or cuda.")
    level: dict[str, Any] | None = Field(
        None, description="Level of theory of the training data, with the keys of reference.level."
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
    level: dict[str, Any] | Literal["ani-1x"] = Field(
        "ani-1x", description="A named level of theory, or its keys: functional, basis, cart, "
        "dispersion, nlc, auxiliary_basis, grid_level, convergence_hartree, project_net_force."
    )
    threads: int = Field(1, ge=1, description="Threads of the worker; one is best for 10 atoms.")
    max_memory_mb: int = Field(4000, ge=100, description="What PySCF may use, MB.")
    wall_limit_s: float = Field(3600.0, gt=0, description="Time for one label, s.")


class XtbSettings(_Settings):
    """GFN2-xTB through tblite: a cheap stand-in for DFT."""

    kind: Literal["xtb"] = "xtb"


class ToyReferenceSettings(_Settings):
    """The Lennard-Jones truth behind the toy committee."""

    kind: Literal["toy"] = "toy"


CommitteeSettings = Annotated[
    AniSettings | MaceSettings | ToySettings, Field(discriminator="kind")
]
ReferenceSettings = Annotated[
    PySCFSettings | XtbSettings | ToyReferenceSettings, Field(discriminator="kind")
]


class RunSettings(_Settings):
    """One job."""

    task: Literal["md", "relax", "neb"] = Field(..., description="What to do.")
    structure: StructureSettings = Field(..., description="Where to start.")
    end: StructureSettings | None = Field(None, description="The other end of a band.")
    committee: CommitteeSettings = Field(
        default_factory=AniSettings, description="Who predicts every geometry."
    )
    reference: ReferenceSettings = Field(
        default_factory=PySCFSettings, description="Who answers where the committee cannot."
    )
    allow_level_mismatch: bool = Field(
        False, description="Go on although committee and reference were made at different levels "
        "of theory; the difference then counts as an error of the committee."
    )
    gate: GateSettings = Field(default_factory=GateSettings, description="When to ask.")
    flags: FlagLimits = Field(default_factory=FlagLimits, description="Limits of the flags.")
    store: Path | None = Field(
        None, description="HDF5 store, relative to the settings file; DIR/run.h5 by default."
    )
    threads: int = Field(1, ge=1, description="Threads of the committee; one is best for 10 atoms.")
    md: MdSettings = Field(default_factory=MdSettings, description="For task md.")
    relax: RelaxSettings = Field(default_factory=RelaxSettings, description="For task relax.")
    neb: NebSettings = Field(default_factory=NebSettings, description="For task neb.")


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
        data = yaml.safe_load(path.read_text())
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
    from hybrid_calc.committee.mace import MaceCommittee

    patterns = [settings.files] if isinstance(settings.files, str) else settings.files
    return MaceCommittee.from_files(
        [str(base / pattern) for pattern in patterns],
        trust=settings.trust,
        dtype=settings.dtype,
        device=settings.device,
        level=None if settings.level is None else _level(settings.level),
    )


def build_reference(settings: ReferenceSettings) -> Reference:
    """Return the reference; its worker starts at the first label."""
    if isinstance(settings, ToyReferenceSettings):
        from hybrid_calc.reference.toy import ToyReference

        return ToyReference()
    if isinstance(settings, XtbSettings):
        from hybrid_calc.reference.ase_backend import gfn2_xtb

        return gfn2_xtb()
    from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL, PySCFReference

    level = ANI_1X_LEVEL if settings.level == "ani-1x" else _level(settings.level)
    return PySCFReference(
        level,
        threads=settings.threads,
        max_memory_mb=settings.max_memory_mb,
        wall_limit_s=settings.wall_limit_s,
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
    """
    store = output / "run.h5" if settings.store is None else base / settings.store
    return HybridCalculator(
        build_committee(settings.committee, base),
        build_reference(settings.reference),
        settings.gate,
        str(store),
        limits=settings.flags,
        allow_level_mismatch=settings.allow_level_mismatch,
    )


def _level(data: Any) -> Any:
    from hybrid_calc.reference.level import LevelOfTheory

    if not isinstance(data, dict):
        raise SettingsError(f"a level of theory is a name or keys and values; got {data!r}.")
    try:
        return LevelOfTheory.from_dict({"program": "pyscf", **data})
    except TypeError as error:
        raise SettingsError(f"level of theory: {error}.") from error


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
        return molecule(name)
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
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {text}: {parent} has no keys below it.")
        data = inner
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: the value is not valid YAML.") from error


def _explain(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        return f"unknown key {key}; {hint}{more}"
    return f"{key or 'settings'}: {first['msg']}; got {_short(first.get('input'))}.{more}"


def _known_keys(path: list[str]) -> list[str]:
    """Return the keys allowed at a place, following unions by their kind."""
    model: Any = RunSettings
    kinds = {
        "committee": {"ani": AniSettings, "mace": MaceSettings, "toy": ToySettings},
        "reference": {"pyscf": PySCFSettings, "xtb": XtbSettings, "toy": ToyReferenceSettings},
    }
    for number, part in enumerate(path):
        if number == 1 and path[0] in kinds:
            model = kinds[path[0]].get(part, model)
        elif part not in kinds:
            inner = model.model_fields.get(part)
            model = _model_in(inner.annotation) if inner is not None else model
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """Return the settings class inside an optional annotation."""
    for part in getattr(annotation, "__args__", (annotation,)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return annotation


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
