"""What a scope card says nothing about, by name.

Nobody reads what is not there: a band of temperatures between two that were
validated, a regime that one molecule showed and another did not, an anion where
a cation was looked at.  So each is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ase.data import atomic_numbers

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
OUTSIDE_DYNAMICS = (None, None)
NONMETALS = frozenset(
    {"H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br",
     "Kr", "Te", "I", "Xe", "At", "Rn"}
)  # fmt: skip


def gaps_between(entries: Sequence[ScopeEntry]) -> list[str]:
    """Return the regimes, temperatures, species and molecules that no entry validates.

    Entries that are there and too weak are not among them.
    """
    good = [entry for entry in entries if entry.validated]
    gaps = [*_regimes(entries), *_bands(good, several=len(_chemistries(entries)) > 1)]
    if not any("transition" in entry.regime.name for entry in good):
        gaps.append("transition states")
    elements = {symbol for entry in good for symbol in entry.regime.elements.split()}
    if elements <= NONMETALS:
        gaps.append("metals")
    charges = sorted({entry.regime.charge for entry in good})
    if any(charges):
        gaps.append(f"charges other than {', '.join(map(_signed, charges))}")
    else:
        gaps.append("charged species")
    spins = sorted({entry.regime.multiplicity for entry in good})
    if set(spins) - {1}:
        gaps.append(f"multiplicities other than {', '.join(map(str, spins))}")
    else:
        gaps.append("open shells (multiplicity other than 1)")
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


def _bands(good: Sequence[ScopeEntry], *, several: bool) -> Iterator[str]:
    """Yield the temperatures at which nothing is validated, kind by kind of geometry."""
    if all((entry.above, entry.up_to) == OUTSIDE_DYNAMICS for entry in good):
        yield "dynamics at any temperature"
    kinds: dict[tuple[str, str], set[tuple[float | None, float | None]]] = {}
    for entry in good:
        name = "" if entry.regime.name in BY_TEMPERATURE else entry.regime.name
        kinds.setdefault((name, _chemistry(entry.regime)), set()).add((entry.above, entry.up_to))
    for (name, chemistry), known in sorted(kinds.items()):
        words = " ".join(word for word in (name, chemistry if several else "") if word)
        label = f"{words}, " if words else ""
        if OUTSIDE_DYNAMICS not in known:
            yield f"{label}geometries outside dynamics (relaxations, bands, scans)"
        if known != {OUTSIDE_DYNAMICS}:
            yield from (f"{label}{band_name(band)}" for band in _missing(known))


def _missing(
    known: set[tuple[float | None, float | None]],
) -> list[tuple[float | None, float | None]]:
    """Return the temperatures between bands, those that touch each other as one."""
    ends = (None, *BANDS_KELVIN, None)
    missing: list[tuple[float | None, float | None]] = []
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


def _signed(charge: int) -> str:
    return f"{charge:+d}" if charge else "0"


def _others_than(molecules: Sequence[str]) -> str:
    """Return in words of which molecules too little is known."""
    few = "any molecule by itself: each has few frames"
    return f"molecules other than {', '.join(molecules)}" if molecules else few
