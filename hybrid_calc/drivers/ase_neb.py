"""A band with ASE's own NEB on the hybrid calculator.

Every image asks on its own, so the images of one band may be answered by
different levels; the result says so and marks each energy.
"""

from __future__ import annotations

from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms
from ase.mep import NEB
from numpy.typing import NDArray

from hybrid_calc.drivers.ends import check_ends
from hybrid_calc.drivers.job import Ending, Job, Outcome, check_resumed, last_step
from hybrid_calc.drivers.settings import AseNebSettings
from hybrid_calc.engine import Engine
from hybrid_calc.errors import BudgetExhausted, InputError

MIXED = (
    "images were answered by different levels (see image_sources): their energies are aligned at "
    "the first label only, so this barrier is not one of a single surface"
)
INTERRUPTED = "a signal asked for it"


def run_neb(first: Atoms, last: Atoms, settings: AseNebSettings, job: Job) -> Outcome:
    """Relax both ends, then a band between them; or go on with a band.

    Parameters
    ----------
    first, last
        The two ends, with their atoms in the same order.  Charge and
        multiplicity of the first hold for both unless the last says its own.
    settings
        Of the band.
    job
        Calculator, folder, progress.

    Raises
    ------
    InputError
        The ends are not the same atoms in the same order, in the same cell,
        with the same charge and multiplicity.
    """
    check_ends(first, last)
    return _Run(first, last, settings, job).run()


class BatchedNEB(NEB):
    """ASE's band, whose images the committee predicts in one pass.

    Parameters
    ----------
    engine
        Behind the images' calculators.
    images, settings
        As for ASE's NEB.
    """

    def __init__(self, engine: Engine, images: list[Atoms], **settings: Any) -> None:
        super().__init__(images, **settings)
        self._engine = engine

    def get_forces(self) -> NDArray[np.float64]:
        """Return the band's forces, eV/A, shape (interior images x N, 3)."""
        self._engine.prefetch(self.images)
        return np.asarray(super().get_forces())


class _Run:
    """One band: its images, their calculators, and how far it is.

    The trajectory gets all images after every step, as ``ase gui`` expects of a band.
    """

    def __init__(self, first: Atoms, last: Atoms, settings: AseNebSettings, job: Job) -> None:
        self.settings, self.job = settings, job
        self.images = [first.copy() for _ in range(settings.images - 1)] + [last.copy()]
        self.images[-1].info = dict(first.info)
        self.handles = [job.calculator.handle() for _ in self.images]
        for image, handle in zip(self.images, self.handles, strict=True):
            image.calc = handle
            handle.start(first)
        self.step = 0
        self.has_band = False
        if job.folder.resumed is not None:
            self._restore(job.folder.resumed)
        else:
            self._save()

    def run(self) -> Outcome:
        """Go on from where the band is until the end, the budget or an interruption."""
        try:
            if not self.has_band:
                ending, why = self._relax_ends()
                if ending is not Ending.FINISHED:
                    return Outcome(ending=ending, steps=self.step, why=why)
                NEB(self.images, method="improvedtangent").interpolate(
                    method=self.settings.interpolation
                )
                self.has_band = True
                self._save()
            ending, why = self._optimise()
        except BudgetExhausted as error:
            return Outcome(ending=Ending.BUDGET, steps=self.step, why=str(error))
        return Outcome(ending=ending, steps=self.step, why=why, figures=self._figures())

    def _relax_ends(self) -> tuple[Ending, str]:
        settings = self.settings
        for end in (self.images[0], self.images[-1]) if settings.relax_ends else ():
            optimizer = ase.optimize.BFGS(end, logfile=None)
            optimizer.attach(self._save)
            fmax, steps = settings.fmax_ev_per_ang / 2, settings.steps
            for converged in optimizer.irun(fmax=fmax, steps=steps):
                if not converged and self.job.interrupted():
                    return Ending.INTERRUPTED, INTERRUPTED
            if not converged:
                return Ending.NOT_CONVERGED, (
                    f"an end of the band is not relaxed after {steps} steps; "
                    "resume, or raise neb.steps"
                )
        return Ending.FINISHED, ""

    def _optimise(self) -> tuple[Ending, str]:
        settings = self.settings
        band = BatchedNEB(
            self.job.calculator.engine,
            self.images,
            k=settings.spring_ev_per_ang,
            climb=settings.climb,
            method="improvedtangent",
        )
        optimizer = ase.optimize.FIRE(band, logfile=None)
        done = self.step

        def observe() -> None:
            self.step = done + optimizer.nsteps
            for image, handle in zip(self.images, self.handles, strict=True):
                image.get_potential_energy()
                self.job.folder.write_frame(image, last_step(handle))
            self._save()
            self.job.progress(self.step, settings.steps)

        optimizer.attach(observe)
        steps = max(0, settings.steps - done)
        for converged in optimizer.irun(fmax=settings.fmax_ev_per_ang, steps=steps):
            if converged:
                return Ending.FINISHED, ""
            if self.job.interrupted():
                return Ending.INTERRUPTED, INTERRUPTED
        return Ending.NOT_CONVERGED, "the band is not converged; raise neb.steps and resume"

    def _figures(self) -> dict[str, Any]:
        """Return energies along the band, who answered each, and the barrier they make."""
        energies = [float(image.get_potential_energy()) for image in self.images]
        sources = [last_step(handle).source.value for handle in self.handles]
        mixed = len(set(sources)) > 1
        return {
            "image_energies_ev": [energy - energies[0] for energy in energies],
            "image_sources": sources,
            "mixed_levels": mixed,
            "barrier_ev": max(energies) - energies[0],
            "reaction_energy_ev": energies[-1] - energies[0],
            "caution": MIXED if mixed else "",
        }

    def _save(self) -> None:
        self.job.folder.save_state(
            {
                "task": "neb",
                "step": self.step,
                "numbers": self.images[0].numbers.tolist(),
                "has_band": self.has_band,
                "band": [image.positions.tolist() for image in self.images],
                "trajectories": [handle.trajectory.state() for handle in self.handles],
                "engine": self.job.calculator.engine.state(),
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        check_resumed(state, "neb", self.images[0], self.job)
        if len(state["band"]) != len(self.images):
            raise InputError(
                f"the band to resume has {len(state['band'])} images; "
                f"neb.images is {len(self.images)}."
            )
        self.step, self.has_band = int(state["step"]), bool(state["has_band"])
        self.job.calculator.engine.restore(state["engine"])
        for image, handle, positions, memory in zip(
            self.images, self.handles, state["band"], state["trajectories"], strict=True
        ):
            image.positions = positions
            handle.trajectory.restore(memory)
