"""Whether a converged SCF is a minimum, and what lies below it where it is not.

Runs inside the PySCF worker.  A stretched bond converges, restricted, in a
dozen cycles to a state that is stable among restricted ones and eV above the
unrestricted one; neither convergence nor the gap shows it.  The lowest
eigenvalue of the triplet Hessian does (Seeger and Pople 1977).  Its sign is
all that is wanted, so it is computed on a coarse grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.reference.ladder import ScfOutcome, complaint_about, outcome_of

PROBE_GRID = 1
UNSTABLE_HARTREE = -2e-3
"""Eigenvalue below which a state is unstable; nearer zero there is little to gain below it."""

LOWER_HARTREE = 1e-6
"""Energy by which another state must be lower to be another state."""

NEARLY_DEGENERATE = 0.02
"""Difference of orbital energies below which either may be the one that matters, hartree."""

MAX_DESCENTS = 3

CERTAIN, FOLLOWED = 0.3, 0.1
"""Residual over the distance to `UNSTABLE_HARTREE`, or over an unstable eigenvalue, that is enough.

Restricted ethanol, water, formaldehyde and ozone, and bonds stretched through their onset of
instability, get the sign that 1e-6 gives (tests/reference/test_stability.py)."""

CONVERGED_HARTREE, LARGEST_SPACE = 1e-3, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a state whose stability was examined.

    Attributes
    ----------
    outcome
        The state that stands.
    rejection
        Why no label may be made of it; empty where one may.
    checks
        Numbers for the label: ``stability_hartree``, ``restricted_above_hartree``.
    """

    outcome: ScfOutcome
    rejection: str = ""
    checks: dict[str, float]


def examine(
    outcome: ScfOutcome,
    make_unrestricted: Callable[[], Any],
    *,
    allow_unrestricted: bool,
    guess: Any = None,
) -> Verdict:
    """Examine a converged state and go down where it is not a minimum.

    Parameters
    ----------
    outcome
        Of the ladder.
    make_unrestricted
        Builds a fresh unrestricted mean field of the same level.
    allow_unrestricted
        Replace an unstable restricted singlet by the unrestricted state
        below it; else reject it.
    guess
        Unrestricted density of a geometry nearby, tried before the way down
        from here; what it leads to is examined like any other.
    """
    if np.ndim(outcome.field.mo_occ) == 2:
        return _descend(outcome, "internal_instability", {})
    lowest, rotation = external_root(outcome.field)
    checks = {"stability_hartree": lowest}
    if lowest > UNSTABLE_HARTREE:
        return Verdict(outcome=outcome, checks=checks)
    if not allow_unrestricted:
        return _rejected(outcome, checks, f"triplet Hessian {lowest:.3f} hartree")
    down = _way_down(outcome.field, rotation)
    # Lazily: where a guess of a geometry nearby leads down, nothing else is tried.  Without
    # one the way down may end in the wrong one of several states (CO at 1.8 A has two within
    # 60 meV), or nowhere, where more than one bond breaks (N2 at 1.7 A): the lower end counts.
    ways = [[guess]] if guess is not None else []
    ways.append([down, _spins_apart(outcome.field, down), *_frontier_mixed(outcome.field)])
    cycles, ends, complaint = 0, [], ""
    for densities in ways:
        for density in densities:
            field = make_unrestricted()
            field.kernel(dm0=density)
            cycles += int(field.cycles)
            wrong = complaint_about(field)
            if not wrong and field.e_tot > outcome.field.e_tot - LOWER_HARTREE:
                wrong = "the unrestricted state fell back to the restricted one"
            complaint = complaint or wrong
            if not wrong:
                ends.append(field)
        if ends:
            break
    if not ends:
        return _rejected(outcome, checks, complaint)
    field = min(ends, key=lambda end: end.e_tot)
    below = outcome_of(
        field,
        rung="unrestricted",
        history=(*outcome.history, f"{outcome.rung}: restricted state is unstable"),
        cycles=outcome.cycles + cycles,
    )
    checks["restricted_above_hartree"] = float(outcome.field.e_tot - field.e_tot)
    return _descend(below, "unrestricted", checks)


def _way_down(field: Any, rotation: NDArray[np.float64]) -> Any:
    """Return the spin densities of a restricted state with one spin's orbitals turned."""
    half = field.mo_occ / 2
    turned = rotated(field.mo_coeff, field.mo_occ, rotation)
    orbitals = np.array([turned, field.mo_coeff])
    return np.array([(c * half) @ c.T for c in orbitals])


