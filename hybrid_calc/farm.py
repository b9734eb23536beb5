"""Many frames to one store: every worker busy, every label durable as it arrives.

A frame that the reference cannot answer goes to quarantine with its reason.
What the store has already, answer or quarantine, is not asked again, so that
a farm that was stopped goes on where it was.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from hybrid_calc.errors import InputError, ReferenceFailed, StructureError
from hybrid_calc.gate.annotation import Annotator, group_of
from hybrid_calc.geometry import check_structure
from hybrid_calc.reference.executor import Arrival, ExecutorReference
from hybrid_calc.reference.label import Reference
from hybrid_calc.store.columns import question_of
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.record import Record


@dataclass(slots=True, kw_only=True)
class Harvest:
    """Counts of a farm.

    Attributes
    ----------
    labelled, quarantined
        Frames that got a label, and that the reference could not answer.
    known
        Frames that the store had an answer to.
    unusable
        Frames nobody can compute; they are in no store. By place: why.
    retries
        Frames given out again because a worker was lost.
    left
        Frames not asked because the budget was spent or somebody stopped.
    workers
        Labels by machine and process.
    seconds
        Sum over labels of the time the reference took, s.
    """

    labelled: int = 0
    quarantined: int = 0
    known: int = 0
    unusable: dict[int, str] = field(default_factory=dict)
    retries: int = 0
    left: int = 0
    workers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def asked(self) -> int:
        """Frames the reference was asked about."""
        return self.labelled + self.quarantined

    def to_dict(self) -> dict[str, Any]:
        """Return every count, JSON-able."""
        return {
            "labelled": self.labelled,
            "quarantined": self.quarantined,
            "known": self.known,
            "unusable": {str(index): why for index, why in self.unusable.items()},
            "retries": self.retries,
            "left": self.left,
            "workers": dict(self.workers),
            "reference_seconds": round(self.seconds, 3),
        }


def label_frames(
    frames: Iterable[Atoms],
    reference: Reference,
    store: FrameStore,
    *,
    annotator: Annotator | None = None,
    source: str = "",
    budget: int | None = None,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[Harvest], None] = lambda _: None,
) -> Harvest:
    """Label frames into a store.

    Parameters
    ----------
    frames
        With charge and spin in ``info``; drawn as workers become free.
    reference
        An `ExecutorReference` labels many at a time, any other one after another.
    store
        Where labels and refusals go, each durable before the next is awaited.
    annotator
        Judges the regime of each frame; by radii and groups by default.
    source
        Where the frames come from, for the records.
    budget
        Frames to ask at most; None asks all.
    again
        Ask also about frames that are in quarantine.
    stopped
        Asked before each frame is given out; True lets the frames in flight
        finish and ends.
    progress
        Called after every frame that was settled.

    Raises
    ------
    LevelMismatchError
        The store holds labels of another level.
    InputError, MissingPackageError
        What would go wrong for every frame alike.
    """
    store.check_level(reference.level)
    if budget is not None and budget < 1:
        raise InputError(f"a budget is a positive number of frames; got {budget}.")
    harvest = Harvest()
    refused = set() if again else _refused(store)
    run = f"farm-{uuid.uuid4().hex[:12]}"
    annotator = annotator or Annotator()
    notes: dict[int, dict[str, Any]] = {}
    places: list[int] = []

    def wanted() -> Iterator[Atoms]:
        given = 0
        for index, atoms in enumerate(frames):
            try:
                check_structure(atoms)
                annotation = annotator.annotate(atoms, group_of(atoms))
            except StructureError as error:
                harvest.unusable[index] = str(error)
                continue
            if _is_known(atoms, reference, store, refused):
                harvest.known += 1
                continue
            if stopped() or (budget is not None and given >= budget):
                harvest.left += 1
                continue
            given += 1
            notes[index] = {
                "regime": annotation.regime,
                "flags": list(annotation.flags),
                "judged_by": annotation.judged_by,
                "step": index,
            }
            places.append(index)
            yield atoms

    arrivals = (
        reference.label_many(wanted())
        if isinstance(reference, ExecutorReference)
        else _one_by_one(wanted(), reference)
    )
    for arrival in arrivals:
        meta = notes.pop(places[arrival.index]) | {
            "run": run,
            "source": source,
            "reasons": [],  # no gate asked: labelled whatever they were
            "asked_by": "label farm",
            "retries": arrival.retries,
            "place": arrival.place,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        _store(store, reference, arrival, meta)
        harvest.retries += arrival.retries
        if arrival.label is None:
            harvest.quarantined += 1
        else:
            harvest.labelled += 1
            harvest.seconds += arrival.label.wall_seconds
            harvest.workers[arrival.place] = harvest.workers.get(arrival.place, 0) + 1
        progress(harvest)
    return harvest


def _store(store: FrameStore, reference: Reference, arrival: Arrival, meta: dict[str, Any]) -> None:
    rejection = ""
    if arrival.error is not None:
        rejection = f"{type(arrival.error).__name__}: {arrival.error}"
        if isinstance(arrival.error, ReferenceFailed):
            meta["details"] = arrival.error.details
    store.append(
        Record.of(
            arrival.atoms,
            level=reference.level,
            label=arrival.label,
            rejection=rejection,
            meta=meta,
        )
    )


def _one_by_one(frames: Iterator[Atoms], reference: Reference) -> Iterator[Arrival]:
    for index, atoms in enumerate(frames):
        try:
            yield Arrival(index=index, atoms=atoms, label=reference.label(atoms))
        except (ReferenceFailed, StructureError) as error:
            yield Arrival(index=index, atoms=atoms, error=error)


def _is_known(atoms: Atoms, reference: Reference, store: FrameStore, refused: set[str]) -> bool:
    if question_of(atoms, reference.level) in refused:
        return True
    return store.find_label(atoms, reference.level) is not None


def _refused(store: FrameStore) -> set[str]:
    """Return the questions that are in quarantine."""
    columns = store.columns()
    rows = np.flatnonzero(columns.numbers["labelled"] == 0)
    return {question.decode() for question in columns.hashes["question"][rows].tolist()}
