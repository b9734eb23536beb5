"""One job from its settings to its summary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console

from hybrid_calc.answer.step import Step
from hybrid_calc.config.build import build_calculator, build_guess, build_structure
from hybrid_calc.config.job import RunSettings
from hybrid_calc.correction.surface import refuse_periodic
from hybrid_calc.drivers.ase_neb import run_neb
from hybrid_calc.drivers.ase_relax import run_relax
from hybrid_calc.drivers.ends import check_ends, refuse_other_fixed_atoms
from hybrid_calc.drivers.folder import RunFolder
from hybrid_calc.drivers.job import Ending, Job, Outcome
from hybrid_calc.drivers.md import run_md
from hybrid_calc.drivers.polish import require_sella
from hybrid_calc.drivers.settings import NebSettings, RelaxSettings
from hybrid_calc.drivers.surface_neb import run_surface_neb
from hybrid_calc.drivers.surface_relax import run_surface_relax
from hybrid_calc.errors import SettingsError
from hybrid_calc.report.display import Display
from hybrid_calc.report.profile import draw_profile
from hybrid_calc.report.result import print_result
from hybrid_calc.report.scope import ScopeLog
from hybrid_calc.report.summary import ErrorLog, print_summary, summarise
from hybrid_calc.signals import noted_signals

EXIT_CODES = {
    Ending.FINISHED: 0,
    Ending.NOT_CONVERGED: 3,
    Ending.BUDGET: 4,
    Ending.INTERRUPTED: 5,
    Ending.UNCONFIRMED: 6,
}
"""Exit code of each ending; bad input is 2, a failed reference 1."""

PROFILE = "profile.png"

ENDING = b"hybrid-calc: ending after this step; a second signal ends at once.\n"


def run_job(
    settings: RunSettings, *, base: Path, output: Path, resume: bool, console: Console
) -> Ending:
    """Run or resume a job and leave its traces in a folder.

    Parameters
    ----------
    settings
        Of the job.
    base
        Folder that the settings' paths start from.
    output
        Folder of the run.
    resume
        Go on with the run in that folder.
    console
        Where to show progress and summary.

    Raises
    ------
    HybridCalcError
        Bad input, or a reference failure that the settings do not tolerate;
        what was validated before is in the store.
    """
    _set_threads(settings)
    atoms = build_structure(settings.structure, base)
    end = _other_end(settings, base)
    path = _between(settings, atoms, end, base)
    calculator = build_calculator(settings, base, output)  # opens nothing before the first label
    folder = RunFolder(output, resume=resume)
    errors, scope = ErrorLog(), ScopeLog()
    for line in folder.decisions():
        errors.add(line["regime"], line["force_error"], line["good"])
        scope.add(line["regime"], line.get("mean_temperature"), line.get("molecule"))
    try:
        with noted_signals(ENDING) as asked_to_stop, Display(console, calculator) as display:

            def on_step(step: Step) -> None:
                folder.log(step)
                errors.add(str(step.regime), step.force_error, step.good)
                scope.add(str(step.regime), step.flags.mean_temperature, step.observation.molecule)

            calculator.engine.on_step = on_step
            if settings.task == "md":
                calculator.engine.seeds["velocities and thermostat"] = settings.md.seed
            job = Job(
                calculator=calculator,
                folder=folder,
                progress=display.update,
                say=display.say,
                interrupted=lambda: bool(asked_to_stop),
            )
            outcome = _drive(settings, atoms, end, path, job)
    finally:
        folder.close()
        calculator.close()
    figures = summarise(calculator.engine, errors, scope)
    summary = _summary(settings, outcome, figures, folder.wall_seconds)
    if "profile" in summary and draw_profile(folder.path / PROFILE, summary):
        summary["files"]["profile"] = PROFILE
    folder.write_summary(summary)
    print_result(console, summary)
    print_summary(console, summary)
    _say_more(console, summary, output)
    store = calculator.engine.store
    if store is not None and store.damage:
        console.print(
            f"store damaged: {len(store.damage)} places, {store.lost} frames lost; "
            f"see: hybrid-calc store verify {store.path}",
            style="red", highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return outcome.ending


def _drive(
    settings: RunSettings, atoms: Atoms, end: Atoms | None, path: list[Atoms], job: Job
) -> Outcome:
    if settings.task == "md":
        return run_md(atoms, settings.md, job)
    if settings.task == "relax":
        if isinstance(settings.relax, RelaxSettings):
            return run_surface_relax(atoms, settings.relax, job)
        return run_relax(atoms, settings.relax, job)
    if end is None:
        raise SettingsError("task neb needs end: the structure at the other end of the band.")
    if isinstance(settings.neb, NebSettings):
        return run_surface_neb(atoms, end, path, settings.neb, job)
    return run_neb(atoms, end, settings.neb, job)


def _other_end(settings: RunSettings, base: Path) -> Atoms | None:
    if settings.task != "neb":
        return None
    if settings.end is None:
        raise SettingsError("task neb needs end: the structure at the other end of the band.")
    return build_structure(settings.end, base)


def _between(settings: RunSettings, atoms: Atoms, end: Atoms | None, base: Path) -> list[Atoms]:
    """Return what a user gives between the ends; refuse what the driver cannot do.

    Raises
    ------
    InputError
        Before anything is written or computed.
    """
    if settings.task == "relax" and isinstance(settings.relax, RelaxSettings):
        refuse_periodic(atoms)
    if end is None:
        return []
    check_ends(atoms, end)
    if not isinstance(settings.neb, NebSettings):
        return []
    refuse_periodic(atoms)
    path = build_guess(settings.neb.guess, atoms, base)
    refuse_other_fixed_atoms(atoms, [end, *path])
    if settings.neb.polish == "sella":
        require_sella()
    return path


def _set_threads(settings: RunSettings) -> None:
    """Set the committee's threads; small molecules are slower with more than one."""
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.committee.kind == "toy":
        return  # needs no torch, whose import takes seconds
    import torch

    torch.set_num_threads(settings.threads)


def _summary(
    settings: RunSettings,
    outcome: Outcome,
    figures: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    summary = {
        "task": settings.task,
        "ending": outcome.ending.value,
        "why": outcome.why,
        "steps": outcome.steps,
        **figures,
        **outcome.figures,
    }
    summary["wall_seconds"]["total"] = round(seconds, 3)
    return summary


def _say_more(console: Console, summary: dict[str, Any], output: Path) -> None:
    """Print what needs a sentence, and what to type next."""
    for text in (summary["why"], summary["notice"], summary.get("caution")):
        if text:
            console.print(text[0].upper() + text[1:], style="yellow", highlight=False, markup=False)
    if "image_energies_ev" in summary:
        for number, (energy, source) in enumerate(
            zip(summary["image_energies_ev"], summary["image_sources"], strict=True)
        ):
            console.print(f"image {number}: {energy:8.3f} eV, {source}", highlight=False)
    store = summary["store"]
    for name, file in summary.get("files", {}).items():
        line = f"{name.replace('_', ' ')}: {output / file}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for line in (
        f"store:     {store}",
        f"decisions: {output / 'decisions.jsonl'}",
        f"look further: hybrid-calc store info {store}",
        f"train MACE on it: hybrid-calc store export {store} {output / 'train.xyz'}",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
