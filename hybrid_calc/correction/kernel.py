"""Covariance of energies and energy gradients through inverse interatomic distances.

A stationary kernel k(d) of the distance d between two descriptors x and x' enters
only through three profiles: k, g1 = -k'(d)/d and g2 = (k''(d) - k'(d)/d)/d^2.  With
D = x - x' they give

    cov(E, E')       = k
    cov(E, dE'/dx')  = g1 D
    cov(dE/dx, dE')  = -g1 D
    cov(dE/dx, dE'/dx') = g1 I - g2 D D^T

(Rasmussen and Williams, Gaussian Processes for Machine Learning, section 9.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

KernelName = Literal["matern52", "rbf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFeatures:
    """Inverse distances of n geometries of N atoms, P = N(N-1)/2 pairs.

    Attributes
    ----------
    values
        1/r of every pair, 1/A, shape (n, P).
    jacobian
        Derivative of every value by the positions, 1/A^2, shape (n, P, 3N).
    """

    values: NDArray[np.float64]
    jacobian: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observables:
    """Linear functionals of the energy surface, ready for covariances.

    Each of n geometries carries m directional derivatives.

    Attributes
    ----------
    features
        Descriptors x, 1/A, shape (n, P).
    directions
        Directions in descriptor space along which the gradient is seen, shape (n, P, m).
    """

    features: NDArray[np.float64]
    directions: NDArray[np.float64]


def pair_features(positions: NDArray[np.float64]) -> PairFeatures:
    """Return the inverse distances of all pairs and their Jacobian; positions (n, N, 3), A."""
    count, atoms = positions.shape[:2]
    first, second = np.triu_indices(atoms, k=1)
    bonds = positions[:, first] - positions[:, second]
    values = 1.0 / np.linalg.norm(bonds, axis=2)
    slope = -bonds * values[:, :, None] ** 3
    jacobian = np.zeros((count, first.size, atoms, 3))
    pairs = np.arange(first.size)
    jacobian[:, pairs, first] = slope
    jacobian[:, pairs, second] = -slope
    return PairFeatures(values=values, jacobian=jacobian.reshape(count, first.size, 3 * atoms))


def profiles(
    name: KernelName, squared_distance: NDArray[np.float64], length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return k, g1 and g2 of unit amplitude at squared distances, 1/A^2; any shape."""
    if name == "rbf":
        value = np.exp(-0.5 * squared_distance / length**2)
        return value, value / length**2, value / length**4
    rho = np.sqrt(5.0 * squared_distance) / length
    decay = np.exp(-rho)
    first = (5.0 / (3.0 * length**2)) * (1.0 + rho) * decay
    return (1.0 + rho + rho**2 / 3.0) * decay, first, (25.0 / (3.0 * length**4)) * decay


def squared_distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared distances between descriptors (n, P) and (n', P), shape (n, n'), 1/A^2."""
    difference = left[:, None, :] - right[None, :, :]
    return np.asarray(np.einsum("ijp,ijp->ij", difference, difference))


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """What a covariance of two sets of observables needs and no length scale changes.

    Attributes
    ----------
    squared_distance
        Shape (n, n').
    gram
        Scalar products of directions, shape (n, m, n', m').
    left
        D.direction for the directions of the left set, shape (n, m, n').
    right
        D.direction for the directions of the right set, shape (n, n', m').
    """

    squared_distance: NDArray[np.float64]
    gram: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]


def products(left: Observables, right: Observables) -> Products:
    """Return the scalar products between two sets, D = x_left - x_right."""
    n, pairs, m = left.directions.shape
    n2, _, m2 = right.directions.shape
    flat_left = left.directions.transpose(0, 2, 1).reshape(n * m, pairs)
    flat_right = right.directions.transpose(0, 2, 1).reshape(n2 * m2, pairs)
    own_left = np.einsum("ipa,ip->ia", left.directions, left.features)
    own_right = np.einsum("jpb,jp->jb", right.directions, right.features)
    cross_left = (flat_left @ right.features.T).reshape(n, m, n2)
    cross_right = (left.features @ flat_right.T).reshape(n, n2, m2)
    return Products(
        squared_distance=squared_distances(left.features, right.features),
        gram=(flat_left @ flat_right.T).reshape(n, m, n2, m2),
        left=own_left[:, :, None] - cross_left,
        right=cross_right - own_right[None, :, :],
    )


def covariance(name: KernelName, parts: Products, length: float) -> NDArray[np.float64]:
    """Return the covariance matrix of unit amplitude, shape (n + n m, n' + n' m').

    Rows and columns hold all energies first, then the gradients geometry by geometry.
    """
    value, first, second = profiles(name, parts.squared_distance, length)
    n, m, n2, m2 = parts.gram.shape
    matrix = np.empty((n + n * m, n2 + n2 * m2))
    matrix[:n, :n2] = value
    matrix[:n, n2:] = (first[:, :, None] * parts.right).reshape(n, n2 * m2)
    matrix[n:, :n2] = -(first[:, None, :] * parts.left).reshape(n * m, n2)
    block = parts.gram * first[:, None, :, None]
    block -= (second[:, None, :] * parts.left)[:, :, :, None] * parts.right[:, None, :, :]
    matrix[n:, n2:] = block.reshape(n * m, n2 * m2)
    return matrix
