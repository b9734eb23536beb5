"""One line of the scope card: what is known about one regime at one temperature."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.gate.calibration import (
    claimed_share,
    counted,
    error_bound,
    frames_needed,
    weighted_quantile,
)
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.regime import Regime

BANDS_KELVIN = (350.0, 500.0, 700.0, 1000.0)
"""Temperatures at which one band ends and the next begins, K."""
VALIDATED_SHARE = 0.95
"""Share of frames within tolerance from which on a statement counts as validation."""
CONFIDENCE = 0.95
MIN_TRAJECTORIES = 5
"""Below which no statement is made: frames of one trajectory know each other.

On fresh trajectories of seven molecules fewer than 2 % of statements from five or more were
refuted beyond noise; most of those that were came from one to four (benchmarks/gate.py).
"""
FEW = 40
"""Frames below which a failure or two may be bad luck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeEntry:
    """What is known about one regime at one temperature.

    Attributes
    ----------
    regime
        With elements, charge and spin.
    above, up_to
        Ends of the temperature band, K; None without a lower or upper end,
        both None for geometries outside dynamics.
    molecules
        Chemical formulas that enough independent frames show.
    trajectories
        Number of them.
    labelled
        Labelled frames.
    frames, failures
        Independent ones among them, and those of these out of tolerance.
    frames_counted, failures_counted
        The same in frames of equal weight, as a statement may count them.
    force_quantiles, energy_quantiles
        50, 90 and 95 % quantiles of the errors, eV/A and eV, weighted.
    force_bound, energy_bound
        What 95 % of all frames do not exceed with 95 % confidence, eV/A and
        eV; None where there are too few frames.
    share
        Share of all frames within tolerance that is claimed with 95 %
        confidence; None where none can be.
    """

    regime: Regime
    above: float | None
    up_to: float | None
    molecules: tuple[str, ...]
    trajectories: int
    labelled: int
    frames: int
    failures: int
    frames_counted: float
    failures_counted: float
    force_quantiles: tuple[float, float, float]
    energy_quantiles: tuple[float, float, float]
    force_bound: float | None
    energy_bound: float | None
    share: float | None

    @property
    def validated(self) -> bool:
        """Whether the statement is strong enough to rely on."""
        return self.share is not None and self.share >= VALIDATED_SHARE

    @property
    def band(self) -> str:
        """The temperature band in words."""
        return band_name((self.above, self.up_to))

    @property
    def name(self) -> str:
        """Regime and band in words."""
        return f"{self.regime}, {self.band}"

    @property
    def errors(self) -> str:
        """The quantiles of the errors in words."""
        return errors_in_words(self.force_quantiles, self.energy_quantiles)

    @property
    def remedy(self) -> str:
        """What it would take to validate this, in words."""
        if self.trajectories < MIN_TRAJECTORIES:
            return f"a statement needs {MIN_TRAJECTORIES} trajectories at least"
        if self.failures_counted > (1 - VALIDATED_SHARE) * max(self.frames_counted, FEW):
            return "the committee fails too often here: train it, or ask for a larger tolerance"
        needed = frames_needed(math.ceil(self.failures_counted - 1e-9), VALIDATED_SHARE, CONFIDENCE)
        more = max(1, math.ceil(needed - self.frames_counted))
        return f"at least {more} more {many('frame', more)} needed"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        data = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        return data | {
            "regime": self.regime.to_dict(),
            "molecules": list(self.molecules),
            "force_quantiles": list(self.force_quantiles),
            "energy_quantiles": list(self.energy_quantiles),
            "name": self.name,
            "validated": self.validated,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScopeEntry:
        """Rebuild an entry from `to_dict`."""
        known = {part.name for part in dataclasses.fields(cls)}
        plain = {name: value for name, value in data.items() if name in known}
        for name in ("molecules", "force_quantiles", "energy_quantiles"):
            plain[name] = tuple(plain[name])
        return cls(**{**plain, "regime": Regime(**data["regime"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenEntry:
    """Labels of one regime that relaxations and bands chose: information, never a statement.

    Attributes
    ----------
    regime
        With elements, charge and spin.
    molecules
        Chemical formulas.
    labels
        Number of them.
    force_quantiles, energy_quantiles
        50, 90 and 95 % quantiles of the committee's errors, eV/A and eV.
    """

    regime: Regime
    molecules: tuple[str, ...]
    labels: int
    force_quantiles: tuple[float, float, float]
    energy_quantiles: tuple[float, float, float]

    def __str__(self) -> str:
        return (
            f"{self.regime}: {self.labels} {many('label', self.labels)} chosen by relaxations and "
            f"bands of {', '.join(self.molecules)}: "
            f"{errors_in_words(self.force_quantiles, self.energy_quantiles)}; no statement, since "
            "a search chose them"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "regime": self.regime.to_dict(),
            "molecules": list(self.molecules),
            "labels": self.labels,
            "force_quantiles": list(self.force_quantiles),
            "energy_quantiles": list(self.energy_quantiles),
            "words": str(self),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChosenEntry:
        """Rebuild an entry from `to_dict`."""
        return cls(
            regime=Regime(**data["regime"]),
            molecules=tuple(data["molecules"]),
            labels=data["labels"],
            force_quantiles=tuple(data["force_quantiles"]),
            energy_quantiles=tuple(data["energy_quantiles"]),
        )


def chosen_entries(frames: LabelledFrames) -> tuple[ChosenEntry, ...]:
    """Return one entry per regime of frames that drivers chose."""
    entries = []
    for regime in sorted(set(frames.regimes), key=str):
        here = frames.of_regime(regime)
        entries.append(
            ChosenEntry(
                regime=regime,
                molecules=tuple(sorted(set(here.molecules))),
                labels=len(here),
                force_quantiles=_quantiles(here.force_errors, here.weights),
                energy_quantiles=_quantiles(here.energy_errors, here.weights),
            )
        )
    return tuple(entries)


def scope_entries(
    frames: LabelledFrames, *, force_tolerance: float, energy_tolerance: float
) -> tuple[ScopeEntry, ...]:
    """Return one entry per regime and temperature band.

    Parameters
    ----------
    frames
        Labelled frames that the committee was not trained on, not thinned.
    force_tolerance, energy_tolerance
        Beyond which a frame is a failure, eV/A and eV.
    """
    bands = [band_of(None if math.isnan(t) else t) for t in frames.temperatures.tolist()]
    keys = list(zip(frames.regimes, bands, strict=True))
    order = sorted(set(keys), key=lambda key: (str(key[0]), key[1][0] or 0, key[1][1] is not None))
    entries = []
    for regime, band in order:
        here = frames.take(np.array([key == (regime, band) for key in keys], dtype=bool))
        entries.append(_entry(here, regime, band, force_tolerance, energy_tolerance))
    return tuple(entries)


def _entry(
    frames: LabelledFrames,
    regime: Regime,
    band: tuple[float | None, float | None],
    force_tolerance: float,
    energy_tolerance: float,
) -> ScopeEntry:
    thin = frames.evenly_weighted().thinned(force_tolerance, energy_tolerance)
    weights = thin.weights, thin.weight_limit
    bad = thin.excess(force_tolerance, energy_tolerance) > 1
    count, failures = counted(bad, *weights)
    trajectories = len(np.unique(thin.trajectories))
    enough = trajectories >= MIN_TRAJECTORIES
    return ScopeEntry(
        regime=regime,
        above=band[0],
        up_to=band[1],
        molecules=thin.shown_molecules(),
        trajectories=trajectories,
        labelled=len(frames),
        frames=len(thin),
        failures=int(bad.sum()),
        frames_counted=count,
        failures_counted=failures,
        force_quantiles=_quantiles(thin.force_errors, thin.weights),
        energy_quantiles=_quantiles(thin.energy_errors, thin.weights),
        force_bound=_finite(error_bound(thin.force_errors, *weights)) if enough else None,
        energy_bound=_finite(error_bound(thin.energy_errors, *weights)) if enough else None,
        share=claimed_share(count, failures, CONFIDENCE) if enough else None,
    )


def band_of(temperature: float | None) -> tuple[float | None, float | None]:
    """Return the ends of a temperature's band, K; (None, None) outside dynamics.

    A temperature that is not a number belongs to no band of any card.
    """
    if temperature is None:
        return None, None
    if math.isnan(temperature):
        return math.nan, math.nan
    ends: Sequence[float | None] = (None, *BANDS_KELVIN, None)
    place = sum(temperature > end for end in BANDS_KELVIN)
    return ends[place], ends[place + 1]


def band_name(band: tuple[float | None, float | None]) -> str:
    """Return a temperature band in words."""
    above, up_to = band
    if above is None:
        return "outside dynamics" if up_to is None else f"up to {up_to:g} K"
    return f"above {above:g} K" if up_to is None else f"{above:g} to {up_to:g} K"


def errors_in_words(forces: Sequence[float], energies: Sequence[float]) -> str:
    """Return the 50, 90 and 95 % quantiles of force (eV/A) and energy errors (eV) in words."""
    both = (", ".join(f"{value:.2g}" for value in values) for values in (forces, energies))
    return "errors up to {} eV/A and {} eV in 50, 90 and 95 % of frames".format(*both)


def _quantiles(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    low, middle, high = (weighted_quantile(values, share, weights) for share in (0.5, 0.9, 0.95))
    return low, middle, high


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def many(word: str, count: int) -> str:
    """Return a word in the singular or plural."""
    if count == 1:
        return word
    return word[:-1] + "ies" if word.endswith("y") else word + "s"
