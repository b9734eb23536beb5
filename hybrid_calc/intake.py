"""Labels made elsewhere, on their way into a store: checked, annotated, with where they come from.

What passes is a validated frame with the regime that `hybrid_calc.gate.annotation`
gives it.  What does not goes to quarantine with the reason.  Energies without
forces (coupled cluster, values derived from experiment) are kept apart in the
same way, as `ENERGY_ONLY`: comparisons and energy-only training can have them,
nothing is answered or validated with them.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hybrid_calc.errors import HybridCalcError, InputError, ReferenceFailed
from hybrid_calc.gate.annotation import Annotator, group_of
from hybrid_calc.geometry import check_structure, composition_of
from hybrid_calc.reference.checks import MAX_NET_FORCE, checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.energy_only import ENERGY_ONLY
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.importing import ForeignFrame, question_atoms, read_frames
from hybrid_calc.store.record import Record

MAX_FORCE = 300.0
"""Force that no geometry worth learning from has, eV/A."""

MAX_ENERGY_PER_ATOM = 3.0
"""How far per atom an energy may be from the median of its composition in the file, eV: bonds
are worth 2 to 5 eV, a wrong unit or a wrong charge far more."""

FEWEST_OF_A_COMPOSITION = 4
"""Frames of one composition below which a median says nothing."""

SAME_ENERGY_EV = 1e-3
"""Two energies of one geometry at one level that differ by more contradict each other, eV."""

WORDS = ("config_type", "config_weight", "name", "doi", "source", "comment")
"""Keys of ``info`` that are kept as the file has them."""


@dataclass(slots=True, kw_only=True)
class Intake:
    """Counts of an import.

    Attributes
    ----------
    new, there
        Validated frames that were new, and that the store had already.
    energy_only
        Frames without forces, kept apart.
    quarantined
        Frames that did not pass.
    why
        Number of frames by the reason's first words.
    regimes
        Number of new validated frames by regime.
    unusable
        Why frames are in no store at all: nobody could compute their geometry.
    """

    new: int = 0
    there: int = 0
    energy_only: int = 0
    quarantined: int = 0
    why: dict[str, int] = field(default_factory=dict)
    regimes: dict[str, int] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return every count, JSON-able."""
        return {
            "new": self.new,
            "there": self.there,
            "energy_only": self.energy_only,
            "quarantined": self.quarantined,
            "why": dict(self.why),
            "regimes": dict(self.regimes),
            "unusable": list(self.unusable),
        }


def foreign_level(words: str) -> LevelOfTheory:
    """Return a level that is known by what its maker calls it: ``CCSD(T)-F12/cc-pVTZ-F12``.

    Raises
    ------
    InputError
        No words.
    """
    method = " ".join(words.split())
    if not method:
        raise InputError("--method needs words, such as 'CCSD(T)-F12/cc-pVTZ-F12'.")
    return LevelOfTheory(program="foreign", parameters={"method": method})


def take_in(
    path: Path,
    store: FrameStore,
    level: LevelOfTheory | None,
    *,
    annotator: Annotator | None = None,
    max_net_force_ev_per_ang: float = MAX_NET_FORCE,
) -> Intake:
    """Put the frames of a file into a store.

    Parameters
    ----------
    path
        Archive, store, ASE database, or anything ``ase.io`` reads.
    store
        Where they go.
    level
        Of labels in a file that does not say it.
    annotator
        Judges regimes; by the bonds of each frame by default.
    max_net_force_ev_per_ang
        Net force on an isolated molecule beyond which a frame does not pass.

    Raises
    ------
    InputError
        The file cannot be read, or nobody said of which level its labels are.
    LevelMismatchError
        The store holds labels of another level.
    """
    if level is not None:
        store.check_level(level)
    judge = _Judge(path, store, level, annotator or Annotator(), max_net_force_ev_per_ang)
    intake = Intake()
    for record in read_frames(path, level, judge):
        added = store.append(record)
        if record.label is not None:
            intake.new, intake.there = intake.new + added, intake.there + (not added)
            if added:
                _count(intake.regimes, str(record.meta.get("regime") or "unknown"))
        elif not added:
            intake.there += 1
        elif record.rejection.startswith(ENERGY_ONLY):
            intake.energy_only += 1
        else:
            intake.quarantined += 1
            _count(intake.why, record.rejection.partition(";")[0])
    intake.unusable = judge.unusable
    return intake


