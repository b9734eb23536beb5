"""Geometry optimisation with ASE's own optimisers on the hybrid calculator."""

from __future__ import annotations

from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms

from hybrid_calc.drivers.job import Ending, Job, Outcome, check_resumed
from hybrid_calc.drivers.settings import RelaxSettings
from hybrid_calc.errors import BudgetExhausted, PredictionFailed


def run_relax(atoms: Atoms, settings: RelaxSettings, job: Job) -> Outcome:
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
    optimizer = getattr(ase.optimize, settings.optimizer)(atoms, logfile=None)

    def observe() -> None:
        step = job.calculator.last_step
        if step is None:
            raise PredictionFailed("the calculator answered nothing.")
        job.folder.write_frame(atoms, step)
        _save(atoms, job, done + optimizer.nsteps)
        job.progress(done + optimizer.nsteps, settings.steps)

    optimizer.attach(observe)
    ending, why = Ending.NOT_CONVERGED, "the largest force is still above the target; raise relax.steps and resume"
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
    step = job.calculator.last_step
    return {
        "energy_ev": float(atoms.get_potential_energy()),
        "fmax_ev_per_ang": float(np.sqrt((atoms.get_forces() ** 2).sum(axis=1)).max()),
        "last_source": None if step is None else step.source.value,
        "energy_jump_sum_ev": job.calculator.conserved_shift,
    }


def _save(atoms: Atoms, job: Job, steps: int) -> None:
    job.folder.save_state(
        {
            "task": "relax",
            "step": steps,
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "engine": job.calculator.engine.state(),
            "trajectory": job.calculator.trajectory.state(),
        }
    )


def _restore(atoms: Atoms, job: Job, state: dict[str, Any]) -> int:
    check_resumed(state, "relax", atoms)
    atoms.positions = state["positions"]
    job.calculator.engine.restore(state["engine"])
    job.calculator.trajectory.restore(state["trajectory"])
    return int(state["step"])
