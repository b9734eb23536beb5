"""Crystals: what the mesh of the density does to forces, atom by atom soft or hard.

PBE/gth-szv in cells without symmetry: silicon (8 k-points), hydrogen (2) and
water (1).  For each cut-off the net force, which a mesh fine enough does not
leave, the largest force deviation and the difference of relative energies of two
geometries from the finest cut-off of the list, and the time of a label.  Also the
forces against the slope of the energy.  Labels whose net force would have them
refused are shown with it.
"""

from __future__ import annotations

import time
from typing import Any

import bench  # first: it sets the threads
import numpy as np
from ase import Atoms
from ase.build import bulk

from hybrid_calc.errors import ReferenceFailed
from hybrid_calc.reference import cells
from hybrid_calc.reference.cells import CELL, solve_cell
from hybrid_calc.reference.level import LevelOfTheory

TARGETS = {
    "max_force_deviation_accepted_ev_per_ang": ("<=", cells.MAX_NET_FORCE),
    "max_slope_error_ev_per_ang": ("<=", cells.MAX_NET_FORCE),
}
STEP_ANG = 0.01
CUTOFFS = {
    "silicon": (15.0, 20.0, 30.0, 60.0),
    "hydrogen": (60.0, 90.0, 120.0, 240.0),
    "water": (150.0, 300.0, 600.0, 900.0),
}
DENSITIES = {"silicon": 0.8, "hydrogen": 0.4, "water": 0.4}


def geometries(name: str) -> list[Atoms]:
    """Return two geometries, the second moved against the mesh."""
    if name == "silicon":
        first = bulk("Si", "diamond", 5.43)
        first.rattle(0.03, seed=1)
    elif name == "hydrogen":
        cell = [[3.2, 0.1, 0.0], [0.0, 3.1, 0.2], [0.1, 0.0, 2.5]]
        first = Atoms("H2", positions=[[0.1, 0.2, 0.3], [0.4, 0.5, 0.85]], cell=cell, pbc=True)
    else:
        positions = [[0.1, 0.05, 0.0], [0.9, 0.4, 0.1], [-0.3, 0.9, 0.2]]
        first = Atoms("OH2", positions=positions, cell=[3.5, 3.6, 3.7], pbc=True)
    second = first.copy()
    second.positions += 0.137
    second.rattle(0.03, seed=2)
    return [first, second]


def answer(name: str, cutoff: float, atoms: Atoms) -> dict[str, Any]:
    level = LevelOfTheory(
        program="pyscf",
        functional="pbe",
        basis="gth-szv",
        convergence_hartree=1e-8,
        project_net_force=True,
        parameters={
            CELL: {
                "pseudopotential": "gth-pbe",
                "cutoff_hartree": cutoff,
                "k_point_density": DENSITIES[name],
            }
        },
    )
    got = solve_cell(
        {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "charge": 0,
            "multiplicity": 1,
            "level": level.to_dict(),
            "max_memory_mb": 4000,
            "max_spin_contamination": 0.3,
        }
    )
    if "energy" not in got:
        raise ReferenceFailed(f"{name} at {cutoff}: {got}")
    return got | {"forces": np.array(got["forces"])}


def slope_error(name: str, cutoff: float) -> float:
    """Return forces against the slope of the energy along one direction, eV/A."""
    atoms = geometries(name)[0]
    along = np.random.default_rng(3).normal(size=atoms.positions.shape)
    along -= along.mean(axis=0)
    along /= np.linalg.norm(along)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * STEP_ANG * along
        ends.append(answer(name, cutoff, moved)["energy"])
    forces = answer(name, cutoff, atoms)["forces"]
    return abs(float((ends[0] - ends[1]) / (2 * STEP_ANG) + (forces * along).sum()))


def main() -> None:
    options = bench.parser(__doc__ or "").parse_args()
    accepted = cells.MAX_NET_FORCE
    cells.MAX_NET_FORCE = float("inf")  # coarse meshes are to be seen here
    rows: list[dict[str, Any]] = []
    for name in ("silicon",) if options.quick else CUTOFFS:
        finest = None
        for cutoff in reversed(CUTOFFS[name]):
            began = time.perf_counter()
            pair = [answer(name, cutoff, atoms) for atoms in geometries(name)]
            seconds = (time.perf_counter() - began) / 2
            finest = finest or pair
            net = max(one["checks"]["net_force_ev_per_ang"] for one in pair)
            rows.append(
                {
                    "crystal": name,
                    "cutoff_hartree": cutoff,
                    "net_force": net,
                    "accepted": net <= accepted,
                    "force_deviation": max(
                        float(np.linalg.norm(a["forces"] - b["forces"], axis=1).max())
                        for a, b in zip(pair, finest, strict=True)
                    ),
                    "relative_energy_deviation": abs(
                        (pair[0]["energy"] - pair[1]["energy"])
                        - (finest[0]["energy"] - finest[1]["energy"])
                    ),
                    "seconds": seconds,
                }
            )
            print(rows[-1], flush=True)
    good = [row["force_deviation"] for row in rows if row["accepted"]]
    figures = {
        "max_force_deviation_accepted_ev_per_ang": max(good),
        "max_slope_error_ev_per_ang": max(
            slope_error(name, cutoff)
            for name, cutoff in (("silicon", 30.0), ("hydrogen", 120.0))[
                : 1 if options.quick else 2
            ]
        ),
    }
    bench.report(figures, TARGETS, options.json, results=rows)


if __name__ == "__main__":
    main()
