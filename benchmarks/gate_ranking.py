"""How well scores find the bad frames: areas under curves, recall at a price, thresholds.

Everything on arrays; a unit is one molecule at one temperature or along one
reaction, ranked on its own, as a run would meet it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from numpy.typing import NDArray

from hybrid_calc.gate.comparison import area_under_curve, bootstrap_interval
from hybrid_calc.gate.search import Pool, expected_errors, next_frames, search

WORST = 0.05
"""Share of the frames that are to be found."""
PRICES = (0.05, 0.10, 0.20)
"""Shares of the frames that may be labelled."""
PRICE = 0.10
"""What labels in rounds, or in the order of the run, may cost."""
IN_ROUNDS = "labels in rounds"


def recall(
    scores: NDArray[np.float64], errors: NDArray[np.float64], price: float, worst: float = WORST
) -> float:
    """Return the share of the worst frames among those with the highest scores.

    Frames with equal scores count as found in the share that the price pays for.
    """
    count = max(1, round(worst * len(errors)))
    bad = np.zeros(len(errors), dtype=bool)
    bad[np.argsort(-errors, kind="stable")[:count]] = True
    paid = price * len(errors)
    order = np.sort(scores)[::-1]
    limit = order[min(len(order) - 1, max(0, math.ceil(paid) - 1))]
    above, level = scores > limit, scores == limit
    share = (paid - above.sum()) / level.sum()
    return float((bad & above).sum() + min(1.0, max(0.0, share)) * (bad & level).sum()) / count


def worst_frames(errors: NDArray[np.float64], worst: float = WORST) -> NDArray[np.bool_]:
    """Return which frames are the worst, shape (F,)."""
    bad = np.zeros(len(errors), dtype=bool)
    bad[np.argsort(-errors, kind="stable")[: max(1, round(worst * len(errors)))]] = True
    return bad


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Frames that are ranked together, with every ranker's scores.

    Attributes
    ----------
    name
        Molecule and kind.
    kind
        Temperature or reaction.
    errors
        By which frames are bad, in units of the tolerance or eV/A, shape (F,).
    scores
        By ranker, shape (F,) each.
    pool
        What a search sees of the frames, None where none is made.
    trajectories
        Number of each frame's trajectory, shape (F,); empty where nobody knows.
    """

    name: str
    kind: str
    errors: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]
    pool: Pool | None = None
    trajectories: NDArray[np.integer] = dataclasses.field(
        default_factory=lambda: np.zeros(0, dtype=np.intp)
    )

    def rows(self) -> dict[str, dict[str, float]]:
        """Return area and recalls of every ranker."""
        bad = worst_frames(self.errors)
        return {
            name: {"auroc": area_under_curve(values, bad)}
            | {f"recall_at_{price:.0%}": recall(values, self.errors, price) for price in PRICES}
            for name, values in self.scores.items()
        }


def together(units: Sequence[Unit]) -> list[Unit]:
    """Return one unit per molecule: all its kinds in one ranking, as one campaign meets them."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        found.setdefault(unit.name.split("-")[0], []).append(unit)
    return [
        Unit(
            name=f"{molecule}-all",
            kind="all",
            errors=np.concatenate([unit.errors for unit in mine]),
            scores={
                name: np.concatenate([unit.scores[name] for unit in mine])
                for name in mine[0].scores
            },
            pool=Pool(
                spreads=np.concatenate([pool_of(unit).spreads for unit in mine]),
                descriptors=np.concatenate([pool_of(unit).descriptors for unit in mine]),
            )
            if mine[0].pool is not None
            else None,
        )
        for molecule, mine in found.items()
    ]


def pool_of(unit: Unit) -> Pool:
    """Return what a search sees of a unit's frames."""
    if unit.pool is None:
        raise ValueError(f"{unit.name} has no pool")
    return unit.pool


def with_search(unit: Unit) -> Unit:
    """Return the unit with labels in rounds as one more ranker.

    Its first tenth are the frames that a search with that many labels takes,
    all of them counted, in their order; the others follow as those labels tell.
    Nothing is known of the unit before.
    """
    pool, errors = pool_of(unit), unit.errors
    labels = max(1, round(PRICE * len(errors)))
    labelled = search(pool, lambda frames: errors[frames], labels)
    rest = next_frames(pool, labelled, errors[labelled], len(errors))
    scores = np.empty(len(errors))
    scores[np.concatenate([labelled, rest])] = np.arange(len(errors))[::-1]
    return dataclasses.replace(unit, scores={**unit.scores, IN_ROUNDS: scores})


