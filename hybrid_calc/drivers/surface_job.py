"""What the drivers on one surface need from a job: labels, known ones, a state to resume from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from hybrid_calc.correction.inflation import Forecast
from hybrid_calc.correction.surface import SurfaceLabel
from hybrid_calc.drivers.job import Ending, Job, Outcome, check_resumed
from hybrid_calc.drivers.labelling import constrained_forces
from hybrid_calc.errors import BudgetExhausted, RunInterrupted
from hybrid_calc.reference.label import Label


class SurfaceJob:
    """The labels of one job: asked, written, shown, and stopped by a signal.

    Parameters
    ----------
    task
        ``relax`` or ``neb``.
    atoms
        The molecule with its constraints.
    job
        Calculator, folder, progress.

    Attributes
    ----------
    known
        Labels from before the job, which cost nothing; a resumed job has those it began with.
    stopped
        Why the next label was not asked, or None.
    asked
        Labels asked, those of a resumed job included.
    """

    def __init__(self, task: str, atoms: Atoms, job: Job) -> None:
        self.task, self.atoms, self.job = task, atoms, job
        self.known: list[SurfaceLabel] = []
        self.stopped: Ending | None = None
        self.asked = 0
        # No geometry is left to chance here, so nothing is kept back for audits.
        job.calculator.engine.gate.budget.audit_reserve = 0.0
        job.calculator.start(atoms)
        self._labelling = 0.0
        self._start = time.perf_counter()

    def label(self, atoms: Atoms, reason: str) -> Label:
        """Return the reference's label of a geometry; see `HybridHandle.label`.

        Raises
        ------
        RunInterrupted
            A signal asked the run to end.
        BudgetExhausted, ReferenceFailed
            There is no label to be had.
        """
        job = self.job
        if job.interrupted():
            self.stopped = Ending.INTERRUPTED
            raise RunInterrupted("a signal asked for it")
        start = time.perf_counter()
        try:
            label = job.calculator.label(atoms, reason)
        except BudgetExhausted:
            self.stopped = Ending.BUDGET
            raise
        finally:
            self._labelling += time.perf_counter() - start
        self.asked += 1
        job.folder.write_label(atoms, label, reason)
        left = constrained_forces(self.atoms, atoms.positions, label.forces)
        largest = float(np.linalg.norm(left, axis=1).max())
        seconds = time.perf_counter() - start
        job.say(
            f"label {self.asked}: {reason}; {label.energy:.4f} eV, largest force "
            f"{largest:.3f} eV/A, {seconds:.1f} s"
        )
        return label

    def resume(self) -> Mapping[str, Any] | None:
        """Take back what `save` wrote and return the driver's state, None for a new job.

        Raises
        ------
        InputError
            The run in the folder is of another task, molecule, driver or committee.
        """
        state = self.job.folder.resumed
        if state is None:
            return None
        check_resumed(state, self.task, self.atoms, self.job, driver="surface")
        calculator = self.job.calculator
        calculator.engine.restore(state["engine"])
        calculator.trajectory.restore(state["trajectory"])
        self.known = [SurfaceLabel.from_dict(one) for one in state["known"]]
        self.asked = int(state["step"])
        found: Mapping[str, Any] | None = state["surface"]
        return found

    def save(self, driver: Mapping[str, Any] | None) -> None:
        """Write the state to resume from."""
        calculator = self.job.calculator
        self.job.folder.save_state(
            {
                "task": self.task,
                "driver": "surface",
                "step": self.asked,
                "numbers": self.atoms.numbers.tolist(),
                "known": [one.to_dict() for one in self.known],
                "surface": None if driver is None else dict(driver),
                "engine": calculator.engine.state(),
                "trajectory": calculator.trajectory.state(),
            }
        )

    def ending(self, *, confirmed: bool) -> Ending:
        """Return how the job ended."""
        if confirmed:
            return Ending.FINISHED
        return self.stopped or Ending.UNCONFIRMED

    def nothing_found(self, why: str) -> Outcome:
        """Return how a job ended that has no result to speak of; its labels are kept."""
        return Outcome(
            ending=self.ending(confirmed=False),
            steps=self.asked,
            why=why,
            figures={"driver": "surface", "confirmed": False, "missing": why},
        )

    def note_time(self) -> None:
        """Add the time spent on the surface itself to the run's stages."""
        seconds = self.job.calculator.engine.tally.seconds
        spent = time.perf_counter() - self._start - self._labelling
        seconds["surface"] = seconds.get("surface", 0.0) + spent


def coverage_of(forecasts: Sequence[Forecast]) -> dict[str, Any]:
    """Return how often what a surface said before a label was within its 95 % interval."""
    return {
        "predicted_before_label": len(forecasts),
        "within_interval_95": sum(one.covered for one in forecasts),
    }


def number(value: float) -> float | None:
    """Return a number as JSON has it: None for one that is not finite."""
    return float(value) if math.isfinite(value) else None
