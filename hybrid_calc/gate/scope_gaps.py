"""What a scope card says nothing about, by name.

Nobody reads what is not there: a band of temperatures between two that were
validated, a regime that one molecule showed and another did not, an anion where
a cation was looked at.  So each is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from ase.data import atomic_numbers

from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.regime import (
    CLASH,
    DEFECT,
    EQUILIBRIUM,
    HIGH_ENERGY,
    HOT,
    REACTIVE,
    WARM,
    Regime,
)
from hybrid_calc.gate.scope_entry import BANDS_KELVIN, ScopeEntry, band_name
from hybrid_calc.geometry import PERIODIC

BY_TEMPERATURE = (EQUILIBRIUM, WARM, HOT)
"""Regimes that differ in nothing but temperature."""
KNOWN_REGIMES = (*BY_TEMPERATURE, HIGH_ENERGY, REACTIVE, CLASH, DEFECT)
"""Kinds of geometry that a card names where it has no frame of them."""
Band = tuple[float | None, float | None]
OUTSIDE_DYNAMICS: Band = (None, None)
NONMETALS = frozenset(
    {"H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br",
     "Kr", "Te", "I", "Xe", "At", "Rn"}
)  # fmt: skip


def gaps_between(entries: Sequence[ScopeEntry]) -> list[str]:
    """Return the regimes, temperatures, species and molecules that no entry validates.

    Entries that are there and too weak are not among them: the card tells what they lack.
    """
    good = [entry for entry in entries if entry.validated]
    gaps = [*_regimes(entries), *_bands(entries)]
    if not any("transition" in entry.regime.name for entry in good):
        gaps.append("transition states")
    elements = {symbol for entry in good for symbol in entry.regime.elements.split()}
    if elements <= NONMETALS:
        gaps.append("metals")
    gaps += _charges(good)
    known = " ".join(sorted(elements, key=lambda symbol: atomic_numbers[symbol]))
    gaps.append(f"elements other than {known}" if known else "any element")
    molecules = sorted({formula for entry in good for formula in entry.molecules})
    if not any(formula.endswith(PERIODIC) for formula in molecules):
        gaps.append("periodic cells")
    if len({entry.molecules for entry in good}) == 1:
        gaps.append(_others_than(molecules))
    else:
        gaps += [f"{entry.name}: {_others_than(entry.molecules)}" for entry in good]
    return gaps


def _regimes(entries: Sequence[ScopeEntry]) -> Iterator[str]:
    """Yield the regimes of each chemistry without a frame."""
    chemistries = _chemistries(entries) or [""]
    for chemistry in chemistries:
        seen = {e.regime.name for e in entries if _chemistry(e.regime) == chemistry}
        for name in KNOWN_REGIMES:
            if name not in seen:
                yield f"{name}{f' {chemistry}' if len(chemistries) > 1 else ''}: no frame"


def _charges(good: Sequence[ScopeEntry]) -> Iterator[str]:
    """Yield which charges and spins are not validated, as pairs where there is more than one."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for entry in good:
        regime = entry.regime
        pairs.setdefault(regime.elements, set()).add((regime.charge, regime.multiplicity))
    if all(known == {(0, 1)} for known in pairs.values()):
        yield "charged species"
        yield "open shells (multiplicity other than 1)"
        return
    for elements, known in sorted(pairs.items()):
        words = ", ".join(f"{f'{q:+d}' if q else 0}/{spin}" for q, spin in sorted(known))
        label = f"{elements}: " if len(pairs) > 1 else ""
        yield f"{label}charge and multiplicity other than {words}"


def _bands(entries: Sequence[ScopeEntry]) -> Iterator[str]:
    """Yield the temperatures at which nothing was looked at, kind by kind of geometry."""
    one_kind = BY_TEMPERATURE if _usual(entries) else ()  # they part where bands do
    kinds: dict[tuple[str, str], set[Band]] = {}
    for entry in entries:
        name = "" if entry.regime.name in one_kind else entry.regime.name
        kinds.setdefault((name, _chemistry(entry.regime)), set()).add((entry.above, entry.up_to))
    several = len(_chemistries(entries)) > 1
    for (name, chemistry), known in sorted(kinds.items()) or [(("", ""), set[Band]())]:
        words = " ".join(word for word in (name, chemistry if several else "") if word)
        label = f"{words}, " if words else ""
        if OUTSIDE_DYNAMICS not in known:
            yield f"{label}geometries outside dynamics (relaxations, bands, scans)"
        if known <= {OUTSIDE_DYNAMICS}:
            yield f"{label}dynamics at any temperature"
        else:
            yield from (f"{label}{band_name(band)}" for band in _missing(known))


def _usual(entries: Sequence[ScopeEntry]) -> bool:
    """Tell whether equilibrium, warm and hot end at the temperatures that they usually do."""
    usual = FlagLimits()
    ends = {
        EQUILIBRIUM: (0.0, usual.warm_above_kelvin),
        WARM: (usual.warm_above_kelvin, usual.hot_above_kelvin),
        HOT: (usual.hot_above_kelvin, math.inf),
    }
    return all(
        ends[entry.regime.name][0] <= (entry.above or 0.0)
        and (entry.up_to or math.inf) <= ends[entry.regime.name][1]
        for entry in entries
        if entry.regime.name in ends and (entry.above, entry.up_to) != OUTSIDE_DYNAMICS
    )


def _missing(known: set[Band]) -> list[Band]:
    """Return the temperatures between bands, those that touch each other as one."""
    ends = (None, *BANDS_KELVIN, None)
    missing: list[Band] = []
    for band in itertools.pairwise(ends):
        if band in known:
            continue
        if missing and missing[-1][1] == band[0]:
            missing[-1] = (missing[-1][0], band[1])
        else:
            missing.append(band)
    return missing


def _chemistry(regime: Regime) -> str:
    """Return elements, charge and spin in words."""
    return str(regime).removeprefix(f"{regime.name} ")


def _chemistries(entries: Sequence[ScopeEntry]) -> list[str]:
    return sorted({_chemistry(entry.regime) for entry in entries})


def _others_than(molecules: Sequence[str]) -> str:
    """Return in words of which molecules too little is known."""
    few = "any molecule by itself: each has few frames"
    return f"molecules other than {', '.join(molecules)}" if molecules else few
