"""Where one direction down is not enough: bonds of several pairs, degenerate frontiers."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_calc.reference.ladder import climb
from hybrid_calc.reference.stability import examine


def molecule_of(text):
    from pyscf import gto

    return gto.M(atom=text, basis="6-31g", verbose=0)


def field_of(mole, *, unrestricted=False):
    from pyscf import dft

    field = (dft.UKS if unrestricted else dft.RKS)(mole, xc="wb97x").density_fit()
    field.grids.level = 0
    field.conv_tol = 1e-7
    field._chkfile.close()  # PySCF keeps a temporary file open for each
    field.chkfile = None
    return field


def examined(mole):
    outcome = climb(lambda: field_of(mole))
    verdict = examine(outcome, lambda: field_of(mole, unrestricted=True), allow_unrestricted=True)
    assert verdict.rejection == ""
    return verdict.outcome, outcome.field.e_tot


def atoms_apart(mole, ups):
    """Return the energy reached from free atoms, each with its spins up or down."""
    from pyscf import scf

    whole = np.asarray(scf.RHF(mole).get_init_guess(key="minao"))
    whole = whole.sum(axis=0) if whole.ndim == 3 else whole
    weights = np.empty((2, mole.nao))
    for (_, _, begin, end), up in zip(mole.aoslice_by_atom(), ups, strict=True):
        weights[:, begin:end] = [[1.6], [0.4]] if up else [[0.4], [1.6]]
    field = field_of(mole, unrestricted=True)
    field.kernel(dm0=np.array([whole / 2 * np.sqrt(w)[:, None] * np.sqrt(w) for w in weights]))
    assert field.converged
    return field


@pytest.mark.parametrize(
    ("bond", "s_squared"), [("N 0 0 0; N 0 0 1.7", 1.3), ("C 0 0 0; O 0 0 1.8", 0.5)]
)
def test_all_pairs_of_a_multiple_bond_come_apart(bond, s_squared):
    mole = molecule_of(bond)
    found, restricted = examined(mole)
    apart = atoms_apart(mole, (True, False))
    assert apart.e_tot < restricted - 0.005
    assert found.field.e_tot < apart.e_tot + 1e-5
    assert found.s_squared > s_squared


def test_degenerate_frontier_orbitals_are_each_tried():
    """C2: two pi orbitals above, one sigma below the gap."""
    mole = molecule_of("C 0 0 0; C 0 0 1.243")
    found, restricted = examined(mole)
    assert found.field.e_tot < restricted - 0.02
    best = min(atoms_apart(mole, (True, False)).e_tot, found.field.e_tot)
    assert found.field.e_tot == pytest.approx(best, abs=1e-5)


def test_the_ground_state_of_a_closed_shell_is_left_alone():
    mole = molecule_of("N 0 0 0; N 0 0 1.1")
    found, restricted = examined(mole)
    assert found.field.e_tot == restricted
