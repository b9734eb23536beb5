"""Objects made from settings."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from glob import glob
from pathlib import Path

from ase import Atoms
from ase.constraints import FixAtoms

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.config.committee import (
    AniSettings,
    BundleSettings,
    CommitteeSettings,
    ExternalSettings,
    FoundationSettings,
    ToySettings,
)
from hybrid_calc.config.executor import (
    ExecutorlibSettings,
    ExecutorSettings,
    LocalExecutorSettings,
    ParslSettings,
)
from hybrid_calc.config.job import RunSettings, StructureSettings
from hybrid_calc.config.reference import (
    AseSettings,
    PySCFSettings,
    ReferenceSettings,
    ToyReferenceSettings,
    XtbSettings,
)
from hybrid_calc.errors import SettingsError, StoreDamagedError, StructureError
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.label import Reference
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.store.frames import FrameStore


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
    _fix(atoms, settings.fixed)
    return atoms


def build_guess(file: Path | None, atoms: Atoms, base: Path) -> list[Atoms]:
    """Return the geometries a user gives between the ends of a band; empty without a file.

    Parameters
    ----------
    file
        One guess of the transition state, or several geometries in order.
    atoms
        An end of the band, whose atoms these must have.
    base
        Folder that a relative path starts from.

    Raises
    ------
    SettingsError
        The file is not there, or holds other atoms or the same in another order.
    StructureError
        ASE cannot read it.
    """
    if file is None:
        return []
    frames = _frames_of(base / file)
    for number, frame in enumerate(frames):
        if frame.numbers.tolist() != atoms.numbers.tolist():
            raise SettingsError(
                f"neb.guess: frame {number} of {base / file} is {frame.symbols} and the ends are "
                f"{atoms.symbols}; give the same atoms in the same order."
            )
        frame.info = dict(atoms.info)
        check_structure(frame)
    return frames


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
    """Return the reference; its worker, or its executor, starts at the first label."""
    if isinstance(settings, ToyReferenceSettings):
        from hybrid_calc.reference.toy import ToyReference

        return ToyReference()
    make = reference_maker(settings)
    if settings.executor is None:
        return make()
    from hybrid_calc.reference.executor import ExecutorReference

    threads = settings.threads if isinstance(settings, PySCFSettings) else 1
    return ExecutorReference(
        make,
        partial(build_executor, settings.executor, threads),
        workers=None if isinstance(settings.executor, ParslSettings) else settings.executor.workers,
        patience_s=settings.executor.patience_s,
    )


def reference_maker(
    settings: PySCFSettings | XtbSettings | AseSettings,
) -> Callable[[], Reference]:
    """Return what makes the reference, here or in another process."""
    if isinstance(settings, XtbSettings):
        from hybrid_calc.reference.ase_backend import gfn2_xtb

        return gfn2_xtb
    if isinstance(settings, AseSettings):
        from hybrid_calc.reference.ase_backend import ase_level, ase_reference

        level = None
        if settings.level is not None:
            level = ase_level(settings.level.to_level(), settings.calculator, settings.arguments)
        return partial(
            ase_reference,
            settings.calculator,
            settings.arguments,
            level=level,
            max_net_force_ev_per_ang=settings.max_net_force_ev_per_ang,
        )
    return partial(
        PySCFReference,
        settings.level.to_level(),
        threads=settings.threads,
        max_memory_mb=settings.max_memory_mb,
        wall_limit_s=settings.wall_limit_s,
        device=settings.device,
        warm_start=settings.warm_start,
        cold_share=settings.cold_share,
        stability=settings.stability,
        when_unstable=settings.when_unstable,
        max_spin_contamination=settings.max_spin_contamination,
    )


def build_executor(settings: ExecutorSettings, threads: int = 1) -> Executor:
    """Return the executor; each of its workers has so many threads."""
    from hybrid_calc.reference import executor_backends
    from hybrid_calc.reference.local_executor import LocalExecutor

    if isinstance(settings, LocalExecutorSettings):
        return LocalExecutor(settings.workers, threads=threads)
    if isinstance(settings, ExecutorlibSettings):
        return executor_backends.executorlib_executor(
            settings.backend,
            workers=settings.workers,
            threads=threads,
            arguments=settings.arguments,
        )
    if isinstance(settings, ParslSettings):
        return executor_backends.parsl_executor(
            settings.provider,
            workers=settings.workers,
            threads=threads,
            arguments=settings.arguments,
            provider_arguments=settings.provider_arguments,
            run_folder=settings.run_folder,
        )
    return executor_backends.executor_from(settings.function, settings.arguments)


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
    CalibrationError
        The calibration that the settings name was made for something else.
    """
    path = output / "run.h5" if settings.store is None else base / settings.store
    try:
        store = FrameStore(path)
    except StoreDamagedError as error:
        raise SettingsError(f"store: {error}") from error
    committee = build_committee(settings.committee, base)
    reference = build_reference(settings.reference)
    return HybridCalculator(
        committee,
        reference,
        _gate_from(settings.gate, base),
        store,
        limits=settings.flags,
        allow_level_mismatch=settings.allow_level_mismatch,
    )


def _gate_from(settings: GateSettings, base: Path) -> GateSettings:
    """Return the gate's settings with the calibration's path from the settings file's folder."""
    if settings.calibration is None:
        return settings
    return settings.model_copy(update={"calibration": base / settings.calibration})


def _model_files(files: Sequence[str] | str, base: Path) -> list[Path]:
    """Return the files of names and patterns; a name without a file is kept as it is."""
    found: list[Path] = []
    for name in [files] if isinstance(files, str) else files:
        found += [base / match for match in sorted(glob(name, root_dir=base)) or [name]]
    return found


def _from_file(path: Path) -> Atoms:
    return _frames_of(path, last_only=True)[-1]


def _frames_of(path: Path, *, last_only: bool = False) -> list[Atoms]:
    """Return the frames of any file ASE reads."""
    import ase.io

    if not path.is_file():
        raise SettingsError(f"structure file {path} is not there.")
    try:
        frames = ase.io.read(path, index=slice(-1, None) if last_only else slice(None))
    except Exception as error:  # ASE's readers raise whatever they meet
        raise StructureError(
            f"structure file {path} cannot be read by ASE: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(frames, list) or not frames:
        raise StructureError(f"structure file {path} holds no structure.")
    for atoms in frames:
        atoms.calc = None
    return frames


def _fix(atoms: Atoms, fixed: Sequence[int]) -> None:
    """Fix atoms beside those that are fixed already.

    Raises
    ------
    SettingsError
        There is no such atom.
    """
    if not fixed:
        return
    beyond = [index for index in fixed if index >= len(atoms)]
    if beyond:
        raise SettingsError(
            f"structure.fixed names atoms {beyond}; the structure has {len(atoms)}, counted from 0."
        )
    others = [one for one in atoms.constraints if not isinstance(one, FixAtoms)]
    before = [i for one in atoms.constraints if isinstance(one, FixAtoms) for i in one.index]
    atoms.set_constraint([*others, FixAtoms(sorted({*before, *fixed}))])


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
