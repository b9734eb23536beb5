"""Crystals: Kohn-Sham DFT in a periodic cell, with k-points and GTH pseudopotentials.

PySCF has analytic gradients of k-point DFT for one kind of integrals (FFT of the
density on a uniform mesh) and for functionals up to hybrids, and the stress for
semi-local ones; both agree with finite differences (tests/reference/test_cells.py).
All-electron cells, metals, charged cells, meta-GGAs, dispersion and slabs have
none or need more than this, and are refused by name.

`check_cell` runs in the caller; everything else inside the PySCF worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.errors import InputError, StructureError
from hybrid_calc.geometry import charge_of
from hybrid_calc.reference.level import LevelOfTheory

Array = NDArray[np.float64]

CELL = "cell"
"""Key of a level's parameters: ``pseudopotential``, ``cutoff_hartree``, ``k_point_density``."""

MAX_NET_FORCE = 0.005
"""Net force beyond which the mesh is too coarse, eV/A: forces are then off by as much
(benchmarks/crystals.py)."""

METALS = "metals need fractional occupations: use AseReference with a periodic code"
GAP_EV = 0.1
"""Gap below which integer occupations do not describe a crystal, eV."""


def check_level(level: LevelOfTheory) -> None:
    """Refuse a level for cells that asks for what PySCF has no gradients of.

    Raises
    ------
    InputError
        Dispersion, solvent, non-local correlation, or parameters that are missing.
    """
    cell = level.parameters.get(CELL)
    if cell is None:
        return
    known = {"pseudopotential", "cutoff_hartree", "k_point_density"}
    if not isinstance(cell, Mapping) or set(cell) != known:
        raise InputError(f"a level for cells needs {', '.join(sorted(known))}; got {cell}.")
    asked = [name for name in ("dispersion", "solvent", "nlc") if getattr(level, name)]
    if asked or "function" in level.parameters:
        raise InputError(
            f"PySCF has no gradients of {', '.join(asked) or 'a function of yours'} in a cell; "
            "leave it out, or use AseReference with a periodic code."
        )


def check_cell(atoms: Atoms, level: LevelOfTheory) -> None:
    """Refuse a structure that a level cannot be solved for.

    Raises
    ------
    StructureError
        Periodic where the level is one of molecules, or the other way round;
        periodic in some directions only; charged.
    """
    if not atoms.pbc.any():
        if CELL in level.parameters:
            raise StructureError(
                f"{level} is a level for cells; set atoms.pbc = True with some vacuum, or choose "
                "a level without cell."
            )
        return
    if CELL not in level.parameters:
        raise StructureError(
            f"{level} is a level for molecules only; set atoms.pbc = False, choose a level with "
            "the key cell, or use AseReference with a periodic code."
        )
    if not atoms.pbc.all():
        raise StructureError(
            "PySCFReference solves cells that are periodic in all three directions; "
            f"set atoms.pbc = True and leave vacuum, got {atoms.pbc.tolist()}."
        )
    if charge_of(atoms):
        raise StructureError(
            "the energy of a charged cell depends on its size; make the cell neutral."
        )


def k_points_of(cell: Array, density: float) -> tuple[int, int, int]:
    """Return the Monkhorst-Pack mesh of a density in points per 1/A, as ASE counts it."""
    from ase.calculators.calculator import kptdensity2monkhorstpack

    mesh = kptdensity2monkhorstpack(Atoms(cell=cell, pbc=True), density, even=False)
    return int(mesh[0]), int(mesh[1]), int(mesh[2])


def build_cell(request: dict[str, Any]) -> tuple[Any, tuple[int, int, int]]:
    """Return PySCF's cell of a request and its mesh of k-points."""
    from ase.data import chemical_symbols
    from pyscf.pbc import gto

    level = request["level"]
    settings = level["parameters"][CELL]
    mesh = k_points_of(np.array(request["cell"]), settings["k_point_density"])
    cell = gto.M(
        atom=[
            (chemical_symbols[number], position)
            for number, position in zip(request["numbers"], request["positions"], strict=True)
        ],
        a=np.array(request["cell"]),
        unit="Angstrom",
        basis=level["basis"],
        pseudo=settings["pseudopotential"],
        ke_cutoff=settings["cutoff_hartree"],
        cart=level["cart"],
        spin=(request["multiplicity"] - 1) * int(np.prod(mesh)),  # of all cells the mesh stands for
        max_memory=request["max_memory_mb"],
        verbose=0,
    )
    return cell, mesh


