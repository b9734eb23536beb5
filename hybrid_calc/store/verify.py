"""Reading everything: every frame is what was written, every column what the frames say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid_calc.errors import InputError, ReferenceFailed
from hybrid_calc.reference.label import Reference
from hybrid_calc.store.block import FRAMES_PER_BLOCK, batch_by
from hybrid_calc.store.catalog import without
from hybrid_calc.store.columns import HASHES, NUMBERS, WORDS, Columns, columns_of
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import read_hdf5
from hybrid_calc.store.part import Part
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.record import Record
from hybrid_calc.store.seal import image_is_whole, read_seal


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
        How many frames can be read nowhere, as far as is known.
    torn_tails
        One sentence per journal whose last, never acknowledged record is incomplete.
    """

    frames: int
    damage: tuple[str, ...]
    lost: int
    torn_tails: tuple[str, ...]


def check_store(store: FrameStore) -> Findings:
    """Read every byte and every frame, check digests and columns; a block is held at a time."""
    catalog, journals = store.catalog(), store.journals()
    damage: list[str] = []
    for part in catalog.parts:
        if not part.is_journal:
            damage += _file_damage(part)
    only_kept = sum(map(len, without(journals.parts, catalog.parts)))
    if only_kept:
        damage.append(
            f"{only_kept} frames of the kept journals are in no file; bring them back with: "
            f"hybrid-calc store compact --repair {store.path.name}"
        )
    frames = sum(1 for _ in store)
    return Findings(
        frames=frames,
        lost=store.lost,
        damage=tuple(dict.fromkeys([*catalog.damage, *store.damage, *damage, *journals.damage])),
        torn_tails=catalog.torn_tails,
    )


def _file_damage(part: Part) -> list[str]:
    """Return what is wrong with a file that its frames do not show: other bytes, its columns."""
    seal = read_seal(part.path)
    damage: list[str] = []
    if seal is not None and not image_is_whole(part.path, seal):
        damage.append(f"{part.path.name}: its bytes are not those that were written")
    unread: list[str] = []
    at = 0
    for batch in batch_by(read_hdf5(part.path, unread), FRAMES_PER_BLOCK):
        stored = part.columns.take(slice(at, at + len(batch)))
        if not unread and not same_columns(stored, columns_of(batch)):
            return [*damage, f"{part.path.name}: columns of frames from {at} are wrong"]
        at += len(batch)
    return damage


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
