"""The ``hybrid-calc`` command; parsing only, nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="ASE jobs with an MLIP committee that asks DFT where it cannot be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
store_app = typer.Typer(help="Look into a store of validated frames.", no_args_is_help=True)
app.add_typer(store_app, name="store")

committee_app = typer.Typer(help="Make and look into committee bundles.", no_args_is_help=True)
app.add_typer(committee_app, name="committee")

StorePath = Annotated[Path, typer.Argument(help="Store, NAME.h5.")]


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

    from hybrid_calc.config import load_settings
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
def doctor() -> None:
    """Say what is installed, how many threads run, and whether committee and level match."""
    from rich.console import Console

    from hybrid_calc.report.doctor import examine, print_findings

    healthy = print_findings(Console(), examine())
    raise typer.Exit(0 if healthy else 1)


@store_app.command()
def info(path: StorePath) -> None:
    """Say what a store holds."""
    from rich.console import Console

    from hybrid_calc.report.store import print_content
    from hybrid_calc.store.frames import open_existing

    print_content(Console(), open_existing(path))


@store_app.command()
def verify(path: StorePath) -> None:
    """Read every frame, check every digest, and name what is damaged."""
    from rich.console import Console

    from hybrid_calc.report.store import print_damage
    from hybrid_calc.store.frames import open_existing

    whole = print_damage(Console(), open_existing(path))
    raise typer.Exit(0 if whole else 1)


@store_app.command()
def export(
    path: StorePath,
    target: Annotated[Path, typer.Argument(help="Extended XYZ file for mace_run_train.")],
) -> None:
    """Write the validated frames for training MACE."""
    from rich.console import Console

    from hybrid_calc.store.export import export_extxyz
    from hybrid_calc.store.frames import open_existing

    store = open_existing(path)
    frames = export_extxyz(store, target)
    console = Console()
    if store.damage:
        sys.stderr.write(
            f"hybrid-calc: what is damaged in the store is left out ({len(store.damage)} places); "
            f"see hybrid-calc store verify {path}\n"
        )
    console.print(f"{frames} validated frames written to {target}", soft_wrap=True, markup=False)
    console.print(
        "train with: mace_run_train --train_file "
        f"{target} --energy_key REF_energy --forces_key REF_forces --E0s average --name NAME",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


@store_app.command()
def compact(path: StorePath) -> None:
    """Bring the HDF5 file up to date with the journals of writers that are gone."""
    from hybrid_calc.store.frames import open_existing

    store = open_existing(path)
    store.compact()
    sys.stdout.write(f"{store.path.name}: {len(store)} frames\n")


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
    from hybrid_calc.config import level_from_text
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
