"""What a fitted process says about new geometries: energies, forces and how sure it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from hybrid_calc.correction.gp import FittedProcess
from hybrid_calc.correction.kernel import (
    Observables,
    covariance,
    pair_features,
    products,
    profiles,
)


def predict_process(
    process: FittedProcess, positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return residual energies (m,), eV, and forces (m, N, 3), eV/A, at m geometries."""
    features = pair_features(positions)
    known, beta = process.observables.features, process.gradient_weights
    difference = features.values[:, None, :] - known[None, :, :]
    squared = np.einsum("ijp,ijp->ij", difference, difference)
    value, first, second = profiles(process.kernel, squared, process.length)
    along = np.einsum("ijp,jp->ij", difference, beta)
    energies = process.mean + value @ process.energy_weights + (first * along).sum(axis=1)
    radial = first * process.energy_weights + second * along
    slope = first @ beta - np.einsum("ij,ijp->ip", radial, difference)
    forces = -np.einsum("ip,ipc->ic", slope, features.jacobian)
    return energies, forces.reshape(positions.shape)


def functional_std(
    process: FittedProcess,
    positions: NDArray[np.float64],
    energy_weights: NDArray[np.float64],
    gradient_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the posterior standard deviation of linear functionals of the surface.

    Functional q is sum_i energy_weights[q, i] E_i + sum_i gradient_weights[q, i] . dE/dR_i:
    an energy difference, a force component, a curvature as a difference of forces.

    Parameters
    ----------
    process
        The fitted state.
    positions
        Shape (m, N, 3), A.
    energy_weights
        Shape (q, m).
    gradient_weights
        Shape (q, m, N, 3); None where no functional holds a gradient.
    """
    features = pair_features(positions)
    weights, directions = energy_weights, features.jacobian
    if gradient_weights is None:
        directions = directions[:, :, :0]
    else:
        flat = gradient_weights.reshape(len(energy_weights), -1)
        weights = np.concatenate([energy_weights, flat], axis=1)
    points = Observables(features=features.values, directions=directions)
    own = covariance(process.kernel, products(points, points), process.length)
    cross = covariance(process.kernel, products(process.observables, points), process.length)
    seen = cross @ weights.T
    whitened = solve_triangular(process.factor, seen, lower=True, check_finite=False)
    variance = np.einsum("qa,ab,qb->q", weights, own, weights) - (whitened**2).sum(axis=0)
    # The constant was estimated too: it adds its share to what is not a difference.
    count = process.observables.features.shape[0]
    missing = energy_weights.sum(axis=1) - process.constant @ seen
    variance += missing**2 / process.constant[:count].sum()
    return np.asarray(process.amplitude * np.sqrt(np.maximum(variance, 0.0)))


def difference_std(
    process: FittedProcess, positions: NDArray[np.float64], origin: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the posterior std of E(positions) - E(origin), eV; (m, N, 3) and (N, 3)."""
    count = len(positions)
    weights = np.concatenate([np.eye(count), -np.ones((count, 1))], axis=1)
    return functional_std(process, np.concatenate([positions, origin[None]]), weights)
