"""PySCF as reference, in a process of its own.

PySCF and torch share one OpenMP runtime and PySCF's C code cannot be
interrupted, so it lives in a child process: threads are set in its
environment before anything is imported, it is killed when a label takes too
long, started again after a crash, and ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ase import Atoms

from hybrid_calc.errors import (
    InputError,
    ReferenceCrashed,
    ReferenceFailed,
    ReferenceNotConverged,
    ReferenceTimeout,
    StructureError,
)
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.checks import checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory

ANI_1X_LEVEL = LevelOfTheory(
    program="pyscf",
    functional="wb97x",
    basis="6-31g*",
    cart=True,
    auxiliary_basis="auto",
    grid_level=3,
    convergence_hartree=1e-7,
    project_net_force=True,
)
"""wB97X/6-31G(d) with Cartesian d functions, the level ANI-1x was trained on."""

LONGEST_WAIT_S = 86400.0
"""The operating system takes no longer timeout than some weeks, s."""

LAST_WORDS = 2000
"""Characters of the worker's standard error that an error message quotes."""


class PySCFReference:
    """Kohn-Sham DFT by PySCF.

    Restricted for singlets, unrestricted otherwise; charge and multiplicity
    from ``atoms.info``; molecules only.

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
    ) -> None:
        if level.program != "pyscf" or not level.functional or not level.basis:
            raise InputError(
                f"PySCFReference needs a level with program 'pyscf', a functional and a basis; "
                f"got {level.to_dict()}."
            )
        if threads < 1 or max_memory_mb < 1 or not wall_limit_s > 0:
            raise InputError(
                "threads, max_memory_mb and wall_limit_s must be positive; "
                f"got {threads}, {max_memory_mb}, {wall_limit_s}."
            )
        self._level = level
        self._threads = threads
        self._max_memory_mb = max_memory_mb
        self._wall_limit_s = wall_limit_s
        self._worker: _Worker | None = None
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
        """
        check_structure(atoms)
        if atoms.pbc.any():
            raise StructureError(
                "PySCFReference solves molecules only; set atoms.pbc = False "
                "or use AseReference with a periodic code."
            )
        request = self._request(atoms)
        start = time.perf_counter()
        with self._lock:
            try:
                answer = self._ask(request)
            except ReferenceCrashed:
                answer = self._ask(request)
        return self._checked(atoms, answer, time.perf_counter() - start)

    def close(self) -> None:
        """End the worker and remove its scratch folder."""
        with self._lock:
            self._stop()

    def _request(self, atoms: Atoms) -> str:
        return json.dumps(
            {
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.tolist(),
                "charge": charge_of(atoms),
                "multiplicity": multiplicity_of(atoms),
                "level": self._level.to_dict(),
                "max_memory_mb": self._max_memory_mb,
            }
        )

    def _ask(self, request: str) -> dict[str, Any]:
        if self._worker is None:
            self._worker = _Worker(self._threads)
        try:
            return self._worker.ask(request, self._wall_limit_s)
        except BaseException:  # also a keyboard interrupt: an answer is then on its way
            self._stop()
            raise

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _checked(self, atoms: Atoms, answer: dict[str, Any], seconds: float) -> Label:
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
        return checked_label(
            atoms,
            energy=answer["energy"],
            forces=answer["forces"],
            level=self._level,
            rung=answer["rung"],
            checks=answer["checks"],
            wall_seconds=seconds,
            versions=answer["versions"],
        )


class _Worker:
    """One child process, its pipes and its scratch folder."""

    def __init__(self, threads: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="hybrid_calc_", ignore_cleanup_errors=True
        )
        self._errors = Path(self._scratch.name) / "stderr"
        environment = os.environ | {
            name: str(threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        environment["PYSCF_TMPDIR"] = environment["TMPDIR"] = self._scratch.name
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_calc.reference.pyscf_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the run, not for the SCF
            )

    def ask(self, request: str, wall_limit_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ReferenceCrashed("the PySCF worker has no pipes.")
        try:
            stdin.write(request.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise self._crashed() from error
        deadline = time.monotonic() + wall_limit_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if not selector.select(min(max(0.0, left), LONGEST_WAIT_S)):
                    if left > LONGEST_WAIT_S:
                        continue
                    raise ReferenceTimeout(
                        f"the reference took longer than {wall_limit_s:g} s and was killed; "
                        "raise reference.wall_limit_s or choose a cheaper level."
                    )
                chunk = os.read(stdout.fileno(), 1 << 20)
                if not chunk:
                    raise self._crashed()
                received += chunk
        answer: dict[str, Any] = json.loads(received)
        return answer

    def stop(self) -> None:
        """Kill the process and remove its scratch folder."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a question nobody read
                    pipe.close()
        self._scratch.cleanup()

    def _crashed(self) -> ReferenceCrashed:
        code = self._process.wait()
        words = self._errors.read_text(errors="replace")[-LAST_WORDS:].strip()
        return ReferenceCrashed(
            f"the PySCF worker died with exit code {code}: {words or 'no last words'}",
            details={"exit_code": code, "stderr": words},
        )
