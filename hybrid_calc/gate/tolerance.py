"""A tolerance below what the committee reaches is spoken of once, in one line."""

from __future__ import annotations

import math
import warnings
from typing import Any

NOTICE_AFTER = 20
"""Geometries without flags after which a tolerance that is never met is spoken of."""


class ToleranceWarning(UserWarning):
    """The tolerance is below what the committee reaches at its best."""


class ToleranceWatch:
    """Remember the scores of calm geometries until they tell.

    Parameters
    ----------
    limit
        The user's force tolerance, eV/A.

    Attributes
    ----------
    notice
        One line about a tolerance the committee cannot meet, or None.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._scores: list[float] = []
        self.notice: str | None = None

    def look(self, score: float) -> None:
        """Take in factor times spread of a geometry without flags, eV/A."""
        if len(self._scores) >= NOTICE_AFTER or not math.isfinite(score):
            return
        self._scores.append(score)
        low, high = min(self._scores), max(self._scores)
        if len(self._scores) == NOTICE_AFTER and low > self._limit:
            self.notice = (
                f"the force tolerance {self._limit:g} eV/A is below what this committee reaches: "
                f"factor x spread was {low:.2g} to {high:.2g} eV/A on {NOTICE_AFTER} calm "
                f"geometries, so the reference is asked at every step. Set a tolerance above "
                f"{high:.2g} or train a better committee."
            )
            warnings.warn(self.notice, ToleranceWarning, stacklevel=3)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {"scores": list(self._scores), "notice": self.notice}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._scores, self.notice = list(state["scores"]), state["notice"]
