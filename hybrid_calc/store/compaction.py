"""File and journals become one new file; frames are carried over as they are, digests checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.block import Block, blocks_of
from hybrid_calc.store.columns import Columns
from hybrid_calc.store.hdf5 import read_blocks, read_columns, write_blocks
from hybrid_calc.store.record import Record


def rewrite(path: Path, journalled: Mapping[str, Record]) -> None:
    """Replace the file by one with its frames and those of the journals.

    Frames of the file are not decoded: their texts and numbers are copied
    after their digest was checked.

    Parameters
    ----------
    path
        Of the HDF5 file, which need not exist.
    journalled
        Frames of the journals, by identity.

    Raises
    ------
    StoreDamagedError
        The present file is damaged; it is left as it is for a rescue.
    StoreError
        The file could not be written; the one before is untouched.
    """
    write_blocks(path, _blocks(path, dict(journalled)))


def _blocks(path: Path, pending: dict[str, Record]) -> Iterator[tuple[Block, Columns]]:
    if path.exists():
        columns, _ = read_columns(path, [])
        damage: list[str] = []
        for start, block, _ in read_blocks(path, damage):
            _refuse(damage, path)
            for identity in block.identities:
                pending.pop(identity, None)
            yield block, columns.take(slice(start, start + len(block)))
        _refuse(damage, path)
    yield from blocks_of(pending.values())


def _refuse(damage: list[str], path: Path) -> None:
    if damage:
        raise StoreDamagedError(
            f"{damage[0]}. The file is left as it is; frames in {path.name}.journals are safe. "
            "Move the file away and compact again to keep what the journals hold."
        )
