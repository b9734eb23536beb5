"""Forces of a density-fitted Kohn-Sham state, without PySCF's intermediate matrices.

PySCF's gradient builds the derivatives of Coulomb and exchange as matrices,
from two kinds of derivative integrals, and those of exchange and correlation
from another pass of matrix products over the grid.  A gradient needs only
numbers: here the first kind of integrals is contracted with the density as it
is made (the second follows from it, because a potential between three centres
does not change when all of them move), and the grid's part comes from
`hybrid_calc.reference.quadrature`.  Everything else is PySCF's.

Energy of fitted Coulomb and exchange, D the density, C the orbitals of each
spin, (P|Q) the metric of the fitting functions:

    E = 1/2 d_P (P|Q)^-1 d_Q - 1/2 x sum_ij (ij|P) (P|Q)^-1 (Q|ij),  d_P = D_mn (mn|P)

Runs inside the PySCF worker; atomic units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular

from hybrid_calc.reference.quadrature import CachedIntegrator

Array = NDArray[np.float64]

BLOCK_BYTES = 2e8
"""Of derivative integrals taken together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One operator of a functional's exact exchange.

    Attributes
    ----------
    omega
        Of the attenuated Coulomb operator, 1/bohr; zero for the whole, negative for short range.
    share
        Of it in the functional.
    """

    omega: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What is exchanged by one operator.

    Attributes
    ----------
    spins
        Occupied orbitals of each spin, shape (B, O) each.
    share
        Of the operator, times the electrons in an orbital.
    """

    spins: list[Array]
    share: float


def can_contract(field: Any) -> bool:
    """Tell whether the gradient of this mean field can be taken here."""
    from pyscf.df.grad import rks, uks

    return (
        isinstance(getattr(field, "_numint", None), CachedIntegrator)
        and bool(getattr(field, "with_df", None))
        and not field.only_dfj
        and not field.do_nlc()
        and type(field.nuc_grad_method()) in (rks.Gradients, uks.Gradients)
    )


def gradient_of(field: Any) -> Any:
    """Return PySCF's gradient object with its two-electron part replaced by ours."""
    from pyscf import lib

    gradient = field.nuc_grad_method()

    def contracted(mol: Any = None, dm: Any = None) -> Any:
        del mol
        density = field.make_rdm1() if dm is None else dm
        moved = field._numint.gradient(field.mol, field.grids, field.xc, density)
        moved += two_electron_part(field)
        shape = (3, *np.shape(density)[-2:])
        empty = np.zeros(shape if np.ndim(density) == 2 else (2, *shape))
        return lib.tag_array(empty, exc1_grid=None, aux=moved)

    gradient.get_veff = contracted
    gradient.grid_response = False
    gradient.auxbasis_response = True
    return gradient


def exchange_of(field: Any) -> tuple[Exchange, ...]:
    """Return the operators of a functional's exact exchange with their shares."""
    integrator = field._numint
    if not integrator.libxc.is_hybrid_xc(field.xc):
        return ()
    omega, long_range, short_range = integrator.rsh_and_hybrid_coeff(field.xc, spin=field.mol.spin)
    if omega == 0:
        return (Exchange(omega=0.0, share=short_range),)
    if long_range == 0:
        return (Exchange(omega=-omega, share=short_range),)
    if short_range == 0:
        return (Exchange(omega=omega, share=long_range),)
    return (
        Exchange(omega=0.0, share=short_range),
        Exchange(omega=omega, share=long_range - short_range),
    )


def two_electron_part(field: Any) -> Array:
    """Return the derivative of fitted Coulomb and exchange energy, hartree/bohr, shape (N, 3)."""
    coefficients, occupations = np.asarray(field.mo_coeff), np.asarray(field.mo_occ)
    if occupations.ndim == 1:
        spins, spins_each = [coefficients[:, occupations > 0]], 2
    else:
        spins = [c[:, o > 0] for c, o in zip(coefficients, occupations, strict=True)]
        spins_each = 1
    density = spins_each * sum(c @ c.T for c in spins)
    shares: dict[float, float] = {0.0: 0.0}
    for one in exchange_of(field):
        shares[one.omega] = shares.get(one.omega, 0.0) + one.share
    fit = field.with_df
    if fit._cderi is None:
        fit.build()
    total = np.zeros((field.mol.natm, 3))
    for omega, share in shares.items():
        exchanged = Exchanged(spins=spins if share else [], share=share * spins_each)
        if omega == 0:
            total += _contract(fit, fit.auxmol, density, exchanged)
        else:
            with fit.range_coulomb(omega) as attenuated:
                total += _contract(attenuated, fit.auxmol, None, exchanged)
    return total


