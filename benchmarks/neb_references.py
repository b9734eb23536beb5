"""Transition states refined by the reference alone, from ts.xyz of every reaction.

    python benchmarks/neb_references.py --data PATH               GFN2-xTB
    python benchmarks/neb_references.py --data PATH --dft         wB97X/6-31G(d)

Writes benchmarks/neb_references.json, which benchmarks/neb.py compares with.  Nothing here
touches a committee or a surface: a first Hessian (of GFN2-xTB, which costs nothing), Bofill
updates and steps uphill along the lowest mode, downhill along all others; the ends by BFGS;
at the end a numerical Hessian of the reference itself, which says what was found.  With
GFN2-xTB also the two minima downhill from there and a Hessian of both ends.  With DFT

    python benchmarks/neb_references.py --data PATH --dft --joins --only rxn003191

adds what a saddle already found joins (some 60 calls), along GFN2-xTB's mode.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.optimize import BFGS, FIRE
from numpy.typing import NDArray
from references import Counted, dft_reference, xtb_reference

from hybrid_calc.drivers.shape import bonds_of, free_directions

OUTPUT = Path(__file__).with_name("neb_references.json")
STEP_ANG = 0.01
TRUST_ANG = 0.1
FLAT = 0.005  # a curvature nearer to zero is numerical, eV/A^2
PUSH_ANG = 0.2
MOST_PUSHES = 4


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
    """Return the reference's Hessian by central differences, eV/A^2, (3N, 3N).

    Along all directions but translation and rotation, about which it is zero.
    """
    basis = free_directions(atoms, positions)
    columns = []
    for direction in basis.T:
        step = STEP_ANG * direction.reshape(positions.shape)
        up, down = (gradient(ask, atoms, positions + sign * step) for sign in (1, -1))
        columns.append((up - down) / (2 * STEP_ANG))
    inside = basis.T @ np.array(columns).T
    return np.asarray(basis @ (0.5 * (inside + inside.T)) @ basis.T)


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
    hessian = hessian_of(xtb_reference(), atoms, here)
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


def downhill_bonds(
    ask: Counted,
    atoms: Atoms,
    saddle: NDArray[np.float64],
    hessian: NDArray[np.float64],
    *,
    push: float = 0.1,
    careful: bool = False,
) -> list[frozenset[tuple[int, int]]]:
    """Return the bonds of the two minima that the reference leads to from a saddle."""
    basis = free_directions(atoms, saddle)
    mode = basis @ np.linalg.eigh(basis.T @ hessian @ basis)[1][:, 0]
    found = []
    for sign in (push, -push):
        frame = atoms.copy()
        frame.set_constraint()
        frame.positions = saddle + sign * mode.reshape(saddle.shape)
        frame.calc = Plain(ask)
        if careful:  # follows the forces, so that no shallow minimum is leapt over
            FIRE(frame, logfile=None, maxstep=0.05).run(fmax=0.01, steps=1000)
        else:
            BFGS(frame, logfile=None, maxstep=0.05).run(fmax=0.05, steps=300)
        found.append(bonds_of(frame.numbers, frame.positions))
    return found


def relax_end(ask: Counted, atoms: Atoms, *, check: bool) -> float:
    """Relax an end in place with BFGS and return its energy, eV.

    Checked, it is pushed off any point with a negative curvature: a methyl group may be left
    standing on its barrier at 0.003 eV/A.
    """
    atoms.calc = Plain(ask)
    for _ in range(MOST_PUSHES):
        BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.01, steps=300)
        energy = float(atoms.get_potential_energy())
        if not check:
            break
        basis = free_directions(atoms, atoms.positions)
        values, vectors = np.linalg.eigh(basis.T @ hessian_of(ask, atoms, atoms.positions) @ basis)
        if values[0] > -FLAT:
            break
        atoms.positions += PUSH_ANG * (basis @ vectors[:, 0]).reshape(-1, 3)
    return energy


def one_reaction(folder: Path, ask: Counted, *, thorough: bool) -> dict[str, object]:
    """Return barriers, transition state and its curvatures by the reference alone.

    Thorough, the ends are checked to be minima, and what the saddle joins is found.
    """
    energies, wanted = {}, set()
    for end in ("r", "p"):
        atoms = read(folder / f"{end}.xyz")
        energies[end] = relax_end(ask, atoms, check=thorough)
        wanted.add(bonds_of(atoms.numbers, atoms.positions))
    atoms = read(folder / "ts.xyz")
    saddle, left = refine_saddle(ask, atoms)
    frame = atoms.copy()
    frame.positions = saddle
    energy = ask(frame, "reference").energy
    hessian = hessian_of(ask, atoms, saddle)
    joins = {}
    if thorough:
        joins = {"joins_ends": set(downhill_bonds(ask, atoms, saddle, hessian)) == wanted}
    return joins | {
        "barrier_ev": energy - energies["r"],
        "reverse_barrier_ev": energy - energies["p"],
        "fmax_ev_per_ang": left,
        "curvatures": curvatures_of(atoms, saddle, hessian)[:3].tolist(),
        "transition_state": saddle.tolist(),
        "calls": ask.calls,
        "level": ask.level.hash,
    }


def joins_of(folder: Path, ask: Counted, known: dict[str, object]) -> dict[str, object]:
    """Return whether a saddle that is known joins the ends, and the bonds of what it joins."""
    wanted = set()
    for end in ("r", "p"):
        atoms = read(folder / f"{end}.xyz")
        wanted.add(bonds_of(atoms.numbers, atoms.positions))
    atoms = read(folder / "ts.xyz")
    saddle = np.array(known["transition_state"])
    mode = hessian_of(xtb_reference(), atoms, saddle)
    found = downhill_bonds(ask, atoms, saddle, mode)
    return {"joins_ends": set(found) == wanted, "joins_bonds": [sorted(one) for one in found]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dft", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], help="reactions, such as rxn003191")
    parser.add_argument("--cache", type=Path, help="store NAME.h5 of DFT labels, to start again")
    parser.add_argument("--joins", action="store_true", help="what known saddles join")
    arguments = parser.parse_args()
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    level = "dft" if arguments.dft else "xtb"
    for folder in sorted(arguments.data.glob("rxn*")):
        if arguments.only and folder.name not in arguments.only:
            continue
        ask = dft_reference(arguments.cache, warm_start=True) if arguments.dft else xtb_reference()
        if arguments.joins:
            row = known[level][folder.name]
            row |= joins_of(folder, ask, row)
        else:
            row = one_reaction(folder, ask, thorough=not arguments.dft)
        known.setdefault(level, {})[folder.name] = row
        OUTPUT.write_text(json.dumps(known, indent=1, sort_keys=True))
        print(folder.name, row["barrier_ev"], row.get("joins_ends", ""), flush=True)


if __name__ == "__main__":
    main()
