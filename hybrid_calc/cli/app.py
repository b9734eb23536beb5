"""The ``hybrid-calc`` command; parsing only, nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hybrid_calc.cli.annotation import Graph, Temperature
from hybrid_calc.cli.scope import calibrate, scope
from hybrid_calc.cli.store import store_app

app = typer.Typer(
    help="ASE jobs with an MLIP committee that asks DFT where it cannot be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(store_app, name="store")
app.command()(calibrate)
app.command()(scope)

committee_app = typer.Typer(help="Make and look into committee bundles.", no_args_is_help=True)
app.add_typer(committee_app, name="committee")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Settings file (YAML); see configs/.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME by default.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: gate.budget=20.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in that folder.")] = False,
) -> None:
    """Run a job: MD, optimisation or NEB."""
    from rich.console import Console

    from hybrid_calc.config.load import load_settings
    from hybrid_calc.run import EXIT_CODES, run_job

    settings = load_settings(config, set_)
    try:
        ending = run_job(
            settings,
            base=config.absolute().parent,
            output=output or Path("runs") / config.stem,
            resume=resume,
            console=Console(),
        )
    except KeyboardInterrupt:
        sys.stderr.write("hybrid-calc: interrupted; what was validated is in the store.\n")
        raise typer.Exit(130) from None
    raise typer.Exit(EXIT_CODES[ending])


@app.command()
def label(
    frames: Annotated[Path, typer.Argument(help="Any file ASE reads; all its frames.")],
    config: Annotated[
        Path, typer.Option(help="Settings file with a reference: a job's, or that alone.")
    ],
    store: Annotated[Path, typer.Option(help="NAME.h5 that labels go to; made or gone on with.")],
    *,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: reference.threads=2.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Labels at a time, instead of the settings'.")
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Frames to ask at most.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask about frames in quarantine, too.")
    ] = False,
    graph: Graph = None,
    temperature: Temperature = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Label many frames into a store; what it has already is not asked again."""
    from rich.console import Console

    from hybrid_calc.cli.annotation import annotator_from
    from hybrid_calc.config.load import load_label_settings
    from hybrid_calc.label_job import print_harvest, run_label_job
    from hybrid_calc.report.store import print_json

    settings = load_label_settings(config, set_)
    try:
        code, harvest = run_label_job(
            frames,
            settings,
            store=store,
            workers=workers,
            annotator=annotator_from(settings.flags, graph, temperature),
            budget=budget,
            again=again,
            console=None if as_json else Console(),
        )
    except KeyboardInterrupt:
        sys.stderr.write("hybrid-calc: interrupted; what was labelled is in the store.\n")
        raise typer.Exit(130) from None
    if as_json:
        print_json(harvest.to_dict())
    else:
        print_harvest(Console(), harvest, store)
    raise typer.Exit(code)


@app.command()
def doctor() -> None:
    """Say what is installed, how many threads run, and whether committee and level match."""
    from rich.console import Console

    from hybrid_calc.report.doctor import examine, print_findings

    healthy = print_findings(Console(), examine())
    raise typer.Exit(0 if healthy else 1)


@committee_app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="MACE .model files, at least two.")],
    output: Annotated[Path, typer.Option(help="NAME.bundle to write.")],
    level: Annotated[
        str, typer.Option(help="Level of theory of the training data: a name or YAML keys.")
    ],
    trust: Annotated[
        bool, typer.Option(help="The files are pickles, that is code: say that you trust them.")
    ] = False,
    training_set: Annotated[
        Path | None, typer.Option(help="Training file, whose SHA-256 is recorded.")
    ] = None,
) -> None:
    """Turn MACE .model files into one file of numbers."""
    from hybrid_calc.committee.bundle import file_digest, import_files
    from hybrid_calc.config.level import level_from_text
    from hybrid_calc.report.committee import print_header

    header = import_files(
        files,
        output,
        trust=trust,
        name=output.stem,
        level=level_from_text(level),
        training_digest="" if training_set is None else file_digest(training_set),
    )
    print_header(header)


@committee_app.command("info")
def committee_info(
    path: Annotated[Path, typer.Argument(help="Committee bundle, NAME.bundle.")],
) -> None:
    """Say what a bundle holds and where it comes from."""
    from hybrid_calc.committee.bundle import read_header
    from hybrid_calc.report.committee import print_header

    print_header(read_header(path))


@committee_app.command("export")
def committee_export(
    path: Annotated[Path, typer.Argument(help="Committee bundle, NAME.bundle.")],
    folder: Annotated[Path, typer.Argument(help="Where the .model files go.")],
) -> None:
    """Write the members as MACE .model files, for LAMMPS and others."""
    from hybrid_calc.committee.bundle import export_files

    for file in export_files(path, folder):
        sys.stdout.write(f"{file}\n")


def main() -> None:
    """Run the command; what a user can mend is one line, and bad input exits with 2."""
    try:
        app()
    except Exception as error:
        from hybrid_calc.errors import HybridCalcError, InputError, MissingPackageError

        if not isinstance(error, (HybridCalcError, OSError)):
            raise
        sys.stderr.write("hybrid-calc: " + " ".join(str(error).split()) + "\n")
        bad_input = isinstance(error, (InputError, MissingPackageError))
        sys.exit(2 if bad_input else 1)
