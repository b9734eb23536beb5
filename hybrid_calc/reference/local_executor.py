"""Processes of this machine as an executor in which a lost process takes only its own job along."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hybrid_calc.errors import InputError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalExecutor(Executor):
    """Run jobs in processes of their own, each process alone in its pool.

    When a process of a `ProcessPoolExecutor` dies, every job of the pool is
    lost and the pool is of no use any more.  Here the other processes go on,
    the job's future says `BrokenProcessPool`, and the next job gets a new process.

    Parameters
    ----------
    workers
        Processes at a time.
    threads
        OpenMP threads of each.

    Raises
    ------
    InputError
        No worker, or no thread.
    """

    def __init__(self, workers: int = 1, *, threads: int = 1) -> None:
        if workers < 1 or threads < 1:
            raise InputError(f"workers and threads must be positive; got {workers} and {threads}.")
        self.workers = workers
        self._threads = threads
        self._hands = ThreadPoolExecutor(workers, thread_name_prefix="label")
        self._own = threading.local()
        self._pools: set[ProcessPoolExecutor] = set()
        self._lock = threading.Lock()
        self._ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in the next process that is free."""
        return self._hands.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; with `cancel_futures` at once, also in the middle of a job."""
        if not cancel_futures:
            self._hands.shutdown(wait=wait)
        with self._lock:
            self._ended = True
            pools, self._pools = self._pools, set()
        for pool in pools:
            if cancel_futures or not wait:
                _kill(pool)
            pool.shutdown(wait=wait, cancel_futures=True)
        self._hands.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        pool = self._pool()
        try:
            return self._start(pool, fn, args, kwargs).result()
        except BrokenProcessPool:
            self._own.pool = None
            with self._lock:
                self._pools.discard(pool)
            pool.shutdown(wait=False)
            raise

    def _pool(self) -> ProcessPoolExecutor:
        pool: ProcessPoolExecutor | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
            )
            with self._lock:
                if self._ended:
                    raise RuntimeError("the executor was shut down")
                self._pools.add(pool)
            self._own.pool = pool
        return pool

    def _start(
        self, pool: ProcessPoolExecutor, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        with _START, _environment(dict.fromkeys(THREAD_VARIABLES, str(self._threads))):
            return pool.submit(fn, *args, **kwargs)  # starts the process where there is none


_START = threading.Lock()
"""A process inherits the environment of the moment it starts in."""


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ignore_interrupts() -> None:
    """Leave Ctrl-C in the terminal to the process that waits for the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()
