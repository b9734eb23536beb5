"""Whether a state is a minimum: the sign of a matrix, and of real states."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_calc.reference import stability
from hybrid_calc.reference.ladder import climb
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_fields import build_field, build_molecule
from hybrid_calc.reference.stability import external_root, internal_root, lowest_sign, rotated

pytest.importorskip("pyscf")

LEVEL = LevelOfTheory(
    program="pyscf",
    functional="wb97x",
    basis="6-31g*",
    cart=True,
    auxiliary_basis="auto",
    grid_level=1,
    convergence_hartree=1e-8,
)


@pytest.fixture(autouse=True)
def _one_thread():
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield


def matrix(lowest, *, size=60, seed=0):
    """Return a dense symmetric matrix near its diagonal with a known lowest eigenvalue."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(size, size))
    dense = np.diag(np.linspace(0.3, 3, size)) + 0.02 * (noise + noise.T)
    values, vectors = np.linalg.eigh(dense)
    values[0] = lowest
    return (vectors * values) @ vectors.T


@pytest.mark.parametrize("lowest", [-0.4, -0.05, -0.01, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_is_that_of_the_lowest_eigenvalue(lowest, seed):
    dense, products = matrix(lowest, seed=seed), []

    def multiply(vectors):
        products.append(len(vectors))
        return vectors @ dense

    value, vector = lowest_sign(multiply, np.diag(dense).copy())
    assert (value < stability.UNSTABLE_HARTREE) == (lowest < stability.UNSTABLE_HARTREE)
    assert value >= lowest - 1e-10  # Rayleigh quotients are never below
    assert vector @ dense @ vector == pytest.approx(value)
    assert sum(products) < 42


def test_unstable_direction_is_good_enough_to_follow():
    dense = matrix(-0.1)
    _, vector = lowest_sign(lambda vectors: vectors @ dense, np.diag(dense).copy())
    exact = np.linalg.eigh(dense)[1][:, 0]
    assert abs(vector @ exact) > 0.95


def test_question_is_cheaper_than_the_eigenvalue(monkeypatch):
    dense, counts = matrix(0.2), []
    for certain in (0.3, 1e-6):
        monkeypatch.setattr(stability, "CERTAIN", certain)
        monkeypatch.setattr(stability, "CONVERGED_HARTREE", min(1e-3, certain))
        products = []
        lowest_sign(
            lambda vectors, seen=products: seen.append(len(vectors)) or vectors @ dense,
            np.diag(dense).copy(),
        )
        counts.append(sum(products))
    assert counts[0] < counts[1] / 2


def restricted(numbers, positions):
    request = {
        "numbers": numbers,
        "positions": positions,
        "charge": 0,
        "multiplicity": 1,
        "max_memory_mb": 500,
        "level": LEVEL.to_dict(),
    }
    molecule = build_molecule(request)
    return climb(lambda: build_field(molecule, LEVEL.to_dict())).field


@pytest.mark.parametrize(
    ("length", "unstable"), [(0.74, False), (1.2, False), (1.6, True), (2.5, True)]
)
def test_hydrogen_becomes_unstable_as_it_is_stretched(length, unstable):
    value, _ = external_root(restricted([1, 1], [[0, 0, 0], [0, 0, length]]))
    assert (value < stability.UNSTABLE_HARTREE) == unstable


def test_stretched_nitrogen_is_unstable_and_nitrogen_is_not():
    for length, unstable in ((1.1, False), (1.8, True)):
        value, _ = external_root(restricted([7, 7], [[0, 0, 0], [0, 0, length]]))
        assert (value < stability.UNSTABLE_HARTREE) == unstable


def test_unrestricted_saddle_has_a_way_down_and_its_end_has_none():
    # stretched H2, unrestricted, from the restricted density: an unrestricted
    # saddle whose way down is the restricted state's external one, at its eigenvalue
    request = {"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 2.0]], "charge": 0}
    request |= {"multiplicity": 1, "max_memory_mb": 500, "level": LEVEL.to_dict()}
    molecule = build_molecule(request)
    closed = climb(lambda: build_field(molecule, LEVEL.to_dict())).field
    outside, _ = external_root(closed)
    field = build_field(molecule, LEVEL.to_dict(), unrestricted=True)
    field.kernel(dm0=np.array([closed.make_rdm1() / 2] * 2))
    inside, (up, down) = internal_root(field)
    assert field.e_tot == pytest.approx(closed.e_tot, abs=1e-6)
    assert inside == pytest.approx(outside, rel=0.05)
    assert inside < stability.UNSTABLE_HARTREE
    assert np.sum(up * down) < -0.4  # the two spins turn against each other
    turned = [
        rotated(c, o, x) for c, o, x in zip(field.mo_coeff, field.mo_occ, (up, down), strict=True)
    ]
    lower = build_field(molecule, LEVEL.to_dict(), unrestricted=True)
    lower.kernel(dm0=field.make_rdm1(np.array(turned), field.mo_occ))
    assert lower.e_tot < field.e_tot - 0.02
    assert internal_root(lower)[0] > stability.UNSTABLE_HARTREE


def test_turned_orbitals_stay_orthonormal():
    orbitals = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    turned = rotated(orbitals, np.array([2, 2, 0, 0]), np.array([[0.3, 0.0], [0.1, 0.2]]))
    np.testing.assert_allclose(turned.T @ turned, np.eye(4), atol=1e-12)
    assert np.abs(turned - orbitals).max() > 0.05
