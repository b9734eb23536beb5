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
import warnings
from pathlib import Path
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
    ReferenceTimeout,
    StructureError,
)
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.checks import checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_worker import MEMORY_LIMIT, SCRATCH
from hybrid_calc.reference.recipes import ANI_1X_LEVEL

SOLVENT_MODELS = ("c-pcm", "ief-pcm", "smd")
"""Implicit solvents whose gradients agree with finite differences of their energies."""

MEMORY_OVERHEAD_MB = 4000
"""What Python, the libraries and PySCF's untracked arrays may take beyond its own limit, MB.

Direct exchange builds allocate 1.6 GB for benzene at def2-TZVP whatever `max_memory` says.
"""

STRETCHED_RATIO, OPEN_RATIO, FAR_RATIO = 1.25, 1.75, 2.7
"""Distances over the sum of covalent radii that `has_open_bonds` judges by."""

NEIGHBOURS = {6: 3, 7: 3, 8: 2}
"""Bonded neighbours below which an atom lacks a bond; one for other elements."""

Stability = Literal["auto", "always", "never"]
WhenUnstable = Literal["unrestricted", "reject"]


class LockedStateWarning(UserWarning):
    """A warm start had followed a state that is not the lowest; labels before may be of it."""


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
    warm_start
        Start from the densities of geometries before, in half the cycles or
        less.  Labels then depend on what came before within the SCF's
        convergence, and a resumed run is no longer the same to the bit.
    cold_share
        Share of warm-started labels that are solved cold as well; a lower
        state found so replaces the label and is warned about.
    stability
        When to ask whether the state is a minimum: ``auto`` where bonds look
        broken, the gap is small, the molecule has open shells, or the first
        rung of the ladder failed.  ``never`` stays with the state that a
        committee of closed shells was trained on, at a third of the cost or less
        where bonds break.
    when_unstable
        ``unrestricted`` takes the unrestricted state below an unstable
        restricted singlet; ``reject`` refuses the label.
    seed
        Of the cold sample.

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
        warm_start: bool = False,
        cold_share: float = 0.03,
        stability: Stability = "never",
        when_unstable: WhenUnstable = "unrestricted",
        seed: int = 0,
    ) -> None:
        own = level.parameters.get("function")
        if level.program != "pyscf" or not (level.functional or own) or not level.basis:
            raise InputError(
                f"PySCFReference needs a level with program 'pyscf', a functional and a basis; "
                f"got {level.to_dict()}."
            )
        check_solvent(level.solvent)
        if not 0 <= cold_share <= 1:
            raise InputError(f"cold_share must lie between 0 and 1; got {cold_share}.")
        if threads < 1 or max_memory_mb < 1 or not wall_limit_s > 0:
            raise InputError(
                "threads, max_memory_mb and wall_limit_s must be positive; "
                f"got {threads}, {max_memory_mb}, {wall_limit_s}."
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
            "seed": seed,
        }
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
        MultireferenceSuspected
            The state is not a minimum and what lies below may not be taken.
        """
        return self._label(atoms, doubtful=has_open_bonds(atoms))

    def label_doubtful(self, atoms: Atoms) -> Label:
        """Solve one geometry whose bonds are known to have changed: its stability is examined."""
        return self._label(atoms, doubtful=True)

    def _label(self, atoms: Atoms, *, doubtful: bool) -> Label:
        check_structure(atoms)
        if atoms.pbc.any():
            raise StructureError(
                "PySCFReference solves molecules only; set atoms.pbc = False "
                "or use AseReference with a periodic code."
            )
        request = self._request(atoms, doubtful=doubtful)
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

    def _request(self, atoms: Atoms, *, doubtful: bool) -> str:
        return json.dumps(
            self._options
            | {
                "doubtful": doubtful,
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
            self._worker = _Worker(self._threads, self._max_memory_mb + MEMORY_OVERHEAD_MB)
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
            level=self._level,
            rung=answer["rung"],
            checks=answer["checks"],
            wall_seconds=seconds,
            versions=answer["versions"],
        )


def check_solvent(solvent: str) -> None:
    """Refuse an implicit solvent that is not ``MODEL:WHICH`` with a model of `SOLVENT_MODELS`.

    Raises
    ------
    InputError
        Another model, or a dielectric constant that is none.
    """
    if not solvent:
        return
    model, _, which = solvent.partition(":")
    usable = model in SOLVENT_MODELS and bool(which)
    if usable and model != "smd":
        try:
            usable = float(which) > 1
        except ValueError:
            usable = False
    if not usable:
        raise InputError(
            f"solvent {solvent!r} cannot be used; write c-pcm:EPSILON, ief-pcm:EPSILON or "
            "smd:NAME, such as c-pcm:78.36 or smd:water. Other models' gradients are not reliable."
        )


def has_open_bonds(atoms: Atoms) -> bool:
    """Tell whether some pair is too far apart for a bond and too near for strangers.

    A pair without a bonded neighbour in common, 1.25 to 1.75 times the sum of
    its covalent radii apart; or up to 2.7 times where both atoms lack a bond.
    Nothing is wrong with such a geometry: the stability of its state is examined.
    """
    pairs = pairs_of(atoms.numbers)
    if not len(pairs.radii_sum):
        return False
    ratio = pair_distances(atoms, pairs) / pairs.radii_sum
    bonded = np.zeros((len(atoms), len(atoms)), dtype=bool)
    bonded[pairs.first, pairs.second] = ratio < STRETCHED_RATIO
    bonded |= bonded.T
    shared = (bonded[pairs.first] & bonded[pairs.second]).any(axis=1)
    wanted = np.array([NEIGHBOURS.get(int(number), 1) for number in atoms.numbers])
    lacking = bonded.sum(axis=1) < wanted
    both = lacking[pairs.first] & lacking[pairs.second]
    apart = np.where(both, FAR_RATIO, OPEN_RATIO)
    return bool(((ratio > STRETCHED_RATIO) & (ratio < apart) & ~shared).any())


class _Worker:
    """One child process, its pipes and its scratch folder."""

    def __init__(self, threads: int, memory_limit_mb: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="hybrid_calc_", ignore_cleanup_errors=True
        )
        self._errors = Path(self._scratch.name) / "stderr"
        environment = os.environ | {
            name: str(threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        environment["PYSCF_TMPDIR"] = environment["TMPDIR"] = self._scratch.name
        environment[SCRATCH] = self._scratch.name
        environment[MEMORY_LIMIT] = str(memory_limit_mb)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # user's functions
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
