"""A barrier on one surface, confirmed by the reference, as a job."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from hybrid_calc.drivers.barrier import ElementaryStep, NEBResult
from hybrid_calc.drivers.job import Job, Outcome
from hybrid_calc.drivers.known import committee_for
from hybrid_calc.drivers.labelling import NO_MORE_LABELS
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import distance_between, frozen_atoms, turn_onto
from hybrid_calc.drivers.surface_job import SurfaceJob, coverage_of, number
from hybrid_calc.errors import ReferenceFailed


def run_surface_neb(
    reactant: Atoms, product: Atoms, path: Sequence[Atoms], settings: NebSettings, job: Job
) -> Outcome:
    """Seek a barrier or go on seeking it, and write its structures.

    Parameters
    ----------
    reactant, product
        The ends, their atoms in the same order; constraints on the reactant.
    path
        Geometries between them, or one guess of the transition state; empty without.
    settings
        Of the search.
    job
        Calculator, folder, progress.

    Raises
    ------
    ReferenceFailed
        An end could not be labelled even once.
    """
    run = SurfaceJob("neb", reactant, job)
    state = run.resume()
    driver = HybridNEB(
        reactant,
        product,
        committee_for(job.calculator, reactant),
        run.label,
        settings,
        path=path,
        save=run.save,
    )
    if job.folder.resumed is None:
        run.known = driver.known_to(job.calculator)
        run.save(None)
    driver.known = run.known
    if state is not None:
        driver.restore(state)
    try:
        result = driver.run()
    except NO_MORE_LABELS as error:
        if isinstance(error, ReferenceFailed):
            raise
        return run.nothing_found(f"an end of the band was never labelled: {error}")
    finally:
        run.note_time()
    return Outcome(
        ending=run.ending(confirmed=result.confirmed),
        steps=run.asked,
        why=result.missing,
        figures=_figures(result, run),
    )


def _figures(result: NEBResult, run: SurfaceJob) -> dict[str, Any]:
    low, high = result.interval
    top = result.highest
    distances = path_lengths(result.path, free=not frozen_atoms(result.reactant))
    profile: dict[str, Any] = {
        "distance_ang": distances.tolist(),
        "energy_ev": [number(value) for value in result.path_energies],
        "half_width_95_ev": [number(value) for value in result.path_half_widths],
        "labelled": [index in result.labelled_images for index in range(len(result.path))],
        "transition_state": _place_of(result, distances),
    }
    figures: dict[str, Any] = {
        "driver": "surface",
        "confirmed": result.confirmed,
        "missing": result.missing,
        "barrier_ev": number(result.barrier),
        "barrier_interval_95_ev": [number(low), number(high)],
        "reverse_barrier_ev": number(result.reverse_barrier),
        "reverse_barrier_interval_95_ev": [number(value) for value in result.reverse_interval],
        "reaction_energy_ev": number(result.reaction_energy),
        "transition_fmax_ev_per_ang": number(top.transition_fmax),
        "curvatures_ev_per_ang2": [number(value) for value in top.curvatures],
        "labelled_images": list(result.labelled_images),
        "labels_by_purpose": {
            "ends": result.end_calls,
            "between": result.interior_labels,
            "confirmation": result.confirmation_labels,
            "polish": sum(step.polish.labels for step in result.steps if step.polish),
        },
        "prior": top.prior,
        "known_labels": len(run.known),
        "forecasts": coverage_of(result.forecasts),
        "elementary_steps": [_step_figures(step) for step in result.steps],
        "pathways": [
            {
                "barrier_ev": number(one.barrier),
                "steps": one.steps,
                "confirmed": one.confirmed,
                "missing": one.missing,
            }
            for one in result.pathways
        ],
        "profile": profile,
        "files": _write(result, run, profile),
    }
    return figures


def _step_figures(step: ElementaryStep) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "joins": list(step.names),
        "confirmed": step.confirmed,
        "barrierless": step.barrierless,
        "barrier_ev": number(step.barrier),
        "half_width_95_ev": number(step.half_width),
        "reaction_energy_ev": number(step.reaction_energy),
        "transition_fmax_ev_per_ang": number(step.transition_fmax),
        "curvatures_ev_per_ang2": [number(value) for value in step.curvatures],
        "labels": step.labels,
        "prior": step.prior,
    }
    if step.polish is not None:
        figures["polish"] = step.polish.to_dict()
    if step.downhill:
        names = dict(zip(("start", "end"), step.names, strict=True))
        figures["downhill_ends"] = [
            one.to_dict() | {"joins": names.get(one.joins, one.joins)} for one in step.downhill
        ]
    return figures


def path_lengths(path: NDArray[np.float64], *, free: bool) -> NDArray[np.float64]:
    """Return how far each image (B, N, 3) is along its path, A, shape (B,).

    The distance of two images is the root of the summed squared displacements of all atoms,
    of free molecules after turning one onto the other.
    """
    steps = []
    for one, two in pairwise(path):
        there = turn_onto(two, one).positions if free else two
        steps.append(float(np.linalg.norm(there - one)))
    return np.concatenate([[0.0], np.cumsum(steps)])


def _place_of(result: NEBResult, distances: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return where on the profile the labelled transition state stands, None without one."""
    here = result.transition_state
    if here is None:
        return None
    nearest = min(range(len(result.path)), key=lambda k: distance_between(result.path[k], here))
    return {
        "distance_ang": float(distances[nearest]),
        "energy_ev": number(result.barrier),
        "image": nearest,
    }


