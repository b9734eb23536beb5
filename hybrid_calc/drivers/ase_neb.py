"""A band with ASE's own NEB on the hybrid calculator.

Every image asks on its own, so the images of one band may be answered by
different levels; the result says so and marks each energy.
"""

from __future__ import annotations

from typing import Any

import ase.optimize
from ase import Atoms
from ase.mep import NEB

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.drivers.job import Ending, Job, Outcome, check_resumed
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.errors import BudgetExhausted, InputError, PredictionFailed

MIXED = (
    "images were answered by different levels (see image_sources): their energies are aligned at "
    "the first label only, so this barrier is not one of a single surface"
)


def run_neb(first: Atoms, last: Atoms, settings: NebSettings, job: Job) -> Outcome:
    """Relax both ends, then a band between them; or go on with a band.

    Parameters
    ----------
    first, last
        The two ends, with their atoms in the same order.
    settings
        Of the band.
    job
        Calculator, folder, progress.

    Raises
    ------
    InputError
        The ends are not the same atoms in the same order.
    """
    if first.numbers.tolist() != last.numbers.tolist():
        raise InputError(
            f"the two ends have different atoms or another order ({first.symbols} and "
            f"{last.symbols}); give both with the same atoms in the same order."
        )
    images = [first.copy() for _ in range(settings.images - 1)] + [last.copy()]
    images[-1].info = dict(first.info)
    handles = [job.calculator.handle() for _ in images]
    for image, handle in zip(images, handles, strict=True):
        image.calc = handle
        handle.start(first)
    try:
        done = _prepare(images, handles, settings, job)
        return _optimise(images, handles, settings, job, done)
    except BudgetExhausted as error:
        return Outcome(ending=Ending.BUDGET, steps=0, why=str(error))


def _prepare(
    images: list[Atoms], handles: list[HybridHandle], settings: NebSettings, job: Job
) -> int:
    """Set the band up: as it was left, or between relaxed ends; return steps done before."""
    resumed = job.folder.resumed
    if resumed is not None:
        check_resumed(resumed, "neb", images[0])
        if len(resumed["band"]) != len(images):
            raise InputError(
                f"the band to resume has {len(resumed['band'])} images; "
                f"neb.images is {len(images)}."
            )
        job.calculator.engine.restore(resumed["engine"])
        for image, handle, positions, state in zip(
            images, handles, resumed["band"], resumed["trajectories"], strict=True
        ):
            image.positions = positions
            handle.trajectory.restore(state)
        return int(resumed["step"])
    if settings.relax_ends:
        for end in (images[0], images[-1]):
            ase.optimize.BFGS(end, logfile=None).run(
                fmax=settings.fmax_ev_per_ang / 2, steps=settings.steps
            )
    NEB(images, method="improvedtangent").interpolate(method=settings.interpolation)
    return 0


def _optimise(
    images: list[Atoms],
    handles: list[HybridHandle],
    settings: NebSettings,
    job: Job,
    done: int,
) -> Outcome:
    band = NEB(
        images, k=settings.spring_ev_per_ang, climb=settings.climb, method="improvedtangent"
    )
    optimizer = ase.optimize.FIRE(band, logfile=None)

    def observe() -> None:
        _save(images, handles, job, done + optimizer.nsteps)
        job.progress(done + optimizer.nsteps, settings.steps)

    optimizer.attach(observe)
    ending, why = Ending.NOT_CONVERGED, "the band is not converged; raise neb.steps and resume"
    steps = max(0, settings.steps - done)
    for converged in optimizer.irun(fmax=settings.fmax_ev_per_ang, steps=steps):
        if converged:
            ending, why = Ending.FINISHED, ""
        elif job.interrupted():
            ending, why = Ending.INTERRUPTED, "a signal asked for it"
            break
    return Outcome(
        ending=ending,
        steps=done + optimizer.nsteps,
        why=why,
        figures=_figures(images, handles, job),
    )


def _figures(images: list[Atoms], handles: list[HybridHandle], job: Job) -> dict[str, Any]:
    """Return energies along the band, who answered each, and the barrier they make."""
    sources, energies = [], []
    for image, handle in zip(images, handles, strict=True):
        energies.append(float(image.get_potential_energy()))
        step = handle.last_step
        if step is None:
            raise PredictionFailed("an image of the band was never answered.")
        sources.append(step.source.value)
        job.folder.write_frame(image, step)
    mixed = len(set(sources)) > 1
    return {
        "image_energies_ev": [energy - energies[0] for energy in energies],
        "image_sources": sources,
        "mixed_levels": mixed,
        "barrier_ev": max(energies) - energies[0],
        "reaction_energy_ev": energies[-1] - energies[0],
        "caution": MIXED if mixed else "",
    }


def _save(images: list[Atoms], handles: list[HybridHandle], job: Job, steps: int) -> None:
    job.folder.save_state(
        {
            "task": "neb",
            "step": steps,
            "numbers": images[0].numbers.tolist(),
            "band": [image.positions.tolist() for image in images],
            "trajectories": [handle.trajectory.state() for handle in handles],
            "engine": job.calculator.engine.state(),
        }
    )
