"""Trajectories whose every error is known, and what a gate would have labelled of them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.regime import Regime

CALM = Regime(name="equilibrium", elements="H O", charge=0, multiplicity=1)
TOLERANCE = 0.2
"""Of forces, eV/A; energies are never wrong here."""
TOLERANCES = {"force_tolerance": TOLERANCE, "energy_tolerance": 0.1}


def correlated(random, steps: int, memory: float) -> np.ndarray:
    """Return an AR(1) series with the standard normal distribution at every step."""
    values = np.empty(steps)
    values[0] = random.normal()
    noise = random.normal(size=steps) * math.sqrt(1 - memory**2)
    for step in range(1, steps):
        values[step] = memory * values[step - 1] + noise[step]
    return values


def error_scale(good: float, *, width: float = 0.6) -> float:
    """Return the median error with which so large a share is within tolerance, eV/A."""
    return TOLERANCE * math.exp(-width * NormalDist().inv_cdf(good))


def frames_of(errors, **more) -> LabelledFrames:
    """Return frames of one regime with given errors, everything else plain unless told."""
    errors = np.asarray(errors, dtype=float)
    count = len(errors)
    columns = {
        "regimes": [CALM] * count,
        "molecules": ["H2O"] * count,
        "signals": {"force_spread": errors.copy()},
        "force_errors": errors,
        "energy_errors": np.zeros(count),
        "temperatures": np.full(count, 300.0),
        "weights": np.ones(count),
        "heaviest": np.ones(count),
        "trajectories": np.arange(count),
        "steps": np.zeros(count, dtype=int),
    }
    return LabelledFrames(**columns | more)


def run(random, *, trajectories: int, steps: int, good: float, memory: float, agreement: float):
    """Return every frame of some trajectories: errors, and a spread that agrees with them so far.

    The logarithms of error and spread are normal with correlation `agreement`.
    """
    log_error = np.concatenate([correlated(random, steps, memory) for _ in range(trajectories)])
    other = np.concatenate([correlated(random, steps, memory) for _ in range(trajectories)])
    log_spread = agreement * log_error + math.sqrt(1 - agreement**2) * other
    errors = error_scale(good) * np.exp(0.6 * log_error)
    return frames_of(
        errors,
        signals={"force_spread": 0.1 * np.exp(0.6 * log_spread)},
        trajectories=np.repeat(np.arange(trajectories), steps),
        steps=np.tile(np.arange(steps), trajectories),
    )


def gated(random, frames: LabelledFrames, *, asked_above: float, audits: float) -> LabelledFrames:
    """Return what a gate labels: all frames above a spread, and others by chance."""
    asked = frames.signals["force_spread"] > asked_above
    chosen = np.flatnonzero(asked | (random.random(len(frames)) < audits))
    weights = np.where(asked, 1.0, 1 / audits)[chosen]
    some = frames.take(chosen)
    return frames_of(
        some.force_errors,
        signals=some.signals,
        trajectories=some.trajectories,
        steps=some.steps,
        weights=weights,
        heaviest=np.full(len(some), 1 / audits),
    )


def unweighted(frames: LabelledFrames) -> LabelledFrames:
    """Return the same frames, taken for a random choice."""
    return frames_of(
        frames.force_errors,
        signals=frames.signals,
        trajectories=frames.trajectories,
        steps=frames.steps,
    )
