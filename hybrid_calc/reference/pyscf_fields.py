"""From a request and a level to PySCF's objects; imported by the worker only."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from typing import Any

import numpy as np

FUNCTION = "function"
"""Key of a level's parameters: ``module:function`` that gets the Mole and returns a mean field."""

GRADIENT_SHARE = 0.3
"""Orbital gradient at convergence over the root of the energy convergence: at 1e-7 hartree
forces of water and methanol were within 0.5 meV/A of a 1e-10 SCF's, with 1 within 1.8."""

RECKLESS = 100.0
"""The gradient decides when an SCF has converged; the energy may still move this many
times the convergence asked for, because its error is the square of the gradient's."""

PURE_GAP_EV = 2.5
EXCHANGE_GAP_EV = 5.0
"""A gap is small below `PURE_GAP_EV` for semi-local functionals; exact exchange at long range
widens gaps, by this much for all of it."""


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


def build_field(molecule: Any, level: dict[str, Any], *, unrestricted: bool = False) -> Any:
    """Return the mean field of a level: restricted for singlets, unrestricted else.

    Parameters
    ----------
    molecule
        PySCF's Mole.
    level
        `LevelOfTheory.to_dict`.
    unrestricted
        Unrestricted for a singlet, too.
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
    field._numint = CachedIntegrator()
    if level["auxiliary_basis"]:
        auxiliary = level["auxiliary_basis"]
        field = field.density_fit(auxbasis=None if auxiliary == "auto" else auxiliary)
    if level["solvent"]:
        field = in_solvent(field, level["solvent"])
    field.conv_tol = level["convergence_hartree"]
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

    if can_contract(field):
        with contextlib.suppress(np.linalg.LinAlgError):  # PySCF fitted with another root
            return -np.asarray(gradient_of(field).kernel())
    gradient = field.nuc_grad_method()
    if hasattr(gradient, "grid_response"):
        gradient.grid_response = False  # net force and torque are projected out instead
    return -np.asarray(gradient.kernel())


def small_gap_ev(field: Any) -> float:
    """Return the gap below which a restricted state is suspect, eV."""
    if not hasattr(field, "_numint"):  # Hartree-Fock
        return PURE_GAP_EV + EXCHANGE_GAP_EV
    omega, alpha, hybrid = field._numint.rsh_and_hybrid_coeff(field.xc, spin=field.mol.spin)
    share = alpha if omega else hybrid
    return float(PURE_GAP_EV + EXCHANGE_GAP_EV * min(1.0, max(0.0, share)))


def missing_package(level: dict[str, Any]) -> str:
    """Return the pip command for what a level needs and is not there; empty where all is."""
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