def _spins_apart(field: Any, down: Any) -> Any:
    """Return a restricted density with the spins apart, atom by atom as a way down begins.

    On atoms where spin up gains, three quarters of the electrons are up; on the
    others three quarters are down.  All pairs of a multiple bond come apart at
    once, of which an eigenvector of the Hessian turns one.
    """
    overlap, mole = field.get_ovlp(), field.mol
    spin = np.einsum("ij,ji->i", down[0] - down[1], overlap)
    more = np.empty(len(spin))
    for _, _, begin, end in mole.aoslice_by_atom():
        more[begin:end] = 1.5 if spin[begin:end].sum() > 0 else 0.5
    whole = np.asarray(field.make_rdm1()) / 2
    roots = np.sqrt(np.array([more, 2.0 - more]))
    return roots[:, :, None] * whole * roots[:, None, :]


def _frontier_mixed(field: Any) -> list[Any]:
    """Return densities with an orbital just below the highest mixed half and half with the lowest.

    One per occupied orbital that is as good as degenerate with the highest
    (pi orbitals of C2): the way down turns a mixture of them.
    """
    occupied, empty = np.flatnonzero(field.mo_occ > 0), np.flatnonzero(field.mo_occ == 0)
    if len(occupied) < 2 or not len(empty):
        return []
    order = occupied[np.argsort(field.mo_energy[occupied])]
    lowest = empty[np.argmin(field.mo_energy[empty])]
    top = field.mo_energy[order[-1]]
    near = [place for place in order[:-1] if top - field.mo_energy[place] < NEARLY_DEGENERATE]
    densities = []
    for place in near[-2:]:
        spins = []
        for sign in (1.0, -1.0):
            orbitals = field.mo_coeff.copy()
            high, low = orbitals[:, place].copy(), orbitals[:, lowest].copy()
            orbitals[:, place] = (high + sign * low) / np.sqrt(2)
            spins.append((orbitals * (field.mo_occ / 2)) @ orbitals.T)
        densities.append(np.array(spins))
    return densities


