"""Geometry optimisation with ASE's own optimisers on the hybrid calculator."""

from __future__ import annotations

from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms

from hybrid_calc.drivers.job import (
    Ending,
    Job,
    Outcome,
    answer_of,
    check_resumed,
    give_back,
    last_step,
)
from hybrid_calc.drivers.settings import AseRelaxSettings
from hybrid_calc.errors import BudgetExhausted

NOT_CONVERGED = "the largest force is still above the target; raise relax.steps and resume"


def run_relax(atoms: Atoms, settings: AseRelaxSettings, job: Job) -> Outcome:
    """Relax or go on relaxing a structure.

    Parameters
    ----------
    atoms
        Where to start; its calculator is set, its positions are changed.
    settings
        Of the optimisation.
    job
        Calculator, folder, progress.
    """
    atoms.calc = job.calculator
    done = 0
    if job.folder.resumed is not None:
        done = _restore(atoms, job, job.folder.resumed)
    known = bool(job.calculator.results)
    if not known:
        _save(atoms, job, done)
    optimizer = getattr(ase.optimize, settings.optimizer)(atoms, logfile=None)

    def observe() -> None:
        if known and optimizer.nsteps == 0:
            return  # where the run stopped; written then
        job.folder.write_frame(atoms, last_step(job.calculator))
        _save(atoms, job, done + optimizer.nsteps)
        job.progress(done + optimizer.nsteps, settings.steps)

    optimizer.attach(observe)
    ending, why = Ending.NOT_CONVERGED, NOT_CONVERGED
    try:
        steps = max(0, settings.steps - done)
        for converged in optimizer.irun(fmax=settings.fmax_ev_per_ang, steps=steps):
            if converged:
                ending, why = Ending.FINISHED, ""
            elif job.interrupted():
                ending, why = Ending.INTERRUPTED, "a signal asked for it"
                break
    except BudgetExhausted as error:
        return Outcome(ending=Ending.BUDGET, steps=done + optimizer.nsteps, why=str(error))
    return Outcome(
        ending=ending, steps=done + optimizer.nsteps, why=why, figures=_figures(atoms, job)
    )


def _figures(atoms: Atoms, job: Job) -> dict[str, Any]:
    return {
        "energy_ev": float(atoms.get_potential_energy()),
        "fmax_ev_per_ang": float(np.sqrt((atoms.get_forces() ** 2).sum(axis=1)).max()),
        "last_source": job.calculator.trajectory.source,
        "energy_jump_sum_ev": job.calculator.conserved_shift,
    }


def _save(atoms: Atoms, job: Job, steps: int) -> None:
    job.folder.save_state(
        {
            "task": "relax",
            "step": steps,
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "answer": answer_of(job.calculator),
            "engine": job.calculator.engine.state(),
            "trajectory": job.calculator.trajectory.state(),
        }
    )


def _restore(atoms: Atoms, job: Job, state: dict[str, Any]) -> int:
    check_resumed(state, "relax", atoms, job)
    atoms.positions = state["positions"]
    job.calculator.engine.restore(state["engine"])
    job.calculator.trajectory.restore(state["trajectory"])
    give_back(job.calculator, atoms, state["answer"])
    return int(state["step"])
