"""Labelled frames as a table: what calibration and scope are made from, on arrays alone.

Which frames a gate labels is no accident, and three kinds must be kept apart.

- Frames that it asked for (uncertain, flagged, unseen) were labelled with
  probability one *given what they were*: each stands for itself.
- Frames labelled by chance (audits, probability p) stand for 1/p frames of
  the kind that nothing asked for.  Weighted so, both kinds together describe
  every geometry the run came to, as if all had been labelled (Horvitz and
  Thompson 1952); unweighted, bad frames with a low score, which only audits
  find, would count a thirtieth of what they are.
- Frames that a driver wanted were chosen by its own search.  No probability
  is known, so they describe nothing but themselves and are left out.

How heavy a frame *could* have been counts as well: where nothing but frames
asked for is there, chance may just not have brought one of the heavy ones.
Where some geometries could not be labelled at all (audits off, and not
everything asked for) no weight fills the hole; `training.calibrate` leaves
such frames out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError
from hybrid_calc.gate.calibration import decorrelated_places
from hybrid_calc.gate.policy import Decision
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.settings import GateSettings

SHOWN_BY = 5
"""Independent frames of a molecule from which on a calibration or a scope card speaks for it."""


def least_label_probability(settings: GateSettings, decision: Decision) -> float:
    """Return with what probability any geometry of this regime is labelled, at least.

    It is recorded with every frame: labels alone do not show what could not
    be labelled.

    Parameters
    ----------
    settings
        Of the gate.
    decision
        About one geometry of the regime.
    """
    if settings.budget is not None and settings.when_budget_ends == "continue":
        return 0.0  # what the rest of the budget cannot pay for passes unlabelled
    if "unseen" in settings.policies and not settings.trust and not decision.validated:
        return 1.0
    return decision.audit_probability


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrames:
    """What the committee and the reference said about F frames.

    Attributes
    ----------
    regimes
        Of each frame, F of them.
    molecules
        Of each frame as `geometry.molecule_of` names it, F of them.
    signals
        By name, as of `gate.observation.SIGNALS`, shape (F,) each; NaN where not known.
    force_errors
        Largest error of any atom's force, eV/A, shape (F,).
    energy_errors
        Size of the error of the energy relative to its trajectory's first
        label, eV, shape (F,).
    temperatures
        Mean over the last 50 fs, K, shape (F,); NaN outside dynamics.
    weights
        One over the probability with which each was labelled, shape (F,).
    heaviest
        Largest weight that a frame of the same regime could have had then and
        there, shape (F,): one where everything was asked for, one over the
        probability of an audit elsewhere.
    trajectories
        Number of each frame's trajectory, shape (F,).
    steps
        Place of each frame in its trajectory, shape (F,).

    Raises
    ------
    InputError
        Columns differ in length, an error is not a number, or a weight is not
        at least one.
    """

    regimes: Sequence[Regime]
    molecules: Sequence[str]
    signals: Mapping[str, NDArray[np.float64]]
    force_errors: NDArray[np.float64]
    energy_errors: NDArray[np.float64]
    temperatures: NDArray[np.float64]
    weights: NDArray[np.float64]
    heaviest: NDArray[np.float64]
    trajectories: NDArray[np.integer]
    steps: NDArray[np.integer]

    def __post_init__(self) -> None:
        lengths = {
            len(getattr(self, part.name)) for part in fields(self) if part.name != "signals"
        } | {len(column) for column in self.signals.values()}
        if len(lengths) > 1:
            raise InputError(f"the columns of labelled frames differ in length: {sorted(lengths)}.")
        errors = np.concatenate([self.force_errors, self.energy_errors])
        if not (np.isfinite(errors).all() and (errors >= 0).all()):
            raise InputError("an error is not a finite size; leave such frames out and say so.")
        for weights in (self.weights, self.heaviest):
            if not (np.isfinite(weights) & (weights >= 1)).all():
                raise InputError("a frame's weight is one over a probability: finite, at least 1.")

    def __len__(self) -> int:
        return len(self.force_errors)

    def take(self, places: NDArray[np.intp] | NDArray[np.bool_]) -> LabelledFrames:
        """Return some of the frames."""
        chosen = np.arange(len(self))[places].tolist()
        return LabelledFrames(
            regimes=[self.regimes[place] for place in chosen],
            molecules=[self.molecules[place] for place in chosen],
            signals={name: column[chosen] for name, column in self.signals.items()},
            force_errors=self.force_errors[chosen],
            energy_errors=self.energy_errors[chosen],
            temperatures=self.temperatures[chosen],
            weights=self.weights[chosen],
            heaviest=self.heaviest[chosen],
            trajectories=self.trajectories[chosen],
            steps=self.steps[chosen],
        )

    def of_regime(self, regime: Regime) -> LabelledFrames:
        """Return the frames of one regime."""
        return self.take(np.array([found == regime for found in self.regimes], dtype=bool))

    def excess(self, force_tolerance: float, energy_tolerance: float) -> NDArray[np.float64]:
        """Return the larger of both errors over its tolerance, shape (F,); above 1 is bad."""
        return np.maximum(
            self.force_errors / force_tolerance, self.energy_errors / energy_tolerance
        )

    def thinned(self, force_tolerance: float, energy_tolerance: float) -> LabelledFrames:
        """Return frames that are independent of each other.

        One in so many as the longest autocorrelation of the errors says; see
        `decorrelated_places`.
        """
        excess = self.excess(force_tolerance, energy_tolerance)
        return self.take(decorrelated_places(self.trajectories, self.steps, excess))

    def shown_molecules(self) -> tuple[str, ...]:
        """Return the molecules of at least `SHOWN_BY` frames: fewer say nothing about theirs."""
        found = Counter(self.molecules)
        return tuple(sorted(name for name, count in found.items() if count >= SHOWN_BY))

    def evenly_weighted(self) -> LabelledFrames:
        """Return the trajectories whose frames together count for most.

        One frame that could weigh 33 makes all others count as a
        thirty-third, so that a run audited with p = 0.03 would spoil a hundred
        frames of runs in which everything was labelled.  Chosen by weights
        alone, not by scores or errors.
        """
        names, place = np.unique(self.trajectories, return_inverse=True)
        heaviest = np.zeros(len(names))
        np.maximum.at(heaviest, place, np.maximum(self.heaviest, self.weights))
        limits = np.unique(heaviest)
        worth = [self.weights[heaviest[place] <= limit].sum() / limit for limit in limits]
        if not worth:
            return self
        return self.take(heaviest[place] <= limits[int(np.argmax(worth))])

    @property
    def weight_limit(self) -> float:
        """Largest weight that any of the frames could have had; 1 without frames."""
        return float(max(self.heaviest.max(), self.weights.max())) if len(self) else 1.0