def _write(result: NEBResult, run: SurfaceJob, profile: dict[str, Any]) -> dict[str, str]:
    """Write every structure with its energy on the reference's zero; return names of files."""
    folder = run.job.folder
    zero = float(result.reactant.get_potential_energy())
    frames = []
    for index, positions in enumerate(result.path):
        energy, half = profile["energy_ev"][index], profile["half_width_95_ev"][index]
        frame = _frame(result.reactant, positions, None if energy is None else zero + energy)
        frame.info |= {"image": index, "labelled": profile["labelled"][index]}
        if half is not None:
            frame.info["half_width_95_ev"] = half
        frames.append(frame)
    files = {
        "reactant": folder.write_structures("reactant", [result.reactant]),
        "product": folder.write_structures("product", [result.product]),
        "path": folder.write_structures("path", frames),
    }
    saddles = [
        _saddle(step, step.transition_state) if step.transition_state is not None else None
        for step in result.steps
    ]
    highest = saddles[result.steps.index(result.highest)]
    if highest is not None:
        files["transition_state"] = folder.write_structures("transition_state", [highest])
    if len(result.steps) > 1:
        known = [saddle for saddle in saddles if saddle is not None]
        files["transition_states"] = folder.write_structures("transition_states", known)
        minima = [step.end for step in result.steps[:-1]]
        files["intermediates"] = folder.write_structures("intermediates", minima)
    return files


def _saddle(step: ElementaryStep, positions: NDArray[np.float64]) -> Atoms:
    """Return the transition state of a step, at positions (N, 3), A."""
    energy = float(step.start.get_potential_energy()) + step.barrier
    saddle = _frame(step.start, positions, energy)
    saddle.info |= {
        "joins": " and ".join(step.names),
        "confirmed": step.confirmed,
        "fmax_ev_per_ang": step.transition_fmax,
        "barrier_ev": step.barrier,
    }
    return saddle


def _frame(template: Atoms, positions: NDArray[np.float64], energy: float | None) -> Atoms:
    """Return the molecule at positions (N, 3), A, with an energy, eV, where there is one."""
    frame: Atoms = template.copy()
    frame.set_positions(positions, apply_constraint=False)
    if energy is not None:
        frame.calc = SinglePointCalculator(frame, energy=energy)
    return frame
