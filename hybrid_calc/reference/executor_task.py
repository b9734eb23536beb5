"""What runs in an executor's process: one geometry, one reference, one answer that travels back.

Everything here can be pickled and nothing is kept in closures, so that the
process may be on another machine, as long as this package is installed there.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection

from ase import Atoms

from hybrid_calc import errors
from hybrid_calc.errors import HybridCalcError, ReferenceFailed
from hybrid_calc.reference.label import CarefulReference, Label, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One geometry to label.

    Attributes
    ----------
    owner
        Of the reference: the same in all tasks of one `ExecutorReference`.
    make
        Pickled callable that makes the reference; called once per thread of
        an executor's process.
    atoms
        The geometry, charge and spin in ``info``; nothing else.
    doubtful
        Its bonds are known to have changed.
    """

    owner: str
    make: bytes
    atoms: Atoms
    doubtful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A typed error as data, because not every executor brings exceptions home whole.

    Attributes
    ----------
    kind
        Name of the class in `hybrid_calc.errors`.
    message
        What it said.
    details
        Of a `ReferenceFailed`, JSON-able.
    """

    kind: str
    message: str
    details: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return an error as data; one that is not ours becomes a `ReferenceFailed`."""
        if isinstance(error, HybridCalcError) and hasattr(errors, type(error).__name__):
            details = error.details if isinstance(error, ReferenceFailed) else {}
            return cls(kind=type(error).__name__, message=str(error), details=details)
        return cls(kind="ReferenceFailed", message=f"{type(error).__name__}: {error}")

    def error(self) -> HybridCalcError:
        """Return the error again."""
        kind: type[HybridCalcError] = getattr(errors, self.kind)
        if issubclass(kind, ReferenceFailed):
            return kind(self.message, details=dict(self.details))
        return kind(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a task: a label or a failure, and where.

    Attributes
    ----------
    label, failure
        One of them is None.
    place
        Machine and process, ``node7:4711``.
    """

    label: Label | None = None
    failure: Failure | None = None
    place: str = ""


def answer(task: Task) -> Answer:
    """Label one geometry in this process; a failure is returned, never raised."""
    place = f"{platform.node()}:{os.getpid()}"
    _end_with_parent()
    try:
        reference = _reference_of(task)
        if task.doubtful and isinstance(reference, CarefulReference):
            label = reference.label_doubtful(task.atoms)
        else:
            label = reference.label(task.atoms)
    except Exception as error:
        return Answer(failure=Failure.of(error), place=place)
    return Answer(label=label, place=place)


def question_of(atoms: Atoms) -> Atoms:
    """Return what a reference looks at: no constraints, no calculator, no other information."""
    info = {key: atoms.info[key] for key in ("charge", "spin") if atoms.info.get(key) is not None}
    return Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        info=info,
    )


def release(owner: str) -> None:
    """Close the references that this process made for an owner; of all where it is empty."""
    with _LOCK:
        for key in [key for key in _MADE if owner in ("", key[0])]:
            _MADE.pop(key).close()


def _reference_of(task: Task) -> Reference:
    """Return this thread's reference: workers in threads must not wait for each other."""
    key = (task.owner, threading.get_ident())
    with _LOCK:
        if key not in _MADE:
            make: Callable[[], Reference] = pickle.loads(task.make)  # noqa: S301 - our own bytes
            _MADE[key] = make()
        return _MADE[key]


def _end_with_parent() -> None:
    """End this process when the one that started it dies, whatever its executor does about it.

    A process pool's workers wait for ever when their parent was killed.
    """
    parent = multiprocessing.parent_process()
    if parent is None or _WATCHED.is_set():
        return
    _WATCHED.set()
    threading.Thread(target=_wait_and_exit, args=(parent.sentinel,), daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    connection.wait([sentinel])
    with contextlib.suppress(Exception):
        release("")
    os._exit(1)


_MADE: dict[tuple[str, int], Reference] = {}
_LOCK = threading.Lock()
_WATCHED = threading.Event()
atexit.register(release, "")
