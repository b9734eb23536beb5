"""The journals of one store together: whose frames are not in the HDF5 file yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.journal import SUFFIX, read_journal
from hybrid_calc.store.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Journalled:
    """What the journals of a store hold.

    Attributes
    ----------
    records
        By identity, each once, in the order of the journals.
    damage
        One sentence per place that could not be read.
    torn_tails
        One sentence per journal whose last, never acknowledged record is incomplete.
    """

    records: Mapping[str, Record]
    damage: tuple[str, ...] = ()
    torn_tails: tuple[str, ...] = ()

    def damages(self, path: Path) -> bool:
        """Tell whether something of this journal could not be read."""
        return any(sentence.startswith(f"{path.name}:") for sentence in self.damage)


def journals_in(folder: Path) -> list[Path]:
    """Return the journals of a folder, which need not exist."""
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.exists() else []


def read_journals(folder: Path) -> Journalled:
    """Return what every journal of a folder holds."""
    records: dict[str, Record] = {}
    damage: list[str] = []
    torn_tails: list[str] = []
    for path in journals_in(folder):
        try:
            content = read_journal(path)
        except FileNotFoundError:
            continue  # compacted since it was listed: its frames are in the file
        damage += content.damage
        torn_tails += [content.torn_tail] if content.torn_tail else []
        for number, payload in enumerate(content.payloads):
            try:
                record = Record.from_bytes(payload)
                records.setdefault(record.identity, record)
            except StoreDamagedError as error:
                damage.append(f"{path.name}: record {number}: {error}")
    return Journalled(records=records, damage=tuple(damage), torn_tails=tuple(torn_tails))
