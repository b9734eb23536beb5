"""Exchange and correlation on the grid, with the basis functions kept from cycle to cycle.

PySCF evaluates the basis functions anew in every SCF cycle and multiplies
with matrices of all of them; on molecules of a few dozen atoms that is nine
tenths of an SCF cycle.  Here the functions that reach a block of neighbouring
grid points are evaluated once per geometry and kept where they fit into
memory, the density is built from occupied orbitals, and the gradient is
contracted with them on the spot.  Same grid, same functional by libxc: the
answer differs from PySCF's by what the functions left out of a block are
worth, about 1e-10 hartree.

Runs inside the PySCF worker; atomic units.  K functions reach a block of G points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.dft import numint

Array = NDArray[np.float64]

BLOCK_POINTS = 20 * numint.BLKSIZE
"""Grid points taken together; few enough that their functions stay in the processor's cache."""

NEGLIGIBLE = 1e-7
"""Value below which a basis function does not reach a point, bohr^-3/2."""

TYPES = {"LDA": 1, "GGA": 4, "MGGA": 5}
"""What a functional depends on: density, its gradient (3), kinetic energy density."""

WITH_LAPLACIAN = ("CC06", "CS", "BR89", "MK00")
"""Functionals that PySCF refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbouring grid points and the basis functions that reach them.

    Attributes
    ----------
    points
        Which of the grid.
    functions
        Indices of the basis functions, shape (K,).
    values
        The functions and their derivatives x, y, z (and xx, xy, xz, yy, yz, zz),
        shape (1, 4 or 10, K, G).
    """

    points: slice
    functions: NDArray[np.intp]
    values: Array


