"""Harmonic vibrations: frequencies, zero-point energy, and whether a minimum is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from hybrid_calc.drivers.labelling import AskReference
from hybrid_calc.drivers.shape import frozen_atoms

HESSIAN = "confirmation: Hessian"

STEP_ANG = 0.01
"""Central-difference step of the reference's Hessian, A."""

SOFT_INVCM = 50.0
"""An imaginary frequency below this is a flat direction within the noise of forces, 1/cm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vibrations:
    """Of one stationary geometry.

    Attributes
    ----------
    frequencies
        Of all internal modes, 1/cm, ascending; imaginary ones negative.
    zero_point_energy
        Half the sum of the real ones, eV.
    imaginary
        Modes clearly imaginary; a minimum has none, a transition state one.
    """

    frequencies: NDArray[np.float64]
    zero_point_energy: float
    imaginary: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data."""
        return {
            "frequencies_invcm": self.frequencies.tolist(),
            "zero_point_energy_ev": self.zero_point_energy,
            "imaginary_modes": self.imaginary,
        }


def reference_hessian(
    template: Atoms, positions: NDArray[np.float64], label: AskReference
) -> NDArray[np.float64]:
    """Return the reference's Hessian by central differences of forces, eV/A^2, (3N, 3N).

    Six labels an atom that can move; frozen atoms keep rows of zeros.
    """
    size = positions.size
    hessian = np.zeros((size, size))
    frozen = frozen_atoms(template)
    for k in range(size):
        if k // 3 in frozen:
            continue
        forces = []
        for sign in (1, -1):
            frame = template.copy()
            frame.set_constraint()
            frame.positions = positions.copy()
            frame.positions[k // 3, k % 3] += sign * STEP_ANG
            forces.append(label(frame, HESSIAN).forces.ravel())
        hessian[k] = (forces[1] - forces[0]) / (2 * STEP_ANG)
    return np.asarray(0.5 * (hessian + hessian.T))


def vibrations_of(
    template: Atoms, positions: NDArray[np.float64], hessian: NDArray[np.float64]
) -> Vibrations:
    """Return the vibrations of a Hessian, eV/A^2, without translation and rotation.

    Where atoms are frozen the others vibrate against them and nothing is taken out.
    """
    roots = np.repeat(np.sqrt(template.get_masses()), 3)
    frozen = frozen_atoms(template)
    if frozen:
        basis = np.eye(positions.size)[:, ~np.isin(np.arange(positions.size) // 3, frozen)]
    else:
        centred = positions - template.get_masses() @ positions / template.get_masses().sum()
        rigid = [np.tile(axis, len(positions)) for axis in np.eye(3)]
        rigid += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
        left, sizes, _ = np.linalg.svd((np.array(rigid) * roots).T, full_matrices=True)
        basis = left[:, int((sizes > 1e-6 * sizes[0]).sum()) :]
    weighted = hessian / np.outer(roots, roots)
    values = np.linalg.eigvalsh(basis.T @ weighted @ basis)
    to_ev = units._hbar * 1e10 / np.sqrt(units._e * units._amu)
    energies = to_ev * np.sign(values) * np.sqrt(np.abs(values))
    frequencies = energies / units.invcm
    return Vibrations(
        frequencies=frequencies,
        zero_point_energy=float(0.5 * energies[energies > 0].sum()),
        imaginary=int((frequencies < -SOFT_INVCM).sum()),
    )
