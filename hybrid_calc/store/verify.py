"""Reading everything: every frame is what was written, every column what the frames say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid_calc.errors import InputError, ReferenceFailed
from hybrid_calc.reference.label import Reference
from hybrid_calc.store.block import FRAMES_PER_BLOCK, batch_by
from hybrid_calc.store.columns import HASHES, NUMBERS, WORDS, Columns, columns_of
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import read_columns, read_hdf5
from hybrid_calc.store.journals import read_journals
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What reading a whole store found.

    Attributes
    ----------
    frames
        How many can be read, each once.
    damage
        One sentence per place that could not be read or is not what was written.
    lost
        How many frames the file lists that cannot be read.
    torn_tails
        One sentence per journal whose last, never acknowledged record is incomplete.
    """

    frames: int
    damage: tuple[str, ...]
    lost: int
    torn_tails: tuple[str, ...]


def check_store(store: FrameStore) -> Findings:
    """Read every frame, check its digest and its columns; a block is held at a time."""
    journalled = read_journals(store.path.with_name(store.path.name + ".journals"))
    pending = set(journalled.records)
    damage: list[str] = []
    frames = listed = 0
    if store.path.exists():
        columns, _ = read_columns(store.path, damage)
        sound = not damage
        damage = [sentence for sentence in damage if "columns" in sentence]
        for batch in batch_by(read_hdf5(store.path, damage), FRAMES_PER_BLOCK):
            derived = columns_of(batch)
            stored = columns.take(slice(frames, frames + len(batch)))
            if sound and not damage and not same_columns(stored, derived):
                damage.append(f"{store.path.name}: columns of frames from {frames} are wrong")
            pending.difference_update(derived.identities())
            frames += len(batch)
        listed = len(columns)
    return Findings(
        frames=frames + len(pending),
        lost=max(0, listed - frames),
        damage=(*damage, *journalled.damage),
        torn_tails=journalled.torn_tails,
    )


def same_columns(one: Columns, other: Columns) -> bool:
    """Tell whether two sets of columns say the same, whatever the order of their tables."""
    return (
        all(np.array_equal(one.hashes[name], other.hashes[name]) for name in HASHES)
        and all(
            np.array_equal(one.numbers[name], other.numbers[name], equal_nan=True)
            for name in NUMBERS
        )
        and all(one.words(name) == other.words(name) for name in WORDS)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """A label beside the same label solved again.

    Attributes
    ----------
    identity
        Of the frame.
    energy_difference
        New minus stored, eV; NaN where the reference failed.
    force_difference
        Largest difference of an atom's force vector, eV/A; NaN where the
        reference failed.
    failure
        Why there is no new label; empty otherwise.
    """

    identity: str
    energy_difference: float
    force_difference: float
    failure: str = ""


def recompute(
    store: FrameStore, reference: Reference, count: int, chance: np.random.Generator
) -> list[Recomputed]:
    """Label random validated frames again and compare; nothing is stored.

    Raises
    ------
    InputError
        There is no validated frame.
    LevelMismatchError
        The reference solves another level than the store's.
    """
    store.check_level(reference.level)
    places = np.flatnonzero(matching(store.columns(), Query(labelled=True)))
    if not len(places):
        raise InputError("the store holds no validated frame to label again.")
    chosen = np.sort(chance.choice(places, size=min(count, len(places)), replace=False))
    return [_compare(record, reference) for _, record in store.at(chosen)]


def _compare(record: Record, reference: Reference) -> Recomputed:
    if record.label is None:
        raise InputError(f"frame {record.identity} was rejected; it has no label to compare with.")
    try:
        label = reference.label(record.atoms())
    except ReferenceFailed as error:
        return Recomputed(
            identity=record.identity,
            energy_difference=np.nan,
            force_difference=np.nan,
            failure=f"{type(error).__name__}: {error}",
        )
    difference = np.linalg.norm(label.forces - record.label.forces, axis=1)
    return Recomputed(
        identity=record.identity,
        energy_difference=label.energy - record.label.energy,
        force_difference=float(difference.max()),
    )