def oracle(unit: Unit, signals: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Return what each frame's error is expected to be from all other trajectories of its unit.

    What a ranking without labels of its own can hope for: these labels are of
    the very molecule and process that is ranked.  Fitted models, no strict bound.

    Parameters
    ----------
    unit
        Of several trajectories.
    signals
        Rankers whose logarithms a straight line is fitted to; by default
        spread and descriptors, as a search does.
    """
    expected = np.zeros(len(unit.errors))
    logs = np.log(np.maximum(unit.errors, 1e-3))
    for trajectory in np.unique(unit.trajectories):
        held = unit.trajectories == trajectory
        known = np.flatnonzero(~held)
        if signals is None:
            expected[held] = expected_errors(pool_of(unit), known, unit.errors[known])[0][held]
            continue
        columns = [np.log(np.maximum(unit.scores[name], 1e-6)) for name in signals]
        points = np.column_stack([np.ones(len(logs)), *columns])
        line = np.linalg.lstsq(points[known], logs[known], rcond=None)[0]
        expected[held] = points[held] @ line
    return expected


def in_order(unit: Unit, *, learning: bool) -> float:
    """Return the recall of a run that meets the frames once and cannot go back.

    A frame is labelled where its score is among the highest of those seen so
    far, in the share that the labels left pay for: by spread, or by what the
    labels of this run say (refitted at every label; only the length scale
    knows the frames to come).
    """
    pool, errors = pool_of(unit), unit.errors
    left = round(PRICE * len(errors))
    labelled: list[int] = []
    scores = np.log(pool.spreads)
    for step in range(len(errors)):
        share = left / (len(errors) - step)
        if step >= FIRST_IN_ORDER and scores[step] < np.quantile(scores[: step + 1], 1 - share):
            continue
        labelled.append(step)
        left -= 1
        if left == 0:
            break
        if learning and len(labelled) >= FIRST_IN_ORDER:
            expected, std = expected_errors(pool, np.array(labelled), errors[labelled])
            scores = np.log(expected) + std
    bad = worst_frames(errors)
    return float(bad[labelled].sum() / bad.sum())


FIRST_IN_ORDER = 5
"""Frames that a run labels before it chooses."""


def mean_over_units(units: Sequence[Unit], ranker: str, price: float = 0.1) -> float:
    """Return the mean recall of a ranker, each unit ranked on its own."""
    return float(np.mean([recall(unit.scores[ranker], unit.errors, price) for unit in units]))


def gain(
    units: Sequence[Unit], ranker: str, other: str, random: np.random.Generator, price: float = 0.1
) -> tuple[float, float, float]:
    """Return how much more of the worst one ranker finds than another, with its 95 % interval.

    Paired: both are compared in every unit; whole molecules are drawn.
    """
    molecules = np.array([unit.name.split("-")[0] for unit in units])
    _, groups = np.unique(molecules, return_inverse=True)
    gains = np.array(
        [
            recall(unit.scores[ranker], unit.errors, price)
            - recall(unit.scores[other], unit.errors, price)
            for unit in units
        ]
    )
    return bootstrap_interval(
        lambda places: float(gains[places].mean()), groups, random, draws=2000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What a rule that decides on the way did."""

    asked: NDArray[np.bool_]
    bad: NDArray[np.bool_]

    @property
    def call_rate(self) -> float:
        """Share of the frames it asked for."""
        return float(self.asked.mean())

    @property
    def missed(self) -> float:
        """Share of the bad frames it did not ask for; NaN where none is bad."""
        return float((~self.asked)[self.bad].mean()) if self.bad.any() else math.nan


def proxima(
    metric: NDArray[np.float64],
    errors: NDArray[np.float64],
    bad: NDArray[np.bool_],
    *,
    target: float,
    random: np.random.Generator,
    history: int = 8,
    fraction: float = 0.05,
) -> Loop:
    """Run Proxima's rule (Zamora et al. 2021; globus-labs/cascade) over one trajectory.

    The metric is the members' mean distance from their mean, worst atom.  From
    the eighth label on, alpha is the mean of error over metric of the last
    eight; the threshold starts at half of target / alpha and moves by
    (target - mean error) / alpha at every label, never below zero.  Besides,
    every frame is labelled with a small chance (5 % in its own script).  The
    committee stays as it is: what is compared is when the rule asks, not how
    well it is retrained.

    Parameters
    ----------
    metric, errors
        Of each step, eV/A, shape (F,).
    bad
        Whether each step's answer is wrong by more than the tolerance, shape (F,).
    target
        Error to aim at, eV/A.
    random, history, fraction
        Of its labels by chance; labels remembered; chance of a label.
    """
    pairs: deque[tuple[float, float]] = deque(maxlen=history)
    threshold: float | None = None
    asked = np.zeros(len(metric), dtype=bool)
    for step, (value, error) in enumerate(zip(metric, errors, strict=True)):
        calm = threshold is not None and value < threshold
        if calm and random.random() > fraction:
            continue
        asked[step] = True
        pairs.append((float(value), float(error)))
        if len(pairs) < history:
            continue
        alpha = float(np.mean([e / v for v, e in pairs]))
        if threshold is None:
            threshold = target / alpha / 2
        else:
            mean = float(np.mean([e for _, e in pairs]))
            threshold = max(0.0, threshold - (mean - target) / alpha)
    return Loop(asked=asked, bad=bad)


def proxima_metric(forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Proxima's uncertainty of each frame, eV/A, shape (F,), of forces (F, M, N, 3)."""
    distance = np.linalg.norm(forces - forces.mean(1, keepdims=True), axis=-1)
    return np.asarray(distance.mean(1).max(1))
