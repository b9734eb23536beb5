"""What every driver gets while it runs, and how it says it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from ase import Atoms

from hybrid_calc.answer.step import Step
from hybrid_calc.calculator import HybridCalculator, HybridHandle
from hybrid_calc.drivers.folder import RunFolder
from hybrid_calc.errors import InputError, PredictionFailed


class Ending(StrEnum):
    """Why a job ended; not confirmed is what the reference does not vouch for."""

    FINISHED = "finished"
    NOT_CONVERGED = "not converged"
    UNCONFIRMED = "not confirmed"
    BUDGET = "stopped: budget spent"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    ending
        Why.
    steps
        Steps taken in all, resumed ones included.
    why
        One sentence where it did not finish; empty else.
    figures
        What the job found, JSON-able.
    """

    ending: Ending
    steps: int
    why: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a driver works with.

    Attributes
    ----------
    calculator
        Answers every geometry.
    folder
        Where the run leaves its traces.
    progress
        Called with steps done and steps in all.
    say
        Called with a line for the person who waits.
    interrupted
        Asked after each step; True ends the job cleanly.
    """

    calculator: HybridCalculator
    folder: RunFolder
    progress: Callable[[int, int], None] = lambda *_: None
    say: Callable[[str], None] = lambda _: None
    interrupted: Callable[[], bool] = lambda: False


def check_resumed(
    state: dict[str, Any], task: str, atoms: Atoms, job: Job, *, driver: str = "ase"
) -> None:
    """Refuse to resume another task, molecule or driver, or with another committee.

    Raises
    ------
    InputError
        The state in the folder is not of this job.
    """
    for what, before, now in (
        ("task", state["task"], task),
        ("driver", state.get("driver", "ase"), driver),
        ("molecule", state["numbers"], atoms.numbers.tolist()),
        ("committee", state["engine"]["committee"], job.calculator.engine.committee.info.identity),
    ):
        if before != now:
            raise InputError(
                f"the run to resume has another {what}; resume it with the settings it was "
                "started with, or give another --output."
            )


def last_step(calculator: HybridHandle) -> Step:
    """Return what happened to the geometry that was just asked for.

    Raises
    ------
    PredictionFailed
        Nothing was asked.
    """
    if calculator.last_step is None:
        raise PredictionFailed("the calculator answered nothing.")
    return calculator.last_step


def answer_of(calculator: HybridHandle) -> dict[str, Any]:
    """Return the calculator's last answer as JSON-able data; empty before the first."""
    return {name: np.asarray(value).tolist() for name, value in calculator.results.items()}


def give_back(calculator: HybridHandle, atoms: Atoms, answer: dict[str, Any]) -> None:
    """Let a calculator know the answer for a geometry, which is then not asked for again."""
    calculator.atoms = atoms.copy()
    calculator.results = {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in answer.items()
    }
