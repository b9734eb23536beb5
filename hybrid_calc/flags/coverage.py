"""Whether the committee was ever shown anything like this, and where evidence lies nearby."""

from __future__ import annotations

from typing import cast

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hybrid_calc.committee.domain import unknown_elements
from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.errors import InputError
from hybrid_calc.flags.contacts import Pairs, pair_distances, pairs_of
from hybrid_calc.flags.report import Flag, Severity
from hybrid_calc.geometry import charge_of, multiplicity_of

FINGERPRINT_CUTOFF = 3.0
"""Radius of a fingerprint, A: bonded neighbours and, faintly, the next ones."""
FINGERPRINT_CENTRES = np.linspace(0.6, 2.8, 12)
"""Centres of the radial functions, A."""
FINGERPRINT_WIDTH = 0.25
"""Width of the radial functions, A."""
# Arrays, because NumPy takes longer to multiply by a Python number.
_CUTOFF, _ZERO = np.array(FINGERPRINT_CUTOFF), np.array(0.0)
_CENTRE_DEPTHS = FINGERPRINT_CUTOFF - FINGERPRINT_CENTRES
_SHARPNESS = np.array(-1 / FINGERPRINT_WIDTH**2)
_HALF_WAVE = np.array(np.pi / (2 * FINGERPRINT_CUTOFF))
for _constant in (_CUTOFF, _ZERO, _CENTRE_DEPTHS, _SHARPNESS, _HALF_WAVE):
    _constant.setflags(write=False)
FEW_PAIRS = 300
"""Up to so many pairs, leaving out those beyond the cut-off costs more than it saves."""
MANY_PAIRS = 5000
"""Beyond so many pairs a fingerprint takes less room than the distances it is made from."""


def domain_flags(atoms: Atoms, info: CommitteeInfo) -> tuple[Flag, ...]:
    """Flag element, charge, multiplicity and periodicity the committee was not trained on."""
    flags = []
    strangers = unknown_elements(atoms, info)
    if strangers:
        who = np.flatnonzero(np.isin(atoms.numbers, list(strangers)))
        names = "_".join(chemical_symbols[number] for number in sorted(strangers))
        flags.append(_outside(f"unknown_element_{names}", tuple(who.tolist())))
    domain = info.domain
    charge, multiplicity = charge_of(atoms), multiplicity_of(atoms)
    if domain.charges is not None and charge not in domain.charges:
        flags.append(_outside("unknown_charge", value=charge))
    if domain.multiplicities is not None and multiplicity not in domain.multiplicities:
        flags.append(_outside("unknown_multiplicity", value=multiplicity))
    if atoms.pbc.any() and not domain.periodic:
        flags.append(_outside("periodic_cell"))
    return tuple(flags)


def _outside(name: str, atoms: tuple[int, ...] = (), value: float = 0.0) -> Flag:
    return Flag(name=name, severity=Severity.HARD, atoms=atoms, value=value, trustable=False)


def fingerprint_columns(pairs: Pairs) -> NDArray[np.intp]:
    """Return where each pair's radial functions are added, shape (2, P, functions).

    It depends on the elements only; keep it from one geometry to the next.
    """
    count = len(FINGERPRINT_CENTRES)
    return np.asarray(pairs.slots[:, :, None] * count + np.arange(count))


def fingerprint(
    distances: NDArray[np.float64], pairs: Pairs, columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return what surrounds each atom, from the geometry alone, shape (N, D).

    For each element present, the radial functions
    exp(-((r - c) / w)^2) fc(r) summed over the neighbours of that element,
    with the cosine cut-off fc of Behler and Parrinello 2007.  No model's
    output enters, so that evidence cannot be fooled by the model it judges.

    Parameters
    ----------
    distances
        Of each pair, A, shape (P,).
    pairs
        Of the structure.
    columns
        Of the structure, from `fingerprint_columns`.
    """
    if len(distances) > FEW_PAIRS:
        near = np.flatnonzero(distances < FINGERPRINT_CUTOFF)
        distances, columns = distances.take(near), columns.take(near, axis=1)
    # Depths below the cut-off: (1 + cos(pi r / cut-off)) / 2 is the square of one sine.
    depths = np.maximum(_CUTOFF - distances, _ZERO)[:, None]
    radial = depths - _CENTRE_DEPTHS
    radial *= radial
    radial *= _SHARPNESS
    np.exp(radial, out=radial)
    depths *= _HALF_WAVE
    np.sin(depths, out=depths)
    depths *= depths
    radial *= depths
    sums = np.bincount(
        columns.ravel(),
        weights=np.concatenate((radial, radial), axis=None),
        minlength=pairs.atoms * pairs.elements * len(FINGERPRINT_CENTRES),
    )
    return cast("NDArray[np.float64]", sums.reshape(pairs.atoms, -1))


class Surroundings:
    """What surrounds each atom of one geometry, worked out when somebody looks.

    Parameters
    ----------
    distances, pairs, columns
        As for `fingerprint`; the arrays are not changed afterwards.
    """

    __slots__ = ("_known", "_parts")

    def __init__(
        self, distances: NDArray[np.float64], pairs: Pairs, columns: NDArray[np.intp]
    ) -> None:
        self._parts: tuple[NDArray[np.float64], Pairs, NDArray[np.intp]] | None
        self._parts = (distances, pairs, columns)
        self._known: NDArray[np.floating] | None = None
        if len(distances) > MANY_PAIRS:
            self._known, self._parts = fingerprint(distances, pairs, columns), None

    @classmethod
    def of(cls, fingerprint: NDArray[np.floating]) -> Surroundings:
        """Return surroundings whose fingerprint is known, shape (N, D).

        Raises
        ------
        InputError
            It is not finite.
        """
        if not np.isfinite(fingerprint).all():
            raise InputError(
                "the fingerprint of a geometry is not finite; its positions are not either."
            )
        self = cls.__new__(cls)
        self._parts, self._known = None, fingerprint
        return self

    @property
    def fingerprint(self) -> NDArray[np.floating]:
        """Environment of each atom, shape (N, D)."""
        parts = self._parts
        if parts is not None:  # another thread may be here, too
            self._known = fingerprint(*parts)
            self._parts = None
        return cast("NDArray[np.floating]", self._known)


def fingerprint_of(atoms: Atoms) -> NDArray[np.float64]:
    """Return what surrounds each atom of one structure, shape (N, D); see `fingerprint`."""
    pairs = pairs_of(atoms.numbers)
    return fingerprint(pair_distances(atoms, pairs), pairs, fingerprint_columns(pairs))


def fingerprint_distance(
    here: NDArray[np.floating], there: NDArray[np.floating], atoms: NDArray[np.intp] | slice
) -> NDArray[np.float64]:
    """Return how far the worst of the atoms is from itself in each other frame, shape (F,).

    Parameters
    ----------
    here
        Fingerprint of this geometry, shape (N, D).
    there
        Fingerprints of F other geometries of the same molecule, shape (F, N, D).
    atoms
        Indices that count, or a slice.
    """
    difference = there[:, atoms] - here[atoms]
    difference *= difference
    squares = np.add.reduce(difference, axis=2)
    return np.asarray(np.sqrt(np.maximum.reduce(squares, axis=1)))
