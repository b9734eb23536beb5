"""The level of theory a store is bound to: whoever labels first sets it, once and for all writers.

Two processes that open an empty store cannot see each other's level.  The
file ``level.json`` beside the journals appears whole or not at all, and only
one of them can create it.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from hybrid_calc.errors import HybridCalcError, StoreError
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.journal import make_folder, sync_folder

NAME = "level.json"


def bound_level(folder: Path) -> LevelOfTheory | None:
    """Return the level a store is bound to; None where it is not, or nobody can read it."""
    try:
        content = json.loads((folder / NAME).read_text())
        level = LevelOfTheory.from_dict(content["level"])
        return level if level.hash == content["hash"] else None
    except (OSError, HybridCalcError, AttributeError, LookupError, TypeError, ValueError):
        return None


def bind_level(folder: Path, level: LevelOfTheory) -> LevelOfTheory:
    """Bind a store to a level unless it is bound; return the one it is bound to, durably.

    Raises
    ------
    StoreError
        It could not be written.
    """
    bound = bound_level(folder)
    if bound is not None:
        return bound
    path = folder / NAME
    temporary = folder / f"{NAME}.{uuid.uuid4().hex[:12]}"
    try:
        make_folder(folder)
        with temporary.open("w") as file:
            json.dump({"level": level.to_dict(), "hash": level.hash}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            if bound_level(folder) is None:  # damaged: the store's frames still say their level
                os.replace(temporary, path)
        sync_folder(folder)
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error}. Free space or fix the path."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return bound_level(folder) or level
