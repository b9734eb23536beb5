"""Which frames to train on: decorrelated, and split once and for all; no frame is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import InputError, StoreDamagedError
from hybrid_calc.store.columns import Columns
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.journal import sync_folder
from hybrid_calc.store.query import Query, matching

PARTS = {"train": 0.7, "validation": 0.1, "test": 0.1, "calibration": 0.1}
"""Shares of the frames; what is calibrated on is never trained on."""
SPLIT_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which part every trajectory belongs to.

    Attributes
    ----------
    seed
        Of the order in which trajectories are dealt out.
    parts
        Share of the frames by part; they sum to one.
    groups
        Part by trajectory: the run, and where runs are cut the number of the
        segment, ``run-1#3``.
    segment_steps
        Steps after which a run is cut; 0 for whole runs.
    """

    seed: int
    parts: Mapping[str, float]
    groups: Mapping[str, str]
    segment_steps: int = 0

    def part_of(self, columns: Columns) -> list[str]:
        """Return the part of every frame; empty for a trajectory that came later."""
        return [self.groups.get(group, "") for group in trajectories(columns, self.segment_steps)]


def decorrelated(columns: Columns, min_steps: int) -> NDArray[np.int64]:
    """Return the places of frames at least so many steps apart in their run, increasing."""
    runs, steps = columns.places["run"], columns.numbers["step"]
    last: dict[int, int] = {}
    chosen = []
    for place in np.lexsort((steps, runs)).tolist():
        run, step = int(runs[place]), int(steps[place])
        if run not in last or step - last[run] >= min_steps:
            last[run] = step
            chosen.append(place)
    return np.sort(np.array(chosen, dtype=np.int64))


def trajectories(columns: Columns, segment_steps: int = 0) -> list[str]:
    """Return the trajectory of every frame: its run, or the segment of its run."""
    runs = columns.words("run")
    if not segment_steps:
        return runs
    segments = columns.numbers["step"] // segment_steps
    return [f"{run}#{segment}" for run, segment in zip(runs, segments.tolist(), strict=True)]


def split_trajectories(
    columns: Columns,
    seed: int,
    parts: Mapping[str, float] | None = None,
    segment_steps: int = 0,
    before: Split | None = None,
) -> Split:
    """Deal whole trajectories out so that every regime has its share in every part.

    Trajectories come in random order, large ones first, each to the part that
    lacks most of its regimes.

    Parameters
    ----------
    columns
        Of the frames to split.
    seed, parts, segment_steps
        As in `Split`; `PARTS` by default.
    before
        A split that stays as it is; only trajectories not in it are dealt out.

    Raises
    ------
    InputError
        Shares do not sum to one, or there are fewer trajectories than parts.
    """
    parts = dict(parts or PARTS) if before is None else dict(before.parts)
    segment_steps = segment_steps if before is None else before.segment_steps
    if abs(sum(parts.values()) - 1) > 1e-9 or min(parts.values()) <= 0:
        raise InputError(f"the shares {parts} must be positive and sum to one.")
    names, group_of = np.unique(trajectories(columns, segment_steps), return_inverse=True)
    if len(names) < len(parts):
        raise InputError(
            f"{len(names)} trajectories cannot be split into {len(parts)} parts; cut the runs "
            "with segment_steps, or store more runs."
        )
    _, regime_of = np.unique(columns.places["regime"], return_inverse=True)
    counts = np.zeros((len(names), regime_of.max() + 1))
    np.add.at(counts, (group_of, regime_of), 1)
    fixed = {} if before is None else dict(before.groups)
    dealt = _deal(counts, names.tolist(), parts, fixed, seed)
    return Split(seed=seed, parts=parts, groups=fixed | dealt, segment_steps=segment_steps)


def _deal(
    counts: NDArray[np.float64],
    names: list[str],
    parts: Mapping[str, float],
    fixed: Mapping[str, str],
    seed: int,
) -> dict[str, str]:
    """Return the part of every trajectory; counts are frames by trajectory and regime."""
    shares = np.array(list(parts.values()))
    total = counts.sum(axis=0)
    lack = shares[:, None] * total  # frames by part and regime
    order = list(parts)
    for group, name in enumerate(names):
        if name in fixed:
            lack[order.index(fixed[name])] -= counts[group]
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = {}
    for group in sorted(shuffled.tolist(), key=lambda g: -counts[g].sum()):
        if names[group] not in fixed:
            weights = counts[group] / np.maximum(total, 1)
            part = int(((lack / shares[:, None]) @ weights).argmax())
            lack[part] -= counts[group]
            dealt[names[group]] = order[part]
    return dealt


def places_of(
    store: FrameStore, query: Query, *, part: str = "", min_steps: int = 0
) -> NDArray[np.int64]:
    """Return the places of frames that match, increasing; no frame is read.

    Parameters
    ----------
    store
        Of the frames.
    query
        What they must be.
    part
        Only this part of the store's split; empty for all.
    min_steps
        Only frames at least so many steps apart in their run.

    Raises
    ------
    InputError
        The store was never split, has no such part, or has matching frames
        of trajectories that came after the split.
    """
    columns = store.columns()
    match = matching(columns, query)
    if part:
        parts = np.array(_split_with(store, part).part_of(columns), dtype=object)
        if (match & (parts == "")).any():
            raise InputError(
                "frames of new trajectories are in no part yet; run: hybrid-calc store split "
                f"{store.path.name} (nobody else moves)."
            )
        match &= parts == part
    places = np.flatnonzero(match)
    return places[decorrelated(columns.take(places), min_steps)] if min_steps else places


def _split_with(store: FrameStore, part: str) -> Split:
    split = read_split(store.path)
    if split is None or part not in split.parts:
        known = "it was never split" if split is None else f"its parts are {', '.join(split.parts)}"
        raise InputError(f"{store.path.name} has no part {part}: {known}. See: store split.")
    return split


def split_path(store: Path) -> Path:
    """Return where the split of a store is kept: ``run.h5.split.json``."""
    return store.with_name(store.name + ".split.json")


def write_split(store: Path, split: Split) -> None:
    """Keep the split of a store beside it, durably; the one before is replaced whole."""
    path = split_path(store)
    content = {
        "schema": SPLIT_SCHEMA,
        "seed": split.seed,
        "parts": dict(split.parts),
        "segment_steps": split.segment_steps,
        "groups": dict(split.groups),
    }
    temporary = path.with_name(path.name + f".{os.getpid()}.new")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def read_split(store: Path) -> Split | None:
    """Return the split of a store, None where it was never split.

    Raises
    ------
    StoreDamagedError
        The file cannot be read: splitting anew would leak.
    """
    path = split_path(store)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("schema") != SPLIT_SCHEMA:
            raise ValueError("its schema is not known")
        return Split(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(
            f"{path} cannot be read: {error}. Restore it: another split would leak."
        ) from error
