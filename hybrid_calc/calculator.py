"""The calculator that ASE sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from hybrid_calc.answer.step import Step
from hybrid_calc.answer.trajectory import Trajectory
from hybrid_calc.committee.domain import check_levels
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.engine import Engine
from hybrid_calc.errors import ReferenceFailed, StructureError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.geometry import charge_of, multiplicity_of
from hybrid_calc.reference.label import Label, Reference
from hybrid_calc.store.frames import FrameStore


class HybridHandle(Calculator):
    """One trajectory's calculator over an engine that others may share.

    `HybridCalculator.handle` makes them: one for each image of a band, each
    replica.  ASE runs threaded bands in threads that swallow exceptions, so an
    error in another thread than the main one is raised again in the main one, at
    the next use of any handle over the engine.  Give the end points of a threaded
    band handles too: the band uses theirs in the main thread before every step.

    Parameters
    ----------
    engine
        Runs the stages.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.trajectory: Trajectory = engine.new_trajectory()
        self.last_step: Step | None = None

    @property
    def conserved_shift(self) -> float:
        """Sum of the energy jumps, eV: kinetic + potential energy - this is conserved in NVE."""
        return self.trajectory.jump_sum

    def handle(self) -> HybridHandle:
        """Return a calculator for one more trajectory over the same engine."""
        return HybridHandle(self.engine)

    def start(self, atoms: Atoms) -> None:
        """Take this geometry as the one whose bonds later ones are judged against.

        Without it the first geometry computed is.
        """
        self.trajectory.monitor.start(atoms)

    def label(self, atoms: Atoms, reason: str) -> Label:
        """Return the reference's label of a geometry that a driver wants.

        It goes the way of every other label: budget, checks, store; its record
        gives ``acquisition`` with the reason.  ``last_step`` is what happened to it;
        ``results`` stay those of the geometry calculated last.

        Parameters
        ----------
        atoms
            The geometry.
        reason
            Why it is wanted, for the record.

        Raises
        ------
        BudgetExhausted, ReferenceFailed
            There is no label to be had.
        """
        step = self.engine.evaluate(atoms, self.trajectory, wanted=reason)
        if step.label is None:
            raise ReferenceFailed(f"no label of the geometry wanted for: {reason}.")
        self.last_step = step
        return step.label

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Answer one geometry; every property in one pass."""
        super().calculate(atoms, list(properties), list(system_changes))
        self.results = {}
        if self.atoms is None:
            raise StructureError("the calculator was given no structure.")
        try:
            step = self.engine.evaluate(self.atoms, self.trajectory)
        except BaseException as error:
            self.atoms = None
            if threading.current_thread() is not threading.main_thread():
                self.engine.pending = error
            raise
        self.last_step = step
        self.results = {
            "energy": step.energy,
            "free_energy": step.energy,
            "forces": step.forces.copy(),
        }
        if step.stress is not None:
            self.results["stress"] = step.stress.copy()

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property, or raise what went wrong in another thread before."""
        self._raise_pending()
        return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:  # noqa: ARG002 - ASE's
        """Return what changed since the last geometry, charge and spin included.

        Any difference counts, whatever `tol` says: comparing bits is a tenth of
        the cost of ASE's comparison, which runs several times a step.
        """
        self._raise_pending()
        before = self.atoms
        if before is None:
            return [*all_changes, "charge", "spin"]
        changes = [
            name
            for name in ("positions", "numbers", "pbc")
            if not np.array_equal(getattr(before, name), getattr(atoms, name))
        ]
        if not np.array_equal(before.cell.array, atoms.cell.array):
            changes.append("cell")
        if charge_of(before) != charge_of(atoms):
            changes.append("charge")
        if multiplicity_of(before) != multiplicity_of(atoms):
            changes.append("spin")
        return changes

    def todict(self, skip_default: bool = True) -> dict[str, Any]:  # noqa: ARG002 - ASE's
        """Return who answers, JSON-able."""
        return {
            "committee": self.engine.committee.info.name,
            "committee_identity": self.engine.committee.info.identity,
            "level": str(self.engine.reference.level),
            "level_hash": self.engine.reference.level.hash,
        }

    def _raise_pending(self) -> None:
        error = self.engine.pending
        if error is not None and threading.current_thread() is threading.main_thread():
            self.engine.pending = None
            raise error


class HybridCalculator(HybridHandle):
    """An MLIP committee that asks DFT where it cannot be trusted.

    A drop-in ASE calculator.  ``last_step`` says what happened to the last
    geometry: prediction, flags, regime, decision with its reasons, source, label.

    Parameters
    ----------
    committee
        Predicts every geometry.
    reference
        Labels the ones the gate asks about.
    gate
        Tolerances, policies and calibration; a `Gate` to share or inspect it.
        A calibration inside the committee's bundle is used where none is named.
    store
        Path of the HDF5 store, or an open one.  None keeps no labels.
    limits
        Of the physics flags.
    allow_level_mismatch
        Go on although the committee was trained at another level of theory.
    on_step
        Called with every new `Step`.

    Raises
    ------
    LevelMismatchError
        The committee was trained at another level of theory than the
        reference's, or the store holds labels of another level.
    CalibrationError
        The calibration cannot be read, or was made for another committee,
        level or tolerance.

    Notes
    -----
    Close it, or use it in a ``with`` block, to end the reference's worker and
    to bring the HDF5 file up to date; labels are durable before that.
    """

    def __init__(
        self,
        committee: Committee,
        reference: Reference,
        gate: GateSettings | Gate | None = None,
        store: FrameStore | str | None = None,
        *,
        limits: FlagLimits | None = None,
        allow_level_mismatch: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        if not allow_level_mismatch:
            check_levels(committee.info, reference.level)
        if not isinstance(gate, Gate):
            gate = Gate(gate)
        if store is not None and not isinstance(store, FrameStore):
            store = FrameStore(store)
        super().__init__(
            Engine(
                committee=committee,
                reference=reference,
                gate=gate,
                store=store,
                limits=limits,
                second_opinion=_second_opinion(gate.settings),
                on_step=on_step,
            )
        )

    def __enter__(self) -> HybridCalculator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reference's worker and bring the HDF5 file up to date."""
        self.engine.close()


def _second_opinion(settings: GateSettings) -> Reference | None:
    """Return the cheap method that flagged geometries are shown to, or None."""
    if settings.second_opinion == "none":
        return None
    from hybrid_calc.reference.ase_backend import gfn2_xtb

    return gfn2_xtb()
