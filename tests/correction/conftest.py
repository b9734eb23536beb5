"""A cheap truth for a molecule: springs and Morse terms between all atoms."""

import numpy as np
import pytest


def morse(positions, *, depth=1.0, stiffness=1.2, length=1.5):
    """Energy (n,), eV, and forces (n, N, 3), eV/A, of Morse pairs; exact derivatives."""
    first, second = np.triu_indices(positions.shape[1], k=1)
    bonds = positions[:, first] - positions[:, second]
    r = np.linalg.norm(bonds, axis=2)
    decay = np.exp(-stiffness * (r - length))
    energies = (depth * (1 - decay) ** 2).sum(axis=1)
    slope = 2 * depth * stiffness * (1 - decay) * decay
    forces = np.zeros_like(positions)
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        pull = (slope[:, k] / r[:, k])[:, None] * bonds[:, k]
        forces[:, i] -= pull
        forces[:, j] += pull
    return energies, forces


@pytest.fixture
def truth():
    return morse


@pytest.fixture
def geometries():
    """Twelve rattled geometries of five atoms, no two closer than an angstrom, A."""
    base = np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.6, 0.2], [0.3, 0.2, 1.5], [-1.1, -1.0, 0.3]])
    return base + np.random.default_rng(7).normal(0, 0.1, size=(12, 5, 3))
