"""A calibration as one file of numbers: what `hybrid-calc calibrate` writes and the gate reads.

A safetensors file with a JSON header, no pickle: thresholds and scores by
regime, the scope card, what the training frames spanned, and the clouds of
their descriptors.  It belongs to one committee, one level of theory and one
tolerance, names all three, and is void for any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hybrid_calc.errors import CalibrationError
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.regime_entry import RegimeEntry
from hybrid_calc.gate.scope import ScopeCard

FORMAT = "hybrid_calc calibration"
SCHEMA = 2
"""1 named no molecules by regime; those that its scope card names are taken."""


@dataclass(frozen=True, kw_only=True)
class CommitteeCalibration:
    """Everything calibration found out about one committee.

    Implements `hybrid_calc.gate.calibrated.Calibration`.

    Attributes
    ----------
    card
        For whom it holds, with level and tolerances, and what is validated.
    level_hash
        Of the labels' level of theory.
    missed_share
        Largest share of the bad frames that may pass unasked.
    entries
        By regime.
    ranges, novelty_model
        Of the training frames, None where they were not given.
    training
        Which frames those were, in words.
    provenance
        Store, seed, versions, date; JSON-able.
    classes
        What frames were classed by, as of `gate.regime.classes_of`; None in files of earlier
        versions.
    """

    card: ScopeCard
    level_hash: str
    missed_share: float
    entries: tuple[RegimeEntry, ...]
    ranges: TrainingRanges | None = None
    novelty_model: Novelty | None = None
    training: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        """Hash of the committee it belongs to."""
        return self.card.committee

    @cached_property
    def _by_regime(self) -> dict[Regime, RegimeCalibration]:
        return {entry.regime: entry.for_gate(self.missed_share) for entry in self.entries}

    def regime(self, regime: Regime) -> RegimeCalibration | None:
        """Return what is known about a regime, None where there were no frames."""
        return self._by_regime.get(regime)

    def novelty(
        self, descriptors: NDArray[np.float64], numbers: NDArray[np.integer]
    ) -> NDArray[np.floating] | None:
        """Return how far each atom is from the training frames, shape (N,), or None."""
        if self.novelty_model is None:
            return None
        return self.novelty_model.of_atoms(numbers, descriptors)

    def check(
        self,
        *,
        committee: str,
        level_hash: str,
        force_tolerance: float,
        energy_tolerance: float,
        classes: Mapping[str, Any],
    ) -> None:
        """Refuse to be used for what it was not made for.

        Parameters
        ----------
        committee
            Identity of the committee that answers.
        level_hash
            Of the reference's level of theory.
        force_tolerance, energy_tolerance
            Of the gate, eV/A and eV.
        classes
            What the run classes geometries by, as of `gate.regime.classes_of`.

        Raises
        ------
        CalibrationError
            Committee, level, tolerances or classes differ; the message says which.
        """
        card = self.card
        if committee != card.committee:
            raise CalibrationError(
                f"the calibration belongs to committee {card.committee_name} ({card.committee}); "
                f"this one is {committee}, for which nothing was shown. {AGAIN}"
            )
        if level_hash != self.level_hash:
            raise CalibrationError(
                f"the calibration was made with labels of {card.level} ({self.level_hash}); the "
                f"reference solves another level ({level_hash}). {AGAIN}"
            )
        for name, mine, asked in (
            ("gate.force_tolerance_ev_per_ang", card.force_tolerance, force_tolerance),
            ("gate.energy_tolerance_ev", card.energy_tolerance, energy_tolerance),
        ):
            if not math.isclose(mine, asked, rel_tol=1e-6):
                raise CalibrationError(
                    f"the calibration counts frames as bad beyond {name} = {mine:g}; this run "
                    f"has {asked:g}, and its thresholds would mean something else. Set "
                    f"{name}: {mine:g}, or calibrate again with this tolerance."
                )
        for name, here in classes.items():
            if self.classes is not None and self.classes.get(name) != here:
                raise CalibrationError(
                    f"the calibration classed its frames by {name} = {self.classes.get(name)}; "
                    f"this run has {here}, and its regimes would be others. Calibrate with this "
                    "run's settings: hybrid-calc calibrate STORE --committee SETTINGS.yaml."
                )

    def to_bytes(self) -> bytes:
        """Return the calibration as one safetensors file."""
        arrays = {} if self.novelty_model is None else self.novelty_model.arrays()
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = json.dumps(
            {
                "card": self.card.to_dict(),
                "level_hash": self.level_hash,
                "missed_share": self.missed_share,
                "entries": [entry.to_dict() for entry in self.entries],
                "ranges": None if self.ranges is None else self.ranges.to_dict(),
                "training": self.training,
                "provenance": dict(self.provenance),
                "classes": self.classes,
            },
            sort_keys=True,
            allow_nan=False,
        )
        metadata = {
            "format": FORMAT,
            "schema": str(SCHEMA),
            "header": header,
            "digest": _digest(header, arrays),
        }
        return bytes(save(arrays, metadata))

    @classmethod
    def from_bytes(cls, blob: bytes, name: str) -> CommitteeCalibration:
        """Rebuild a calibration from `to_bytes`.

        Parameters
        ----------
        blob
            The file.
        name
            What to call it in an error.

        Raises
        ------
        CalibrationError
            It is none, has a schema that is not known, or changed since it was written.
        """
        try:
            size = int.from_bytes(blob[:8], "little")
            metadata = json.loads(blob[8 : 8 + size]).get("__metadata__") or {}
            arrays = load(blob)
        except (SafetensorError, ValueError, AttributeError) as error:
            raise CalibrationError(
                f"{name} is no calibration; make one with: hybrid-calc calibrate."
            ) from error
        schema = metadata.get("schema")
        if metadata.get("format") != FORMAT or schema not in {"1", str(SCHEMA)}:
            raise CalibrationError(
                f"{name} is a {metadata.get('format') or 'safetensors file'} of schema "
                f"{schema}; this version reads a {FORMAT} up to schema {SCHEMA}."
            )
        header = metadata.get("header", "")
        if _digest(header, arrays) != metadata.get("digest"):
            raise CalibrationError(f"{name} is not what was written: its digest differs. {AGAIN}")
        try:
            data = json.loads(header)
            return cls._from_header(_upgraded(data) if schema == "1" else data, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"{name} cannot be read: {error}. {AGAIN}") from error

    @classmethod
    def _from_header(
        cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> CommitteeCalibration:
        ranges = data["ranges"]
        return cls(
            card=ScopeCard.from_dict(data["card"]),
            level_hash=data["level_hash"],
            missed_share=data["missed_share"],
            entries=tuple(RegimeEntry.from_dict(entry) for entry in data["entries"]),
            ranges=None if ranges is None else TrainingRanges.from_dict(ranges),
            novelty_model=Novelty.from_arrays(arrays) if arrays else None,
            training=data["training"],
            provenance=data["provenance"],
            classes=data.get("classes"),
        )

    def write(self, path: Path) -> None:
        """Write the file, replacing one that is there whole.

        Raises
        ------
        CalibrationError
            It cannot be written.
        """
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_bytes(self.to_bytes())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CalibrationError(f"{path} cannot be written: {error.strerror}.") from error


AGAIN = "Calibrate again: hybrid-calc calibrate STORE --committee COMMITTEE."


def read_calibration(path: Path) -> CommitteeCalibration:
    """Return the calibration of a file.

    Raises
    ------
    CalibrationError
        It cannot be read or is none.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}.") from error
    return CommitteeCalibration.from_bytes(blob, str(path))


def _upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header of schema 1 with the molecules that its card names for each regime."""
    entries = []
    for entry in data["entries"]:
        lines = [line for line in data["card"]["entries"] if line["regime"] == entry["regime"]]
        molecules = {molecule for line in lines for molecule in line["molecules"]}
        entries.append({**entry, "molecules": sorted(molecules)})
    return {**data, "entries": entries}


def _digest(header: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
