"""Wall time by stage."""

from __future__ import annotations

import time


class Laps:
    """Wall time of stages that follow each other without a gap.

    Attributes
    ----------
    seconds
        Of each stage, s.
    """

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        """Add the time since the last stage ended to this one."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
