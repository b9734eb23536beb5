"""What a running job shows."""

from __future__ import annotations

import time
import warnings

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.gate.tolerance import ToleranceWarning


class Display:
    """Live progress: a bar on a terminal, a line every tenth elsewhere.

    Parameters
    ----------
    console
        Where to show it.
    calculator
        Whose labels and budget are shown.
    """

    def __init__(self, console: Console, calculator: HybridCalculator) -> None:
        self._console = console
        self._engine = calculator.engine
        self._tenth = -1
        self._first: int | None = None
        self._warnings = warnings.catch_warnings()
        self._progress = Progress(
            TextColumn("{task.fields[steps]}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("run", total=None, steps="", words="")

    def __enter__(self) -> Display:
        self._warnings.__enter__()
        warnings.simplefilter("ignore", ToleranceWarning)  # the summary says it in one line
        self._progress.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        self._warnings.__exit__(None, None, None)

    def update(self, done: int, total: int) -> None:
        """Show how far the run is and what it has spent."""
        words = self._words()
        steps = f"{done} of {total} steps"
        self._progress.update(self._task, completed=done, total=total, steps=steps, words=words)
        if self._first is None:
            self._first = done
        tenth = 10 * done // total
        if not self._console.is_terminal and tenth > self._tenth:
            self._tenth = tenth
            text = f"step {done} of {total}, {words}{self._left(done, total)}"
            self._console.print(text, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self._progress.update(self._task, words=self._words())
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self, done: int, total: int) -> str:
        """Return how long the rest will take, judged by the steps of this process."""
        taken = done - (self._first or 0)
        if not taken:
            return ""
        seconds = (time.perf_counter() - self._start) * (total - done) / taken
        return f", about {seconds:.0f} s left"

    def _words(self) -> str:
        tally, budget = self._engine.tally, self._engine.gate.budget
        share = tally.labels / tally.geometries if tally.geometries else 0.0
        left = "no limit" if budget.left is None else f"{budget.left} left"
        notice = ", tolerance below the committee" if self._engine.gate.notice else ""
        missed = self._engine.gate.audits.missed()
        audits = f", {missed}" if missed.audits else ""
        return f"DFT {tally.labels} ({share:.0%}), budget {left}{notice}{audits}"
