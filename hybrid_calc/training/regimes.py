"""Frames of a store classed anew: by the regimes and the training ranges of the runs to come.

The regime in a frame's record is what the run that labelled it knew: the rules
of its settings, and the ranges of the calibration it had, if any.  A run that
relies on a new calibration classes by its own rules and by the new ranges, so
thresholds must be found for those.  What was observed (flags, temperature) is
in the record.  Whether bonds and neighbours lie outside the new ranges is
looked up in the geometry; in dynamics that must last some steps, which the
frames before show where they were labelled as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.flags.bonds import outside_ranges
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.regime import (
    BUILT_IN,
    EQUILIBRIUM,
    HIGH_ENERGY,
    HOT,
    WARM,
    Regime,
    RegimeRule,
    classify,
    refine,
)
from hybrid_calc.geometry import composition_of
from hybrid_calc.store.record import Record

RANGE_FLAGS = ("bond_length", "coordination")
"""Flags that training ranges raise."""
HOW_LONG = "outside the training ranges, and for how long its record does not tell"
NO_FLAGS = "its record does not say which flags were up, and regimes of the settings rest on them"


@dataclass(slots=True)
class _Excursion:
    """For how many steps bonds and atoms were outside, and whether it began before.

    `start` is the first frame of the trajectory that is known, whose bonds are looked at.
    """

    start: Atoms
    step: int
    lasted: NDArray[np.intp]
    begun: NDArray[np.bool_]


class StoredRegimes:
    """Class frames of a store, one after another in the order in which they were written.

    Parameters
    ----------
    rules
        Regimes of the user's settings.
    limits
        Of the flags; those of strains, contacts and bonds are as they were in
        the frame's own run.
    ranges
        Of the training frames, None where the calibration is to have none.

    Attributes
    ----------
    strangers
        Frames by regimes that their runs' settings had and these have not.
    """

    def __init__(
        self,
        rules: Sequence[RegimeRule] = (),
        limits: FlagLimits | None = None,
        ranges: TrainingRanges | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._limits = limits or FlagLimits()
        self._ranges = ranges
        self._known = {*BUILT_IN, *(rule.name for rule in rules)}
        self._excursions: dict[str, _Excursion] = {}
        self.strangers: Counter[str] = Counter()

    def of(self, record: Record) -> Regime | str:
        """Return the regime of the next frame, or why it cannot be told."""
        atoms = record.atoms()
        moving = _temperature(record) is not None
        sure, possible = self._outside(record, atoms, moving)
        name = _name(record)
        if "observation" in record.meta and name not in self._known:
            self.strangers[name] += 1
        regime = self._class(record, atoms, sure)
        if possible != sure and regime != self._class(record, atoms, possible):
            return HOW_LONG
        return regime

    def _class(self, record: Record, atoms: Atoms, outside: tuple[str, ...]) -> Regime | str:
        """Return the regime where these flags of the ranges are up."""
        meta, composition, name = record.meta, composition_of(atoms), _name(record)
        beyond = tuple(Flag(name=flag, severity=Severity.REGIME) for flag in outside)
        seen = meta.get("observation")
        if seen is not None:
            flags = tuple(Flag.from_dict(flag) for flag in seen["flags"])
            report = _report(flags, beyond, record)
            return classify(composition, report, self._limits, self._rules)
        # Frames from elsewhere, and of runs that did not record what the gate saw
        if outside and name in {EQUILIBRIUM, WARM, HOT}:
            name = HIGH_ENERGY
        if "flags" not in meta and self._rests_on_flags(name):
            return NO_FLAGS
        names = [text.partition(":")[0].partition(" ")[0] for text in meta.get("flags") or ()]
        flags = tuple(Flag(name=flag, severity=Severity.SOFT) for flag in names)
        return refine(name, composition, _report(flags, beyond, record), self._rules)

    def _rests_on_flags(self, name: str) -> bool:
        """Tell whether a rule under a regime asks for flags."""
        below = {name}
        for rule in self._rules:  # a parent stands above its child
            if rule.parent in below:
                if rule.flags:
                    return True
                below.add(rule.name)
        return False

    def _outside(
        self, record: Record, atoms: Atoms, moving: bool
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the flags of the ranges that are up, and those that may be."""
        if self._ranges is None:
            return (), ()
        before = self._excursions.pop(str(record.meta.get("parent") or ""), None)
        start = atoms
        if before is not None and np.array_equal(before.start.numbers, atoms.numbers):
            start = before.start
        parts = outside_ranges(atoms, start, self._limits, self._ranges)
        now = np.concatenate(parts)
        lasting = self._limits.persistence_steps if moving else 1
        excursion = _excursion(record, now, start, before)
        if "parent" in record.meta:  # of a run: another frame may follow it
            self._excursions[record.identity] = excursion
        up = now & (excursion.lasted >= lasting)
        maybe = up | (now & excursion.begun) if moving else up
        ends = np.cumsum([len(part) for part in parts])[:-1]

        def names(which: NDArray[np.bool_]) -> tuple[str, ...]:
            pieces = np.split(which, ends)
            return tuple(n for n, piece in zip(RANGE_FLAGS, pieces, strict=True) if piece.any())

        return names(up), names(maybe)


def _excursion(
    record: Record, now: NDArray[np.bool_], start: Atoms, before: _Excursion | None
) -> _Excursion:
    """Go on from the frame before where it is the step before, else begin anew."""
    step = int(record.meta.get("step") or 0)
    if before is not None and before.step == step - 1 and start is before.start:
        lasted, begun = (before.lasted + 1) * now, before.begun & now
    else:
        first = not record.meta.get("parent") and record.meta.get("step") == 0  # of its run
        lasted, begun = now.astype(np.intp), now & (not first)
    return _Excursion(start, step, lasted, begun)


def _temperature(record: Record) -> float | None:
    """Return the mean temperature in a frame's record, K; None outside dynamics."""
    meta = record.meta
    found = (meta.get("observation") or meta).get("mean_temperature")
    return None if found is None else float(found)


def _name(record: Record) -> str:
    """Return the name of the regime in a frame's record, empty where there is none."""
    return str(record.meta.get("regime") or "").partition(" ")[0]


def _report(flags: tuple[Flag, ...], outside: tuple[Flag, ...], record: Record) -> FlagReport:
    """Return what was seen, with these flags in place of those of other training ranges."""
    others = tuple(flag for flag in flags if flag.name not in RANGE_FLAGS)
    return FlagReport(flags=others + outside, mean_temperature=_temperature(record))
