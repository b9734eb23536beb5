"""Where to label next in a pool of frames: where the labels so far say the errors are largest.

The spread of a committee orders frames before anything is labelled.  Every label
then tells how far error and spread are apart there, and frames whose
environments are alike err alike: a Gaussian process of the logarithm of the
error over the spread, on descriptors, carries that to the frames around it.
Labelling goes in rounds.  It is for frames that are already there, a stored
trajectory or a campaign of them: a run cannot go back to a frame it has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError

LEAST = 1e-3
"""Errors and spreads below are as good as none, eV/A."""
LENGTH_SHARE = 0.5
"""Length of the process over the median distance of two frames of the pool."""
NOISE_SHARE = 0.02
"""Share of the variance that descriptors do not tell."""
SLOPE_LABELS = 3.0
"""How many labels it takes to doubt that the error grows as the spread does."""
OPTIMISM = 1.0
"""Standard deviations added to what is expected, so that unknown places are looked at."""
MEASURED = 500
"""Frames from which the median distance is taken, at most."""
Ask = Callable[[NDArray[np.intp]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """F frames of one molecule of N atoms, always in the same order, without labels.

    Attributes
    ----------
    spreads
        Largest force spread of each, eV/A, shape (F,).
    descriptors
        Of every atom's environment, shape (F, N, D).

    Raises
    ------
    InputError
        The shapes do not fit each other, or a number is not finite.
    """

    spreads: NDArray[np.float64]
    descriptors: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.descriptors.ndim != 3 or self.spreads.shape != self.descriptors.shape[:1]:
            raise InputError(
                f"a pool needs spreads (F,) and descriptors (F, N, D) of the same frames; these "
                f"are {self.spreads.shape} and {self.descriptors.shape}."
            )
        if not (np.isfinite(self.spreads).all() and np.isfinite(self.descriptors).all()):
            raise InputError("a pool has a spread or a descriptor that is not finite.")

    def __len__(self) -> int:
        return len(self.spreads)


def search(
    pool: Pool, ask: Ask, budget: int, *, first_share: float = 0.2, at_once: int = 2
) -> NDArray[np.intp]:
    """Label frames of a pool in rounds; return them in the order in which they were labelled.

    Parameters
    ----------
    pool
        Of frames.
    ask
        Returns the largest force error of the frames it is given by their
        numbers, eV/A: the reference is its business.
    budget
        Labels in all, those of the first round among them.
    first_share
        Of the budget that the frames of the largest spread get before anything is known.
    at_once
        Labels of a later round; as many as the reference computes side by side.

    Raises
    ------
    InputError
        A number of labels is not positive, or an error is not finite.
    """
    budget = min(budget, len(pool))
    if budget < 1 or at_once < 1:
        raise InputError(f"{budget} labels, {at_once} at once: a search needs one at least.")
    first = min(budget, max(at_once, round(first_share * budget)))
    labelled = np.argsort(-pool.spreads, kind="stable")[:first]
    errors = ask(labelled)
    while len(labelled) < budget:
        chosen = next_frames(pool, labelled, errors, min(at_once, budget - len(labelled)))
        labelled = np.concatenate([labelled, chosen])
        errors = np.concatenate([errors, ask(chosen)])
    return labelled


def next_frames(
    pool: Pool, labelled: NDArray[np.intp], errors: NDArray[np.float64], count: int
) -> NDArray[np.intp]:
    """Return the unlabelled frames whose error may be largest, worst first, shape (count,).

    Parameters
    ----------
    pool
        Of frames.
    labelled
        Numbers of the frames labelled so far, one at least, shape (n,).
    errors
        Their largest force errors, eV/A, shape (n,).
    count
        Frames wanted; fewer where fewer are left.

    Raises
    ------
    InputError
        There is no label, or an error is not finite.
    """
    expected, std = expected_errors(pool, labelled, errors)
    score = np.log(expected) + OPTIMISM * std
    score[labelled] = -math.inf
    left = len(pool) - len(np.unique(labelled))
    return np.argsort(-score, kind="stable")[: min(count, left)]


def expected_errors(
    pool: Pool, labelled: NDArray[np.intp], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected error of every frame, eV/A, and the deviation of its logarithm, (F,).

    log error = a + b log spread + g, where b is 1 before labels say otherwise
    and g is a Gaussian process of zero mean, squared-exponential in the
    Euclidean distance of all atoms' descriptors (Rasmussen and Williams,
    Gaussian Processes for Machine Learning, chapter 2), with the variance of
    what a and b leave.  Far from every label that is a + b log spread.

    Parameters
    ----------
    pool, labelled, errors
        As for `next_frames`.

    Raises
    ------
    InputError
        There is no label, or an error is not finite.
    """
    if len(labelled) == 0 or len(labelled) != len(errors) or not np.isfinite(errors).all():
        raise InputError(
            f"{len(labelled)} labelled frames with {len(errors)} errors: a search goes on from one "
            "label at least, and every error must be finite."
        )
    spread = np.log(np.maximum(pool.spreads, LEAST))
    target = np.log(np.maximum(errors, LEAST))
    trend = np.column_stack([np.ones(len(pool)), spread])
    prior = np.diag([LEAST, SLOPE_LABELS])
    known = trend[labelled]
    weights = np.linalg.solve(
        known.T @ known + prior, known.T @ target + prior @ np.array([0.0, 1.0])
    )
    rest = target - known @ weights
    flat = pool.descriptors.reshape(len(pool), -1).astype(np.float64)
    flat -= flat.mean(0)  # distances stay, rounding shrinks
    covariance = _covariance(flat, flat[labelled], _length(flat))  # (F, n)
    own = covariance[labelled] + NOISE_SHARE * np.eye(len(labelled))
    expected = trend @ weights + covariance @ np.linalg.solve(own, rest)
    told = np.einsum("fn,nf->f", covariance, np.linalg.solve(own, covariance.T))
    std = math.sqrt(float(rest.var())) * np.sqrt(np.clip(1.0 - told, 0.0, None))
    return np.exp(expected), std


def _length(flat: NDArray[np.float64]) -> float:
    """Return the length of the process, in the units of descriptors; 1 where all are alike."""
    some = flat[np.linspace(0, len(flat) - 1, min(len(flat), MEASURED)).astype(np.intp)]
    median = math.sqrt(float(np.median(_squared_distances(some, some))))
    return LENGTH_SHARE * median if median > 0 else 1.0


def _covariance(
    flat: NDArray[np.float64], others: NDArray[np.float64], length: float
) -> NDArray[np.float64]:
    return np.asarray(np.exp(-_squared_distances(flat, others) / (2 * length**2)))


def _squared_distances(
    flat: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return squared distances between rows, shape (F, n)."""
    squares = (flat**2).sum(1)[:, None] + (others**2).sum(1)[None, :]
    return np.asarray(np.maximum(squares - 2 * flat @ others.T, 0.0))
