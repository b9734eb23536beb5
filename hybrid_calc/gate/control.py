"""How the gate steers itself in a run: hysteresis, the price of a call, doubted calibrations.

Free functions on numbers, and the little memory they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWN_AT_ONCE = 128


@dataclass(slots=True)
class Streak:
    """Whether a trajectory is with the reference because the committee objected.

    A step is calm whose score is well below the threshold, or below it and
    found right by the reference, which is answering anyway: a committee whose
    usual scores lie just below the threshold would else never be let back.

    Attributes
    ----------
    calm
        Calm steps in a row since the committee objected last; None while it
        has not.
    open
        Whether the last step is calm only if its label says so.
    """

    calm: int | None = None
    open: bool = False

    def holds(self, relative: float, *, share: float, steps: int) -> bool:
        """Take in the next step; return whether the reference keeps answering though it is calm.

        Parameters
        ----------
        relative
            Score over threshold; from 1 on, and where NaN, the committee objects.
        share
            Of the threshold, below which a step counts as calm.
        steps
            Calm steps in a row after which the committee answers again; the
            last of them is already its own.
        """
        if self.open:  # no label came
            self.calm, self.open = 0, False
        if not relative < 1:
            self.calm = 0
            return False
        if self.calm is None:
            return False
        if self.calm + 1 >= steps:
            self.calm = None
            return False
        if relative < share:
            self.calm += 1
        else:
            self.open = True
        return True

    def settle(self, good: bool) -> None:
        """Take in whether the committee was right at the last step."""
        if self.open:
            self.calm = (self.calm or 0) + 1 if good else 0
            self.open = False

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {"calm": self.calm, "open": self.open}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.calm, self.open = state["calm"], state["open"]


class Draws:
    """Numbers from 0 to 1, drawn many at a time: one by one they cost five times as much.

    Parameters
    ----------
    seed
        Of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._begin()

    def __next__(self) -> float:
        """Return the next number."""
        if not self._left:
            self._begin()
        return self._left.pop()

    def _begin(self) -> None:
        self._before = self._random.bit_generator.state
        self._left: list[float] = self._random.random(DRAWN_AT_ONCE)[::-1].tolist()

    def state(self) -> dict[str, Any]:
        """Return where the stream is, JSON-able."""
        return {"before": self._before, "taken": DRAWN_AT_ONCE - len(self._left)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._random.bit_generator.state = state["before"]
        self._begin()
        del self._left[DRAWN_AT_ONCE - state["taken"] :]


def affordable(relative: Sequence[float], share: float) -> float:
    """Return the score over threshold from which on so many frames can be paid for; at least 1.

    Parameters
    ----------
    relative
        Score over threshold of the latest frames.
    share
        Of the frames to come that the rest of the budget pays for.
    """
    if share >= 1 or not relative:
        return 1.0
    if share <= 0:
        return math.inf
    # "higher": of the frames behind it, at most the share lies at or above
    return max(1.0, float(np.quantile(relative, 1 - share, method="higher")))


def contradicts(bad_asked: int, bad_audits: int, probability: float, missed_share: float) -> bool:
    """Tell whether audits found more bad frames below a threshold than its bound allows.

    Where at most `missed_share` of the bad frames pass unasked, b bad frames
    that were asked stand for at most b missed_share / (1 - missed_share) that
    were not, of which audits find each with `probability`: a Poisson count.
    It is contradicted where so many would be found in less than one of twenty
    such runs.

    Parameters
    ----------
    bad_asked
        Bad frames at or above the threshold; at least one is assumed.
    bad_audits
        Bad frames below it that audits found.
    probability
        Of an audit.
    missed_share
        The bound.
    """
    if bad_audits == 0:
        return False
    expected = max(bad_asked, 1) * missed_share / (1 - missed_share) * probability
    fewer = sum(
        math.exp(-expected) * expected**count / math.factorial(count) for count in range(bad_audits)
    )
    return 1 - fewer < 0.05
