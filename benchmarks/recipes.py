"""Every recipe: forces against its energies and the tight solution, and its match.

For each recipe and its strict variant, on formaldehyde out of its plane and a
second geometry nearby: forces against the central difference of the energy along
one internal direction, largest force deviation and difference of relative
energies from the tight solution (grid 7, 1e-10 hartree, same fitting), time and
cycles.  And two comparisons of levels: ethanol at wB97X/6-31G(d) without fitting
against ANI-1x's own energy, with Cartesian and with spherical d functions; and
wB97M-V against wB97M-D3BJ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bench  # first: it sets the threads
import numpy as np
from ase import Atoms
from ase.build import molecule

from hybrid_calc.reference.checks import rigid_modes
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.reference.recipes import RECIPES, STRICT

TARGETS = {
    "max_slope_error_ev_per_ang": ("<=", 0.002),
    "max_force_deviation_ev_per_ang": ("<=", 0.002),
    "max_relative_energy_deviation_ev": ("<=", 0.001),
    "max_force_deviation_strict_ev_per_ang": ("<=", 0.0005),
}
STEP_ANG = 0.0025


def geometries() -> list[Atoms]:
    """Return two geometries of formaldehyde without symmetry."""
    pair = [molecule("H2CO"), molecule("H2CO")]
    for seed, atoms in enumerate(pair):
        atoms.rattle(0.06, seed=seed + 1)
        atoms.rotate(37, (1, 2, 3))
    return pair


def internal_direction(atoms: Atoms) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a unit direction that neither moves nor turns the molecule, shape (N, 3)."""
    flat = np.random.default_rng(0).normal(size=3 * len(atoms))
    modes = rigid_modes(atoms.positions)
    flat -= modes.T @ (modes @ flat)
    return (flat / np.linalg.norm(flat)).reshape(-1, 3)


def labels_of(level: LevelOfTheory, frames: list[Atoms]) -> list[Label]:
    reference = PySCFReference(level, cold_share=0.0, stability="never")
    try:
        return [reference.label(atoms) for atoms in frames]
    finally:
        reference.close()


def measure(name: str, tight: list[Label]) -> dict[str, float]:
    frames = geometries()
    along = internal_direction(frames[0])
    moved = []
    for sign in (1, -1):
        atoms = frames[0].copy()
        atoms.positions += sign * STEP_ANG * along
        moved.append(atoms)
    first, second, plus, minus = labels_of(RECIPES[name].level, [*frames, *moved])
    slope = (plus.energy - minus.energy) / (2 * STEP_ANG)
    deviations = [
        np.linalg.norm(a.forces - b.forces, axis=1).max()
        for a, b in zip((first, second), tight, strict=True)
    ]
    relative = (first.energy - second.energy) - (tight[0].energy - tight[1].energy)
    return {
        "slope_error": abs(slope + float((first.forces * along).sum())),
        "force_deviation": float(max(deviations)),
        "relative_energy_deviation": abs(relative),
        "seconds": first.wall_seconds,
        "cycles": first.checks["cycles"],
    }


def energies(atoms: Atoms, **level: Any) -> float:
    """Return the energy of a level without fitting, eV."""
    exact = {"program": "pyscf", "grid_level": 5, "convergence_hartree": 1e-9}
    return labels_of(LevelOfTheory(**exact | level), [atoms])[0].energy


def matches() -> dict[str, float]:
    from hybrid_calc.committee.ani import AniCommittee

    atoms = molecule("CH3CH2OH")
    ani = AniCommittee().predict(atoms).energy
    wb97x = {"functional": "wb97x", "basis": "6-31g*"}
    small = {"basis": "def2-svp", "auxiliary_basis": "auto"}
    d3bj = energies(atoms, functional="wb97m-d3bj", dispersion="d3bj", **small)
    return {
        "ani_1x_cartesian_ev": energies(atoms, cart=True, **wb97x) - ani,
        "ani_1x_spherical_ev": energies(atoms, cart=False, **wb97x) - ani,
        "wb97m_v_above_d3bj_ev": energies(atoms, functional="wb97m-v", **small) - d3bj,
    }


def main() -> None:
    options = bench.parser(__doc__ or "")
    options.add_argument("--only", default="", help="names, comma-separated")
    options.add_argument("--matches", action="store_true", help="compare levels, too")
    chosen = options.parse_args()
    names = [n for n in RECIPES if not n.endswith(STRICT)]
    if chosen.only:
        names = chosen.only.split(",")
    elif chosen.quick:
        names = ["ani-1x", "fast"]
    results: dict[str, Any] = {}
    for name in names:
        level = replace(RECIPES[name].level, grid_level=7, convergence_hartree=1e-10)
        tight = labels_of(level, geometries())
        for variant in (name, name + STRICT):
            results[variant] = measure(variant, tight)
            print(variant, {key: round(value, 6) for key, value in results[variant].items()})
    loose = {name: row for name, row in results.items() if not name.endswith(STRICT)}
    strict = {name: row for name, row in results.items() if name.endswith(STRICT)}
    figures = {
        "max_slope_error_ev_per_ang": max(r["slope_error"] for r in results.values()),
        "max_force_deviation_ev_per_ang": max(r["force_deviation"] for r in loose.values()),
        "max_relative_energy_deviation_ev": max(
            r["relative_energy_deviation"] for r in results.values()
        ),
        "max_force_deviation_strict_ev_per_ang": max(r["force_deviation"] for r in strict.values()),
    }
    if chosen.matches:
        figures |= matches()
    bench.report(figures, TARGETS, chosen.json, results=results)


if __name__ == "__main__":
    main()
