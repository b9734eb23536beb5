"""Exact Gaussian process on the energies and forces of one molecule.

The process models a residual energy surface, reference minus prior, as a function of
all inverse interatomic distances; its forces are the analytic gradient of its energy.
Six directions of every label's gradient (five for a linear molecule) are translations
and rotations, about which the descriptor can say nothing: they are projected out, which
is exact, smaller, and leaves n(3N+1-6) observations in the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize_scalar

from hybrid_calc.correction.kernel import (
    KernelName,
    Observables,
    PairFeatures,
    Products,
    covariance,
    pair_features,
    products,
)
from hybrid_calc.errors import InputError, ReferenceFailed

LINEAR_TOLERANCE = 1e-6
"""A molecule is linear when its second moment across the axis is this part of that along it."""

FIRST_LENGTH = 1.0
"""Length scale, 1/A, of the first label."""

SEARCH_OBSERVATIONS = 450
"""The length scale is searched on the newest labels that make this many observations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """How the residual is modelled.

    Attributes
    ----------
    kernel
        ``matern52`` or ``rbf``.
    energy_noise_ev
        Standard deviation of a label's energy, eV.
    force_noise_ev_per_ang
        Standard deviation of a label's force component, eV/A.
    length_bounds
        Smallest and largest length scale, in inverse distances, 1/A.  From 0.5 on five bands
        with GFN2-xTB took 49, 11, 8, 5 and 4 labels and erred by up to 0.37 meV, from 0.7 on 37,
        11, 8, 5 and 4 and 0.17 meV (benchmarks/neb.py, 2026-11-27).
    min_amplitude_ev
        The residual is never taken to vary less than this, eV.
    max_force_ev_per_ang
        A label with a larger force on any atom is refused, eV/A.
    """

    kernel: KernelName = "matern52"
    energy_noise_ev: float = 5e-4
    force_noise_ev_per_ang: float = 5e-3
    length_bounds: tuple[float, float] = (0.7, 3.0)
    min_amplitude_ev: float = 1e-3
    max_force_ev_per_ang: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedProcess:
    """A process conditioned on n labels of N atoms, P pairs, m directions per label.

    Attributes
    ----------
    kernel, length, amplitude
        Name, length scale (1/A) and standard deviation of the residual (eV).
    mean
        Constant part of the residual, eV.
    observables
        Descriptors of the labels and the directions their gradients are seen in.
    energy_weights
        Weight of every label's energy in a prediction, eV, shape (n,).
    gradient_weights
        Weight of every label's gradient, in descriptor space, shape (n, P).
    factor
        Lower Cholesky factor of the unit-amplitude covariance with noise.
    constant
        That covariance solved for the constant, shape (n + n m,).
    log_likelihood
        Restricted log likelihood of the labels, amplitude and constant profiled.
    """

    kernel: KernelName
    length: float
    amplitude: float
    mean: float
    observables: Observables
    energy_weights: NDArray[np.float64]
    gradient_weights: NDArray[np.float64]
    factor: NDArray[np.float64]
    constant: NDArray[np.float64]
    log_likelihood: float


@dataclass(frozen=True, slots=True)
class _Solution:
    factor: NDArray[np.float64]
    weights: NDArray[np.float64]
    constant: NDArray[np.float64]
    mean: float
    variance: float
    log_likelihood: float


def refuse_senseless(
    energies: NDArray[np.float64], forces: NDArray[np.float64], *, limit: float
) -> None:
    """Refuse labels that no molecule near a path or minimum has.

    Raises
    ------
    ReferenceFailed
        A number is not finite, or a force is over the limit (eV/A).
    """
    if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
        raise ReferenceFailed("a label for the correction is not finite; label it again.")
    norms = np.linalg.norm(forces, axis=-1)
    if norms.size and float(norms.max()) > limit:
        where = np.unravel_index(int(norms.argmax()), norms.shape)
        raise ReferenceFailed(
            f"a label for the correction has a force of {norms.max():.1f} eV/A on atom "
            f"{where[-1]}; at most {limit:g} makes sense near a path or minimum. "
            "Start from a geometry without clashes.",
            details={"max_force_ev_per_ang": float(norms.max()), "atom": int(where[-1])},
        )


def is_linear(positions: NDArray[np.float64]) -> bool:
    """Tell whether the atoms of one geometry (N, 3) lie on a line."""
    centred = positions - positions.mean(axis=0)
    spread = np.linalg.svd(centred, compute_uv=False)
    return bool(spread.size < 2 or spread[1] <= LINEAR_TOLERANCE * max(spread[0], 1e-300))


def internal_directions(features: PairFeatures, linear: bool) -> NDArray[np.float64]:
    """Return orthonormal Cartesian directions without translation and rotation, (n, 3N, m)."""
    size = features.jacobian.shape[2]
    internal = max(size - (5 if linear else 6), min(1, features.values.shape[1]))
    rows = np.linalg.svd(features.jacobian, full_matrices=True)[2]
    return np.asarray(rows[:, :internal].transpose(0, 2, 1))


