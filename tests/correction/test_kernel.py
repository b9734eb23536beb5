"""Covariances through inverse distances."""

import math

import numpy as np
import pytest

from hybrid_calc.correction.kernel import (
    Observables,
    covariance,
    pair_features,
    products,
    profiles,
)


def test_two_atoms_two_apart_have_inverse_distance_one_half():
    features = pair_features(np.array([[[0.0, 0, 0], [0, 0, 2.0]]]))
    assert features.values == pytest.approx(np.array([[0.5]]))
    # d(1/r)/dz of the second atom is -1/r^2.
    assert features.jacobian[0, 0] == pytest.approx([0, 0, 0.25, 0, 0, -0.25])


def test_jacobian_is_the_derivative_of_the_values():
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(1, 4, 3)) * 1.5
    numerical = np.empty((6, 12))
    for k in range(12):
        step = np.zeros(12)
        step[k] = 1e-6
        up, down = (pair_features(positions + s * step.reshape(1, 4, 3)).values for s in (1, -1))
        numerical[:, k] = (up - down)[0] / 2e-6
    assert pair_features(positions).jacobian[0] == pytest.approx(numerical, abs=1e-7)


def test_matern_profile_at_one_length_scale():
    value, first, second = profiles("matern52", np.array(4.0), 2.0)
    root = math.sqrt(5)
    assert value == pytest.approx((1 + root + 5 / 3) * math.exp(-root))
    assert first == pytest.approx(5 / 12 * (1 + root) * math.exp(-root))
    assert second == pytest.approx(25 / 48 * math.exp(-root))


@pytest.mark.parametrize("name", ["matern52", "rbf"])
def test_profiles_are_the_derivatives_of_the_value(name):
    d, h = 1.3, 1e-4
    k = [profiles(name, np.array((d + s * h) ** 2), 0.9)[0] for s in (-1, 0, 1)]
    slope, bend = (k[2] - k[0]) / (2 * h), (k[2] - 2 * k[1] + k[0]) / h**2
    _, first, second = profiles(name, np.array(d**2), 0.9)
    assert first == pytest.approx(-slope / d, rel=1e-6)
    assert second == pytest.approx((bend - slope / d) / d**2, rel=1e-5)


@pytest.mark.parametrize("name", ["matern52", "rbf"])
def test_covariance_is_symmetric_and_positive_definite(name):
    features = pair_features(np.random.default_rng(2).normal(size=(5, 4, 3)) * 1.5)
    directions = features.jacobian @ np.random.default_rng(3).normal(size=(12, 3))
    some = Observables(features=features.values, directions=directions)
    matrix = covariance(name, products(some, some), 1.0)
    assert matrix.shape == (20, 20)
    assert matrix == pytest.approx(matrix.T, abs=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0
