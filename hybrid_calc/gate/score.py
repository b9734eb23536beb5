"""One number from a frame's signals: the probability that the committee's answer is bad.

A logistic model on the logarithms of the signals, one per regime, with few
weights that cannot be negative: more spread, novelty or disagreement never
makes a frame look better.  Signals beside the force spread are used only where
they were shown to help on trajectories the model was not fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError
from hybrid_calc.gate.comparison import area_under_curve, bootstrap_interval

SPREAD = "force_spread"
"""The signal every score rests on, eV/A."""
PENALTY = 1.0
"""Prior precision of each weight, per standard deviation of its signal's logarithm."""
LOWEST, HIGHEST = 1e-6, 1e3
"""Signals are cut here before their logarithm is taken."""
MIN_CLASS = 20
"""Bad frames, and good ones, that a score of several signals needs to be tried."""
MIN_GROUPS = 4
"""Trajectories it needs, to be judged on others than it was fitted on."""
FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """P(bad | signals) of one regime.

    Attributes
    ----------
    signals
        Names of the signals it reads.
    weights
        Per unit of each signal's natural logarithm, none negative, shape (S,).
    bias
        Log-odds where every signal is 1.
    gains
        Of each signal that was tried beside those before it: name, gain in
        the area under the curve on trajectories not fitted on, lower and
        upper end of its 95 % interval.
    """

    signals: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    gains: tuple[tuple[str, float, float, float], ...] = ()

    def probability(self, signals: Mapping[str, float]) -> float:
        """Return the probability that a frame is bad; 1 where a signal is missing or NaN."""
        log_odds = self.bias
        for name, weight in zip(self.signals, self.weights, strict=True):
            value = signals.get(name, math.nan)
            if math.isnan(value):
                return 1.0
            log_odds += weight * math.log(min(max(value, LOWEST), HIGHEST))
        return _logistic(log_odds)

    def probabilities(self, table: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the probability for each of n frames, shape (n,).

        Parameters
        ----------
        table
            Signals by name, shape (n,) each.
        """
        logs = _logarithms(table, self.signals)
        chance = 1 / (1 + np.exp(-np.clip(logs @ np.array(self.weights) + self.bias, -500, 500)))
        return np.where(np.isnan(logs).any(axis=1), 1.0, chance)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "signals": list(self.signals),
            "weights": list(self.weights),
            "bias": self.bias,
            "gains": [list(gain) for gain in self.gains],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Score:
        """Rebuild a score from `to_dict`."""
        return cls(
            signals=tuple(data["signals"]),
            weights=tuple(data["weights"]),
            bias=data["bias"],
            gains=tuple((name, estimate, low, high) for name, estimate, low, high in data["gains"]),
        )


def spread_alone(tolerance: float) -> Score:
    """Return the score of a regime about which nothing is known: even odds at the tolerance.

    It orders frames as their force spread does; its probabilities are no more
    than that.

    Parameters
    ----------
    tolerance
        Force tolerance, eV/A.
    """
    return Score(signals=(SPREAD,), weights=(1.0,), bias=-math.log(tolerance))


def fit_score(
    table: Mapping[str, NDArray[np.float64]],
    bad: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> Score:
    """Return the score that explains which frames were bad.

    Maximum posterior of a logistic model with a Gaussian prior on its
    weights, none of which may be negative.

    Parameters
    ----------
    table
        Signals by name, shape (n,) each; all of them are used.
    bad
        Whether each frame's answer was bad, shape (n,).
    weights
        One over the probability with which each frame was labelled, shape (n,).

    Raises
    ------
    InputError
        A signal is NaN, or all frames are bad or none is.
    """
    from scipy.optimize import minimize

    names = tuple(table)
    logs = _logarithms(table, names)
    if np.isnan(logs).any():
        raise InputError("a signal is NaN; leave such frames out and say so.")
    if bad.all() or not bad.any():
        raise InputError("a score needs good frames and bad ones.")
    share = weights / weights.mean()
    centre = np.average(logs, axis=0, weights=share)
    scale = np.sqrt(np.average((logs - centre) ** 2, axis=0, weights=share))
    scale[scale < 1e-9] = np.inf  # a signal that never changes gets no weight
    points = np.column_stack([(logs - centre) / scale, np.ones(len(bad))])
    sign = np.where(bad, 1.0, -1.0)
    penalty = np.append(np.full(len(names), PENALTY), 0.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = sign * (points @ parameters)
        value = share @ np.logaddexp(0, -margins) + 0.5 * penalty @ parameters**2
        slope = -share * sign / (1 + np.exp(np.clip(margins, -500, 500)))
        return float(value), points.T @ slope + penalty * parameters

    start = np.zeros(len(names) + 1)
    bounds = [(0.0, None)] * len(names) + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    slopes = found.x[:-1] / scale
    return Score(
        signals=names,
        weights=tuple(slopes.tolist()),
        bias=float(found.x[-1] - slopes @ centre),
    )


def choose_score(
    table: Mapping[str, NDArray[np.float64]],
    bad: NDArray[np.bool_],
    weights: NDArray[np.float64],
    groups: NDArray[np.integer],
    *,
    tolerance: float,
    random: np.random.Generator,
) -> Score:
    """Return the score of a regime: spread, and what is shown to help beside it.

    Signals are tried one after another beside those kept so far.  One is kept
    when its gain in the area under the curve, on trajectories that the model
    was not fitted on, has a 95 % bootstrap interval (whole trajectories
    drawn) above zero.

    Parameters
    ----------
    table, bad, weights
        As for `fit_score`; `table` has the force spread, and others in the
        order in which they are tried.
    groups
        Trajectory, molecule or reaction of each frame, shape (n,).
    tolerance
        Force tolerance, eV/A.
    random
        Of folds and bootstrap.
    """
    alone = {SPREAD: table[SPREAD]}
    if bad.all() or not bad.any():
        return spread_alone(tolerance)
    plain = fit_score(alone, bad, weights)
    plain = plain if plain.weights[0] > 0 else spread_alone(tolerance)
    enough = min(int(bad.sum()), int((~bad).sum())) >= MIN_CLASS
    if not enough or len(np.unique(groups)) < MIN_GROUPS or len(table) < 2:
        return plain
    kept = [SPREAD]
    before = table[SPREAD]
    gains: list[tuple[str, float, float, float]] = []
    for name in (name for name in table if name != SPREAD):
        tried = {key: table[key] for key in (*kept, name)}
        held = held_out_scores(tried, bad, weights, groups, random)
        if held is None:
            continue

        def gain(
            places: NDArray[np.intp],
            new: NDArray[np.float64] = held,
            old: NDArray[np.float64] = before,
        ) -> float:
            here = bad[places], weights[places]
            return area_under_curve(new[places], *here) - area_under_curve(old[places], *here)

        estimate, low, high = map(_bounded, bootstrap_interval(gain, groups, random))
        gains.append((name, estimate, low, high))
        if low > 0:
            kept.append(name)
            before = held
    score = fit_score({name: table[name] for name in kept}, bad, weights) if kept[1:] else plain
    return Score(signals=score.signals, weights=score.weights, bias=score.bias, gains=tuple(gains))


def held_out_scores(
    table: Mapping[str, NDArray[np.float64]],
    bad: NDArray[np.bool_],
    weights: NDArray[np.float64],
    groups: NDArray[np.integer],
    random: np.random.Generator,
) -> NDArray[np.float64] | None:
    """Return each frame's score by a model fitted on other groups, shape (n,).

    None where some fold leaves only good or only bad frames to fit on.
    """
    names = random.permutation(np.unique(groups))
    held = np.zeros(len(bad))
    for fold in np.array_split(names, min(FOLDS, len(names))):
        out = np.isin(groups, fold)
        if bad[~out].all() or not bad[~out].any():
            return None
        rest = {name: column[~out] for name, column in table.items()}
        model = fit_score(rest, bad[~out], weights[~out])
        held[out] = model.probabilities({name: column[out] for name, column in table.items()})
    return held


def _logarithms(
    table: Mapping[str, NDArray[np.float64]], names: Sequence[str]
) -> NDArray[np.float64]:
    columns = [np.log(np.clip(np.asarray(table[name], float), LOWEST, HIGHEST)) for name in names]
    return np.column_stack(columns)


def _bounded(value: float) -> float:
    """Return a number that JSON knows; no gain is larger than one."""
    return min(max(value, -1.0), 1.0)


def _logistic(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -500.0), 500.0)))
