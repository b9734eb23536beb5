"""Options that say how the regime of frames from elsewhere is judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybrid_calc.flags.limits import FlagLimits
    from hybrid_calc.gate.annotation import Annotator

FIRST = "first"

Graph = Annotated[
    str | None,
    typer.Option(
        help="What regimes are judged against: a file of structures with the same atoms, or "
        "'first' for the first frame of each group; by default the bonds by covalent radii."
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="Temperature the frames were sampled at, K.")
]


def annotator_from(
    limits: FlagLimits | None, graph: str | None, temperature: float | None
) -> Annotator:
    """Return what judges regimes as the options say."""
    from hybrid_calc.gate.annotation import Annotator
    from hybrid_calc.label_job import read_structures

    given = graph is not None and graph != FIRST
    return Annotator(
        limits,
        structures=read_structures(Path(graph or "")) if given else [],
        from_first=graph == FIRST,
        temperature_kelvin=temperature,
    )
