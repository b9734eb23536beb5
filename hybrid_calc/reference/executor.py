"""Labels by whatever runs Python functions elsewhere: `concurrent.futures.Executor`.

A process pool, executorlib and Parsl on a cluster, Dask's or MPI's executors.
What travels is a geometry one way and a checked label, or a typed failure, the
other; the reference itself (ladder, checks, threads, memory and wall limits)
works where the function runs, exactly as it would here.
"""

from __future__ import annotations

import pickle
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace

from ase import Atoms

from hybrid_calc.errors import (
    HybridCalcError,
    InputError,
    LevelMismatchError,
    ReferenceCrashed,
    ReferenceFailed,
    ReferenceTimeout,
    StructureError,
)
from hybrid_calc.geometry import check_structure
from hybrid_calc.reference.executor_task import Answer, Task, answer, question_of, release
from hybrid_calc.reference.label import Label, Reference
from hybrid_calc.reference.level import LevelOfTheory

RETRIES = 1
"""How often a job that its executor lost is given out again."""

UNKNOWN_WORKERS = 32
"""Workers assumed of an executor that does not say how many it has."""

DRAIN_S = 60.0
"""How long the jobs of an executor that broke may take to say so, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What became of one of many frames.

    Attributes
    ----------
    index
        Place among the frames.
    atoms
        The frame.
    label
        What the reference said; None where it failed.
    error
        Why there is no label, None where there is one.
    retries
        How often it was given out again because a worker was lost.
    place
        Machine and process that answered, ``node7:4711``.
    """

    index: int
    atoms: Atoms
    label: Label | None = None
    error: ReferenceFailed | StructureError | None = None
    retries: int = 0
    place: str = ""


@dataclass(slots=True, kw_only=True)
class _Job:
    index: int
    atoms: Atoms
    task: Task
    lost: int = 0
    alone: bool = False
    """Was in flight with others when their executor broke: one of them may have broken it."""


