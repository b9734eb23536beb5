"""PySCF as reference, in a process of its own.

PySCF and torch share one OpenMP runtime and PySCF's C code cannot be
interrupted, so it lives in a child process: threads are set in its
environment before anything is imported, it is killed when a label takes too
long, started again after a crash, and ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from typing import Any, Literal

import numpy as np
from ase import Atoms

from hybrid_calc.errors import (
    InputError,
    MissingPackageError,
    MultireferenceSuspected,
    ReferenceCrashed,
    ReferenceFailed,
    ReferenceNotConverged,
)
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.cells import CELL, check_cell, check_level
from hybrid_calc.reference.checks import checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.open_bonds import has_open_bonds
from hybrid_calc.reference.pyscf_process import WorkerProcess
from hybrid_calc.reference.recipes import ANI_1X_LEVEL
from hybrid_calc.reference.solvent import check_solvent

MEMORY_OVERHEAD_MB = 4000
"""What Python, the libraries and PySCF's untracked arrays may take beyond its own limit, MB.

Direct exchange builds allocate 1.6 GB for benzene at def2-TZVP whatever `max_memory` says.
"""

Stability = Literal["auto", "always", "never"]
WhenUnstable = Literal["unrestricted", "reject"]
Device = Literal["cpu", "cuda"]


class LockedStateWarning(UserWarning):
    """A warm start had followed a state that is not the lowest; labels before may be of it."""


class PySCFReference:
    """Kohn-Sham DFT by PySCF.

    Restricted for singlets, unrestricted otherwise; charge and multiplicity
    from ``atoms.info``.  Molecules, or insulating crystals where the level is
    one for cells (`hybrid_calc.reference.cells`): those start cold, and their
    stability is not examined.

    Parameters
    ----------
    level
        What to solve.
    threads
        OpenMP threads of the worker.  One is fastest for a few atoms.
    max_memory_mb
        What PySCF may use for integrals, MB.
    wall_limit_s
        Time for one label, after which the worker is killed, s.
    warm_start
        Start from the densities of geometries before, in half the cycles or
        less.  Labels then depend on what came before within the SCF's
        convergence; `state` and `restore` carry it into a resumed run.
    cold_share
        Share of warm-started labels that are solved cold as well; a lower
        state found so replaces the label and is warned about.
    stability
        When to ask whether the state is a minimum: ``auto`` where bonds look
        broken, the gap is small, the molecule has open shells, or the first
        rung of the ladder failed.  ``never`` stays with the state that a
        committee of closed shells was trained on.
    when_unstable
        ``unrestricted`` takes the unrestricted state below an unstable
        restricted singlet; ``reject`` refuses the label.
    max_spin_contamination
        <S^2> above what the multiplicity makes it beyond which a state is
        rejected; a singlet may have one broken pair, which adds one.
    seed
        Of the cold sample.
    device
        ``cuda`` solves molecules on a graphics processor through gpu4pyscf.

    Raises
    ------
    InputError
        A limit is not positive or the level is not a PySCF level.
    """

    def __init__(
        self,
        level: LevelOfTheory = ANI_1X_LEVEL,
        *,
        threads: int = 1,
        max_memory_mb: int = 4000,
        wall_limit_s: float = 3600.0,
        warm_start: bool = True,
        cold_share: float = 0.03,
        stability: Stability = "auto",
        when_unstable: WhenUnstable = "unrestricted",
        max_spin_contamination: float = 0.3,
        seed: int = 0,
        device: Device = "cpu",
    ) -> None:
        own = level.parameters.get("function")
        if level.program != "pyscf" or not (level.functional or own) or not level.basis:
            raise InputError(
                f"PySCFReference needs a level with program 'pyscf', a functional and a basis; "
                f"got {level.to_dict()}."
            )
        check_solvent(level.solvent)
        check_level(level)
        if device == "cuda" and CELL in level.parameters:
            raise InputError("cells are solved on the processor; set device='cpu'.")
        if not 0 <= cold_share <= 1:
            raise InputError(f"cold_share must lie between 0 and 1; got {cold_share}.")
        if threads < 1 or max_memory_mb < 1 or not wall_limit_s > 0:
            raise InputError(
                "threads, max_memory_mb and wall_limit_s must be positive; "
                f"got {threads}, {max_memory_mb}, {wall_limit_s}."
            )
        if not max_spin_contamination > 0:
            raise InputError(
                f"max_spin_contamination must be positive; got {max_spin_contamination}."
            )
        self._level = level
        self._threads = threads
        self._max_memory_mb = max_memory_mb
        self._wall_limit_s = wall_limit_s
        self._options: dict[str, Any] = {
            "warm_start": warm_start,
            "cold_share": cold_share,
            "stability": stability,
            "allow_unrestricted": when_unstable == "unrestricted",
            "max_spin_contamination": max_spin_contamination,
            "seed": seed,
            "device": device,
        }
        self._worker: WorkerProcess | None = None
        self._memory = ""
        self._memory_is_old = False
        self._unsolved: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory of every label."""
        return self._level

    def label(self, atoms: Atoms) -> Label:
        """Solve one geometry; see `hybrid_calc.reference.label.Reference`.

        A worker that dies is started again and asked once more.

        Raises
        ------
        ReferenceNotConverged, ReferenceTimeout, ReferenceCrashed
            No rung converged; the wall limit was reached; the worker died twice.
        MultireferenceSuspected
            The state is not a minimum and what lies below may not be taken.
        """
        return self._label(atoms, doubtful=has_open_bonds(atoms))

    def label_doubtful(self, atoms: Atoms) -> Label:
        """Solve one geometry whose bonds are known to have changed: its stability is examined."""
        return self._label(atoms, doubtful=True)

    def state(self) -> dict[str, Any]:
        """Return what the next labels depend on, JSON-able: densities to start from."""
        if not self._options["warm_start"]:
            return {}
        with self._lock:
            if self._memory_is_old and self._worker is not None:
                with contextlib.suppress(ReferenceFailed):  # it died: the last state known stands
                    self._memory = self._ask({"task": "state"})["state"]
                self._memory_is_old = False
            return {"densities": self._memory, "unsolved": list(self._unsolved)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        if not self._options["warm_start"]:
            return
        with self._lock:
            self._stop()
            self._memory, self._unsolved = (
                state.get("densities", ""),
                list(state.get("unsolved", [])),
            )
            self._memory_is_old = False

    def recall(self, atoms: Atoms, *, doubtful: bool) -> None:
        """Take note of a geometry that this run had labelled before it was resumed.

        Its density was in the worker that is gone; it is solved again, without
        forces, before the next label, so that labels after it start from what
        they would have started from.
        """
        if self._options["warm_start"] and not atoms.pbc.any():  # cells start cold
            with self._lock:
                question = self._question(atoms, doubtful=doubtful or has_open_bonds(atoms))
                self._unsolved.append(question | {"task": "remember"})

    def _label(self, atoms: Atoms, *, doubtful: bool) -> Label:
        check_structure(atoms)
        check_cell(atoms, self._level)
        question = self._question(atoms, doubtful=doubtful)
        start = time.perf_counter()
        with self._lock:
            while self._unsolved:
                self._ask_twice(self._unsolved[0])
                del self._unsolved[0]
            answer = self._ask_twice(question)
            self._memory_is_old = True
        return self._checked(atoms, answer, time.perf_counter() - start)

    def close(self) -> None:
        """End the worker and remove its scratch folder."""
        with self._lock:
            self._stop()

    def _question(self, atoms: Atoms, *, doubtful: bool) -> dict[str, Any]:
        return self._options | {
            "task": "label",
            "doubtful": doubtful,
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist() if atoms.pbc.any() else None,
            "charge": charge_of(atoms),
            "multiplicity": multiplicity_of(atoms),
            "level": self._level.to_dict(),
            "max_memory_mb": self._max_memory_mb,
        }

    def _ask_twice(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._ask(question)
        except ReferenceCrashed:
            return self._ask(question)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._worker is None:
                memory = self._max_memory_mb + MEMORY_OVERHEAD_MB
                self._worker = WorkerProcess(self._threads, memory)
                if self._memory:
                    self._send({"task": "restore", "state": self._memory})
            return self._send(question)
        except BaseException:  # also a keyboard interrupt: an answer is then on its way
            self._stop()
            raise

    def _send(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            raise ReferenceCrashed("the PySCF worker is gone.")
        return self._worker.ask(json.dumps(question), self._wall_limit_s)

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _checked(self, atoms: Atoms, answer: dict[str, Any], seconds: float) -> Label:
        if "missing" in answer:
            raise MissingPackageError(f"{self._level} needs a package: {answer['missing']}.")
        if "multireference" in answer:
            raise MultireferenceSuspected(
                f"{self._level} for {atoms.get_chemical_formula()}: {answer['multireference']}. "
                "Use a multireference method here, or set when_unstable: unrestricted.",
                details=answer,
            )
        if "not_converged" in answer:
            history = "; ".join(answer["not_converged"])
            raise ReferenceNotConverged(
                f"{self._level} did not converge for {atoms.get_chemical_formula()} ({history}). "
                'Check atoms.info["charge"] and ["spin"] and the geometry.',
                details=answer,
            )
        if "failed" in answer:
            raise ReferenceFailed(
                f"{self._level} failed for {atoms.get_chemical_formula()}: {answer['failed']}",
                details=answer,
            )
        if "locked" in answer["checks"]:
            warnings.warn(
                f"a warm start followed a state {answer['checks']['warm_above_cold_ev']:.3f} eV "
                "above the lowest; this label is right, labels since the last cold start may be "
                "of that state: hybrid-calc store verify --recompute.",
                LockedStateWarning,
                stacklevel=4,
            )
        return checked_label(
            atoms,
            energy=answer["energy"],
            forces=answer["forces"],
            stress=np.array(answer["stress"]) if "stress" in answer else None,
            level=self._level,
            rung=answer["rung"],
            checks=answer["checks"],
            wall_seconds=seconds,
            versions=answer["versions"],
        )
