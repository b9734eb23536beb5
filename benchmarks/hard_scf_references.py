"""Careful solutions of the hard SCF cases, by PySCF alone.

    python benchmarks/hard_scf_references.py --data PATH

Writes benchmarks/hard_scf_references.json, which benchmarks/hard_scf.py compares with.
Nothing here is shared with the package's ladder.  For each case the unrestricted
energy (and for singlets the restricted one) is minimised from many starts: PySCF's
guesses, HOMO-LUMO mixing, spins split between atoms and between halves of the molecule,
electrons moved between frontier orbitals, random rotations.  Each start is converged on a
coarse grid, by a second-order solver where DIIS does not; the lowest states are converged
to 1e-10 hartree on the grid of the level, and the instabilities of the lowest are followed
down until it is a minimum.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench  # noqa: F401 - first: it sets the threads
import numpy as np
import pyscf
from ase import Atoms
from ase.units import Bohr, Hartree
from filelock import FileLock
from hard_scf_cases import digest, transition_states, written
from pyscf import dft, gto

OUTPUT = Path(__file__).with_name("hard_scf_references.json")
FUNCTIONAL, BASIS, GRID = "wb97x", "6-31g*", 3
COARSE_GRID = 0
ROUGH_HARTREE = 1e-4
"""Energies on the coarse grid that are nearer to each other are of one state."""

NEAR_HARTREE, MOST_POLISHED = 0.02, 4
"""States on the coarse grid this near to the lowest are converged on the fine one, so many."""

SAME_HARTREE = 2e-5
FEW_ATOMS = 5
"""Larger molecules get fewer starts."""


def build(atoms: Atoms) -> Any:
    return gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)),
        basis=BASIS,
        cart=True,
        charge=atoms.info["charge"],
        spin=atoms.info["spin"] - 1,
        verbose=0,
    )


class Fields:
    """Mean fields of one molecule, which share grids and fitting integrals."""

    def __init__(self, mole: Any) -> None:
        self.mole = mole
        self._grids = {}
        for level in (COARSE_GRID, GRID):
            self._grids[level] = dft.gen_grid.Grids(mole)
            self._grids[level].level = level
        self._fitting = dft.RKS(mole, xc=FUNCTIONAL).density_fit().with_df

    def make(self, grid: int, *, restricted: bool = False) -> Any:
        field = (dft.RKS if restricted else dft.UKS)(self.mole, xc=FUNCTIONAL)
        field = field.density_fit(with_df=self._fitting)
        field.grids = self._grids[grid]
        field.conv_tol = 1e-10 if grid == GRID else 1e-7
        field.max_cycle = 60
        return field

    def descend(self, density: Any, grid: int, *, restricted: bool = False) -> Any:
        """Converge from a density: DIIS for a while, second order where that was not enough."""
        field = self.make(grid, restricted=restricted)
        field.kernel(dm0=density)
        return field if field.converged else second_order(field)

    def to_the_bottom(self, state: Any) -> Any:
        """Polish a state and follow its instabilities down; None where that does not end."""
        for _ in range(8):
            state = second_order(state)
            if not state.converged:
                return None
            if not turnable(state):
                return state
            orbitals, _, stable, _ = state.stability(return_status=True)
            if stable:
                return state
            state = self.descend(state.make_rdm1(orbitals, state.mo_occ), GRID)
        return None


def second_order(field: Any) -> Any:
    newton = field.newton()
    newton.max_cycle = 60
    newton.conv_tol = field.conv_tol
    newton.kernel(field.mo_coeff, field.mo_occ)
    return newton


def turnable(field: Any) -> bool:
    occupied = np.asarray(field.mo_occ) > 0
    return all(one.any() and not one.all() for one in np.atleast_2d(occupied))


def starts(fields: Fields, few: bool) -> Iterator[tuple[str, Any]]:
    """Yield spin densities to start from, by name."""
    mole = fields.mole
    field = fields.make(COARSE_GRID)
    for name in ("minao", "huckel") if few else ("minao", "atom", "huckel"):
        try:
            yield name, np.asarray(field.get_init_guess(key=name))
        except (RuntimeError, ValueError, KeyError, AttributeError):
            continue
    rough = fields.make(COARSE_GRID)
    rough.max_cycle = 12
    rough.kernel()
    orbitals, filled = rough.mo_coeff, [int(n) for n in mole.nelec]
    size = orbitals.shape[-1]
    random = np.random.default_rng(len(mole.atom) + 7 * mole.nelectron)

    def density(alpha: Any, beta: Any, which: Any = None) -> Any:
        a, b = which or (range(filled[0]), range(filled[1]))
        up, down = alpha[:, list(a)], beta[:, list(b)]
        return np.array([up @ up.T, down @ down.T])

    def mixed(angle: float, low: int, high: int) -> Any:
        turned = []
        for sign, coefficients in ((1, orbitals[0]), (-1, orbitals[1])):
            new = coefficients.copy()
            cos, sin = np.cos(angle), sign * np.sin(angle)
            new[:, low] = cos * coefficients[:, low] + sin * coefficients[:, high]
            new[:, high] = cos * coefficients[:, high] - sin * coefficients[:, low]
            turned.append(new)
        return density(*turned)

    top = filled[1] - 1
    if 0 <= top < size - 1:
        yield "homo-lumo mixed", mixed(np.pi / 4, top, filled[0])
        if not few and top > 0:
            yield "homo-1 to lumo mixed", mixed(np.pi / 4, top - 1, filled[0])
        if not few and filled[0] + 1 < size:
            yield "homo to lumo+1 mixed", mixed(np.pi / 4, top, filled[0] + 1)
    for spin in (0, 1):  # another orbital empty, another one full
        last = filled[spin] - 1
        for low, high in ((last, last + 1), (last - 1, last + 1), (last, last + 2)):
            if low < 0 or high >= size or (few and (low, high) != (last, last + 1)):
                continue
            which = [list(range(filled[0])), list(range(filled[1]))]
            which[spin][low] = high
            yield f"spin {spin}: {low} to {high}", density(*orbitals, which)
    yield from split_spins(mole, few)
    for seed in range(1 if few else 2):
        noise = random.normal(size=(2, size, size)) * 0.15
        turned = [
            c @ np.linalg.qr(np.eye(size) + n - n.T)[0]
            for c, n in zip(orbitals, noise, strict=True)
        ]
        yield f"random {seed}", density(*turned)


def split_spins(mole: Any, few: bool) -> Iterator[tuple[str, Any]]:
    """Yield densities of atoms with spin up on one side and down on the other."""
    whole = np.asarray(dft.RKS(mole).get_init_guess(key="atom"))
    if whole.ndim == 3:
        whole = whole.sum(axis=0)
    places = mole.atom_coords()
    axis = np.linalg.svd(places - places.mean(axis=0))[2][0]
    order = np.argsort((places - places.mean(axis=0)) @ axis)
    cuts = [len(order) // 2] if few else range(1, len(order))
    patterns = {f"cut after {cut} atoms": {int(i) for i in order[:cut]} for cut in cuts}
    patterns["every other atom"] = {int(i) for i in order[::2]}
    slices = mole.aoslice_by_atom()
    for name, up in patterns.items():
        weights = np.ones((2, mole.nao))
        for atom, (_, _, begin, end) in enumerate(slices):
            weights[:, begin:end] = [[1.6], [0.4]] if atom in up else [[0.4], [1.6]]
        yield name, np.array([0.5 * np.sqrt(w)[:, None] * whole * np.sqrt(w) for w in weights])


def solve(atoms: Atoms) -> dict[str, Any]:
    begin = time.process_time()
    mole = build(atoms)
    few = len(atoms) > FEW_ATOMS
    fields = Fields(mole)
    rough: list[tuple[float, str, Any]] = []  # on the coarse grid
    restricted_energy = None
    if mole.spin == 0:
        guess = np.asarray(dft.RKS(mole).get_init_guess())
        guess = guess.sum(axis=0) if guess.ndim == 3 else guess
        closed = fields.descend(guess, GRID, restricted=True)
        if closed.converged:
            restricted_energy = float(closed.e_tot)
            _, outward, _, stable = closed.stability(external=True, return_status=True)
            open_shell = closed.to_uks()
            orbitals = open_shell.mo_coeff if stable else outward
            start = np.asarray(open_shell.make_rdm1(orbitals, open_shell.mo_occ))
            keep(fields, "restricted, then outward", start, rough)
    for name, density in starts(fields, few):
        keep(fields, name, density, rough)
    rough.sort(key=lambda one: one[0])
    lowest = rough[0][0]
    distinct = rough[:1] + [b for a, b in pairwise(rough) if b[0] - a[0] > ROUGH_HARTREE]
    near = [one for one in distinct if one[0] - lowest < NEAR_HARTREE][:MOST_POLISHED]
    found = []
    for _, name, density in near:
        state = fields.descend(density, GRID)
        if state.converged:
            found.append((float(state.e_tot), name, state))
    while True:
        found.sort(key=lambda one: one[0])
        energy, origin, state = found[0]
        bottom = fields.to_the_bottom(state)
        if bottom is None:
            found.pop(0)  # nobody proved it a minimum
            continue
        if bottom.e_tot > energy - SAME_HARTREE:
            break
        found.append((float(bottom.e_tot), f"{origin}, then down", bottom))
    plain = bottom.undo_newton() if hasattr(bottom, "undo_newton") else bottom
    forces = -np.asarray(plain.nuc_grad_method().kernel()) * Hartree / Bohr
    energy = float(bottom.e_tot)
    return {
        "geometry": digest(atoms),
        "energy_ev": energy * Hartree,
        "forces_ev_per_ang": np.round(forces, 6).tolist(),
        "s_squared": round(float(bottom.spin_square()[0]), 6),
        "restricted_above_ev": None
        if restricted_energy is None
        else round((restricted_energy - energy) * Hartree, 6),
        "from": found[0][1],
        "starts": len(rough),
        "starts_that_reached_it": sum(one[0] - lowest < ROUGH_HARTREE for one in rough),
        "states_above_ev": [round((one[0] - lowest) * Hartree, 3) for one in distinct[1:8]],
        "processor_seconds": round(time.process_time() - begin, 1),
    }


def keep(fields: Fields, name: str, density: Any, found: list[tuple[float, str, Any]]) -> None:
    """Add the state reached from a start on the coarse grid, or nothing where none was."""
    try:
        state = fields.descend(density, COARSE_GRID)
    except (ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        print(f"    {name}: {type(error).__name__}: {error}")
        return
    if state.converged:
        found.append((float(state.e_tot), name, np.asarray(state.make_rdm1())))


def keep_case(name: str, case: dict[str, Any]) -> None:
    """Put one solution into the file; several processes may do so."""
    with FileLock(f"{OUTPUT}.lock"):
        known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"cases": {}}
        known["cases"][name] = case
        known["level"] = {
            "functional": FUNCTIONAL,
            "basis": BASIS,
            "cart": True,
            "grid_level": GRID,
            "auxiliary_basis": "auto",
        }
        known["pyscf"] = pyscf.__version__
        OUTPUT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of cases; those asked again")
    parser.add_argument("--part", default="0/1", help="K/N: only every N-th case, from K on")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    part, parts = map(int, chosen.part.split("/"))
    cases = list((written() | transition_states(chosen.data)).items())
    for name, atoms in cases[part::parts]:
        known = json.loads(OUTPUT.read_text())["cases"] if OUTPUT.exists() else {}
        if name not in chosen.only and (
            chosen.only or known.get(name, {}).get("geometry") == digest(atoms)
        ):
            continue
        case = solve(atoms)
        keep_case(name, case)
        print(name, {k: v for k, v in case.items() if "forces" not in k}, flush=True)


if __name__ == "__main__":
    main()
