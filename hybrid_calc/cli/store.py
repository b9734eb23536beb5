"""``hybrid-calc store``: look into a store, prove it whole, take frames out and in."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_calc.cli.annotation import Graph, Temperature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hybrid_calc.store.frames import FrameStore
    from hybrid_calc.store.verify import Recomputed

store_app = typer.Typer(help="Look into a store of validated frames.", no_args_is_help=True)

StorePath = Annotated[Path, typer.Argument(help="Store, NAME.h5.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Level = Annotated[str | None, typer.Option(help="Only this level: its hash or name.")]
Regime = Annotated[str | None, typer.Option(help="Only this regime, or its first word.")]
Element = Annotated[list[str] | None, typer.Option(help="Only with this element; repeatable.")]
Run = Annotated[str | None, typer.Option(help="Only frames of this run.")]
MinError = Annotated[
    float | None, typer.Option(help="Only where the committee was off by this or more, eV/A.")
]


class Format(StrEnum):
    """What frames are exported to."""

    EXTXYZ = "extxyz"
    MACE_HDF5 = "mace-hdf5"
    DB = "db"
    ARCHIVE = "archive"


@store_app.command()
def info(path: StorePath, as_json: AsJson = False) -> None:
    """Say what a store holds."""
    from rich.console import Console

    from hybrid_calc.report.store import print_content, print_json, summary
    from hybrid_calc.store.frames import open_existing

    store = open_existing(path)
    if as_json:
        print_json(summary(store))
    else:
        print_content(Console(), store)


@store_app.command()
def verify(
    path: StorePath,
    *,
    as_json: AsJson = False,
    recompute: Annotated[
        int, typer.Option(help="Also label so many random frames again and compare.")
    ] = 0,
    config: Annotated[
        Path | None, typer.Option(help="Settings file whose reference labels them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of frames.")] = 0,
    tolerance: Annotated[float, typer.Option(help="Largest force difference, eV/A.")] = 0.002,
) -> None:
    """Read every frame, check every digest, and name what is damaged."""
    from rich.console import Console

    from hybrid_calc.report.store import findings_json, print_damage, print_json, print_recomputed
    from hybrid_calc.store.frames import open_existing
    from hybrid_calc.store.verify import check_store

    store = open_existing(path)
    findings = check_store(store)
    again = _recompute(store, recompute, config, seed) if recompute else []
    if as_json:
        print_json(findings_json(findings, again))
    else:
        print_damage(Console(), store.path.name, findings)
        print_recomputed(Console(), again, tolerance)
    wrong = [one for one in again if not one.force_difference <= tolerance]
    raise typer.Exit(1 if findings.damage or wrong else 0)


@store_app.command()
def split(
    path: StorePath,
    seed: Annotated[int, typer.Option(help="Of the order of trajectories.")] = 0,
    segment_steps: Annotated[
        int, typer.Option(help="Cut runs into trajectories of so many steps; 0: whole runs.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Split trajectories into train, validation, test and calibration; keep it for good."""
    from hybrid_calc.report.store import print_counts
    from hybrid_calc.store.frames import open_existing
    from hybrid_calc.store.query import Query, matching
    from hybrid_calc.store.selection import read_split, split_trajectories, write_split

    store = open_existing(path)
    columns = store.columns()
    columns = columns.take(matching(columns, Query(labelled=True)))
    before = read_split(store.path)
    done = split_trajectories(columns, seed, segment_steps=segment_steps, before=before)
    write_split(store.path, done)
    parts = done.part_of(columns)
    print_counts({part: parts.count(part) for part in done.parts}, as_json=as_json)


