"""What every label must pass before it may become an answer, on arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.errors import ReferenceFailed
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory

MAX_NET_FORCE = 0.1
"""Net force on an isolated molecule beyond which its gradient is not believed, eV/A.

Integration grids leave 0.001 to 0.01; ten times that is an error, not noise.
"""


def rigid_modes(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return orthonormal translations and rotations, shape (K, 3N).

    K is 6 for a molecule, 5 for a linear one, 3 for an atom.

    Parameters
    ----------
    positions
        Shape (N, 3), A.
    """
    count = len(positions)
    centred = positions - positions.mean(axis=0)
    modes = []
    for axis in np.eye(3):
        modes.append(np.tile(axis, count))
        modes.append(np.cross(axis, centred).ravel())
    _, sizes, basis = np.linalg.svd(np.array(modes), full_matrices=False)
    return np.asarray(basis[sizes > 1e-6 * max(1.0, float(sizes[0]))])


def project_rigid(
    positions: NDArray[np.float64], forces: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the forces without net force and torque, eV/A, shape (N, 3).

    An isolated molecule feels neither; what is there comes from the
    integration grid.
    """
    basis = rigid_modes(positions)
    flat = forces.ravel()
    return np.asarray((flat - basis.T @ (basis @ flat)).reshape(forces.shape))


def checked_label(
    atoms: Atoms,
    *,
    energy: float,
    forces: NDArray[np.float64],
    level: LevelOfTheory,
    stress: NDArray[np.float64] | None = None,
    rung: str = "direct",
    checks: Mapping[str, float] | None = None,
    wall_seconds: float = 0.0,
    versions: Mapping[str, str] | None = None,
    max_net_force_ev_per_ang: float = MAX_NET_FORCE,
) -> Label:
    """Return a label whose shapes, finiteness and net force were checked.

    The net force is checked where it must vanish: no cell, no external field.
    Energies eV, forces eV/A of shape (N, 3), stress Voigt-6 in eV/A^3.

    Raises
    ------
    ReferenceFailed
        One of the checks failed; the message says which and by how much.
    """
    forces = np.asarray(forces, dtype=np.float64)
    if forces.shape != (len(atoms), 3):
        raise ReferenceFailed(
            f"the reference returned forces of shape {forces.shape} for {len(atoms)} atoms."
        )
    if stress is not None and np.shape(stress) != (6,):
        raise ReferenceFailed(
            f"the reference returned a stress of shape {np.shape(stress)}; Voigt-6 is needed."
        )
    numbers = [np.asarray(energy), forces] + ([] if stress is None else [stress])
    if not all(np.isfinite(part).all() for part in numbers):
        raise ReferenceFailed("the reference returned a number that is not finite.")
    passed = dict(checks or {})
    if not atoms.pbc.any():
        net = float(np.linalg.norm(forces.sum(axis=0)))
        passed["net_force_ev_per_ang"] = net
        if net > max_net_force_ev_per_ang:
            raise ReferenceFailed(
                f"the forces on an isolated molecule add up to {net:.3g} eV/A, more than "
                f"{max_net_force_ev_per_ang:g}; use a finer grid or tighter convergence.",
                details=dict(passed),
            )
        if level.project_net_force:
            forces = project_rigid(atoms.positions, forces)
    return Label(
        energy=float(energy),
        forces=forces,
        stress=stress,
        level=level,
        rung=rung,
        checks=passed,
        wall_seconds=wall_seconds,
        versions=dict(versions or {}),
    )
