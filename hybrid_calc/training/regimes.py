"""Frames of a store classed anew: by the regimes and the training ranges of the runs to come.

The regime in a frame's record is what the run that labelled it knew: the rules
of its settings, and the ranges of the calibration it had, if any.  A run that
relies on a new calibration classes by its own rules and by the new ranges, so
thresholds must be found for those.  What was observed (flags, temperature) is
in the record.  Whether bonds and neighbours lie outside the new ranges is
looked up in the geometry; in dynamics that must last some steps, and the
record has those before it, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ase import Atoms

from hybrid_calc.flags.bonds import outside_ranges
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.flags.window import Recent
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


class StoredRegimes:
    """Class frames of a store, each by its own record.

    Parameters
    ----------
    rules
        Regimes of the user's settings.
    limits
        Of the flags; those of strains, contacts and bonds are as they were in
        the frame's own run, and so is the graph its bonds are taken from.
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
        self.strangers: Counter[str] = Counter()

    def of(self, record: Record) -> Regime | str:
        """Return the regime of a frame, or why it cannot be told."""
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
        """Return the flags of the ranges that are up, and those that may be.

        In dynamics a flag is up where every one of the last steps was outside.
        A trajectory that has not lasted as long yet has none up.  What the
        record does not tell, of an earlier version or of a run whose limits
        asked for fewer steps, may have been outside.
        """
        if self._ranges is None:
            return (), ()
        if moving and "recent" in record.meta:
            recent = Recent.from_dict(record.meta["recent"], atoms)
        else:
            recent = Recent.alone(atoms, self._limits.bonded_ratio)
        lasting = self._limits.persistence_steps if moving else 1
        parts = outside_ranges(atoms.numbers, recent, self._limits, self._ranges)
        lasted = tuple(
            name
            for name, part in zip(RANGE_FLAGS, parts, strict=True)
            if part[-lasting:].all(axis=0).any()
        )
        steps = len(recent.lengths)
        if steps >= lasting:
            return lasted, lasted
        return (), () if steps < recent.kept else lasted


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