@store_app.command()
def query(
    path: StorePath,
    *,
    level: Level = None,
    regime: Regime = None,
    element: Element = None,
    run: Run = None,
    min_error: MinError = None,
    limit: Annotated[int, typer.Option(help="Print so many frames at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the validated frames that match; no frame is read."""
    from rich.console import Console

    from hybrid_calc.report.store import matching_rows, print_json, print_rows
    from hybrid_calc.store.frames import open_existing
    from hybrid_calc.store.query import Query

    wanted = Query(
        level=level,
        regime=regime,
        elements=tuple(element or ()),
        run=run,
        min_force_error=min_error,
        labelled=True,
    )
    count, rows = matching_rows(open_existing(path), wanted, limit)
    if as_json:
        print_json({"matching": count, "frames": rows})
    else:
        print_rows(Console(), count, rows)


@store_app.command()
def export(
    path: StorePath,
    target: Annotated[Path, typer.Argument(help="File, or folder of MACE's shards, to write.")],
    *,
    to: Annotated[
        Format | None, typer.Option(help="By the ending of the target where not given.")
    ] = None,
    regime: Regime = None,
    run: Run = None,
    part: Annotated[
        str | None, typer.Option(help="Only this part of the split: see store split.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="Weight of a regime in training: reactive=4.")
    ] = None,
    min_steps: Annotated[
        int, typer.Option(help="Only frames at least so many steps apart in their run.")
    ] = 0,
    farthest: Annotated[
        int,
        typer.Option(help="Only so many frames per regime, the most diverse; needs --config."),
    ] = 0,
    config: Annotated[
        Path | None, typer.Option(help="Settings file whose committee describes the frames.")
    ] = None,
    energies: Annotated[
        bool, typer.Option("--energies", help="Instead: energies without forces, as extended XYZ.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the validated frames for training MACE, for ASE, or the store as one archive."""
    from rich.console import Console

    from hybrid_calc.report.store import print_exported, print_json
    from hybrid_calc.store import archive, export
    from hybrid_calc.store.frames import open_existing
    from hybrid_calc.store.query import Query
    from hybrid_calc.store.selection import places_of

    store = open_existing(path)
    weights = _weights(weight or [])
    if energies:
        frames = export.export_energies(store.select(Query(regime=regime, run=run)), target)
        print_exported(Console(), frames, target, "energies")
        return
    to = to or _FORMATS.get(target.suffix, Format.EXTXYZ)
    query = Query(regime=regime, run=run, labelled=None if to is Format.ARCHIVE else True)
    places = places_of(store, query, part=part or "", min_steps=min_steps)
    if farthest:
        places = _farthest(store, places, farthest, config)
    records = (record for _, record in store.at(places))
    if to is Format.ARCHIVE:
        frames = archive.export_archive(records, target)
    elif to is Format.DB:
        frames = export.export_db(records, target)
    elif to is Format.MACE_HDF5:
        frames = export.export_mace_hdf5(records, target, weights)
    else:
        frames = export.export_extxyz(records, target, weights)
    if store.damage:
        sys.stderr.write(
            f"hybrid-calc: the store is damaged ({len(store.damage)} places), {store.lost} frames "
            f"are left out; see hybrid-calc store verify {path}\n"
        )
    if as_json:
        print_json({"frames": frames, "left_out": store.lost, "target": str(target), "to": to})
    else:
        print_exported(Console(), frames, target, to.value)


@store_app.command("import")
def import_(
    path: StorePath,
    source: Annotated[
        Path, typer.Argument(help="Archive, ASE database, store, or any file ASE reads.")
    ],
    *,
    level: Annotated[
        str | None, typer.Option(help="Level of theory where the file does not say it.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Instead of a level, in words: 'CCSD(T)-F12/cc-pVTZ-F12'."),
    ] = None,
    graph: Graph = None,
    temperature: Temperature = None,
    max_net_force: Annotated[
        float, typer.Option(min=0, help="Largest net force on an isolated molecule, eV/A.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Put the frames of a file into a store: checked, with regime and provenance.

    Frames that do not pass go to quarantine; those that are there already stay.
    """
    from rich.console import Console

    from hybrid_calc.cli.annotation import annotator_from
    from hybrid_calc.config.level import level_from_text
    from hybrid_calc.errors import InputError
    from hybrid_calc.intake import foreign_level, take_in
    from hybrid_calc.report.store import print_intake, print_json
    from hybrid_calc.store.frames import FrameStore

    if level is not None and method is not None:
        raise InputError("give --level or --method, not both.")
    said = None if level is None else level_from_text(level)
    said = foreign_level(method) if method is not None else said
    with FrameStore(path) as store:
        intake = take_in(
            source,
            store,
            said,
            annotator=annotator_from(None, graph, temperature),
            max_net_force_ev_per_ang=max_net_force,
        )
    if as_json:
        print_json({path.name: intake.to_dict()})
    else:
        print_intake(Console(), path, intake.to_dict())


@store_app.command("merge")
def merge_stores(
    path: StorePath,
    sources: Annotated[list[Path], typer.Argument(help="Stores whose frames are put in.")],
    as_json: AsJson = False,
) -> None:
    """Put the frames of other stores of the same level into one."""
    from hybrid_calc.report.store import print_merged
    from hybrid_calc.store.frames import FrameStore, open_existing
    from hybrid_calc.store.importing import merge

    others = [open_existing(source) for source in sources]
    with FrameStore(path) as store:
        for other in others:
            for level in other.levels:
                store.check_level(level)
        counts = {other.path.name: merge(store, other) for other in others}
        print_merged(counts, as_json=as_json)


@store_app.command()
def compact(
    path: StorePath,
    *,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Check every byte, write damaged files anew with what the kept journals hold, "
            "and keep aside files with frames that can be read nowhere.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the HDF5 files up to date with the journals of writers that are gone."""
    from hybrid_calc.report.store import print_compacted
    from hybrid_calc.store.frames import open_existing

    store = open_existing(path)
    store.compact(repair=repair)
    print_compacted(store, as_json=as_json)


_FORMATS = {".db": Format.DB, ".zip": Format.ARCHIVE}


def _recompute(store: FrameStore, count: int, config: Path | None, seed: int) -> list[Recomputed]:
    import numpy as np

    from hybrid_calc.config.build import build_reference
    from hybrid_calc.config.load import load_settings
    from hybrid_calc.errors import InputError
    from hybrid_calc.store.verify import recompute

    if config is None:
        raise InputError("--recompute needs a reference: give its settings file with --config.")
    reference = build_reference(load_settings(config, None).reference)
    try:
        return recompute(store, reference, count, np.random.default_rng(seed))
    finally:
        reference.close()


def _farthest(
    store: FrameStore, places: NDArray[np.int64], count: int, config: Path | None
) -> NDArray[np.int64]:
    from hybrid_calc.config.build import build_committee
    from hybrid_calc.config.load import load_settings
    from hybrid_calc.errors import InputError
    from hybrid_calc.store.diversity import farthest_frames

    if config is None:
        raise InputError("--farthest needs a committee: give its settings file with --config.")
    committee = build_committee(load_settings(config, None).committee, config.parent)
    try:
        return farthest_frames(store, places, committee, count)
    finally:
        committee.close()


def _weights(texts: list[str]) -> dict[str, float]:
    from hybrid_calc.errors import InputError

    weights = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise InputError(f"--weight {text} is not REGIME=NUMBER, like reactive=4.") from error
    return weights
