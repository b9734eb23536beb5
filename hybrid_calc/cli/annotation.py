"""Options that say how the regime of frames from elsewhere is judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybrid_calc.flags.limits import FlagLimits
    from hybrid_calc.gate.annotation import Annotator

Graph = Annotated[
    Path | None,
    typer.Option(
        help="Structures whose bonds are the initial graph of frames with the same atoms; by "
        "default the first whole frame of each group."
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="Temperature the frames were sampled at, K.")
]
Separate = Annotated[
    bool,
    typer.Option(
        "--separate", help="Frames have nothing to do with each other: judge each by radii alone."
    ),
]


def annotator_from(
    limits: FlagLimits | None, graph: Path | None, temperature: float | None, separate: bool
) -> Annotator:
    """Return what judges regimes as the options say."""
    from hybrid_calc.gate.annotation import Annotator
    from hybrid_calc.label_job import read_structures

    return Annotator(
        limits,
        structures=[] if graph is None else read_structures(graph),
        temperature_kelvin=temperature,
        groups=not separate,
    )
