"""Our integration and gradients against PySCF's own, on real PySCF."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyscf")

from pyscf import dft, gto, lib
from pyscf.df.grad import rks as fitted_rks

from hybrid_calc.reference import fitted_gradient, quadrature
from hybrid_calc.reference.fitted_gradient import can_contract, gradient_of
from hybrid_calc.reference.pyscf_fields import forces_of
from hybrid_calc.reference.quadrature import CachedIntegrator, orbitals_of

FUNCTIONALS = ("lda,vwn", "pbe", "m06l", "b3lyp", "wb97x", "hse06")
"""Local, with gradients, with kinetic energy density, global hybrid, long range, short range."""


@pytest.fixture(autouse=True)
def _one_thread():
    with lib.with_omp_threads(1):
        yield


def field_of(functional, *, spin=0, cart=False, ours=True, fit=True):
    """Return a converged mean field of hydrogen peroxide, no symmetry, and of its ions."""
    molecule = gto.M(
        atom="O 0 0 0; O 0 .1 1.4; H .9 .1 -.2; H -.3 .8 1.7",
        basis="6-31g*",
        cart=cart,
        charge=spin % 2,
        spin=spin,
        verbose=0,
    )
    field = dft.RKS(molecule) if spin == 0 else dft.UKS(molecule)
    field.xc, field.grids.level, field.conv_tol = functional, 0, 1e-9
    if ours:
        field._numint = CachedIntegrator()
    if fit:
        field = field.density_fit()
    field.kernel()
    return field


@pytest.mark.parametrize("spin", [0, 1])
@pytest.mark.parametrize("functional", FUNCTIONALS)
def test_energy_and_gradient_are_those_of_pyscf(functional, spin):
    ours = field_of(functional, spin=spin, cart=spin == 0)
    theirs = field_of(functional, spin=spin, cart=spin == 0, ours=False)
    assert ours.e_tot == pytest.approx(theirs.e_tot, abs=1e-8)
    assert can_contract(ours)
    assert not can_contract(theirs)
    wanted = ours.nuc_grad_method().kernel()
    got = gradient_of(ours).kernel()
    np.testing.assert_allclose(got, wanted, atol=1e-7)
    assert np.abs(wanted).max() > 0.01


def test_potential_without_orbitals_at_hand_is_that_with_them():
    field = field_of("pbe")
    tagged = field.make_rdm1()
    one = field._numint.nr_rks(field.mol, field.grids, "pbe", tagged)
    other = field._numint.nr_rks(field.mol, field.grids, "pbe", np.asarray(tagged))
    assert other[1] == pytest.approx(one[1], abs=1e-10)
    np.testing.assert_allclose(other[2], one[2], atol=1e-10)


def test_density_that_is_no_sum_of_occupied_orbitals_is_rebuilt_with_its_signs():
    density = np.array([[1.0, 0.2, 0.0], [0.2, -0.5, 0.1], [0.0, 0.1, 0.0]])
    spin = orbitals_of(density)
    signed = spin.coefficients * spin.signs
    np.testing.assert_allclose(signed @ spin.coefficients.T, density, atol=1e-12)


def test_what_does_not_fit_into_memory_is_evaluated_again(monkeypatch):
    field = field_of("pbe")
    density, integrator = field.make_rdm1(), CachedIntegrator()
    wanted = integrator.nr_rks(field.mol, field.grids, "pbe", density, max_memory=2000)
    kept, count = len(integrator._blocks), []
    evaluate = quadrature.evaluate
    monkeypatch.setattr(quadrature, "evaluate", lambda *a: count.append(1) or evaluate(*a))
    integrator.nr_rks(field.mol, field.grids, "pbe", density, max_memory=2000)
    assert (kept > 2, count) == (True, [])
    tight = CachedIntegrator()
    for _ in range(2):
        got = tight.nr_rks(field.mol, field.grids, "pbe", density, max_memory=2)
    assert 0 < len(tight._blocks) < kept
    assert len(count) == 2 * kept - len(tight._blocks)
    assert got[1] == wanted[1]
    np.testing.assert_array_equal(got[2], wanted[2])


def test_another_geometry_is_not_answered_from_memory():
    one, other = field_of("pbe"), field_of("pbe", spin=2)
    integrator = CachedIntegrator()
    density = one.make_rdm1()
    before = integrator.nr_rks(one.mol, one.grids, "pbe", density)[1]
    moved = one.mol.copy()
    moved.set_geom_(one.mol.atom_coords() * 1.1, unit="Bohr")
    grids = dft.Grids(moved)
    grids.level = 0
    grids.build(with_non0tab=True)
    assert integrator.nr_rks(moved, grids, "pbe", density)[1] != pytest.approx(before, abs=1e-3)
    assert integrator.nr_rks(one.mol, one.grids, "pbe", density)[1] == before
    assert other.converged


@pytest.mark.parametrize("more", [{"hermi": 0}, {}])
def test_questions_that_are_not_ours_are_pyscfs(more):
    field = field_of("pbe")
    density = np.asarray(field.make_rdm1())
    asked = density if more else np.array([density, density])
    ours = CachedIntegrator()
    got = ours.nr_rks(field.mol, field.grids, "pbe", asked, **more)
    wanted = dft.numint.NumInt().nr_rks(field.mol, field.grids, "pbe", asked, **more)
    np.testing.assert_array_equal(got[2], wanted[2])
    assert ours._blocks == []


def test_fit_with_another_root_is_left_to_pyscf(monkeypatch):
    field = field_of("b3lyp")
    wanted = -field.nuc_grad_method().kernel()
    root = fitted_gradient.inverse_root
    monkeypatch.setattr(fitted_gradient, "inverse_root", lambda metric: -root(metric))
    asked = []
    own = fitted_rks.Gradients.get_jk
    monkeypatch.setattr(
        fitted_rks.Gradients, "get_jk", lambda *a, **k: asked.append(1) or own(*a, **k)
    )
    np.testing.assert_allclose(forces_of(field), wanted, atol=1e-9)
    assert asked


def test_fields_that_are_not_ours_are_left_to_pyscf():
    assert not can_contract(field_of("b3lyp", fit=False))
    solvated = field_of("pbe").PCM()
    assert not can_contract(solvated)
    correlated = field_of("pbe")
    correlated.nlc = "vv10"
    assert not can_contract(correlated)
