"""What the committee's answer says about itself: the signals of one prediction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.flags.monitor import Survey
from hybrid_calc.flags.ranges import TrainingRanges, large_force
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import Regime

OF_EVERY_PREDICTION = frozenset({"force_spread", "largest_force", "energy_spread_per_atom"})
"""Signals that `committee_signals` returns."""


def committee_signals(prediction: Prediction) -> tuple[dict[str, float], dict[str, int]]:
    """Return the signals of a prediction and the atom each comes from.

    Plain numbers from one pass: at nine atoms arrays cost more than arithmetic.
    """
    mean = prediction.mean_forces
    deviation = prediction.forces - mean
    freedom = len(deviation) - 1
    deviation *= deviation
    spreads = np.add.reduce(deviation, axis=(0, 2)).tolist()  # squared, as are the forces
    forces = np.add.reduce(mean * mean, axis=1).tolist()
    spread, force = max(spreads), max(forces)
    squares = [(energy - prediction.energy) ** 2 for energy in prediction.energies.tolist()]
    signals = {
        "force_spread": math.sqrt(spread / freedom),
        "largest_force": math.sqrt(force),
        "energy_spread_per_atom": math.sqrt(sum(squares) / freedom) / len(spreads),
    }
    atoms = {
        "force_spread": spreads.index(spread),
        "largest_force": forces.index(force),
    }
    return signals, atoms


def observe(
    prediction: Prediction | None,
    survey: Survey,
    regime: Regime,
    *,
    molecule: str | None = None,
    novelty: NDArray[np.floating] | None = None,
    ranges: TrainingRanges | None = None,
    second_opinion: NDArray[np.float64] | None = None,
) -> Observation:
    """Return what the gate knows of a geometry.

    Parameters
    ----------
    prediction
        Of the committee, or None where it could not answer; every signal is
        then unknown.
    survey
        Flags and surroundings.
    regime
        Of the geometry.
    molecule
        As `geometry.molecule_of` names it, None where nobody says.
    novelty
        Of each atom, shape (N,), from the committee's calibration; None where unknown.
    ranges
        Of the training frames; a force beyond them raises a soft flag.
    second_opinion
        Forces of another method, eV/A, shape (N, 3); None where nobody was asked.
    """
    signals, atoms = ({}, {}) if prediction is None else committee_signals(prediction)
    if novelty is not None:
        values = novelty.tolist()
        worst = max(values) if not any(map(math.isnan, values)) else math.nan
        signals["novelty"] = worst
        if worst in values:
            atoms["novelty"] = values.index(worst)
    if second_opinion is not None and prediction is not None:
        apart = np.linalg.norm(second_opinion - prediction.mean_forces, axis=1)
        atoms["second_opinion"] = int(apart.argmax())
        signals["second_opinion"] = float(apart.max())
    report = survey.report
    if ranges is not None and signals:
        report = report.plus(large_force(signals["largest_force"], atoms["largest_force"], ranges))
    return Observation(
        regime=regime,
        report=report,
        surroundings=survey.surroundings,
        signals=signals,
        worst_atoms=atoms,
        molecule=molecule,
    )