class CachedIntegrator(numint.NumInt):  # type: ignore[misc]
    """PySCF's numerical integration, its ground-state potentials with kept basis functions."""

    def __init__(self) -> None:
        super().__init__()
        self._grid: Any = None
        self._blocks: list[Block] = []

    def nr_rks(self, mol: Any, grids: Any, xc_code: str, dms: Any, *rest: Any, **more: Any) -> Any:
        """Return electrons, energy and potential matrix of one closed-shell density."""
        if rest or np.ndim(dms) != 2 or not self._can(xc_code, dms, more):
            return super().nr_rks(mol, grids, xc_code, dms, *rest, **more)
        spins, room = [orbitals_of(dms)], more.get("max_memory", 2000)
        electrons, energy, potential = self._integrate(mol, grids, xc_code, spins, room)
        return electrons[0], energy, potential[0]

    def nr_uks(self, mol: Any, grids: Any, xc_code: str, dms: Any, *rest: Any, **more: Any) -> Any:
        """Return electrons, energy and potential matrices of one pair of spin densities."""
        pair = np.ndim(dms) == 3 and len(dms) == 2
        if rest or not pair or not self._can(xc_code, dms, more):
            return super().nr_uks(mol, grids, xc_code, dms, *rest, **more)
        spins, room = [orbitals_of(dms, spin) for spin in (0, 1)], more.get("max_memory", 2000)
        return self._integrate(mol, grids, xc_code, spins, room)

    def gradient(self, mol: Any, grids: Any, xc_code: str, dms: Any) -> Array:
        """Return the derivative of the energy with the basis functions' centres, shape (N, 3).

        The grid stays where it is.
        """
        kind = self._xc_type(xc_code)
        spins = [orbitals_of(dms)] if np.ndim(dms) == 2 else [orbitals_of(dms, s) for s in (0, 1)]
        per_function = np.zeros((mol.nao, 3))
        order = 1 if kind == "LDA" else 2
        for points in _slices(grids):
            block = evaluate(mol, grids, points, order)
            if block is None:
                continue
            waves = [_waves(block, spin, TYPES[kind]) for spin in spins]
            _, potential = self._functional(xc_code, kind, waves)
            weighted = potential * grids.weights[points]
            for spin, wave, factors in zip(spins, waves, weighted, strict=True):
                per_function[block.functions] += _pull(block, spin, wave, factors)
        first = mol.aoslice_by_atom()[:, 2]
        return np.asarray(-2 * np.add.reduceat(per_function, first, axis=0))

    def _can(self, xc_code: str, dms: Any, more: dict[str, Any]) -> bool:
        return (
            more.get("hermi", 1) == 1
            and np.isrealobj(dms)
            and self._xc_type(xc_code) in TYPES
            and not any(name in xc_code.upper() for name in WITH_LAPLACIAN)
        )

    def _integrate(
        self, mol: Any, grids: Any, xc_code: str, spins: list[Orbitals], max_memory: float
    ) -> tuple[Array, float, Array]:
        kind = self._xc_type(xc_code)
        electrons, energy = np.zeros(len(spins)), 0.0
        potential = np.zeros((len(spins), mol.nao, mol.nao))
        for block in self._walk(mol, grids, 0 if kind == "LDA" else 1, max_memory):
            waves = [_waves(block, spin, TYPES[kind]) for spin in spins]
            per_electron, local = self._functional(xc_code, kind, waves)
            weights = grids.weights[block.points]
            here = np.ix_(block.functions, block.functions)
            for spin, wave in enumerate(waves):
                density = wave.density[0] * weights
                electrons[spin] += density.sum()
                energy += float(density @ per_electron)
                potential[spin][here] += _matrix(block, local[spin] * weights)
        return electrons, energy, potential + potential.transpose(0, 2, 1)

    def _functional(self, xc_code: str, kind: str, waves: list[Waves]) -> tuple[Array, Array]:
        """Return energy per electron (G,) and its derivatives, shape (S, 1, 4 or 5, G)."""
        density = np.array([wave.density for wave in waves])
        if kind == "LDA":
            density = density[:, 0]
        asked = density[0] if len(waves) == 1 else density
        energy, potential = self.eval_xc_eff(
            xc_code, asked, deriv=1, xctype=kind, spin=len(waves) - 1
        )[:2]
        return energy, np.asarray(potential).reshape(len(waves), TYPES[kind], -1)

    def _walk(self, mol: Any, grids: Any, order: int, max_memory: float) -> Iterator[Block]:
        """Give the blocks of a grid; those that fit into memory are kept for the next walk."""
        identity = (mol, grids.coords, order)
        if self._grid is None or any(a is not b for a, b in zip(self._grid, identity, strict=True)):
            self._grid, self._blocks = identity, []
        known = {block.points.start: block for block in self._blocks}
        room = max_memory * 0.5e6 if not self._blocks else 0.0
        for points in _slices(grids):
            block = known.get(points.start)
            if block is None:
                block = evaluate(mol, grids, points, order)
                if block is not None and block.values.nbytes < room:
                    room -= block.values.nbytes
                    self._blocks.append(block)
            if block is not None:
                yield block


@dataclass(frozen=True, slots=True, kw_only=True)
class Orbitals:
    """A density matrix as a sum over orbitals: ``coefficients @ diag(signs) @ coefficients.T``.

    Attributes
    ----------
    coefficients
        With the root of the occupation in them, shape (B, n).
    signs
        Shape (n,), or None where all are positive.
    """

    coefficients: Array
    signs: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """Orbitals on the points of a block.

    Attributes
    ----------
    signed
        The orbitals and their derivatives, with their signs, shape (1 or 4, n, G).
    density
        Density, its gradient, kinetic energy density, shape (1, 4 or 5, G).
    """

    signed: Array
    density: Array


