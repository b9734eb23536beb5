"""``hybrid-calc calibrate`` and ``hybrid-calc scope``: what a committee may be trusted with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from hybrid_calc.committee.prediction import Committee
    from hybrid_calc.flags.limits import FlagLimits
    from hybrid_calc.gate.settings import GateSettings
    from hybrid_calc.reference.level import LevelOfTheory

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
BUNDLE_SUFFIX = ".bundle"
CALIBRATION_SUFFIX = ".calibration"


def calibrate(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="Store, NAME.h5, split.")],
    committee: Annotated[
        Path,
        typer.Option(
            help="NAME.bundle, or a settings file (YAML) with committee, tolerances and regimes."
        ),
    ],
    *,
    missed_share: Annotated[
        float, typer.Option(help="Largest share of the bad frames that may pass unasked.")
    ] = 0.1,
    force_tolerance: Annotated[
        float | None, typer.Option(help="Instead of the settings file's, eV/A.")
    ] = None,
    energy_tolerance: Annotated[
        float | None, typer.Option(help="Instead of the settings file's, eV.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the store's split to use; repeatable. Of other parts than calibration "
            "only frames that this very committee was asked about count."
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="Frames the committee was trained on, any file ASE reads."),
    ] = None,
    signal: Annotated[
        list[str] | None,
        typer.Option(
            help="Use it beside the force spread where it is shown to help: novelty, "
            "second_opinion; repeatable."
        ),
    ] = None,
    label_noise: Annotated[
        float | None,
        typer.Option(help="How far labels are from the tight solution of their level, eV/A."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of folds and bootstrap.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; by default into the bundle, or NAME.calibration."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out from labelled frames when a committee must not be trusted."""
    from rich.console import Console

    from hybrid_calc.report.scope import calibration_json, print_calibration
    from hybrid_calc.report.store import print_json
    from hybrid_calc.store.frames import open_existing
    from hybrid_calc.training.calibrate import CALIBRATION_PART, CalibrationPlan
    from hybrid_calc.training.calibrate import calibrate as run

    store = open_existing(path)
    known, gate, limits, mismatch = _committee(committee)
    changes = {
        "force_tolerance_ev_per_ang": force_tolerance,
        "energy_tolerance_ev": energy_tolerance,
    }
    gate = _with(gate, {key: value for key, value in changes.items() if value is not None})
    plan = CalibrationPlan(
        gate=gate,
        limits=limits,
        missed_share=missed_share,
        parts=tuple(part or (CALIBRATION_PART,)),
        signals=tuple(signal or ()),
        seed=seed,
        label_noise=_label_noise(store.levels, label_noise),
        allow_level_mismatch=mismatch,
    )
    frames = None if training is None else _training_frames(training, committee)
    try:
        found = run(
            store,
            known,
            plan,
            training=frames,
            training_name="" if training is None else training.name,
        )
    finally:
        known.close()
    target = output or committee
    if output is None and committee.suffix == BUNDLE_SUFFIX:
        from hybrid_calc.committee.bundle import embed_calibration

        embed_calibration(committee, found.to_bytes(), found.card.to_dict())
    else:
        target = output or Path(committee.stem + CALIBRATION_SUFFIX)
        found.write(target)
    if as_json:
        print_json(calibration_json(found) | {"target": str(target)})
        return
    console = Console()
    print_calibration(console, found)
    advice = "" if target == committee else f"; use it with gate.calibration: {target}"
    console.print(f"written into {target}{advice}", highlight=False, markup=False, soft_wrap=True)


def scope(
    path: Annotated[
        Path, typer.Argument(help="NAME.bundle, a calibration, or the folder of a run.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a committee is validated for, and by name everything that it is not."""
    from rich.console import Console

    from hybrid_calc.report.scope import print_scope, read_scope
    from hybrid_calc.report.store import print_json

    card, run = read_scope(path)
    if as_json:
        content = run or {"card": None if card is None else card.to_dict()}
        print_json(content)
    else:
        print_scope(Console(), card, run)


def _committee(path: Path) -> tuple[Committee, GateSettings, FlagLimits, bool]:
    """Return a committee, tolerances and regimes, flags, and whether its level may differ."""
    from hybrid_calc.flags.limits import FlagLimits
    from hybrid_calc.gate.settings import GateSettings

    if path.suffix == BUNDLE_SUFFIX:
        from hybrid_calc.committee.bundle import load_committee

        return load_committee(path), GateSettings(), FlagLimits(), False
    from hybrid_calc.config.build import build_committee
    from hybrid_calc.config.load import load_settings

    settings = load_settings(path)
    known = build_committee(settings.committee, path.absolute().parent)
    return known, settings.gate, settings.flags, settings.allow_level_mismatch


def _with(gate: GateSettings, changes: dict[str, float]) -> GateSettings:
    from pydantic import ValidationError

    from hybrid_calc.errors import InputError
    from hybrid_calc.gate.settings import GateSettings

    try:
        return GateSettings.model_validate(gate.model_dump() | changes)
    except ValidationError as error:
        raise InputError(f"a tolerance must be positive; got {changes}.") from error


def _training_frames(path: Path, committee: Path) -> list[Atoms]:
    """Return the frames of a training file; it must be the one a bundle names, if it names one."""
    import ase.io

    from hybrid_calc.errors import InputError

    if committee.suffix == BUNDLE_SUFFIX:
        from hybrid_calc.committee.bundle import file_digest, read_header

        named = read_header(committee).training_digest
        if named and named != file_digest(path):
            raise InputError(
                f"{path} is not the file that {committee.name} was trained on (SHA-256 {named}); "
                "give that one, or leave --training out."
            )
    try:
        return list(ase.io.iread(path, index=":"))
    except Exception as error:  # ASE's readers raise whatever they meet
        raise InputError(
            f"training file {path} cannot be read by ASE: {type(error).__name__}: {error}"
        ) from error


def _label_noise(levels: Sequence[LevelOfTheory], given: float | None) -> float | None:
    """Return what was given, else what was measured for the store's level."""
    from hybrid_calc.reference.recipes import RECIPES

    if given is not None:
        return given
    measured = {
        recipe.level.hash: getattr(recipe, "label_noise_ev_per_ang", None)
        for recipe in RECIPES.values()
    }
    return measured.get(levels[0].hash) if len(levels) == 1 else None
