"""Transition states refined by the reference alone, from ts.xyz of every reaction.

    python benchmarks/neb_references.py --data PATH               GFN2-xTB
    python benchmarks/neb_references.py --data PATH --dft         wB97X/6-31G(d)

Writes benchmarks/neb_references.json, which benchmarks/neb.py compares with.  Nothing here
touches a committee or a surface: a numerical Hessian of the reference, Bofill updates and
steps uphill along the lowest mode, downhill along all others; the ends by BFGS.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.optimize import BFGS
from numpy.typing import NDArray
from references import Counted, dft_reference, xtb_reference

from hybrid_calc.drivers.shape import free_directions

OUTPUT = Path(__file__).with_name("neb_references.json")
STEP_ANG = 0.01
TRUST_ANG = 0.1


class Plain(Calculator):
    """A reference for ASE's optimisers."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, ask: Counted) -> None:
        super().__init__()
        self.ask = ask

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        label = self.ask(self.atoms, "reference")
        self.results = {"energy": label.energy, "forces": label.forces}


def gradient(ask: Counted, atoms: Atoms, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    frame = atoms.copy()
    frame.positions = positions
    return -ask(frame, "reference").forces.ravel()


def hessian_of(ask: Counted, atoms: Atoms, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the reference's Hessian by central differences, eV/A^2."""
    rows = []
    for k in range(positions.size):
        step = np.zeros(positions.size)
        step[k] = STEP_ANG
        step = step.reshape(positions.shape)
        up, down = (gradient(ask, atoms, positions + sign * step) for sign in (1, -1))
        rows.append((up - down) / (2 * STEP_ANG))
    matrix = np.array(rows)
    return 0.5 * (matrix + matrix.T)


def curvatures_of(
    atoms: Atoms, positions: NDArray[np.float64], hessian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the curvatures without translation and rotation, eV/A^2, ascending."""
    basis = free_directions(atoms, positions)
    return np.linalg.eigvalsh(basis.T @ hessian @ basis)


def refine_saddle(
    ask: Counted, atoms: Atoms, *, fmax: float = 0.005, steps: int = 60
) -> tuple[NDArray[np.float64], float]:
    """Return the saddle nearest to a guess and the largest force left there, eV/A."""
    here = atoms.positions.copy()
    hessian = hessian_of(ask, atoms, here)
    slope = gradient(ask, atoms, here)
    for _ in range(steps):
        left = float(np.linalg.norm(slope.reshape(-1, 3), axis=1).max())
        if left < fmax:
            break
        basis = free_directions(atoms, here)
        values, vectors = np.linalg.eigh(basis.T @ hessian @ basis)
        along = vectors.T @ (basis.T @ slope)
        sign = np.where(np.arange(len(values)) == 0, 1.0, -1.0)
        step = basis @ (vectors @ (sign * along / np.maximum(np.abs(values), 0.2)))
        step *= min(1.0, TRUST_ANG / np.linalg.norm(step.reshape(-1, 3), axis=1).max())
        here = here + step.reshape(here.shape)
        new = gradient(ask, atoms, here)
        miss = new - slope - hessian @ step
        overlap = (miss @ step) ** 2 / max((miss @ miss) * (step @ step), 1e-300)
        rank_one = np.outer(miss, miss) / (miss @ step)
        powell = (np.outer(miss, step) + np.outer(step, miss)) / (step @ step)
        powell -= (miss @ step) * np.outer(step, step) / (step @ step) ** 2
        hessian = hessian + overlap * rank_one + (1 - overlap) * powell
        slope = new
    return here, float(np.linalg.norm(slope.reshape(-1, 3), axis=1).max())


def one_reaction(folder: Path, ask: Counted) -> dict[str, object]:
    energies = {}
    for end in ("r", "p"):
        atoms = read(folder / f"{end}.xyz")
        atoms.calc = Plain(ask)
        BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.01, steps=200)
        energies[end] = float(atoms.get_potential_energy())
    atoms = read(folder / "ts.xyz")
    saddle, left = refine_saddle(ask, atoms)
    frame = atoms.copy()
    frame.positions = saddle
    energy = ask(frame, "reference").energy
    return {
        "barrier_ev": energy - energies["r"],
        "reverse_barrier_ev": energy - energies["p"],
        "fmax_ev_per_ang": left,
        "curvatures": curvatures_of(atoms, saddle, hessian_of(ask, atoms, saddle))[:3].tolist(),
        "transition_state": saddle.tolist(),
        "calls": ask.calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dft", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], help="reactions, such as rxn003191")
    arguments = parser.parse_args()
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    level = "dft" if arguments.dft else "xtb"
    for folder in sorted(arguments.data.glob("rxn*")):
        if arguments.only and folder.name not in arguments.only:
            continue
        ask = dft_reference() if arguments.dft else xtb_reference()
        known.setdefault(level, {})[folder.name] = one_reaction(folder, ask)
        OUTPUT.write_text(json.dumps(known, indent=1, sort_keys=True))
        print(folder.name, known[level][folder.name]["barrier_ev"])


if __name__ == "__main__":
    main()