class _Judge:
    """Make records of frames that come from no store."""

    def __init__(
        self,
        path: Path,
        store: FrameStore,
        level: LevelOfTheory | None,
        annotator: Annotator,
        max_net_force: float,
    ) -> None:
        self._path = path
        self._store = store
        self._level = level
        self._annotator = annotator
        self._max_net_force = max_net_force
        self._medians: dict[str, float] | None = None
        self._digest = ""
        self.unusable: list[str] = []

    def __call__(self, frame: ForeignFrame) -> Record | None:
        """Return a validated frame, or one with the reason why it is none.

        None where the geometry itself cannot be used.
        """
        if self._level is None:
            raise InputError(
                f"{frame.place}: the file does not say its level of theory; give it with "
                "--level or, in words, with --method."
            )
        if self._medians is None:
            self._medians = _medians(self._path)
            self._digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        atoms = question_atoms(frame.atoms)
        try:
            check_structure(atoms)
            composition = composition_of(atoms)
        except HybridCalcError as error:
            self.unusable.append(f"{frame.place}: {error}")
            return None
        rejection, label = "", None
        try:
            label = self._label(frame, atoms, self._medians.get(composition.name))
        except ReferenceFailed as error:
            rejection = str(error)
        return Record.of(
            atoms,
            level=self._level,
            label=label,
            rejection=rejection,
            meta=self._meta(frame, atoms),
        )

    def _label(self, frame: ForeignFrame, atoms: Atoms, median: float | None) -> Label:
        """Return the label where it passes every check.

        Raises
        ------
        ReferenceFailed
            It does not; the message is why.
        """
        level = self._level
        if level is None:
            raise InputError("a level is needed.")
        if frame.energy is None:
            raise ReferenceFailed("no energy; the file has none for this frame.")
        if not np.isfinite(frame.energy):
            raise ReferenceFailed("not finite; the energy is no number.")
        if median is not None:
            away = abs(frame.energy - median) / len(atoms)
            if away > MAX_ENERGY_PER_ATOM:
                raise ReferenceFailed(
                    f"energy without sense; {away:.1f} eV per atom from the median of its "
                    "composition in this file: another unit, charge or level?"
                )
        if frame.forces is None:
            raise ReferenceFailed(f"{ENERGY_ONLY}; {frame.energy!r} eV, no forces in the file.")
        label = checked_label(
            atoms,
            energy=frame.energy,
            forces=np.asarray(frame.forces, dtype=np.float64),
            stress=frame.stress if atoms.pbc.any() else None,
            level=level,
            rung="imported",
            max_net_force_ev_per_ang=self._max_net_force,
        )
        largest = float(np.linalg.norm(label.forces, axis=1).max())
        if largest > MAX_FORCE:
            raise ReferenceFailed(
                f"force without sense; {largest:.0f} eV/A, at most {MAX_FORCE:g} is believed: "
                "another unit, or atoms on top of each other?"
            )
        known = self._store.find_label(atoms, level)
        if known is not None and abs(known.energy - label.energy) > SAME_ENERGY_EV:
            raise ReferenceFailed(
                f"contradiction; the store has this geometry at this level with an energy "
                f"{label.energy - known.energy:+.3f} eV away."
            )
        return label

    def _meta(self, frame: ForeignFrame, atoms: Atoms) -> dict[str, Any]:
        group = group_of(frame.atoms)
        annotation = self._annotator.annotate(atoms, group)
        name = self._path.stem
        info = frame.atoms.info
        words = {key: str(info[key]) for key in WORDS if info.get(key) is not None}
        meta = {
            "regime": annotation.regime,
            "flags": list(annotation.flags),
            "judged_by": annotation.judged_by,
            "reasons": [],  # no gate asked: labelled whatever they were
            "run": f"{name}/{group}" if group else f"{name}-{self._digest[:8]}",
            "step": frame.number,
            "source": frame.place,
            "source_sha256": self._digest,
            "source_says": words,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        return meta | ({} if frame.energy is None else {"energy": frame.energy})


def _medians(path: Path) -> dict[str, float]:
    """Return the median energy of every composition with enough frames, eV."""
    energies: dict[str, list[float]] = defaultdict(list)

    def note(frame: ForeignFrame) -> None:
        try:
            name = composition_of(question_atoms(frame.atoms)).name
        except HybridCalcError:
            return
        if frame.energy is not None and np.isfinite(frame.energy):
            energies[name].append(frame.energy)

    for _ in read_frames(path, None, note):
        pass
    return {
        name: float(np.median(values))
        for name, values in energies.items()
        if len(values) >= FEWEST_OF_A_COMPOSITION
    }


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
