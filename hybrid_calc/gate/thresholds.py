"""From labelled frames to scores and thresholds, regime by regime, on arrays alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_calc.errors import InputError
from hybrid_calc.gate.calibration import error_interval_factor, missed_share_threshold
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.regime_entry import RegimeEntry
from hybrid_calc.gate.score import SPREAD, Score, choose_score, spread_alone

FUSED = (SPREAD, "novelty", "second_opinion")
"""Signals that a score may use, in the order they are tried, where all frames have them.

Energy spread and largest force made it worse on molecules not fitted on
(benchmarks/gate.py).
"""
LEAST_SPREAD = 1e-9
"""Below which a spread is rounding, eV/A."""


def calibrate_regimes(
    frames: LabelledFrames,
    fitting: LabelledFrames | None,
    *,
    missed_share: float,
    force_tolerance: float,
    energy_tolerance: float,
    random: np.random.Generator,
    signals: Sequence[str] = FUSED,
) -> tuple[RegimeEntry, ...]:
    """Return score and threshold of every regime there are frames of.

    Parameters
    ----------
    frames
        To calibrate with: not trained on, and not among `fitting`.
    fitting
        Other trajectories, to fit scores of several signals on; None for
        spread alone.
    missed_share
        Largest share of the bad frames that may pass unasked.
    force_tolerance, energy_tolerance
        Beyond which a frame is bad, eV/A and eV.
    random
        Of folds and bootstrap.
    signals
        That a score may use, in the order they are tried.

    Raises
    ------
    InputError
        A trajectory is on both sides.
    """
    if fitting is not None and set(fitting.trajectories) & set(frames.trajectories):
        raise InputError("a score may not be fitted on the trajectories it is calibrated with.")
    tolerances = (force_tolerance, energy_tolerance)
    entries = []
    for regime in sorted(set(frames.regimes), key=str):
        here = frames.of_regime(regime)
        here = here.take(~np.isnan(here.signals[SPREAD]))
        if len(here):
            there = None if fitting is None else fitting.of_regime(regime)
            scored = _score(there, here, tolerances, random, signals=signals)
            entries.append(_entry(here, scored, missed_share, tolerances))
    return tuple(entries)


def _score(
    fitting: LabelledFrames | None,
    frames: LabelledFrames,
    tolerances: tuple[float, float],
    random: np.random.Generator,
    *,
    signals: Sequence[str],
) -> tuple[Score, bool]:
    """Return the score of a regime, and whether it was fitted."""
    alone = spread_alone(tolerances[0])
    if fitting is None:
        return alone, False
    there = fitting.take(~np.isnan(fitting.signals[SPREAD]))
    names = [
        name
        for name in (SPREAD, *(name for name in signals if name != SPREAD))
        if name in there.signals
        and not np.isnan(there.signals[name]).any()
        and not np.isnan(frames.signals.get(name, np.array([np.nan]))).any()
    ]
    if not len(there):
        return alone, False
    score = choose_score(
        {name: there.signals[name] for name in names},
        there.excess(*tolerances) > 1,
        there.weights,
        there.trajectories,
        tolerance=tolerances[0],
        random=random,
    )
    return score, (score.signals, score.weights, score.bias) != (
        alone.signals,
        alone.weights,
        alone.bias,
    )


def _entry(
    frames: LabelledFrames,
    scored: tuple[Score, bool],
    missed_share: float,
    tolerances: tuple[float, float],
) -> RegimeEntry:
    score, fitted = scored
    thin = frames.evenly_weighted().thinned(*tolerances)
    heaviest = thin.weight_limit
    scores = score.probabilities(thin.signals)
    bad = thin.excess(*tolerances) > 1
    threshold = missed_share_threshold(scores[bad], missed_share, thin.weights[bad], heaviest)
    ratios = thin.force_errors / np.maximum(thin.signals[SPREAD], LEAST_SPREAD)
    asked = np.ones(len(thin), dtype=bool) if threshold is None else scores >= threshold
    novelty = thin.signals.get("novelty", np.array([np.nan]))
    return RegimeEntry(
        regime=frames.regimes[0],
        score=score,
        fitted=fitted,
        threshold=threshold,
        error_factor=error_interval_factor(ratios, missed_share, thin.weights, heaviest),
        labelled=len(frames),
        frames=len(thin),
        failures=int(bad.sum()),
        call_rate=float(np.average(asked, weights=thin.weights)),
        bad_share=float(np.average(bad, weights=thin.weights)),
        molecules=thin.shown_molecules(),
        novelty_limit=None if not np.isfinite(novelty).all() else max(1.0, float(novelty.max())),
    )