class ExecutorReference:
    """A reference whose work is done by an executor.

    Parameters
    ----------
    make
        Makes the reference; must be picklable, as
        ``functools.partial(PySCFReference, level, threads=2)`` is.  Called once
        in every worker, and once here for the level of theory.
    executor
        Any `concurrent.futures.Executor`, which stays the caller's; or a
        function that makes one, called at the first label and again where the
        executor has broken down, and ended by `close`.
    workers
        How many jobs the executor runs at a time; asked of it by default.
    patience_s
        Longest wait for one answer, queueing included, s; None waits for ever.
        The reference's own wall limit ends the work itself.

    Raises
    ------
    InputError
        `make` cannot be pickled, or a number is not positive.
    """

    def __init__(
        self,
        make: Callable[[], Reference],
        executor: Executor | Callable[[], Executor],
        *,
        workers: int | None = None,
        patience_s: float | None = None,
    ) -> None:
        if (workers is not None and workers < 1) or (patience_s is not None and not patience_s > 0):
            raise InputError(
                f"workers and patience_s must be positive; got {workers}, {patience_s}."
            )
        try:
            self._make = pickle.dumps(make)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise InputError(
                f"{make!r} cannot be sent to another process: {error}. Use a function of a module "
                "or functools.partial of a class, no lambda."
            ) from error
        self._own = make()
        self._given = executor
        self._executor: Executor | None = executor if isinstance(executor, Executor) else None
        self._workers = workers
        self._patience_s = patience_s
        self._owner = uuid.uuid4().hex
        self.retries = 0
        """Jobs given out again because a worker was lost, so far."""

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory of every label."""
        return self._own.level

    def label(self, atoms: Atoms) -> Label:
        """Solve one geometry; see `hybrid_calc.reference.label.Reference`.

        Raises
        ------
        ReferenceFailed
            As the reference itself; `ReferenceCrashed` where the executor lost
            the job twice, `ReferenceTimeout` where patience ended.
        """
        return self._label(atoms, doubtful=False)

    def label_doubtful(self, atoms: Atoms) -> Label:
        """Solve one geometry whose bonds are known to have changed."""
        return self._label(atoms, doubtful=True)

    def label_many(self, frames: Iterable[Atoms]) -> Iterator[Arrival]:
        """Label frames, every worker busy, and yield what became of each as it arrives.

        Frames are drawn as workers become free, so that they may be more than
        fit into memory.  A frame whose worker was lost is given out once more;
        where an executor breaks down as a whole, the frames in flight are
        tried one by one, because one of them may have done it.  Closing the
        iterator takes back what has not begun.

        Raises
        ------
        InputError, MissingPackageError
            What would go wrong for every frame alike.
        ReferenceCrashed
            The executor broke down and nobody can make another.
        """
        coming = enumerate(frames)
        again: deque[_Job] = deque()
        running: dict[Future[Answer], _Job] = {}
        try:
            while True:
                yield from self._give_out(coming, again, running)
                if not running:
                    return
                done, _ = wait(running, timeout=self._patience_s, return_when=FIRST_COMPLETED)
                if not done:
                    raise self._impatient()
                for future in done:
                    job = running.pop(future)
                    error = future.exception()
                    if error is None:
                        yield self._arrival(job, future.result())
                    else:
                        yield from self._lost(job, error, again)
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """End the executor where it is ours, and references made in this process."""
        if self._executor is not None and not isinstance(self._given, Executor):
            _end(self._executor)
            self._executor = None
        release(self._owner)
        self._own.close()

    def _label(self, atoms: Atoms, *, doubtful: bool) -> Label:
        check_structure(atoms)
        task = self._task(atoms, doubtful=doubtful)
        for attempt in range(RETRIES + 1):
            try:
                future = self._submit(task)
                return self._checked(self._wait_for(future))
            except FutureTimeout as error:
                raise self._impatient() from error
            except HybridCalcError:
                raise
            except Exception as error:  # whatever an executor says about a worker it lost
                if attempt == RETRIES:
                    raise _crashed(error, attempt) from error
                self.retries += 1
                self._renew(error)
        raise ReferenceCrashed("no attempt was made.")

    def _wait_for(self, future: Future[Answer]) -> Answer:
        try:
            return future.result(self._patience_s)
        finally:
            future.cancel()  # does nothing where it is done; an interrupt leaves no job behind

    def _give_out(
        self,
        coming: Iterator[tuple[int, Atoms]],
        again: deque[_Job],
        running: dict[Future[Answer], _Job],
    ) -> Iterator[Arrival]:
        """Keep every worker busy; yield frames that nobody can compute."""
        while len(running) < self._window():
            if any(job.alone for job in running.values()) or (again and again[0].alone and running):
                return
            job = again.popleft() if again else None
            while job is None:
                index, atoms = next(coming, (-1, None))
                if atoms is None:
                    return
                try:
                    check_structure(atoms)
                    job = _Job(index=index, atoms=atoms, task=self._task(atoms))
                except StructureError as error:
                    yield Arrival(index=index, atoms=atoms, error=error)
            try:
                running[self._submit(job.task)] = job
            except BrokenExecutor as error:
                again.appendleft(job)
                yield from self._collapse(error, again, running)

    def _collapse(
        self, error: BrokenExecutor, again: deque[_Job], running: dict[Future[Answer], _Job]
    ) -> Iterator[Arrival]:
        """Take every job back from an executor that broke as a whole, and make another."""
        done, _ = wait(running, timeout=DRAIN_S)
        for future in done:
            job = running.pop(future)
            lost = future.exception()
            if lost is None:
                yield self._arrival(job, future.result())
            else:
                job.alone = True
                yield from self._lost(job, lost, again)
        running.clear()
        suspects = [job for job in again if job.lost]
        for job in suspects:
            job.alone = len(suspects) > 1
        self._renew(error)

    def _lost(self, job: _Job, error: BaseException, again: deque[_Job]) -> Iterator[Arrival]:
        """Give a job out once more, or say that it was lost too often."""
        if job.lost >= RETRIES:
            crashed = _crashed(error, job.lost)
            yield Arrival(index=job.index, atoms=job.atoms, error=crashed, retries=job.lost)
            return
        job.lost += 1
        self.retries += 1
        again.append(job)

    def _arrival(self, job: _Job, answered: Answer) -> Arrival:
        try:
            label, error = self._checked(answered), None
        except (ReferenceFailed, StructureError) as failure:
            label, error = None, failure
        return Arrival(
            index=job.index,
            atoms=job.atoms,
            label=label,
            error=error,
            retries=job.lost,
            place=answered.place,
        )

    def _checked(self, answered: Answer) -> Label:
        if answered.label is None:
            if answered.failure is None:
                raise ReferenceFailed(f"{answered.place} answered with nothing.")
            raise answered.failure.error()
        if answered.label.level.hash != self.level.hash:
            raise LevelMismatchError(
                f"{answered.place} solved {answered.label.level} ({answered.label.level.hash}), "
                f"asked was {self.level} ({self.level.hash}); install the same version there."
            )
        return replace(answered.label, level=self.level)

    def _task(self, atoms: Atoms, *, doubtful: bool = False) -> Task:
        return Task(owner=self._owner, make=self._make, atoms=question_of(atoms), doubtful=doubtful)

    def _submit(self, task: Task) -> Future[Answer]:
        if self._executor is None:
            if isinstance(self._given, Executor):
                raise ReferenceCrashed("the executor of this reference has broken down.")
            self._executor = self._given()
        return self._executor.submit(answer, task)

    def _renew(self, error: BaseException) -> None:
        """Make another executor where the old one is of no use any more.

        Raises
        ------
        ReferenceCrashed
            It broke down as a whole and is the caller's.
        """
        if self._executor is None or not _is_broken(self._executor, error):
            return
        if isinstance(self._given, Executor):
            raise ReferenceCrashed(
                f"the executor broke down: {error}. Give ExecutorReference a function that makes "
                "executors and it goes on with another."
            ) from error
        _end(self._executor)
        self._executor = None

    def _window(self) -> int:
        """Return how many jobs are in flight: each worker has one, and one is waiting for it."""
        if self._workers is None and self._executor is not None:
            names = ("workers", "max_workers", "_max_workers")
            known = [getattr(self._executor, name, None) for name in names]
            numbers = [number for number in known if isinstance(number, int) and number > 0]
            self._workers = numbers[0] if numbers else UNKNOWN_WORKERS
        return 2 * (self._workers or 1)

    def _impatient(self) -> ReferenceTimeout:
        return ReferenceTimeout(
            f"no answer from the executor within {self._patience_s:g} s, queueing included; "
            "raise reference.executor.patience_s or look at its workers."
        )


def _is_broken(executor: Executor, error: BaseException) -> bool:
    """Tell whether an executor as a whole is of no use any more."""
    if type(error).__name__ == "ExecutorlibSocketError":
        return True  # the last of its workers was lost, too often
    if not isinstance(error, BrokenExecutor):
        return False
    try:
        executor.submit(_nothing).cancel()
    except (BrokenExecutor, RuntimeError):
        return True
    return False


def _nothing() -> None:
    """Do nothing, to see whether somebody would do something."""


def _end(executor: Executor) -> None:
    """End an executor that is ours; jobs that have not begun are dropped."""
    if type(executor).__module__.startswith("parsl"):
        executor.shutdown(wait=False)  # takes nothing back, and ends its workers all the same
        return
    try:
        executor.shutdown(wait=True, cancel_futures=True)
    except TypeError:  # made before Python 3.9 or in its manner
        executor.shutdown(wait=True)


def _crashed(error: BaseException, retries: int) -> ReferenceCrashed:
    return ReferenceCrashed(
        f"the executor lost this geometry {retries + 1} times: {type(error).__name__}: {error}. "
        "Its worker may have run out of memory.",
        details={"retries": retries, "error": f"{type(error).__name__}: {error}"},
    )


__all__ = ["Arrival", "ExecutorReference"]
