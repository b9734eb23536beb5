"""Which frames: by level, regime, elements, run, error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hybrid_calc.errors import InputError
from hybrid_calc.store.columns import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a frame must be; what is None does not matter.

    Attributes
    ----------
    level
        Hash of the level of theory, or its name as `LevelOfTheory` prints it.
    regime
        The whole regime (``reactive H C O``) or its first word.
    elements
        Symbols that must all be there, ``("C", "O")``.
    run
        Name of the run.
    formula
        Chemical formula, Hill order.
    labelled
        True for validated frames, False for rejected ones.
    min_force_error, max_force_error
        The committee's largest force error, eV/A; a frame without one does
        not match.
    """

    level: str | None = None
    regime: str | None = None
    elements: tuple[str, ...] = ()
    run: str | None = None
    formula: str | None = None
    labelled: bool | None = None
    min_force_error: float | None = None
    max_force_error: float | None = None

    def __post_init__(self) -> None:
        unknown = [symbol for symbol in self.elements if symbol not in atomic_numbers]
        if unknown:
            raise InputError(f"{', '.join(unknown)} is no element; give symbols like C or Cl.")


def matching(columns: Columns, query: Query) -> NDArray[np.bool_]:
    """Return which frames match, shape (F,); reads the columns only."""
    match = np.ones(len(columns), dtype=bool)
    if query.level is not None:
        levels = columns.levels()
        match &= _among(columns, "level", [query.level in {x.hash, str(x)} for x in levels])
    if query.regime is not None:
        regimes = columns.tables["regime"]
        match &= _among(
            columns, "regime", [query.regime in {r, r.partition(" ")[0]} for r in regimes]
        )
    if query.elements:
        wanted = set(query.elements)
        there = [wanted <= set(words.split()) for words in columns.tables["elements"]]
        match &= _among(columns, "elements", there)
    for name, value in (("run", query.run), ("formula", query.formula)):
        if value is not None:
            match &= _among(columns, name, [word == value for word in columns.tables[name]])
    if query.labelled is not None:
        match &= columns.numbers["labelled"].astype(bool) == query.labelled
    errors = columns.numbers["force_error"]
    if query.min_force_error is not None:
        match &= errors >= query.min_force_error
    if query.max_force_error is not None:
        match &= errors <= query.max_force_error
    return match


def _among(columns: Columns, name: str, chosen: list[bool]) -> NDArray[np.bool_]:
    """Return which frames have a chosen word of the table."""
    if not chosen:
        return np.zeros(len(columns), dtype=bool)
    return np.array(chosen, dtype=bool)[columns.places[name]]