def build_crystal(request: dict[str, Any]) -> Any:
    """Return the mean field of a request: restricted for singlets, unrestricted else."""
    from pyscf.pbc import dft

    cell, mesh = build_cell(request)
    make = dft.KRKS if request["multiplicity"] == 1 else dft.KUKS
    field = make(cell, cell.make_kpts(mesh))
    field.xc = request["level"]["functional"]
    if field._numint._xc_type(field.xc) not in {"LDA", "GGA"}:
        raise NotImplementedError(
            f"PySCF has no gradients of {field.xc} in a cell; LDA, GGA and their hybrids have"
        )
    field.conv_tol = request["level"]["convergence_hartree"]
    return field


def forces_and_stress(field: Any) -> tuple[Array, Array | None]:
    """Return forces (hartree/bohr, shape (N, 3)) and stress (hartree/bohr^3, Voigt-6).

    No stress for functionals with exact exchange.
    """
    from ase.stress import full_3x3_to_voigt_6_stress

    gradient = field.nuc_grad_method()
    forces = -np.asarray(gradient.kernel())
    if field._numint.libxc.is_hybrid_xc(field.xc):
        return forces, None
    stress = np.asarray(gradient.get_stress())
    return forces, np.asarray(full_3x3_to_voigt_6_stress((stress + stress.T) / 2))


def solve_cell(request: dict[str, Any]) -> dict[str, Any]:
    """Return energy (eV), forces (eV/A), stress (eV/A^3) and checks, or why there are none.

    Parameters
    ----------
    request
        As of `hybrid_calc.reference.pyscf_worker.solve`, with ``cell`` (A, shape (3, 3)).
    """
    import pyscf
    from ase.units import Bohr, Hartree

    from hybrid_calc.reference.ladder import RUNGS_WITHOUT_NEWTON, climb
    from hybrid_calc.reference.spin import contamination, impure_spin

    outcome = climb(lambda: build_crystal(request), rungs=RUNGS_WITHOUT_NEWTON)
    if outcome.field is None:
        return {"not_converged": [*outcome.history, METALS], "cycles": outcome.cycles}
    if outcome.gap_ev < GAP_EV:
        return {"failed": f"the gap is {outcome.gap_ev:.2f} eV; {METALS}"}
    multiplicity = request["multiplicity"]
    checks = {
        "cycles": float(outcome.cycles),
        "gap_ev": outcome.gap_ev if np.isfinite(outcome.gap_ev) else -1.0,
        "k_points": float(len(outcome.field.kpts)),
    }
    if multiplicity > 1:
        # <S^2> is that of all cells the mesh stands for, which is pure for one cell alone
        checks["s_squared"] = outcome.s_squared
        if len(outcome.field.kpts) == 1:
            checks["spin_contamination"] = contamination(outcome.s_squared, multiplicity)
            limit = request["max_spin_contamination"]
            impure = impure_spin(outcome.s_squared, multiplicity, limit)
            if impure:
                return {"multireference": impure, "checks": checks}
    forces, stress = forces_and_stress(outcome.field)
    forces = forces * (Hartree / Bohr)
    net = np.linalg.norm(forces.sum(axis=0))
    checks["net_force_ev_per_ang"] = float(net)
    if net > MAX_NET_FORCE:
        return {
            "failed": f"the forces in the cell add up to {net:.3g} eV/A, more than "
            f"{MAX_NET_FORCE:g}: the mesh is too coarse, raise cutoff_hartree"
        }
    if request["level"]["project_net_force"]:
        forces = forces - forces.mean(axis=0)
    answer = {
        "energy": float(outcome.field.e_tot) * Hartree,
        "forces": forces.tolist(),
        "rung": outcome.rung,
        "history": list(outcome.history),
        "checks": checks,
        "versions": {"pyscf": pyscf.__version__, "numpy": np.__version__},
    }
    if stress is not None:
        answer["stress"] = (stress * (Hartree / Bohr**3)).tolist()
    return answer
