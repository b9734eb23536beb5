"""Journals go into the store's own file, and what fills it into immutable shards.

Compaction rewrites the store's own file and nothing else, so it costs the
same however large the store is: what exceeds `FRAMES_PER_SHARD` is written
to shards, which are never written again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.block import Block, blocks_of
from hybrid_calc.store.catalog import Catalog, shard_folder, shard_path
from hybrid_calc.store.columns import Columns
from hybrid_calc.store.hdf5 import read_blocks, write_blocks
from hybrid_calc.store.journal import make_folder
from hybrid_calc.store.part import Part
from hybrid_calc.store.record import Record

FRAMES_PER_SHARD = 20_480
"""Some 80 MB of frames of 20 atoms and four members; compaction rewrites fewer than these."""

Deliver = Callable[[NDArray[np.int64]], Iterator[tuple[int, Record]]]


def rewrite(
    path: Path, catalog: Catalog, deliver: Deliver, *, anew: Sequence[Path], giving_up: bool
) -> None:
    """Write the frames of the store's own file, of journals and of some shards anew.

    Frames of HDF5 files are not decoded: their texts and numbers are copied
    after their digest was checked.  New shards are written first; the store
    changes when its own file is replaced.

    Parameters
    ----------
    path
        Of the store.
    catalog
        What is there.
    deliver
        Reads frames by their place, from wherever they can still be read.
    anew
        Shards to be written anew, because they are damaged.
    giving_up
        Go on without the frames that can be read nowhere.

    Raises
    ------
    StoreDamagedError
        A frame can be read nowhere; everything is left as it is.
    StoreError
        A file could not be written; those before are untouched.
    """
    moved = [
        (first, part)
        for first, part, _ in catalog.within(np.arange(len(catalog)))
        if part.is_journal or part.path == path or part.path in anew
    ]
    known = [number for number, _ in catalog.shards]
    known += [int(shard.stem) for shard in (*anew, *catalog.broken) if shard != path]
    shards = [
        (number, frames) for number, frames in catalog.shards
        if shard_path(path, number) not in anew
    ]  # fmt: skip
    stream = chain.from_iterable(
        _blocks(first, part, deliver, giving_up=giving_up) for first, part in moved
    )
    for _ in range(sum(len(part) for _, part in moved) // FRAMES_PER_SHARD):
        number = max(known, default=0) + 1
        known.append(number)
        make_folder(shard_folder(path))
        frames = _Counted(stream, FRAMES_PER_SHARD)
        write_blocks(shard_path(path, number), frames)
        shards.append((number, frames.count))
    write_blocks(path, stream, shards)


def keep_aside(store: Path, damaged: Sequence[Path]) -> list[Path]:
    """Give damaged files a second name, under which they stay when they are replaced."""
    asides = []
    for path in damaged:
        number = 1
        while (aside := store.with_name(f"{store.name}.aside-{number}")).exists():
            number += 1
        try:
            os.link(path, aside)
        except OSError:  # a file system without links
            shutil.copy2(path, aside)
        asides.append(aside)
    return asides


class _Counted:
    """Blocks of a stream until there are so many frames; the rest stays in the stream."""

    def __init__(self, stream: Iterator[tuple[Block, Columns]], limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Block, Columns]]:
        for block, columns in self._stream:
            self.count += len(block)
            yield block, columns
            if self.count >= self._limit:
                return


def _blocks(
    first: int, part: Part, deliver: Deliver, *, giving_up: bool
) -> Iterator[tuple[Block, Columns]]:
    """Yield the frames of a part: blocks as they are where they are whole, the rest one by one."""
    left = np.ones(len(part), dtype=bool)
    if len(part) and not part.is_journal:
        index_of = {row: index for index, row in enumerate(part.places.tolist())}
        for start, block, good in read_blocks(part.path, []):
            indices = [index_of.get(start + row, -1) for row in good]
            columns = part.columns.take(np.array(indices, dtype=np.int64))
            if len(good) == len(block) and columns.identities() == block.identities:
                left[indices] = False
                yield block, columns
    missing = np.flatnonzero(left)
    found = 0

    def rest() -> Iterator[Record]:
        nonlocal found
        for _, record in deliver(first + missing):
            found += 1
            yield record

    yield from blocks_of(rest())
    if found < len(missing) and not giving_up:
        raise unrecoverable(part.path.name, f"{len(missing) - found} frames can be read nowhere")


def unrecoverable(name: str, what: str) -> StoreDamagedError:
    """Return the error that says what a repair would give up."""
    return StoreDamagedError(
        f"{name}: {what}. It is left as it is, and frames in the journals are safe. To go on "
        "without them: hybrid-calc store compact --repair, which keeps the damaged file aside."
    )
