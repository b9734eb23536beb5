"""The scope card: for which frames a committee was shown to be right, and for which it was not.

One entry per regime, elements, charge, spin and temperature band.  A statement
("within 2 kcal/mol and 0.2 eV/A for 95 % of frames with 95 % confidence") is
made only where the labelled frames support it; what has none is named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hybrid_calc.gate.calibration import (
    claimed_share,
    counted,
    error_bound,
    frames_needed,
    share_within,
    weighted_quantile,
)
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.settings import KCAL_PER_MOL

BANDS_KELVIN = (350.0, 500.0, 700.0, 1000.0)
"""Temperatures at which one band ends and the next begins, K."""
VALIDATED_SHARE = 0.95
"""Share of frames within tolerance from which on a statement counts as validation."""
CONFIDENCE = 0.95
KNOWN_REGIMES = ("equilibrium", "warm", "hot", "high-energy", "reactive", "clash")
"""Kinds of geometry that a card names where it has no frame of them."""
NOISE_FACTOR = 3.0
"""A tolerance below so many times the label noise means nothing."""
NONMETALS = frozenset(
    {"H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br",
     "Kr", "Te", "I", "Xe", "At", "Rn"}
)  # fmt: skip


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
        Chemical formulas looked at.
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
        if self.above is None:
            return "outside dynamics" if self.up_to is None else f"up to {self.up_to:g} K"
        if self.up_to is None:
            return f"above {self.above:g} K"
        return f"{self.above:g} to {self.up_to:g} K"

    @property
    def name(self) -> str:
        """Regime and band in words."""
        return f"{self.regime}, {self.band}"

    @property
    def frames_missing(self) -> int:
        """Frames without failure that are missing to a validation, at least."""
        needed = frames_needed(math.ceil(self.failures_counted - 1e-9), VALIDATED_SHARE, CONFIDENCE)
        return max(0, math.ceil(needed - self.frames_counted))

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
class ScopeCard:
    """What one committee is validated for, and what not.

    Attributes
    ----------
    committee, committee_name
        Identity (hash) and name of the committee; a card says nothing about another.
    level
        Level of theory of the labels, in words.
    force_tolerance, energy_tolerance
        Beyond which a frame is a failure, eV/A and eV.
    entries
        By regime and temperature, only those with labelled frames.
    left_out
        Labelled frames that do not count, by the reason.
    label_noise
        How far labels are from the tight solution of their level, at most,
        eV/A; None where nobody measured it.
    """

    committee: str
    committee_name: str
    level: str
    force_tolerance: float
    energy_tolerance: float
    entries: tuple[ScopeEntry, ...] = ()
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    label_noise: float | None = None

    def covers(self, regime: Regime, temperature: float | None) -> bool:
        """Tell whether frames of this kind were validated."""
        entry = self.entry(regime, temperature)
        return entry is not None and entry.validated

    def entry(self, regime: Regime, temperature: float | None) -> ScopeEntry | None:
        """Return what is known about frames of this kind, or None."""
        band = band_of(temperature)
        for entry in self.entries:
            if entry.regime == regime and (entry.above, entry.up_to) == band:
                return entry
        return None

    def statements(self) -> list[str]:
        """Return what is validated, one sentence each; empty where nothing is."""
        return [
            f"{entry.name}: {self.statement(entry)}" for entry in self.entries if entry.validated
        ]

    def statement(self, entry: ScopeEntry) -> str:
        """Return the strongest statement that an entry's frames allow, in words."""
        frames = f"{entry.frames} decorrelated {_many('frame', entry.frames)}"
        if entry.frames_counted < entry.frames - 0.5:
            frames += f" (worth {entry.frames_counted:.0f} of equal weight)"
        evidence = (
            f"{frames}, {entry.failures} {_many('failure', entry.failures)}, "
            f"{entry.trajectories} {_many('trajectory', entry.trajectories)} of "
            f"{', '.join(entry.molecules)}"
        )
        if entry.share is None:
            return f"no statement; {evidence}"
        return f"{self._within(entry.share)}; {evidence}"

    def not_validated(self) -> list[str]:
        """Return everything that nothing was shown about, by name."""
        good = [entry for entry in self.entries if entry.validated]
        gaps = []
        for entry in self.entries:
            if not entry.validated:
                more = entry.frames_missing
                gaps.append(
                    f"{entry.name}: {self.statement(entry)}; {self._bounds(entry)}"
                    f"at least {more} more {_many('frame', more)} needed"
                )
        seen = {entry.regime.name for entry in self.entries}
        gaps += [f"{name}: no frame" for name in KNOWN_REGIMES if name not in seen]
        names = {entry.regime.name for entry in good}
        if not any("transition" in name for name in names):
            gaps.append("transition states")
        elements = {symbol for entry in good for symbol in entry.regime.elements.split()}
        if elements <= NONMETALS:
            gaps.append("metals")
        ends = [entry.up_to or math.inf for entry in good if entry.band != "outside dynamics"]
        if not ends:
            gaps.append("dynamics at any temperature")
        elif max(ends) < math.inf:
            gaps.append(f"above {max(ends):g} K")
        if not any(entry.regime.charge for entry in good):
            gaps.append("charged species")
        if not any(entry.regime.multiplicity != 1 for entry in good):
            gaps.append("open shells (multiplicity other than 1)")
        known = " ".join(sorted(elements, key=lambda symbol: atomic_numbers[symbol]))
        gaps.append(f"elements other than {known}" if known else "any element")
        molecules = sorted({formula for entry in good for formula in entry.molecules})
        if molecules:
            gaps.append(f"molecules other than {', '.join(molecules)}")
        return gaps

    def noise(self) -> str:
        """Return the share of the errors that lies in the labels, in words."""
        if self.label_noise is None:
            return "label noise: not known for this level; errors include it"
        floor = f"label noise (aleatoric): up to {self.label_noise:.2g} eV/A"
        if self.force_tolerance < NOISE_FACTOR * self.label_noise:
            return (
                f"{floor}; the tolerance of {self.force_tolerance:g} eV/A is less than "
                f"{NOISE_FACTOR:g} times that and means nothing"
            )
        return floor

    def model_part(self, entry: ScopeEntry) -> float | None:
        """Return the 95 % quantile of the force error that is not label noise, eV/A.

        Errors of both kinds add in squares; None where the noise is not known.
        """
        if self.label_noise is None:
            return None
        return math.sqrt(max(entry.force_quantiles[2] ** 2 - self.label_noise**2, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "committee": self.committee,
            "committee_name": self.committee_name,
            "level": self.level,
            "force_tolerance": self.force_tolerance,
            "energy_tolerance": self.energy_tolerance,
            "entries": [
                entry.to_dict()
                | {"statement": self.statement(entry), "model_part": self.model_part(entry)}
                for entry in self.entries
            ],
            "left_out": dict(self.left_out),
            "label_noise": self.label_noise,
            "validated": self.statements(),
            "not_validated": self.not_validated(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScopeCard:
        """Rebuild a card from `to_dict`."""
        return cls(
            committee=data["committee"],
            committee_name=data["committee_name"],
            level=data["level"],
            force_tolerance=data["force_tolerance"],
            energy_tolerance=data["energy_tolerance"],
            entries=tuple(ScopeEntry.from_dict(entry) for entry in data["entries"]),
            left_out=dict(data["left_out"]),
            label_noise=data["label_noise"],
        )

    def _within(self, share: float) -> str:
        return (
            f"within {self.energy_tolerance / KCAL_PER_MOL:.1f} kcal/mol and "
            f"{self.force_tolerance:g} eV/A for {share:.0%} of frames with "
            f"{CONFIDENCE:.0%} confidence"
        ).replace("%", " %")

    def _bounds(self, entry: ScopeEntry) -> str:
        if entry.force_bound is None or entry.energy_bound is None:
            return ""
        return (
            f"95 % of frames are within {entry.force_bound:.2g} eV/A, and 95 % within "
            f"{entry.energy_bound / KCAL_PER_MOL:.2g} kcal/mol; "
        )


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
    order = sorted(
        set(keys), key=lambda key: (str(key[0]), key[1][0] or 0, key[1][1] is not None)
    )
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
    return ScopeEntry(
        regime=regime,
        above=band[0],
        up_to=band[1],
        molecules=tuple(sorted(set(thin.molecules))),
        trajectories=len(np.unique(thin.trajectories)),
        labelled=len(frames),
        frames=len(thin),
        failures=int(bad.sum()),
        frames_counted=count,
        failures_counted=failures,
        force_quantiles=_quantiles(thin.force_errors, thin.weights),
        energy_quantiles=_quantiles(thin.energy_errors, thin.weights),
        force_bound=_finite(error_bound(thin.force_errors, *weights)),
        energy_bound=_finite(error_bound(thin.energy_errors, *weights)),
        share=claimed_share(count, failures, CONFIDENCE),
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


def _quantiles(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    low, middle, high = (weighted_quantile(values, share, weights) for share in (0.5, 0.9, 0.95))
    return low, middle, high


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _many(word: str, count: int) -> str:
    if count == 1:
        return word
    return word[:-1] + "ies" if word.endswith("y") else word + "s"
