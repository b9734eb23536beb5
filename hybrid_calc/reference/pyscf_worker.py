"""The process that runs PySCF: ``python -m hybrid_calc.reference.pyscf_worker``.

One JSON object per line comes in on standard input, one per line goes out on
the descriptor that was standard output at the start; whatever PySCF prints
goes to standard error.  ``task`` says what is wanted:
``label`` (of a geometry at a level), ``remember`` (solve it for its density
alone), ``state`` and ``restore`` (of the densities remembered).  Numbers inside are in PySCF's
units (hartree, bohr) and leave in eV and eV/A.  When standard input ends, as
it does when the parent dies in whatever way, the process removes its scratch
folder and ends at once, also in the middle of an SCF.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import shutil
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid_calc.reference.ladder import FIRST, RUNGS_WITHOUT_NEWTON, WARM, ScfOutcome, climb
from hybrid_calc.reference.spin import contamination, impure_spin
from hybrid_calc.reference.warm_start import WarmStarts, is_sampled, key_of

SCRATCH = "HYBRID_CALC_SCRATCH"
"""Environment variable that names the worker's folder."""

MEMORY_LIMIT = "HYBRID_CALC_MEMORY_LIMIT_MB"
"""Environment variable with the data segment's limit, MB."""

UNRESTRICTED = " unrestricted"
"""Added to the key under which the unrestricted state below a closed-shell one is remembered."""

LOCKED_HARTREE = 1e-5
"""A warm state this far above the cold one is another state, hartree."""


def serve() -> None:
    """Answer requests until standard input ends."""
    limit = os.environ.get(MEMORY_LIMIT)
    if limit:
        size = int(limit) << 20
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    starts = WarmStarts()
    while True:
        request = json.loads(requests.get())
        answers.write(json.dumps(_answer(request, starts)) + "\n")
        answers.flush()


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    scratch = os.environ.get(SCRATCH)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)  # the parent is gone: nobody would read an answer


def _answer(request: dict[str, Any], starts: WarmStarts) -> dict[str, Any]:
    try:
        match request["task"]:
            case "state":
                return {"state": starts.state()}
            case "restore":
                starts.restore(request["state"])
                return {}
            case "remember":
                failure = settle(request, starts).failure
                return {"failed": str(failure)} if failure else {}
            case _:
                return solve(request, starts)
    except MemoryError:
        return {"failed": "out of memory; choose a smaller basis or raise max_memory_mb"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """What came of the SCF of one request.

    Attributes
    ----------
    outcome
        Of the ladder; None where something else failed.
    failure
        What to answer where there is no state; empty where there is one.
    checks
        Numbers for the label.
    """

    outcome: ScfOutcome | None = None
    failure: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)


def converge(request: dict[str, Any], starts: WarmStarts | None) -> Converged:
    """Solve the SCF of a request, warm where something is remembered, and remember it."""
    import numpy as np
    from ase.units import Hartree

    from hybrid_calc.reference.pyscf_fields import build_field, build_molecule, missing_package

    level, device = request["level"], request["device"]
    missing = missing_package(level, device)
    if missing:
        return Converged(failure={"missing": missing})
    molecule = build_molecule(request)
    positions = np.array(request["positions"])
    key = key_of(request)
    starts = starts if request["warm_start"] else None
    guess = None
    if starts is not None:
        guess = starts.guess(key, positions, molecule.intor_symmetric("int1e_ovlp"))
    rungs = None if device == "cpu" else RUNGS_WITHOUT_NEWTON
    outcome = climb(lambda: build_field(molecule, level, device=device), guess, rungs)
    if outcome.field is None:
        failure = {"not_converged": list(outcome.history), "cycles": outcome.cycles}
        return Converged(failure=failure)
    checks: dict[str, float] = {}
    if outcome.rung == WARM and is_sampled(positions, request["seed"], request["cold_share"]):
        cold = climb(lambda: build_field(molecule, level, device=device), rungs=rungs)
        if cold.field is not None:
            above = float(outcome.field.e_tot - cold.field.e_tot)
            checks["warm_above_cold_ev"] = above * Hartree
            spent = outcome.cycles + cold.cycles
            if above > LOCKED_HARTREE:
                checks["locked"] = 1.0
                outcome = cold
            outcome = replace(outcome, cycles=spent)
    if starts is not None:
        if "locked" in checks:
            starts.forget(key)
        starts.remember(key, positions, outcome.field)
    return Converged(outcome=outcome, checks=checks)


