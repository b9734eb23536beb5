"""The process that runs PySCF: ``python -m hybrid_calc.reference.pyscf_worker``.

One JSON object per line comes in on standard input (a geometry and a level),
one per line goes out on the descriptor that was standard output at the start;
whatever PySCF prints goes to standard error.  Numbers inside are in PySCF's
units (hartree, bohr) and leave in eV and eV/A.  When standard input ends, as
it does when the parent dies in whatever way, the process ends at once, also
in the middle of an SCF.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

END_OF_INPUT = None


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        answers.write(json.dumps(_answer(request)) + "\n")
        answers.flush()


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone: nobody would read an answer


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return solve(request)
    except MemoryError:
        return {"failed": "out of memory; lower the basis or raise max_memory_mb"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def solve(request: dict[str, Any]) -> dict[str, Any]:
    """Return energy (eV), forces (eV/A) and checks of one geometry, or why there are none.

    Parameters
    ----------
    request
        ``numbers``, ``positions`` (A), ``charge``, ``multiplicity``, ``level``
        (`LevelOfTheory.to_dict`), ``max_memory_mb``.
    """
    import numpy as np
    import pyscf
    from ase.units import Bohr, Hartree

    from hybrid_calc.reference.ladder import climb

    molecule = build_molecule(request)
    outcome = climb(lambda: build_field(molecule, request["level"]))
    if outcome.field is None:
        return {"not_converged": list(outcome.history), "cycles": outcome.cycles}
    gradient = outcome.field.nuc_grad_method()
    gradient.grid_response = False
    forces = -np.asarray(gradient.kernel()) * (Hartree / Bohr)
    return {
        "energy": float(outcome.field.e_tot) * Hartree,
        "forces": forces.tolist(),
        "rung": outcome.rung,
        "checks": {
            "cycles": float(outcome.cycles),
            "gap_ev": outcome.gap_ev if np.isfinite(outcome.gap_ev) else -1.0,
            "s_squared": outcome.s_squared,
        },
        "versions": {"pyscf": pyscf.__version__, "numpy": np.__version__},
    }


def build_molecule(request: dict[str, Any]) -> Any:
    """Return the PySCF molecule of a request."""
    from ase.data import chemical_symbols
    from pyscf import gto

    return gto.M(
        atom=[
            (chemical_symbols[number], position)
            for number, position in zip(request["numbers"], request["positions"], strict=True)
        ],
        unit="Angstrom",
        basis=request["level"]["basis"],
        cart=request["level"]["cart"],
        charge=request["charge"],
        spin=request["multiplicity"] - 1,
        max_memory=request["max_memory_mb"],
        verbose=0,
    )


def build_field(molecule: Any, level: dict[str, Any]) -> Any:
    """Return the mean field of a level: restricted for singlets, unrestricted else."""
    from pyscf import dft

    field = dft.RKS(molecule) if molecule.spin == 0 else dft.UKS(molecule)
    field.xc = level["functional"]
    if level["nlc"]:
        field.nlc = level["nlc"]
    if level["dispersion"]:
        field.disp = level["dispersion"]
    field.grids.level = level["grid_level"]
    field.conv_tol = level["convergence_hartree"]
    if level["auxiliary_basis"]:
        auxiliary = level["auxiliary_basis"]
        field = field.density_fit(auxbasis=None if auxiliary == "auto" else auxiliary)
    return field


if __name__ == "__main__":
    serve()
