"""The most diverse frames: each farthest from those chosen before it, regime by regime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Committee
from hybrid_calc.errors import InputError
from hybrid_calc.store.block import batch_by
from hybrid_calc.store.frames import FrameStore

FRAMES_AT_ONCE = 32
"""That a committee describes in one pass."""


def farthest_frames(
    store: FrameStore, places: NDArray[np.int64], committee: Committee, count: int
) -> NDArray[np.int64]:
    """Return the places of the most diverse of some frames, so many per regime, increasing.

    Frames are compared by the committee's descriptors, averaged over the
    atoms of each element.

    Raises
    ------
    InputError
        The committee gives no descriptors.
    PredictionFailed, UnknownElementError
        It cannot answer one of the frames.
    """
    regimes = store.columns().take(places).words("regime")
    elements = sorted({int(z) for _, r in store.at(places) for z in r.numbers})
    points, found = [], []
    for batch in batch_by(store.at(places), FRAMES_AT_ONCE):
        found += [place for place, _ in batch]
        predictions = committee.predict_many([record.atoms() for _, record in batch])
        for (_, record), prediction in zip(batch, predictions, strict=True):
            if prediction.descriptors is None:
                raise InputError(f"committee {committee.info.name} gives no descriptors.")
            points.append(_mean_by_element(record.numbers, prediction.descriptors, elements))
    if not found:
        return places[:0]
    regime_of = dict(zip(places.tolist(), regimes, strict=True))
    chosen = diverse(np.array(points), [regime_of[place] for place in found], count)
    return np.array(found, dtype=np.int64)[chosen]


def _mean_by_element(
    numbers: NDArray[np.integer], descriptors: NDArray[np.float64], elements: Sequence[int]
) -> NDArray[np.float64]:
    """Return the mean descriptor of each element's atoms, zero where there are none, (E * D,)."""
    return np.concatenate(
        [descriptors[numbers == z].sum(axis=0) / max(1, (numbers == z).sum()) for z in elements]
    )


def farthest_points(points: NDArray[np.float64], count: int, first: int = 0) -> NDArray[np.int64]:
    """Return the places of points chosen one by one, each farthest from those before it.

    Parameters
    ----------
    points
        Shape (F, D).
    count
        How many; all of them where there are fewer.  Points that coincide
        with a chosen one are not chosen.
    first
        Place of the first.
    """
    if len(points) == 0 or count <= 0:
        return np.zeros(0, dtype=np.int64)
    chosen = [first]
    distance = np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(points)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)


def diverse(
    points: NDArray[np.float64], regimes: Sequence[str], count_per_regime: int
) -> NDArray[np.int64]:
    """Return the places of the most diverse frames of every regime, increasing."""
    names = np.array(regimes, dtype=object)
    chosen = []
    for name in sorted(set(regimes)):
        here = np.flatnonzero(names == name)
        chosen.append(here[farthest_points(points[here], count_per_regime)])
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))