def external_root(field: Any) -> tuple[float, NDArray[np.float64]]:
    """Return the lowest eigenvalue of a restricted state's triplet Hessian, hartree.

    And its eigenvector: a rotation of empty into occupied orbitals, shape (V, O).
    As far as the question needs: a positive eigenvalue is an upper bound whose
    error is too small to change its sign.
    """
    probe = _on_coarse_grid(field)
    occupied = field.mo_coeff[:, field.mo_occ > 0]
    empty = field.mo_coeff[:, field.mo_occ == 0]
    shape = (empty.shape[1], occupied.shape[1])
    if 0 in shape:
        return 0.0, np.zeros(shape)
    energies = field.mo_energy
    differences = energies[field.mo_occ == 0][:, None] - energies[field.mo_occ > 0]
    response = probe.gen_response(singlet=False, hermi=1)

    def multiply(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        x = vectors.reshape(-1, *shape)
        change = empty @ (2 * x) @ occupied.T
        back = empty.T @ response(change + change.transpose(0, 2, 1)) @ occupied
        return np.asarray((differences * x + back).reshape(len(x), -1))

    value, vector = lowest_sign(multiply, differences.ravel())
    return value, vector.reshape(shape)


def internal_root(field: Any) -> tuple[float, list[NDArray[np.float64]]]:
    """Return the lowest eigenvalue of an unrestricted state's Hessian, hartree, as `external_root`.

    And its eigenvector: a rotation for each spin, shape (V, O) each.
    """
    probe = _on_coarse_grid(field)
    occupied, empty, differences = [], [], []
    for orbitals, energies, filled in zip(
        field.mo_coeff, field.mo_energy, field.mo_occ, strict=True
    ):
        occupied.append(orbitals[:, filled > 0])
        empty.append(orbitals[:, filled == 0])
        differences.append(energies[filled == 0][:, None] - energies[filled > 0])
    response = probe.gen_response(hermi=1)
    border = differences[0].size

    def rotations(vector: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        parts = (vector[:border], vector[border:])
        return [part.reshape(levels.shape) for part, levels in zip(parts, differences, strict=True)]

    def multiply(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        products = []
        for vector in vectors:
            changes = [
                e @ x @ o.T for e, x, o in zip(empty, rotations(vector), occupied, strict=True)
            ]
            potentials = response(np.array([change + change.T for change in changes]))
            back = [e.T @ v @ o for e, v, o in zip(empty, potentials, occupied, strict=True)]
            products.append(np.concatenate([part.ravel() for part in back]))
        return np.asarray(diagonal * vectors + np.array(products))

    diagonal = np.concatenate([levels.ravel() for levels in differences])
    value, vector = lowest_sign(multiply, diagonal)
    return value, rotations(vector)


def lowest_sign(
    multiply: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    diagonal: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Return the lowest eigenvalue of a symmetric matrix, as far as its sign needs.

    Davidson's method.  It ends when an eigenvalue below `UNSTABLE_HARTREE` has
    a vector to follow, or when the residual is so far below a value above it
    that the sign is certain (an eigenvalue lies within the residual of it).

    Parameters
    ----------
    multiply
        The matrix times each of some vectors, shape (K, n) in and out.
    diagonal
        Something near the matrix's diagonal, shape (n,).
    """
    space = np.empty((0, len(diagonal)))
    image = np.empty((0, len(diagonal)))
    fresh = _orthonormal(space, np.array(_starts(diagonal)))
    while True:
        space, image = np.vstack([space, fresh]), np.vstack([image, multiply(fresh)])
        values, mixes = np.linalg.eigh(space @ image.T)
        value, vector = float(values[0]), mixes[:, 0] @ space
        residual = mixes[:, 0] @ image - value * vector
        error = float(np.linalg.norm(residual))
        above = value - UNSTABLE_HARTREE
        enough = CERTAIN * above if above > 0 else FOLLOWED * abs(value)
        if error < max(enough, CONVERGED_HARTREE) or len(space) > LARGEST_SPACE:
            return value, vector
        below = diagonal - value
        below[np.abs(below) < 1e-8] = 1e-8
        fresh = _orthonormal(space, (residual / below)[None])
        if not len(fresh):
            return value, vector


def rotated(
    orbitals: NDArray[np.float64],
    occupations: NDArray[np.float64],
    rotation: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return orbitals turned along a rotation of shape (V, O)."""
    from scipy.linalg import expm

    generator = np.zeros((len(occupations), len(occupations)))
    generator[np.ix_(occupations == 0, occupations > 0)] = rotation
    return np.asarray(orbitals @ expm(generator - generator.T))


def _descend(outcome: ScfOutcome, rung: str, checks: dict[str, float]) -> Verdict:
    """Follow internal instabilities of an unrestricted state down to a minimum."""
    for _ in range(MAX_DESCENTS):
        field = outcome.field
        if any(_is_full_or_empty(filled) for filled in field.mo_occ):
            break  # nothing to turn: the hydrogen atom
        lowest, rotations = internal_root(field)
        checks["internal_stability_hartree"] = lowest
        checks["internally_stable"] = float(lowest > UNSTABLE_HARTREE)
        if lowest > UNSTABLE_HARTREE:
            break
        turned = [
            rotated(orbitals, filled, rotation)
            for orbitals, filled, rotation in zip(
                field.mo_coeff, field.mo_occ, rotations, strict=True
            )
        ]
        lower = field.copy()
        lower.kernel(dm0=field.make_rdm1(np.array(turned), field.mo_occ))
        if complaint_about(lower):
            return _rejected(outcome, checks, f"below it: {complaint_about(lower)}")
        if lower.e_tot > field.e_tot - LOWER_HARTREE:
            checks["internally_stable"] = 1.0  # the coarse grid's word against the energy's
            break
        outcome = outcome_of(
            lower,
            rung=rung,
            history=(*outcome.history, f"{outcome.rung}: a lower state was found"),
            cycles=outcome.cycles + int(lower.cycles),
        )
    else:
        return _rejected(outcome, checks, f"still unstable after {MAX_DESCENTS} descents")
    return Verdict(outcome=outcome, checks=checks)


def _rejected(outcome: ScfOutcome, checks: dict[str, float], why: str) -> Verdict:
    return Verdict(outcome=outcome, checks=checks, rejection=f"multireference suspected: {why}")


def _on_coarse_grid(field: Any) -> Any:
    probe = field.copy()
    if getattr(probe, "grids", None) is not None:
        probe.grids = type(probe.grids)(probe.mol)
        probe.grids.level = PROBE_GRID
    return probe


def _starts(diagonal: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return start vectors of no particular symmetry near the lowest excitations."""
    random = np.random.default_rng(0)
    starts = []
    for place in np.argsort(diagonal, kind="stable")[:3]:
        vector = 0.02 * random.normal(size=len(diagonal)) / np.maximum(diagonal, 0.1)
        vector[place] += 1.0
        starts.append(vector)
    return starts


def _orthonormal(space: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the vectors add to a space, orthonormal; nothing where that is nothing."""
    added = np.empty((0, vectors.shape[1]))
    for vector in vectors:
        rest = vector
        for basis in (space, added, space, added):  # twice is enough (Kahan and Parlett)
            rest = rest - basis.T @ (basis @ rest)
        size = np.linalg.norm(rest)
        if size > 1e-10:
            added = np.vstack([added, rest / size])
    return added


def _is_full_or_empty(occupations: NDArray[np.float64]) -> bool:
    filled = np.asarray(occupations) > 0
    return bool(filled.all() or not filled.any())