def settle(request: dict[str, Any], starts: WarmStarts | None) -> Converged:
    """Solve the SCF of a request and make sure, where it is in doubt, that the state may stand."""
    import numpy as np

    from hybrid_calc.reference.pyscf_fields import build_field, build_molecule, small_gap_ev
    from hybrid_calc.reference.stability import examine

    converged = converge(request, starts)
    outcome, checks = converged.outcome, dict(converged.checks)
    if outcome is None:
        return converged
    closed = np.ndim(outcome.field.mo_occ) == 1
    doubtful = (
        request["doubtful"]
        or outcome.rung not in {WARM, FIRST}
        or outcome.gap_ev < small_gap_ev(outcome.field)
        or (not closed and outcome.rung != WARM)
    )
    if request["stability"] == "always" or (doubtful and request["stability"] == "auto"):
        starts = starts if request["warm_start"] and closed else None
        key, positions = key_of(request) + UNRESTRICTED, np.array(request["positions"])
        guess = None
        if starts is not None:
            guess = starts.guess(key, positions, outcome.field.get_ovlp())
        verdict = examine(
            outcome,
            lambda: build_field(
                build_molecule(request),
                request["level"],
                unrestricted=True,
                device=request["device"],
            ),
            allow_unrestricted=request["allow_unrestricted"],
            guess=guess,
        )
        outcome = verdict.outcome
        checks |= verdict.checks
        if verdict.rejection:
            return Converged(failure={"multireference": verdict.rejection, "checks": checks})
        if starts is not None and np.ndim(outcome.field.mo_occ) == 2:
            starts.remember(key, positions, outcome.field)
    multiplicity = request["multiplicity"]
    checks["s_squared"] = outcome.s_squared
    checks["spin_contamination"] = contamination(outcome.s_squared, multiplicity)
    impure = impure_spin(outcome.s_squared, multiplicity, request["max_spin_contamination"])
    if impure:
        return Converged(failure={"multireference": impure, "checks": checks})
    return Converged(outcome=outcome, checks=checks)


def solve(request: dict[str, Any], starts: WarmStarts | None = None) -> dict[str, Any]:
    """Return energy (eV), forces (eV/A) and checks of one geometry, or why there are none.

    Parameters
    ----------
    request
        ``numbers``, ``positions`` (A), ``cell`` (A; None for a molecule), ``charge``,
        ``multiplicity``, ``level`` (`LevelOfTheory.to_dict`), ``device`` (``cpu`` or
        ``cuda``), ``max_memory_mb``, ``warm_start``, ``seed``,
        ``cold_share``, ``doubtful``, ``stability``, ``allow_unrestricted``,
        ``max_spin_contamination``.
    starts
        Densities of geometries before; None starts cold.
    """
    import numpy as np
    import pyscf
    from ase.units import Bohr, Hartree

    from hybrid_calc.reference.cells import solve_cell
    from hybrid_calc.reference.pyscf_fields import forces_of

    if request["cell"] is not None:
        return solve_cell(request)
    settled = settle(request, starts)
    outcome, checks = settled.outcome, settled.checks
    if outcome is None:
        return settled.failure
    return {
        "energy": float(outcome.field.e_tot) * Hartree,
        "forces": (forces_of(outcome.field) * (Hartree / Bohr)).tolist(),
        "rung": outcome.rung,
        "history": list(outcome.history),
        "checks": checks
        | {
            "cycles": float(outcome.cycles),
            "gap_ev": outcome.gap_ev if np.isfinite(outcome.gap_ev) else -1.0,
        },
        "versions": {"pyscf": pyscf.__version__, "numpy": np.__version__},
    }


if __name__ == "__main__":
    serve()
