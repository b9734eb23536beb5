"""Labels by PySCFReference against PySCF's defaults, side by side, at the same answer.

For each molecule the level ani-1x (wB97X/6-31G(d)) along ten contiguous steps
of 0.5 fs of 300 K GFN2-xTB dynamics: PySCF as it comes (no fitting, 1e-9
hartree, every geometry cold) and PySCFReference in its worker, frame by frame
in turn.  The tight solution has the same fitting, grid 5, 1e-10 hartree and
projected forces; it is found for every frame, starting from the one before.

The floor is what no better start or threshold could save: grid, integrals and
basis functions, two SCF cycles (the second shows that the first converged) and
the gradient, each timed on the last frame.  Needs tblite for the path.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import bench  # first: it sets the threads
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import Hartree

from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.reference.pyscf_fields import build_field, build_molecule, forces_of
from hybrid_calc.reference.recipes import ANI_1X_LEVEL

TARGETS = {
    "path_speedup_large": (">=", 4.0),
    "path_speedup_malonaldehyde": (">=", 3.0),
    "max_force_deviation_ev_per_ang": ("<=", 0.002),
    "max_relative_energy_deviation_ev": ("<=", 0.001),
}
TIGHT = replace(ANI_1X_LEVEL, grid_level=5, convergence_hartree=1e-10)


def malonaldehyde() -> Atoms:
    """Return the enol form, near its minimum."""
    return Atoms(
        "C3O2H4",
        positions=[
            [0.000, 0.000, 0.000],
            [1.364, 0.000, 0.000],
            [-0.720, 1.250, 0.000],
            [2.010, 1.150, 0.000],
            [-0.170, 2.360, 0.000],
            [1.330, 1.880, 0.000],
            [-0.560, -0.925, 0.000],
            [1.950, -0.915, 0.000],
            [-1.820, 1.170, 0.000],
        ],
    )


def toluene() -> Atoms:
    """Return benzene with a methyl group, 15 atoms; the dynamics relaxes it."""
    ring = molecule("C6H6")
    out = ring.positions[6] / np.linalg.norm(ring.positions[6])
    carbon = ring.positions[0] + 1.51 * out
    side = np.cross(out, [0.0, 0.0, 1.0])
    del ring[6]
    ring += Atoms("C", positions=[carbon])
    for angle in np.radians([0.0, 120.0, 240.0]):
        across = np.cos(angle) * np.array([0.0, 0.0, 1.0]) + np.sin(angle) * side
        ring += Atoms("H", positions=[carbon + 0.36 * out + 1.03 * across])
    return ring


MOLECULES = {"malonaldehyde": malonaldehyde, "large": toluene, "water": lambda: molecule("H2O")}


def dynamics(atoms: Atoms, frames: int) -> Iterator[Atoms]:
    from tblite.ase import TBLite

    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(1))
    driver = VelocityVerlet(atoms, 0.5 * units.fs)
    driver.run(40)
    for _ in range(frames):
        yield Atoms(atoms.numbers, atoms.positions.copy())
        driver.run(1)


def by_default(atoms: Atoms) -> dict[str, Any]:
    """Solve with PySCF as it comes, in this process."""
    from pyscf import dft, gto

    start = time.perf_counter()
    mole = gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)),
        basis="6-31g*",
        cart=True,
        verbose=0,
    )
    field = dft.RKS(mole, xc="wb97x")
    energy = float(field.kernel()) * Hartree
    field.nuc_grad_method().kernel()
    seconds = time.perf_counter() - start
    return {"energy": energy, "seconds": seconds, "cycles": field.cycles}


def floor(atoms: Atoms) -> dict[str, float]:
    """Return the times of the parts of one label in this process, s."""
    from pyscf import lib

    lib.num_threads(1)
    request = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "charge": 0,
        "multiplicity": 1,
        "level": ANI_1X_LEVEL.to_dict(),
        "max_memory_mb": 4000,
    }
    field = build_field(build_molecule(request), request["level"])
    field.kernel()
    again = build_field(field.mol, request["level"])
    start = time.perf_counter()
    again.max_cycle = 0
    again.kernel(dm0=field.make_rdm1())  # grid, integrals, basis functions, one potential
    prepared = time.perf_counter()
    again.get_veff(again.mol, field.make_rdm1())
    cycle = time.perf_counter()
    forces_of(field)
    end = time.perf_counter()
    one = cycle - prepared
    return {
        "fixed": prepared - start - one,
        "cycle": one,
        "gradient": end - cycle,
        "floor": prepared - start + one + end - cycle,
    }


def measure(name: str, frames: int, compared: set[int]) -> dict[str, Any]:
    """Return times, cycles and deviations of one molecule.

    Ours and the tight solution label every frame of the path; the defaults,
    cold wherever they are, the frames in `compared`.
    """
    ours, tight = PySCFReference(cold_share=0.0), PySCFReference(TIGHT, cold_share=0.0)
    rows = []
    for reference in (ours, tight):
        reference.label(molecule("H2"))  # the worker starts outside the time
    for number, atoms in enumerate(dynamics(MOLECULES[name](), frames)):
        label = ours.label(atoms)
        exact = tight.label(atoms)
        row: dict[str, Any] = {
            "ours_s": label.wall_seconds,
            "our_cycles": label.checks["cycles"],
            "rung": label.rung,
            "energy_ev": label.energy - exact.energy,
            "force": float(np.linalg.norm(label.forces - exact.forces, axis=1).max()),
        }
        if number in compared:
            default = by_default(atoms)
            row |= {
                "default_s": default["seconds"],
                "default_cycles": default["cycles"],
                "unfitted_ev": default["energy"] - exact.energy,
            }
        rows.append(row)
        print(name, number, {k: v if isinstance(v, str) else round(v, 5) for k, v in row.items()})
    ours.close()
    tight.close()
    return {"atoms": len(atoms), "rows": rows, "floor": floor(atoms)}


def figures_of(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    both = [row for row in rows if "default_s" in row]
    default = np.mean([row["default_s"] for row in both])
    energies = np.array([row["energy_ev"] for row in rows])
    return {
        f"path_speedup_{name}": float(default / np.mean([row["ours_s"] for row in rows])),
        f"cold_speedup_{name}": both[0]["default_s"] / rows[0]["ours_s"],
        f"cycles_default_{name}": float(np.mean([row["default_cycles"] for row in both])),
        f"cycles_ours_{name}": float(np.mean([row["our_cycles"] for row in rows[1:]])),
        f"force_deviation_{name}": max(row["force"] for row in rows),
        f"relative_energy_deviation_{name}": float(np.ptp(energies)),
        f"fitting_shift_ev_{name}": float(np.mean([row["unfitted_ev"] for row in both])),
    }


def main() -> None:
    options = bench.parser(__doc__ or "")
    options.add_argument("--frames", type=int, default=10, help="of each path")
    options.add_argument(
        "--every-frame",
        action="store_true",
        help="the defaults for every frame (an hour); else for the first and the last",
    )
    chosen = options.parse_args()
    results: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for name in ["water"] if chosen.quick else MOLECULES:
        last = chosen.frames - 1
        some = set(range(chosen.frames)) if chosen.every_frame else {0, last}
        results[name] = measure(name, chosen.frames, some)
        figures |= figures_of(name, results[name]["rows"])
        parts = results[name]["floor"]
        figures |= {f"{part}_s_{name}": seconds for part, seconds in parts.items()}
        figures[f"path_s_{name}"] = float(
            np.mean([row["ours_s"] for row in results[name]["rows"][1:]])
        )
    for whole, part in (
        ("max_force_deviation_ev_per_ang", "force_deviation_"),
        ("max_relative_energy_deviation_ev", "relative_energy_deviation_"),
    ):
        figures[whole] = max(v for k, v in figures.items() if k.startswith(part))
    bench.report(figures, TARGETS, chosen.json, results=results)


if __name__ == "__main__":
    main()
