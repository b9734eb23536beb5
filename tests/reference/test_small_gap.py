"""Which restricted states are suspect by their gap: against the attraction of electron and hole."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from hybrid_calc.reference.ladder import aufbau_gap_ev
from hybrid_calc.reference.pyscf_fields import ATTRACTION_MARGIN_EV, PURE_GAP_EV, small_gap_ev


def solved(atoms, functional="wb97x", spin=0):
    from pyscf import dft, gto

    mole = gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)),
        basis="6-31g",
        spin=spin,
        verbose=0,
    )
    field = (dft.UKS if spin else dft.RKS)(mole, xc=functional)
    field.grids.level = 0
    field.conv_tol = 1e-6
    field.kernel()
    assert field.converged
    return field


def test_singlet_oxygen_is_suspect_at_a_gap_of_eight_electronvolt():
    """Its unrestricted minimum lies 1.2 eV lower; the gap of water is no larger than twice that."""
    field = solved(molecule("O2"))
    assert 6 < aufbau_gap_ev(field) < small_gap_ev(field) - 4


@pytest.mark.parametrize("name", ["H2O", "HCN", "C2H4", "H2CO"])
def test_ordinary_molecules_are_not(name):
    field = solved(molecule(name))
    assert aufbau_gap_ev(field) > small_gap_ev(field)


def test_the_limit_is_the_integral_of_the_two_densities():
    """(11|22) of H2 in a minimal basis, from the four-centre integrals themselves."""
    from pyscf import gto, scf

    mole = gto.M(atom="H 0 0 0; H 0 0 1.0", basis="sto-3g", verbose=0)
    field = scf.RHF(mole).run()
    four = mole.intor("int2e")
    g, u = field.mo_coeff.T
    attraction = np.einsum("pqrs,p,q,r,s", four, g, g, u, u) * 27.211386
    assert small_gap_ev(field) == pytest.approx(attraction - ATTRACTION_MARGIN_EV, abs=1e-5)


def test_semi_local_functionals_and_open_shells_keep_the_plain_limit():
    assert small_gap_ev(solved(molecule("H2O"), "pbe")) == PURE_GAP_EV
    assert small_gap_ev(solved(molecule("OH"), spin=1)) == PURE_GAP_EV
    hybrid = solved(molecule("H2O"), "pbe0")
    whole = solved(molecule("H2O"), "hf")
    assert PURE_GAP_EV < small_gap_ev(hybrid) < small_gap_ev(whole)