def fit_process(
    positions: NDArray[np.float64],
    energies: NDArray[np.float64],
    forces: NDArray[np.float64],
    settings: ProcessSettings,
    *,
    length: float | None = None,
) -> FittedProcess:
    """Condition a process on residuals of n labels.

    Parameters
    ----------
    positions
        Shape (n, N, 3), A.
    energies
        Reference minus prior, eV, shape (n,).
    forces
        Reference minus prior, eV/A, shape (n, N, 3).
    settings
        Kernel, noise and bounds.
    length
        Length scale, 1/A; searched by likelihood when None.

    Raises
    ------
    InputError
        No label, shapes that do not belong together, or fewer than two atoms.
    """
    _check_shapes(positions, energies, forces)
    features = pair_features(positions)
    basis = internal_directions(features, all(is_linear(p) for p in positions))
    observables = Observables(features=features.values, directions=features.jacobian @ basis)
    gradients = -np.einsum("ijk,ij->ik", basis, forces.reshape(len(forces), -1))
    offset = float(energies.mean())
    target = np.concatenate([energies - offset, gradients.ravel()])
    parts = products(observables, observables)
    length, amplitude = _hyperparameters(parts, target, settings, length)
    solved = _solve(parts, target, settings, length, amplitude)
    n, _, m = observables.directions.shape
    return FittedProcess(
        kernel=settings.kernel,
        length=length,
        amplitude=float(np.sqrt(solved.variance)),
        mean=offset + solved.mean,
        observables=observables,
        energy_weights=solved.weights[:n],
        gradient_weights=np.einsum(
            "ipa,ia->ip", observables.directions, solved.weights[n:].reshape(n, m)
        ),
        factor=solved.factor,
        constant=solved.constant,
        log_likelihood=solved.log_likelihood,
    )


def _check_shapes(
    positions: NDArray[np.float64], energies: NDArray[np.float64], forces: NDArray[np.float64]
) -> None:
    if positions.ndim != 3 or positions.shape[0] < 1 or positions.shape[1] < 2:
        raise InputError(
            f"a correction needs at least one label of at least two atoms, positions (n, N, 3); "
            f"got {positions.shape}."
        )
    if forces.shape != positions.shape or energies.shape != positions.shape[:1]:
        raise InputError(
            f"energies (n,) and forces (n, N, 3) must belong to positions {positions.shape}; "
            f"got {energies.shape} and {forces.shape}."
        )


def _hyperparameters(
    parts: Products,
    target: NDArray[np.float64],
    settings: ProcessSettings,
    length: float | None,
) -> tuple[float, float]:
    """Return the length scale (1/A) and the amplitude (eV) that sets the ratio of noise to signal.

    Both come from the newest labels only: the cost grows with the cube of their number.
    """
    parts, target = _newest(parts, target)

    def profiled(length: float) -> tuple[float, float]:
        first = _solve(parts, target, settings, length, amplitude=1.0)
        second = _solve(parts, target, settings, length, float(np.sqrt(first.variance)))
        return second.log_likelihood, float(np.sqrt(second.variance))

    low, high = np.log(settings.length_bounds)
    if length is None and parts.gram.shape[0] == 1:
        # One label says nothing about the length scale.
        length = float(np.clip(FIRST_LENGTH, *settings.length_bounds))
    if length is not None:
        return length, profiled(length)[1]
    found = minimize_scalar(
        lambda log_length: -profiled(float(np.exp(log_length)))[0],
        bounds=(low, high),
        method="bounded",
        options={"xatol": 0.05},
    )
    lengths = [float(np.exp(value)) for value in (found.x, low, high)]
    best = max(lengths, key=lambda candidate: profiled(candidate)[0])
    return best, profiled(best)[1]


def _newest(parts: Products, target: NDArray[np.float64]) -> tuple[Products, NDArray[np.float64]]:
    count, per_label = parts.gram.shape[:2]
    keep = max(2, SEARCH_OBSERVATIONS // (1 + per_label))
    if keep >= count:
        return parts, target
    some = slice(count - keep, None)
    small = Products(
        squared_distance=parts.squared_distance[some, some],
        gram=parts.gram[some, :, some, :],
        left=parts.left[some, :, some],
        right=parts.right[some, some],
    )
    gradients = target[count:].reshape(count, per_label)[some]
    return small, np.concatenate([target[:count][some], gradients.ravel()])


def _solve(
    parts: Products,
    target: NDArray[np.float64],
    settings: ProcessSettings,
    length: float,
    amplitude: float,
) -> _Solution:
    """Solve for weights, constant and amplitude at one length scale and noise ratio."""
    count = parts.squared_distance.shape[0]
    matrix = covariance(settings.kernel, parts, length)
    noise = np.full(len(matrix), (settings.force_noise_ev_per_ang / amplitude) ** 2)
    noise[:count] = (settings.energy_noise_ev / amplitude) ** 2
    matrix.flat[:: len(matrix) + 1] += noise + 1e-12
    factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    ones = np.zeros(len(target))
    ones[:count] = 1.0
    solved = cho_solve((factor, True), np.stack([target, ones], axis=1), check_finite=False)
    precision = float(ones @ solved[:, 1])
    mean = float(ones @ solved[:, 0]) / precision
    weights = solved[:, 0] - mean * solved[:, 1]
    freedom = max(len(target) - 1, 1)
    variance = max(float(target @ weights) / freedom, settings.min_amplitude_ev**2)
    determinant = 2.0 * float(np.log(np.diag(factor)).sum()) + float(np.log(precision))
    likelihood = -0.5 * (
        float(target @ weights) / variance + freedom * np.log(2 * np.pi * variance) + determinant
    )
    return _Solution(factor, weights, solved[:, 1], mean, variance, float(likelihood))
