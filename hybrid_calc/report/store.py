"""What a store holds, as tables a person can read and data a program can."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_calc.store.columns import Columns
from hybrid_calc.store.energy_only import is_energy_only
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.verify import Findings, Recomputed

ROW_NUMBERS = ("atoms", "step", "energy", "force_error", "spread")
ROW_WORDS = ("formula", "regime", "run")
REJECTED_SHOWN = 20
NO_COMMITTEE = "? (?)"
"""What columns say of a frame that no committee looked at."""


def summary(store: FrameStore) -> dict[str, Any]:
    """Return counts of a store: levels, molecules, committees, regimes; JSON-able."""
    return _summary(store, _set_aside(store)[0])


def _set_aside(store: FrameStore) -> tuple[int, list[str]]:
    """Return how many energies without forces there are, and why the first frames were rejected."""
    energies, rejected = 0, list[str]()
    for record in store.select(Query(labelled=False)):
        if is_energy_only(record):
            energies += 1
        elif len(rejected) < REJECTED_SHOWN:
            rejected.append(f"rejected {record.identity}: {record.rejection}")
    return energies, rejected


def _summary(store: FrameStore, energy_only: int) -> dict[str, Any]:
    columns = store.columns()
    labelled = columns.numbers["labelled"].astype(bool)
    good = columns.take(labelled)
    return {
        "store": store.path.name,
        "validated": int(labelled.sum()),
        "rejected": int((~labelled).sum()) - energy_only,
        "energy_only": energy_only,
        "levels": [{"name": str(level), "hash": level.hash} for level in store.levels],
        "molecules": dict(Counter(good.words("formula")).most_common()),
        "committees": dict(Counter(good.words("committee")).most_common()),
        "runs": dict(Counter(good.words("run")).most_common()),
        "regimes": [_regime(good, name) for name in sorted(set(good.words("regime")))],
        "shards": len(store.catalog().shards),
        "damage": list(store.damage),
        "lost": store.lost,
    }


def print_content(console: Console, store: FrameStore) -> None:
    """Print levels, regimes, committees and rejected frames; no validated frame is read."""
    energies, rejected = _set_aside(store)
    content = _summary(store, energies)
    console.print(
        f"{content['store']}: {content['validated']} validated frames, "
        f"{content['rejected']} rejected, {content['shards']} shards"
    )
    for level in content["levels"]:
        sentence = f"level of theory: {level['name']} ({level['hash']})"
        console.print(sentence, highlight=False, markup=False)
    for title, key in (("molecule", "molecules"), ("committee", "committees")):
        for name, frames in content[key].items():
            if name == NO_COMMITTEE:
                continue
            console.print(f"{title}: {name}, {frames} frames", highlight=False, markup=False)
    if content["regimes"]:
        console.print(_regimes_table(content["regimes"]))
    if content["energy_only"]:
        console.print(f"{content['energy_only']} energies without forces, kept apart")
    for sentence in rejected:
        console.print(sentence, highlight=False, markup=False)
    if content["rejected"] > REJECTED_SHOWN:
        console.print(f"and {content['rejected'] - REJECTED_SHOWN} more rejected frames")
    _print_damage(console, store.damage, store.catalog().torn_tails)


def print_damage(console: Console, name: str, findings: Findings) -> None:
    """Print what of a store is damaged, or that nothing is."""
    _print_damage(console, findings.damage, findings.torn_tails)
    if findings.damage:
        console.print(f"{name}: {findings.frames} frames can be read, {findings.lost} are lost")
        console.print(f"heal it with: hybrid-calc store compact --repair {name}")
    if not findings.damage:
        console.print(f"{name}: {findings.frames} frames, every digest agrees")


def print_recomputed(console: Console, again: list[Recomputed], tolerance: float) -> None:
    """Print how far labels solved again are from those stored."""
    for one in again:
        if one.failure:
            sentence = f"frame {one.identity}: could not be labelled again: {one.failure}"
        else:
            sentence = (
                f"frame {one.identity}: labelled again, forces differ by "
                f"{one.force_difference:.2g} eV/A, energy by {one.energy_difference:+.2g} eV"
            )
        style = None if one.force_difference <= tolerance else "red"
        console.print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)


def findings_json(findings: Findings, again: list[Recomputed]) -> dict[str, Any]:
    """Return what reading a whole store found; JSON-able."""
    content: dict[str, Any] = {
        "frames": findings.frames,
        "lost": findings.lost,
        "damage": list(findings.damage),
        "torn_tails": list(findings.torn_tails),
    }
    if again:
        content["recomputed"] = [
            {
                "frame": one.identity,
                "energy_difference": _finite(one.energy_difference),
                "force_difference": _finite(one.force_difference),
                "failure": one.failure,
            }
            for one in again
        ]
    return content


def matching_rows(
    store: FrameStore, query: Query, limit: int
) -> tuple[int, list[dict[str, object]]]:
    """Return how many frames match, and the columns of the first few; JSON-able."""
    columns = store.columns()
    places = np.flatnonzero(matching(columns, query))
    some = columns.take(places[:limit])
    rows: list[dict[str, object]] = []
    for place, identity in enumerate(some.identities()):
        row: dict[str, object] = {"frame": identity}
        row |= {name: some.tables[name][some.places[name][place]] for name in ROW_WORDS}
        row |= {name: _finite(some.numbers[name][place].item()) for name in ROW_NUMBERS}
        rows.append(row)
    return len(places), rows


def print_rows(console: Console, count: int, rows: list[dict[str, object]]) -> None:
    """Print frames as a table."""
    table = Table("frame", "molecule", "regime", "run", "step", "energy, eV", "force error, eV/A")
    for row in rows:
        energy, error = row["energy"], row["force_error"]
        table.add_row(
            str(row["frame"])[:10],
            *(str(row[name]) for name in (*ROW_WORDS, "step")),
            "" if energy is None else f"{energy:.3f}",
            "" if error is None else f"{error:.3f}",
        )
    console.print(table)
    console.print(f"{count} frames match, {len(rows)} shown", highlight=False)


def print_exported(console: Console, frames: int, target: Path, to: str) -> None:
    """Print how many frames were written, and what reads them."""
    kind = "" if to in {"archive", "energies"} else "validated "
    console.print(f"{frames} {kind}frames written to {target}", soft_wrap=True, markup=False)
    if to in {"extxyz", "mace-hdf5"}:
        elements = " --atomic_numbers '[1, 6, ...]'" if to == "mace-hdf5" else ""
        zeros = "'{1: -13.6, ...}'" if to == "mace-hdf5" else "average"
        console.print(
            f"train with: mace_run_train --train_file {target} --energy_key REF_energy "
            f"--forces_key REF_forces --E0s {zeros}{elements} --name NAME",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def print_counts(frames: Mapping[str, int], *, as_json: bool) -> None:
    """Print how many frames each part has."""
    if as_json:
        print_json(dict(frames))
        return
    for name, count in frames.items():
        sys.stdout.write(f"{name}: {count} frames\n")


def print_merged(counts: Mapping[str, tuple[int, int]], *, as_json: bool) -> None:
    """Print how many frames of each source were new, and how many were there already."""
    if as_json:
        print_json({name: {"new": new, "there": there} for name, (new, there) in counts.items()})
        return
    for name, (new, there) in counts.items():
        sys.stdout.write(f"{name}: {new} new frames, {there} were there already\n")


def print_intake(console: Console, path: Path, content: Mapping[str, Any]) -> None:
    """Print what became of the frames of a file."""
    lines = [f"{path.name}: {content['new']} new frames, {content['there']} were there already"]
    lines += [f"regime {name}: {frames} frames" for name, frames in content["regimes"].items()]
    if content["energy_only"]:
        lines.append(
            f"{content['energy_only']} energies without forces, kept apart: "
            f"hybrid-calc store export {path} FILE.xyz --energies"
        )
    lines += [f"in quarantine: {frames} frames, {why}" for why, frames in content["why"].items()]
    lines += [f"left out: {sentence}" for sentence in content["unusable"]]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_compacted(store: FrameStore, *, as_json: bool) -> None:
    """Print what a compaction left."""
    frames, shards = len(store), len(store.catalog().shards)
    if as_json:
        damage = list(store.damage)
        print_json({"store": store.path.name, "frames": frames, "shards": shards, "damage": damage})
        return
    sys.stdout.write(f"{store.path.name}: {frames} frames, {shards} shards\n")
    for sentence in store.damage:
        sys.stdout.write(f"damaged: {sentence}\n")


def print_json(content: object) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _regime(good: Columns, name: str) -> dict[str, Any]:
    """Return counts of one regime; within tolerance as the gate judged then."""
    here = good.take(matching(good, Query(regime=name)) & (_words(good) == name))
    errors = here.numbers["force_error"]
    judged = ~np.isnan(errors)
    return {
        "regime": name,
        "frames": len(here),
        "judged": int(judged.sum()),
        "within_tolerance": int((here.numbers["good"] == 1).sum()),
        "largest_force_error": _finite(float(errors[judged].max()) if judged.any() else math.nan),
    }


def _words(columns: Columns) -> Any:
    return np.array(columns.words("regime"), dtype=object)


def _regimes_table(regimes: list[dict[str, Any]]) -> Table:
    table = Table("regime", "frames", "within tolerance", "largest force error, eV/A")
    for row in regimes:
        worst = row["largest_force_error"]
        table.add_row(
            row["regime"],
            str(row["frames"]),
            f"{row['within_tolerance']} of {row['judged']}",
            "nan" if worst is None else f"{worst:.2f}",
        )
    return table


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_damage(console: Console, damage: Sequence[str], torn_tails: Sequence[str]) -> None:
    for title, style, sentences in (
        ("damaged", "red", damage),
        ("never acknowledged", "yellow", torn_tails),
    ):
        for sentence in sentences:
            console.print(f"{title}: {sentence}", style=style, highlight=False, markup=False)
