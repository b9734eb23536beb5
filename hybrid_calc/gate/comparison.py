"""Which of two scores orders frames better, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError


def area_under_curve(
    scores: NDArray[np.float64], bad: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float:
    """Return the chance that a bad frame scores above a good one, ties half; NaN without both."""
    if np.isnan(scores).any():
        raise InputError("a score is NaN; leave such frames out and say so.")
    weights = np.ones(len(scores)) if weights is None else weights
    levels, place = np.unique(scores, return_inverse=True)
    of_bad = np.bincount(place, weights * bad, len(levels))
    of_good = np.bincount(place, weights * ~bad, len(levels))
    if not of_bad.any() or not of_good.any():
        return math.nan
    below = np.cumsum(of_good) - of_good / 2
    return float(of_bad @ below / (of_bad.sum() * of_good.sum()))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: NDArray[np.integer],
    random: np.random.Generator,
    *,
    draws: int = 500,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Return a statistic of frames with its percentile interval, whole groups drawn.

    Two scores of the same frames are compared by a statistic that is their
    difference: both see the same draw.

    Parameters
    ----------
    statistic
        Of frames given by their places; a draw for which it is NaN is drawn again.
    groups
        Trajectory, molecule or reaction of each frame, shape (n,).
    random
        Of the draws.
    draws, confidence
        How many, and what share of them the interval holds.

    Returns
    -------
    Estimate, lower and upper bound; the bounds are infinite where the
    statistic is NaN in most draws.
    """
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    values = []
    for _ in range(2 * draws):
        chosen = random.integers(len(members), size=len(members))
        value = statistic(np.concatenate([members[place] for place in chosen]))
        if not math.isnan(value):
            values.append(value)
        if len(values) == draws:
            break
    estimate = statistic(np.arange(len(groups)))
    if len(values) < draws:
        return estimate, -math.inf, math.inf
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return estimate, float(low), float(high)
