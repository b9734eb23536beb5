"""From a request and a level to PySCF's objects; imported by the worker only."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from typing import Any

import numpy as np
from ase.units import Hartree

from hybrid_calc.reference import graphics
from hybrid_calc.reference.graphics import on_device

FUNCTION = "function"
"""Key of a level's parameters: ``module:function`` that gets the Mole and returns a mean field."""

GRADIENT_SHARE = 0.1
"""Orbital gradient at convergence over the root of the energy convergence.  At 1e-7 hartree 0.3
left warm-started malonaldehyde up to 0.8 meV/A from its converged forces, beside 1.4 of grid 4."""

RECKLESS = 100.0
"""The gradient decides when an SCF has converged; the energy may still move this many
times the convergence asked for, because its error is the square of the gradient's."""

PURE_GAP_EV = 2.5
ATTRACTION_MARGIN_EV = 0.7
"""A gap is small below `PURE_GAP_EV` for semi-local functionals.  Exact exchange at long range
widens gaps by the attraction of electron and hole, so that it is small where it falls short of
that attraction: at wB97X/6-31G(d) by 7.6 eV in singlet O2 (gap 7.7 eV), 4.5 C2, 4.0 CH2, 2.9
ethylene twisted by 80 degrees, 2.8 ozone, 2.4 the nitrite ion, 1.1 CO at 1.8 A; by 0.3 in
formaldehyde, and not in water, HCN, ethylene or benzene."""


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


def build_field(
    molecule: Any, level: dict[str, Any], *, unrestricted: bool = False, device: str = "cpu"
) -> Any:
    """Return the mean field of a level: restricted for singlets, unrestricted else.

    Parameters
    ----------
    molecule
        PySCF's Mole.
    level
        `LevelOfTheory.to_dict`.
    unrestricted
        Unrestricted for a singlet, too.
    device
        ``cuda`` solves it on a graphics processor.
    """
    from pyscf import dft

    from hybrid_calc.reference.quadrature import CachedIntegrator

    own = level["parameters"].get(FUNCTION)
    if own:
        field = call_by_name(own, molecule)
        return field.to_uks() if unrestricted and hasattr(field, "to_uks") else field
    restricted = molecule.spin == 0 and not unrestricted
    field = dft.RKS(molecule) if restricted else dft.UKS(molecule)
    field.xc = level["functional"]
    if level["nlc"]:
        field.nlc = level["nlc"]
    if level["dispersion"]:
        field.disp = level["dispersion"]
    field.grids.level = level["grid_level"]
    if device == "cpu":
        field._numint = CachedIntegrator()
    if level["auxiliary_basis"]:
        auxiliary = level["auxiliary_basis"]
        field = field.density_fit(auxbasis=None if auxiliary == "auto" else auxiliary)
    if level["solvent"]:
        field = in_solvent(field, level["solvent"])
    field.conv_tol = level["convergence_hartree"]
    if device == "cuda":  # its loop has a criterion of its own
        field.conv_tol_grad = GRADIENT_SHARE * level["convergence_hartree"] ** 0.5
        return on_device(field)
    field.check_convergence = gradient_converged
    return field


def gradient_converged(state: dict[str, Any]) -> bool:
    """Tell whether an SCF has converged, by its orbital gradient.

    PySCF also waits until two energies in a row agree, which costs a cycle
    after the answer is there.
    """
    change = abs(state["e_tot"] - state["last_hf_e"])
    wanted = state["conv_tol"]
    gradient = state["norm_gorb"] / GRADIENT_SHARE
    return bool(gradient < np.sqrt(wanted) and change < RECKLESS * wanted)


def in_solvent(field: Any, solvent: str) -> Any:
    """Return the mean field in an implicit solvent given as ``MODEL:WHICH``.

    ``c-pcm`` and ``ief-pcm`` take a dielectric constant, ``smd`` a solvent's name.
    """
    model, _, which = solvent.partition(":")
    if model == "smd":
        from pyscf.solvent.smd import solvent_db

        if which not in solvent_db:
            raise ValueError(f"SMD knows no solvent {which!r}; see pyscf.solvent.smd.solvent_db")
        field = field.SMD()
        field.with_solvent.solvent = which
        return field
    field = field.PCM()
    field.with_solvent.method = model.upper()
    field.with_solvent.eps = float(which)
    return field


def forces_of(field: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the forces of a converged mean field, hartree/bohr, shape (N, 3)."""
    from hybrid_calc.reference.fitted_gradient import can_contract, gradient_of

    if isinstance(field, graphics.OnDevice):
        return graphics.forces_of(field)
    if can_contract(field):
        with contextlib.suppress(np.linalg.LinAlgError):  # PySCF fitted with another root
            return -np.asarray(gradient_of(field).kernel())
    gradient = field.nuc_grad_method()
    if hasattr(gradient, "grid_response"):
        gradient.grid_response = False  # net force and torque are projected out instead
    return -np.asarray(gradient.kernel())


def small_gap_ev(field: Any) -> float:
    """Return the gap below which a restricted state is suspect, eV.

    With the share of exact exchange at long range, between `PURE_GAP_EV` and
    the Coulomb attraction of the highest occupied and the lowest empty orbital
    less `ATTRACTION_MARGIN_EV`: the diagonal of the triplet Hessian.
    """
    share = 1.0  # Hartree-Fock
    if hasattr(field, "_numint"):
        omega, alpha, hybrid = field._numint.rsh_and_hybrid_coeff(field.xc, spin=field.mol.spin)
        share = min(1.0, max(0.0, alpha if omega else hybrid))
    if not share or np.ndim(field.mo_occ) != 1:
        return PURE_GAP_EV
    limit = _attraction_ev(field) - ATTRACTION_MARGIN_EV
    return float((1 - share) * PURE_GAP_EV + share * limit)


def _attraction_ev(field: Any) -> float:
    """Return the Coulomb integral of the frontier orbitals' densities, eV; 0 without both."""
    filled = field.mo_occ > 0
    if filled.all() or not filled.any():
        return 0.0
    highest = field.mo_coeff[:, filled][:, np.argmax(field.mo_energy[filled])]
    lowest = field.mo_coeff[:, ~filled][:, np.argmin(field.mo_energy[~filled])]
    potential = field.get_j(field.mol, np.outer(highest, highest))
    return float(lowest @ potential @ lowest) * Hartree


def missing_package(level: dict[str, Any], device: str) -> str:
    """Return the pip command for what a level needs and is not there; empty where all is."""
    if device == "cuda" and (missing := graphics.missing_device()):
        return missing
    from pyscf.scf.dispersion import parse_dft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = level["dispersion"] or parse_dft(level["functional"])[2]
    if not wanted:
        return ""
    try:
        importlib.import_module("pyscf.dispersion")
    except ImportError:
        return "pip install pyscf-dispersion"
    return ""


def call_by_name(name: str, *arguments: Any) -> Any:
    """Call ``module:function``."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)
