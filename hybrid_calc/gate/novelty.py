"""How unlike its training frames a committee finds each atom.

Descriptors of each element's training atoms form a cloud.  Novelty is the
Mahalanobis distance to its centre along the 32 principal axes, with what lies
off those axes as one more axis: a change that no training frame shows has no
variance there, and would be invisible without it.  One means as far out as
99 % of the element's training atoms lie within.  A large novelty asks; a small
one never declares anything safe (a broken geometry can lie in the cloud).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError

AXES = 32
"""Principal axes kept for each element."""
ATOMS_PER_AXIS = 5
"""Training atoms that an axis needs; with fewer there are fewer axes."""
TRAINING_QUANTILE = 0.99
"""Share of an element's training atoms whose novelty is at most 1."""
CACHED_COMPOSITIONS = 64
ORDINARY = 1e12
"""Up to this sum no descriptor is infinite, or can be expected to become so on the way."""
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Where the training atoms of one element lie.

    Attributes
    ----------
    mean
        Centre, shape (D,), float32.
    axes
        Principal axes of length one, shape (D, A), float32.
    spans
        Length of novelty one along each axis, shape (A,).
    off_span
        Length of novelty one off the axes.
    atoms
        Training atoms it was made from.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    spans: NDArray[np.float64]
    off_span: float
    atoms: int

    def coordinates(self, descriptors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return places whose distance to the origin is the novelty, shape (n, A + 1)."""
        deviation = np.asarray(descriptors, dtype=np.float32) - self.mean
        along = deviation @ self.axes
        squares = np.einsum("nd,nd->n", deviation, deviation)
        squares -= np.einsum("na,na->n", along, along)
        off = np.sqrt(np.maximum(squares, 0)) / self.off_span
        return np.concatenate((along / self.spans, off[:, None]), axis=1, dtype=np.float32)


def fit_cloud(descriptors: NDArray[np.floating]) -> Cloud:
    """Return the cloud of one element's training atoms.

    Parameters
    ----------
    descriptors
        Shape (n, D).

    Raises
    ------
    InputError
        No atoms, or a number that is not finite.
    """
    points = np.asarray(descriptors, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        raise InputError("novelty needs finite descriptors of shape (n, D), n at least 1.")
    mean = points.mean(axis=0)
    deviation = points - mean
    _, sizes, basis = np.linalg.svd(deviation, full_matrices=False)
    deviations = sizes / np.sqrt(max(len(points) - 1, 1))
    useful = deviations > 1e-6 * max(float(deviations[0]), _FLOOR)
    count = min(AXES, len(points) // ATOMS_PER_AXIS, int(useful.sum()))
    axes, deviations = basis[:count].T, deviations[:count]
    along = deviation @ axes
    off = np.linalg.norm(deviation - along @ axes.T, axis=1)
    # Where nothing lies off the axes, a step off them counts as a hundred along them.
    least = 1e-2 * float(np.sqrt((sizes**2).sum() / len(points))) + _FLOOR
    off_deviation = max(float(np.sqrt((off**2).mean())), least)
    distance = np.sqrt(((along / deviations) ** 2).sum(axis=1) + (off / off_deviation) ** 2)
    unit = float(np.quantile(distance, TRAINING_QUANTILE, method="inverted_cdf"))
    unit = unit if unit > 0 else 1.0  # all atoms alike
    return Cloud(
        mean=mean.astype(np.float32),
        axes=np.ascontiguousarray(axes, dtype=np.float32),
        spans=deviations * unit,
        off_span=off_deviation * unit,
        atoms=len(points),
    )


class _Layout:
    """What a molecule's novelty is computed with: each atom's cloud, in the atoms' order."""

    def __init__(self, numbers: NDArray[np.integer], clouds: Mapping[int, Cloud]) -> None:
        width = sum(len(cloud.spans) for cloud in clouds.values())
        depth = max((len(cloud.mean) for cloud in clouds.values()), default=0)
        # In units of off_span y = x / off: |y|^2 + sum_a y_a^2 (off^2 / span_a^2 - 1)
        # Double precision: converting the descriptors costs more than it saves.
        self.scales = np.zeros((len(numbers), 1))
        self.means = np.zeros((len(numbers), depth))
        self.axes = np.zeros((depth, width))
        self.weights = np.zeros((len(numbers), width))
        self.strangers = np.flatnonzero(~np.isin(numbers, list(clouds)))
        place = 0
        for number, cloud in clouds.items():
            columns = slice(place, place + len(cloud.spans))
            place += len(cloud.spans)
            rows = np.flatnonzero(numbers == number)
            self.axes[:, columns] = cloud.axes
            self.scales[rows] = 1 / cloud.off_span
            self.means[rows] = cloud.mean / cloud.off_span
            self.weights[rows, columns] = (cloud.off_span / cloud.spans) ** 2 - 1

    def novelty(self, descriptors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the novelty of every atom, infinite where a descriptor is not finite."""
        if abs(np.add.reduce(descriptors, axis=None)) < ORDINARY:
            novelty = self._distances(descriptors)
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                novelty = self._distances(descriptors)
            novelty[np.isnan(novelty)] = np.inf
        if len(self.strangers):
            novelty[self.strangers] = np.inf
        return novelty

    def _distances(self, descriptors: NDArray[np.floating]) -> NDArray[np.float64]:
        deviation = descriptors * self.scales
        deviation -= self.means
        along = deviation @ self.axes
        along *= along
        along *= self.weights
        deviation *= deviation
        squares = np.add.reduce(deviation, axis=1)
        squares += np.add.reduce(along, axis=1)
        return np.asarray(np.sqrt(np.maximum(squares, 0, out=squares), out=squares))


class Novelty:
    """Clouds of a committee's training atoms, by element.

    Parameters
    ----------
    clouds
        By atomic number.
    """

    def __init__(self, clouds: Mapping[int, Cloud]) -> None:
        self.clouds = dict(clouds)
        self._layouts: dict[bytes, _Layout] = {}

    @classmethod
    def fit(
        cls,
        numbers: Sequence[NDArray[np.integer]],
        descriptors: Sequence[NDArray[np.floating]],
    ) -> Novelty:
        """Return the clouds of training frames.

        Parameters
        ----------
        numbers
            Atomic numbers of each frame, shape (N,).
        descriptors
            Of each frame, shape (N, D).

        Raises
        ------
        InputError
            There is no frame, or a descriptor that is not finite.
        """
        if not numbers:
            raise InputError("novelty needs at least one training frame.")
        everyone, points = np.concatenate(numbers), np.concatenate(descriptors)
        return cls({int(z): fit_cloud(points[everyone == z]) for z in np.unique(everyone)})

    def of_atoms(
        self, numbers: NDArray[np.integer], descriptors: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return the novelty of every atom, shape (N,).

        Infinite for an element without a training atom, and where a
        descriptor is not a finite number.
        """
        if not self.clouds:
            return np.full(len(numbers), np.inf)
        return self._layout(numbers).novelty(descriptors)

    def _layout(self, numbers: NDArray[np.integer]) -> _Layout:
        """Return how a molecule's atoms are arranged; most often it is the one before."""
        key = numbers.tobytes()
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= CACHED_COMPOSITIONS:
                self._layouts.clear()
            layout = self._layouts[key] = _Layout(numbers, self.clouds)
        return layout

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays by name; `from_arrays` takes them back."""
        arrays: dict[str, NDArray[Any]] = {}
        for number, cloud in self.clouds.items():
            arrays[f"{number}.mean"] = cloud.mean
            arrays[f"{number}.axes"] = cloud.axes
            arrays[f"{number}.spans"] = cloud.spans
            arrays[f"{number}.numbers"] = np.array([cloud.off_span, cloud.atoms])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Novelty:
        """Rebuild the clouds from `arrays`."""
        return cls(
            {
                number: Cloud(
                    mean=arrays[f"{number}.mean"],
                    axes=arrays[f"{number}.axes"],
                    spans=arrays[f"{number}.spans"],
                    off_span=float(arrays[f"{number}.numbers"][0]),
                    atoms=int(arrays[f"{number}.numbers"][1]),
                )
                for number in sorted({int(name.partition(".")[0]) for name in arrays})
            }
        )