def orbitals_of(density: Any, spin: int | None = None) -> Orbitals:
    """Return the orbitals of a symmetric density matrix, those it is tagged with if any."""
    coefficients = getattr(density, "mo_coeff", None)
    if coefficients is not None:
        occupations = np.asarray(density.mo_occ)
        coefficients = np.asarray(coefficients)
        if spin is not None:
            coefficients, occupations = coefficients[spin], occupations[spin]
    else:
        matrix = np.asarray(density if spin is None else density[spin])
        occupations, coefficients = np.linalg.eigh((matrix + matrix.T) / 2)
    taken = np.abs(occupations) > 1e-12
    occupations, coefficients = occupations[taken], coefficients[:, taken]
    signs = np.sign(occupations)
    return Orbitals(
        coefficients=coefficients * np.sqrt(np.abs(occupations)),
        signs=None if (signs > 0).all() else signs,
    )


def evaluate(mol: Any, grids: Any, points: slice, order: int) -> Block | None:
    """Return a block with derivatives up to `order`; None where no function reaches it."""
    mask = grids.non0tab
    if mask is not None:
        size = numint.BLKSIZE
        mask = mask[points.start // size : -(-points.stop // size)]
    values = numint.eval_ao(
        mol, grids.coords[points], deriv=order, non0tab=mask, cutoff=grids.cutoff
    )
    values = values[None] if order == 0 else values
    table = values.transpose(0, 2, 1)
    reach = np.abs(table[: 4 if order else 1]).max(axis=(0, 2)) > NEGLIGIBLE
    if not reach.any():
        return None
    functions = np.flatnonzero(reach)
    return Block(points=points, functions=functions, values=np.ascontiguousarray(table[:, reach]))


def _slices(grids: Any) -> Iterator[slice]:
    count = len(grids.weights)
    for start in range(0, count, BLOCK_POINTS):
        yield slice(start, min(start + BLOCK_POINTS, count))


def _waves(block: Block, spin: Orbitals, terms: int) -> Waves:
    """Return the orbitals and what a functional of so many terms wants, on a block."""
    coefficients = spin.coefficients[block.functions].T
    waves = np.matmul(coefficients, block.values[: 1 if terms == 1 else 4])
    signed = waves if spin.signs is None else waves * spin.signs[:, None]
    density = np.empty((terms, waves.shape[2]))
    density[:4] = np.einsum("cng,ng->cg", waves, signed[0])
    density[1:4] *= 2
    if terms == 5:
        density[4] = 0.5 * np.einsum("cng,cng->g", waves[1:], signed[1:])
    return Waves(signed=signed, density=density)


def _matrix(block: Block, factors: Array) -> Array:
    """Return half the potential's matrix in a block's functions; its transpose is the rest."""
    values = block.values
    half = factors[0] * 0.5 * values[0]
    for derivative in range(1, min(4, len(factors))):
        half += factors[derivative] * values[derivative]
    matrix = half @ values[0].T
    if len(factors) == 5:
        slow = factors[4] * 0.25
        for derivative in (1, 2, 3):
            matrix += (slow * values[derivative]) @ values[derivative].T
    return np.asarray(matrix)


SECOND = ((4, 5, 6), (5, 7, 8), (6, 8, 9))
"""Where PySCF keeps the second derivatives: xx, xy, xz, yy, yz, zz after the first ones."""


def _pull(block: Block, spin: Orbitals, wave: Waves, factors: Array) -> Array:
    """Return what the functional gains as each function moves, over -2, shape (K, 3)."""
    coefficients, values, signed = spin.coefficients[block.functions], block.values, wave.signed
    mixed = factors[0] * signed[0]
    for axis in range(1, min(4, len(factors))):
        mixed += factors[axis] * signed[axis]
    pulled = coefficients @ mixed
    pull: Array = np.einsum("xkg,kg->kx", values[1:4], pulled)
    if len(factors) == 1:
        return pull
    density = coefficients @ signed[0]
    for axis in range(3):
        along = factors[axis + 1] * density
        if len(factors) == 5:
            along += (0.5 * factors[4]) * (coefficients @ signed[axis + 1])
        for side in range(3):
            pull[:, side] += np.einsum("kg,kg->k", values[SECOND[axis][side]], along)
    return pull
