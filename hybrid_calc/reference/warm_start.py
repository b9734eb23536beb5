"""Starting densities from geometries solved before.

An SCF that starts from the density of the step before takes half the cycles of
one that starts from atoms.  Atomic orbitals move with the atoms, so densities
are kept in Loewdin's orthogonal basis (S^1/2 D S^1/2, as its occupied orbitals),
where they change slowly and may be added.  The new geometry is written as a combination of the last
ones (least squares, coefficients that add up to one), the densities are
combined likewise, and the sum is made idempotent: on contiguous steps of MD
that is an extrapolation, elsewhere a projection of the nearest.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REMEMBERED_GEOMETRIES = 5
"""Per key."""

REMEMBERED_KEYS = 8
FARTHEST_ANG = 0.5
"""An atom farther from every remembered geometry than this starts cold, A."""

STIFFNESS_ANG = 3e-3
"""Displacement below which coefficients are damped rather than fitted, A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A solved geometry.

    Attributes
    ----------
    positions
        A, shape (N, 3).
    orbitals
        Occupied ones of each spin in the orthogonal basis, shape (B, electrons of the
        spin) each; of one spin for restricted states.
    """

    positions: NDArray[np.float64]
    orbitals: tuple[NDArray[np.float64], ...]

    @property
    def density(self) -> NDArray[np.float64]:
        """Of each spin in the orthogonal basis, shape (1 or 2, B, B)."""
        return np.array([one @ one.T for one in self.orbitals])

    @property
    def electrons(self) -> tuple[int, ...]:
        """Of each spin."""
        return tuple(one.shape[1] for one in self.orbitals)


class WarmStarts:
    """Densities of the last geometries, by everything that makes them comparable."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, deque[Remembered]] = OrderedDict()

    def guess(self, key: str, positions: NDArray[np.float64], overlap: NDArray[np.float64]) -> Any:
        """Return a density to start from, tagged with its orbitals, or None.

        Parameters
        ----------
        key
            `key_of` the question.
        positions
            A, shape (N, 3).
        overlap
            Of the atomic orbitals at those positions, shape (B, B).
        """
        known = self._known.get(key)
        if not known:
            return None
        self._known.move_to_end(key)
        farthest = min(float(np.abs(one.positions - positions).max()) for one in known)
        if farthest > FARTHEST_ANG:
            return None
        weights = combination(np.array([one.positions for one in known]), positions)
        mixed = np.einsum("k,ksij->sij", weights, np.array([one.density for one in known]))
        half_inverse = _power(overlap, -0.5)
        return _tagged(mixed, known[-1].electrons, half_inverse)

    def remember(self, key: str, positions: NDArray[np.float64], field: Any) -> None:
        """Keep a converged state."""
        half = _power(field.get_ovlp(), 0.5)
        occupations = np.atleast_2d(np.asarray(field.mo_occ))
        coefficients = np.asarray(field.mo_coeff).reshape(len(occupations), *half.shape[:1], -1)
        one = Remembered(
            positions=np.array(positions, dtype=np.float64),
            orbitals=tuple(
                half @ c[:, filled] for c, filled in zip(coefficients, occupations > 0, strict=True)
            ),
        )
        known = self._known.setdefault(key, deque(maxlen=REMEMBERED_GEOMETRIES))
        known.append(one)
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED_KEYS:
            self._known.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop what is remembered under a key."""
        self._known.pop(key, None)

    def state(self) -> str:
        """Return everything, to the bit: numpy's npz in base64."""
        arrays: dict[str, NDArray[Any]] = {"keys": np.array(list(self._known), dtype=np.str_)}
        for row, known in enumerate(self._known.values()):
            for place, one in enumerate(known):
                arrays[f"{row}.{place}.positions"] = one.positions
                for spin, orbitals in enumerate(one.orbitals):
                    arrays[f"{row}.{place}.{spin}"] = orbitals
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        return base64.b64encode(packed.getvalue()).decode()

    def restore(self, state: str) -> None:
        """Take back what `state` returned."""
        self._known.clear()
        with np.load(io.BytesIO(base64.b64decode(state)), allow_pickle=False) as arrays:
            for row, key in enumerate(arrays["keys"].tolist()):
                known: deque[Remembered] = deque(maxlen=REMEMBERED_GEOMETRIES)
                while f"{row}.{len(known)}.positions" in arrays:
                    name = f"{row}.{len(known)}"
                    spins = [spin for spin in (0, 1) if f"{name}.{spin}" in arrays]
                    known.append(
                        Remembered(
                            positions=arrays[f"{name}.positions"],
                            orbitals=tuple(arrays[f"{name}.{spin}"] for spin in spins),
                        )
                    )
                self._known[key] = known


def key_of(request: dict[str, Any]) -> str:
    """Return what must be the same for a density to be of use: atoms, charge, spin, level."""
    parts = (
        request["numbers"],
        request["charge"],
        request["multiplicity"],
        sorted(request["level"].items(), key=lambda item: item[0]),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def is_sampled(positions: NDArray[np.float64], seed: int, share: float) -> bool:
    """Tell whether a geometry belongs to the random sample that is solved cold again.

    Drawn from a hash of the geometry, so that who asks, when and how often
    changes nothing.
    """
    digest = hashlib.sha256(seed.to_bytes(8, "little") + np.ascontiguousarray(positions).tobytes())
    return int.from_bytes(digest.digest()[:8], "little") < share * 2.0**64


def combination(known: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return coefficients that add up to one and bring the known geometries to the wanted one.

    Parameters
    ----------
    known
        A, shape (K, N, 3), the latest last.
    wanted
        A, shape (N, 3).
    """
    count = len(known)
    nearest = int(np.argmin(np.abs(known - wanted).max(axis=(1, 2))))
    weights = np.zeros(count)
    weights[nearest] = 1.0
    others = [k for k in range(count) if k != nearest]
    if others:
        directions = np.array([(known[k] - known[nearest]).ravel() for k in others])
        gram = directions @ directions.T
        gram[np.diag_indices_from(gram)] += STIFFNESS_ANG**2
        steps = np.linalg.solve(gram, directions @ (wanted - known[nearest]).ravel())
        weights[others] = steps
        weights[nearest] -= steps.sum()
    return weights


def _tagged(
    mixed: NDArray[np.float64], electrons: tuple[int, ...], half_inverse: NDArray[np.float64]
) -> Any:
    """Return the nearest idempotent density in atomic orbitals, with its orbitals."""
    from pyscf.lib import tag_array

    orbitals, occupations = [], []
    filling = 2.0 if len(mixed) == 1 else 1.0
    for one, count in zip(mixed, electrons, strict=True):
        _, vectors = np.linalg.eigh(-one)
        occupation = np.zeros(len(one))
        occupation[:count] = filling
        orbitals.append(half_inverse @ vectors)
        occupations.append(occupation)
    densities = np.array(
        [(c * occupied) @ c.T for c, occupied in zip(orbitals, occupations, strict=True)]
    )
    if len(mixed) == 1:
        return tag_array(densities[0], mo_coeff=orbitals[0], mo_occ=occupations[0])
    return tag_array(densities, mo_coeff=np.array(orbitals), mo_occ=np.array(occupations))


def _power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.clip(values, 1e-12, None) ** exponent) @ vectors.T)
