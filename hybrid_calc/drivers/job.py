"""What every driver gets while it runs, and how it says it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ase import Atoms

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.drivers.folder import RunFolder
from hybrid_calc.errors import InputError


class Ending(StrEnum):
    """Why a job ended."""

    FINISHED = "finished"
    NOT_CONVERGED = "not converged"
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
    interrupted
        Asked after each step; True ends the job cleanly.
    """

    calculator: HybridCalculator
    folder: RunFolder
    progress: Callable[[int, int], None] = lambda done, total: None
    interrupted: Callable[[], bool] = lambda: False


def check_resumed(state: dict[str, Any], task: str, atoms: Atoms) -> None:
    """Refuse to resume another task or another molecule.

    Raises
    ------
    InputError
        The state in the folder is not of this job.
    """
    if state["task"] != task or state["numbers"] != atoms.numbers.tolist():
        raise InputError(
            "the run to resume is another task or another molecule; resume it with the settings "
            "it was started with."
        )
