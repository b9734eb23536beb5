"""A label farm from its settings to its last line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hybrid_calc.config.build import build_reference
from hybrid_calc.config.executor import LocalExecutorSettings
from hybrid_calc.config.job import LabelSettings
from hybrid_calc.config.reference import ToyReferenceSettings
from hybrid_calc.errors import InputError
from hybrid_calc.farm import Harvest, label_frames
from hybrid_calc.gate.annotation import Annotator
from hybrid_calc.signals import noted_signals
from hybrid_calc.store.frames import FrameStore

ENDING = b"hybrid-calc: ending after the frames in flight; a second signal ends at once.\n"
FINISHED, NO_LABEL, BUDGET, INTERRUPTED = 0, 1, 4, 5
"""Exit codes, as of a run."""


def run_label_job(
    source: Path,
    settings: LabelSettings,
    *,
    store: Path,
    workers: int | None = None,
    annotator: Annotator | None = None,
    budget: int | None = None,
    again: bool = False,
    console: Console | None = None,
) -> tuple[int, Harvest]:
    """Label the frames of a file into a store; return exit code and counts.

    Parameters
    ----------
    source
        Any file ASE reads, all its frames.
    settings
        Of reference and flags.
    store
        NAME.h5, made where it is not there.
    workers
        Instead of those of ``reference.executor``; processes of this machine
        where the settings name no executor.
    annotator, budget, again
        As in `label_frames`.
    console
        Where progress is shown; None shows none.

    Raises
    ------
    HybridCalcError
        Bad input, or what would go wrong for every frame alike.
    """
    total = _count(source)
    reference = build_reference(with_workers(settings, workers).reference)
    try:
        with (
            FrameStore(store) as frames,
            noted_signals(ENDING) as asked_to_stop,
            _Shown(console, total) as shown,
        ):
            harvest = label_frames(
                read_structures(source),
                reference,
                frames,
                annotator=annotator or Annotator(settings.flags),
                source=source.name,
                budget=budget,
                again=again,
                stopped=lambda: bool(asked_to_stop),
                progress=shown.update,
            )
            interrupted = bool(asked_to_stop)
    finally:
        reference.close()
    if interrupted:
        return INTERRUPTED, harvest
    if harvest.left:
        return BUDGET, harvest
    lost = harvest.quarantined and not (harvest.labelled or harvest.known)
    return (NO_LABEL if lost else FINISHED), harvest


def with_workers(settings: LabelSettings, workers: int | None) -> LabelSettings:
    """Return the settings with another number of workers.

    Raises
    ------
    InputError
        The toy needs no workers.
    """
    if workers is None:
        return settings
    reference = settings.reference
    if isinstance(reference, ToyReferenceSettings):
        raise InputError("the toy reference takes microseconds; leave --workers out.")
    executor = reference.executor or LocalExecutorSettings()
    executor = executor.model_copy(update={"workers": workers})
    return settings.model_copy(
        update={"reference": reference.model_copy(update={"executor": executor})}
    )


def read_structures(source: Path) -> Iterator[Atoms]:
    """Yield every frame of a file without its results; total charge and spin in ``info``."""
    for atoms in _frames_of(source):
        info = dict(atoms.info)
        for key in ("charge", "spin"):
            if f"total_{key}" in info:
                info[key] = info[f"total_{key}"]
        yield Atoms(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell,
            pbc=atoms.pbc,
            info=info,
        )


def print_harvest(console: Console, harvest: Harvest, store: Path) -> None:
    """Print what became of the frames, and what to type next."""
    lines = [
        f"{harvest.labelled} labelled, {harvest.quarantined} in quarantine, "
        f"{harvest.known} known before, {harvest.left} left",
        *(f"{place}: {count} labels" for place, count in sorted(harvest.workers.items())),
    ]
    if harvest.retries:
        lines.append(f"{harvest.retries} frames were given out again: their worker was lost")
    lines += [f"frame {index} cannot be computed: {why}" for index, why in harvest.unusable.items()]
    if harvest.quarantined:
        lines.append(f"why frames are in quarantine: hybrid-calc store info {store}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _count(source: Path) -> int:
    """Return the number of frames; a file that cannot be read is refused before work begins."""
    return sum(1 for _ in _frames_of(source))


def _frames_of(source: Path) -> Iterable[Atoms]:
    if not source.is_file():
        raise InputError(f"there is no file {source}.")
    try:
        yield from ase.io.iread(source, index=":")
    except Exception as error:  # ASE's readers raise whatever they meet
        raise InputError(
            f"{source} cannot be read by ASE: {type(error).__name__}: {error}"
        ) from error


class _Shown:
    """Progress: a bar on a terminal, a line every tenth elsewhere."""

    def __init__(self, console: Console | None, total: int) -> None:
        self._console = console
        self._total = total
        self._tenth = 0
        self._bar = Progress(
            TextColumn("{task.completed} of {task.total} frames"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task("label", total=total, words="")

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def update(self, harvest: Harvest) -> None:
        """Show how many frames are settled."""
        done = harvest.asked + harvest.known
        words = f"{harvest.quarantined} in quarantine, {harvest.retries} retries"
        self._bar.update(self._task, completed=done, words=words)
        tenth = 10 * done // max(1, self._total)
        if self._console is not None and not self._console.is_terminal and tenth > self._tenth:
            self._tenth = tenth
            self._console.print(f"{done} of {self._total} frames, {words}", highlight=False)