def _contract(fit: Any, auxiliary: Any, density: Array | None, exchanged: Exchanged) -> Array:
    """Return the derivative for one operator: Coulomb of a density, exchange of orbitals."""
    mol, spins, share = fit.mol, exchanged.spins, exchanged.share
    count, functions = mol.natm, mol.nao
    root = inverse_root(auxiliary.intor("int2c2e", hermi=1))
    fitted, pairs = _fitting(fit, root, density, spins)
    if not _is_root_of(fit, root, mol, auxiliary):
        raise LinAlgError("the fitting basis has another root in PySCF than here")
    metric = 0.5 * np.outer(fitted, fitted)
    for pair in pairs:
        flat = pair.reshape(len(pair), -1)
        metric -= 0.5 * share * (flat @ flat.T)
    slopes = auxiliary.intor("int2c2e_ip1")
    on_fitting = 2 * np.einsum("xpq,pq->px", slopes, metric)
    on_orbital = np.zeros((functions, 3))
    for shells in _shell_blocks(auxiliary, functions):
        places = slice(*auxiliary.ao_loc_nr()[list(shells)])
        weights = np.zeros((places.stop - places.start, functions, functions))
        if density is not None:
            weights += fitted[places, None, None] * density
        for occupied, pair in zip(spins, pairs, strict=True):
            weights -= share * (occupied @ pair[places] @ occupied.T)
        slopes = _three_centre(mol, auxiliary, shells)
        pulled = np.einsum("xpnm,pnm->xpm", slopes, weights)
        on_orbital -= 2 * pulled.sum(axis=1).T
        on_fitting[places] += 2 * pulled.sum(axis=2).T
    moved = np.zeros((count, 3))
    for atom, (mine, fitting) in enumerate(
        zip(mol.aoslice_by_atom(), auxiliary.aoslice_by_atom(), strict=True)
    ):
        moved[atom] = on_orbital[mine[2] : mine[3]].sum(axis=0)
        moved[atom] += on_fitting[fitting[2] : fitting[3]].sum(axis=0)
    return moved


def inverse_root(metric: Array) -> Array:
    """Return R with R^T R the inverse of a metric, as PySCF fits with it, shape (Q, P).

    By Cholesky where the metric allows; else without its smallest eigenvalues,
    as the long-range metric of tight functions needs.
    """
    from pyscf.df.incore import LINEAR_DEP_THR

    try:
        lower = cholesky(metric, lower=True)
    except LinAlgError:
        values, vectors = eigh(metric)
        kept = values > LINEAR_DEP_THR
        return np.asarray((vectors[:, kept] / np.sqrt(values[kept])).T)
    return np.asarray(solve_triangular(lower, np.eye(len(lower)), lower=True))


def _fitting(
    fit: Any, root: Array, density: Array | None, spins: list[Array]
) -> tuple[Array, list[Array]]:
    """Return fitting coefficients of the density (P,) and of pairs of orbitals, (P, O, O)."""
    from pyscf import lib

    fitted = np.zeros(len(root))
    pairs = [np.zeros((len(root), c.shape[1], c.shape[1])) for c in spins]
    start = 0
    for packed in fit.loop():
        rows = slice(start, start + len(packed))
        start += len(packed)
        full = lib.unpack_tril(packed)
        if density is not None:
            fitted[rows] = full.reshape(len(full), -1) @ density.ravel()
        for occupied, pair in zip(spins, pairs, strict=True):
            pair[rows] = occupied.T @ (full @ occupied)
    return root.T @ fitted, [np.tensordot(root, pair, axes=(0, 0)) for pair in pairs]


def _is_root_of(fit: Any, root: Array, mol: Any, auxiliary: Any) -> bool:
    """Tell whether PySCF fitted with this root, by the product of the first function with itself.

    Eigenvectors have free signs, and turn freely where eigenvalues are near each other.
    """
    from pyscf.df.incore import aux_e2

    first = aux_e2(mol, auxiliary, "int3c2e", shls_slice=(0, 1, 0, 1, 0, auxiliary.nbas))[0, 0]
    theirs = np.concatenate([packed[:, 0] for packed in fit.loop()])
    return bool(np.allclose(theirs, root @ first, atol=1e-9))


def _shell_blocks(auxiliary: Any, functions: int) -> list[tuple[int, int]]:
    """Return ranges of fitting shells whose derivative integrals fit into `BLOCK_BYTES`."""
    most = max(1, int(BLOCK_BYTES / (4 * 8 * functions**2)))
    places = auxiliary.ao_loc_nr()
    blocks, first = [], 0
    for shell in range(1, auxiliary.nbas + 1):
        last = shell == auxiliary.nbas
        if last or places[shell + 1] - places[first] > most:
            blocks.append((first, shell))
            first = shell
    return blocks


def _three_centre(mol: Any, auxiliary: Any, shells: tuple[int, int]) -> Array:
    """Return (del m n|P), shape (3, P, n, m), of a range of fitting shells."""
    from pyscf.df.incore import aux_e2

    slices = (0, mol.nbas, 0, mol.nbas, *shells)
    values = aux_e2(mol, auxiliary, "int3c2e_ip1", aosym="s1", comp=3, shls_slice=slices)
    return np.asarray(values.transpose(0, 3, 2, 1))
