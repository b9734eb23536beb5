"""Molecular dynamics with ASE's integrators, resumable to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from hybrid_calc.drivers.job import (
    Ending,
    Job,
    Outcome,
    answer_of,
    check_resumed,
    give_back,
    last_step,
)
from hybrid_calc.drivers.restraint import MovingRestraint
from hybrid_calc.drivers.settings import MdSettings
from hybrid_calc.drivers.shape import frozen_atoms
from hybrid_calc.errors import BudgetExhausted, StructureError


def run_md(atoms: Atoms, settings: MdSettings, job: Job) -> Outcome:
    """Run or resume molecular dynamics.

    Parameters
    ----------
    atoms
        Where to start; its calculator is set.  A resumed run starts where the
        state says.
    settings
        Of the dynamics.
    job
        Calculator, folder, progress.
    """
    return _Run(atoms, settings, job).run()


class _Run:
    """One dynamics: its integrator, random stream, spring and position in time."""

    def __init__(self, atoms: Atoms, settings: MdSettings, job: Job) -> None:
        self.atoms, self.settings, self.job = atoms, settings, job
        self.random = np.random.default_rng(settings.seed)
        self.step = 0
        self.start_energy: float | None = None
        self.energy = 0.0
        self.restraint = _restraint(atoms, settings)
        self.conserves = settings.ensemble == "nve" and self.restraint is None
        atoms.calc = job.calculator
        job.calculator.trajectory.monitor.timestep_fs = settings.timestep_fs
        job.calculator.engine.gate.horizon = settings.steps + 1
        resumed = job.folder.resumed
        if resumed is None:
            self._thermalise()
        else:
            self._restore(resumed)
        if self.restraint is not None:
            atoms.set_constraint([*atoms.constraints, self.restraint])
        self.dynamics = self._integrator()

    def run(self) -> Outcome:
        """Step until the end, the budget or an interruption."""
        ending, why = Ending.FINISHED, ""
        start_length = (self.job.folder.resumed or {}).get("start_length")
        self._move_restraint(start_length)
        try:
            if not self.job.calculator.results:
                self._save()
                self._observe()
            while self.step < self.settings.steps:
                if self.job.interrupted():
                    ending, why = Ending.INTERRUPTED, "a signal asked for it"
                    break
                self._move_restraint()
                self.dynamics.run(1)
                self.step += 1
                self._observe()
            self._save()
        except BudgetExhausted as error:
            ending, why = Ending.BUDGET, str(error)
        return Outcome(ending=ending, steps=self.step, why=why, figures=self._figures())

    def _observe(self) -> None:
        settings, job = self.settings, self.job
        energy = self.atoms.get_potential_energy() + self.atoms.get_kinetic_energy()
        self.energy = float(energy) - job.calculator.conserved_shift
        if self.start_energy is None:
            self.start_energy = self.energy
        if self.conserves:
            job.calculator.trajectory.monitor.drift_ev = self.energy - self.start_energy
        step = last_step(job.calculator)
        if self.step % settings.trajectory_interval == 0:
            job.folder.write_frame(self.atoms, step)
        if self.step % settings.checkpoint_interval == 0 or step.label is not None:
            self._save()  # after a label, so that a killed run never asks for it again
        job.progress(self.step, settings.steps)

    def _thermalise(self) -> None:
        """Give a structure without momenta a temperature, without net motion."""
        if "momenta" in self.atoms.arrays or self.settings.temperature_kelvin == 0:
            return
        thermalize_momenta(self.atoms, self.settings.temperature_kelvin, rng=self.random)
        held = self.atoms.pbc.any() or frozen_atoms(self.atoms)  # by a cell or by fixed atoms
        if not held and len(self.atoms) > 1:
            Stationary(self.atoms)
            if len(self.atoms) > 2:
                with np.errstate(divide="ignore", invalid="ignore"):  # a linear molecule's axis
                    ZeroRotation(self.atoms)

    def _integrator(self) -> MolecularDynamics:
        settings = self.settings
        if settings.ensemble == "nve":
            return VelocityVerlet(self.atoms, settings.timestep_fs * units.fs)
        return Langevin(
            self.atoms,
            settings.timestep_fs * units.fs,
            temperature_K=settings.temperature_kelvin,
            friction=settings.friction_per_fs / units.fs,
            fixcm=False,
            rng=self.random,
        )

    def _move_restraint(self, start_length: float | None = None) -> None:
        if self.restraint is not None:
            self.restraint.move(self.atoms, self.step, start_length)

    def _save(self) -> None:
        """Write everything the next step depends on."""
        calculator = self.job.calculator
        self.job.folder.save_state(
            {
                "task": "md",
                "step": self.step,
                "numbers": self.atoms.numbers.tolist(),
                "positions": self.atoms.positions.tolist(),
                "momenta": self.atoms.get_momenta().tolist(),
                "random": self.random.bit_generator.state,
                "answer": answer_of(calculator),
                "start_energy": self.start_energy,
                "energy": self.energy,
                "start_length": None if self.restraint is None else self.restraint.start_length,
                "engine": calculator.engine.state(),
                "trajectory": calculator.trajectory.state(),
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        """Take everything back; the last answer is not asked for again."""
        check_resumed(state, "md", self.atoms, self.job)
        calculator = self.job.calculator
        self.step = state["step"]
        self.atoms.positions = state["positions"]
        self.atoms.set_momenta(np.array(state["momenta"]), apply_constraint=False)
        self.random.bit_generator.state = state["random"]
        calculator.engine.restore(state["engine"])
        calculator.trajectory.restore(state["trajectory"])
        self.start_energy, self.energy = state["start_energy"], state["energy"]
        give_back(calculator, self.atoms, state["answer"])

    def _figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"simulated_fs": self.step * self.settings.timestep_fs}
        if self.conserves and self.start_energy is not None:
            figures["conserved_energy_drift_ev"] = self.energy - self.start_energy
        return figures


def _restraint(atoms: Atoms, settings: MdSettings) -> MovingRestraint | None:
    stretch = settings.stretch
    if stretch is None:
        return None
    first, second = stretch.atoms
    if not (0 <= first < len(atoms) and 0 <= second < len(atoms)) or first == second:
        raise StructureError(
            f"md.stretch.atoms is {list(stretch.atoms)}; it must name two different atoms "
            f"from 0 to {len(atoms) - 1}."
        )
    return MovingRestraint(
        stretch.atoms,
        spring_ev_per_ang2=stretch.spring_ev_per_ang2,
        to_length_ang=stretch.to_length_ang,
        from_step=stretch.from_step,
        over_steps=stretch.over_steps,
    )
