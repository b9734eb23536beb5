"""Interrupts that end work cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def noted_signals(words: bytes) -> Iterator[list[int]]:
    """Note the first interrupt or termination in the list; a second one interrupts at once.

    Parameters
    ----------
    words
        Written to standard error at the first signal.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        os.write(2, words)  # nothing buffered: a signal may come in the middle of a print

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
