"""Geometry optimisation on one surface, confirmed by the reference, as a job."""

from __future__ import annotations

from typing import Any

from ase import Atoms

from hybrid_calc.correction.surface import refuse_periodic
from hybrid_calc.drivers.job import Job, Outcome
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.labelling import NO_MORE_LABELS
from hybrid_calc.drivers.relax import HybridRelax, RelaxResult
from hybrid_calc.drivers.settings import RelaxSettings
from hybrid_calc.drivers.surface_job import SurfaceJob, coverage_of
from hybrid_calc.errors import MemberLost, PredictionFailed, ReferenceFailed


def run_surface_relax(atoms: Atoms, settings: RelaxSettings, job: Job) -> Outcome:
    """Relax a structure or go on relaxing it, and write ``relaxed.xyz``.

    Parameters
    ----------
    atoms
        Where to start, with its constraints.
    settings
        Of the optimisation.
    job
        Calculator, folder, progress.

    Raises
    ------
    ReferenceFailed
        Not even the starting geometry could be labelled.
    """
    refuse_periodic(atoms)
    run = SurfaceJob("relax", atoms, job)
    state = run.resume()
    if job.folder.resumed is None:
        run.known = known_labels(job.calculator, atoms, [atoms.positions])
        run.save(None)
    predict_many = committee_for(job.calculator, atoms)
    driver = HybridRelax(atoms, predict_many, run.label, settings, known=run.known, save=run.save)
    if state is not None:
        driver.restore(state)
    softest = None
    try:
        result = driver.run()
        softest = _softest(driver, result)
    except NO_MORE_LABELS as error:
        if isinstance(error, ReferenceFailed):
            raise
        return run.nothing_found(str(error))
    finally:
        run.note_time()
    return Outcome(
        ending=run.ending(confirmed=result.confirmed),
        steps=run.asked,
        why=result.missing,
        figures=_figures(result, run) | {"softest_invcm": softest},
    )


def _softest(driver: HybridRelax, result: RelaxResult) -> float | None:
    """Return the softest mode that is known, 1/cm; None where there is none to be had."""
    if result.vibrations is not None and len(result.vibrations.frequencies):
        return float(result.vibrations.frequencies[0])
    try:
        return driver.softest_mode()
    except (PredictionFailed, MemberLost):
        return None  # nothing depends on it


def _figures(result: RelaxResult, run: SurfaceJob) -> dict[str, Any]:
    atoms = result.atoms.copy()
    atoms.calc = result.atoms.calc
    atoms.info |= {"confirmed": result.confirmed, "fmax_ev_per_ang": result.fmax}
    figures: dict[str, Any] = {
        "driver": "surface",
        "confirmed": result.confirmed,
        "missing": result.missing,
        "energy_ev": float(atoms.get_potential_energy()),
        "fmax_ev_per_ang": result.fmax,
        "method": result.method,
        "prior": result.prior,
        "known_labels": len(run.known),
        "forecasts": coverage_of(result.forecasts),
        "files": {"relaxed": run.job.folder.write_structures("relaxed", [atoms])},
    }
    if result.vibrations is not None:
        figures["vibrations"] = result.vibrations.to_dict()
    return figures
