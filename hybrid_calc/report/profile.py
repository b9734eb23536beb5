"""The energy profile of a band with its band of uncertainty, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 200
"""Points of the drawn curve."""

SIZE_INCHES = (6.4, 4.0)


def draw_profile(path: Path, summary: Mapping[str, Any]) -> bool:
    """Draw ``profile`` of a band's summary and write it as PNG.

    The curve between images is a monotone interpolation of their energies, the shade the
    95 % interval of each relative to the reactant; filled circles are images that carry a
    label, open ones rest on the surface.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    profile = summary["profile"]
    distance = np.array(profile["distance_ang"], dtype=float)
    energy = _numbers(profile["energy_ev"])
    half = _numbers(profile["half_width_95_ev"])
    if not np.isfinite(energy).all() or (np.diff(distance) <= 0).any():
        return False
    # matplotlib takes half a second to import, and pyplot would look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    fine = np.linspace(distance[0], distance[-1], POINTS)
    curve = _between(distance, energy, fine)
    axes.plot(fine, curve, color="tab:blue", lw=1.5)
    if np.isfinite(half).all():
        wide = _between(distance, half, fine)
        axes.fill_between(
            fine, curve - wide, curve + wide, color="tab:blue", alpha=0.2, lw=0, label="95 %"
        )
    labelled = np.array(profile["labelled"], dtype=bool)
    for which, face, words in (
        (labelled, "tab:blue", "labelled by the reference"),
        (~labelled, "white", "surface"),
    ):
        axes.plot(distance[which], energy[which], "o", ms=6, mfc=face, mec="tab:blue", label=words)
    _mark_transition_state(axes, summary)
    axes.set_xlabel("distance along the path / A")
    axes.set_ylabel("energy above the reactant / eV")
    axes.set_title(_title(summary), fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    return True


def _mark_transition_state(axes: Any, summary: Mapping[str, Any]) -> None:
    place = summary["profile"]["transition_state"]
    if place is None or place["energy_ev"] is None:
        return
    axes.plot(
        place["distance_ang"], place["energy_ev"], "*", ms=13, color="tab:red",
        label="transition state, labelled" if summary["confirmed"] else "best so far, labelled",
    )  # fmt: skip


def _title(summary: Mapping[str, Any]) -> str:
    barrier = summary["barrier_ev"]
    words = "no barrier" if barrier is None else f"barrier {barrier:.3f} eV"
    state = "confirmed" if summary["confirmed"] else "NOT CONFIRMED"
    return f"{words}, {state} by {summary['level']}"


def _between(
    places: NDArray[np.float64], values: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy.interpolate import PchipInterpolator

    return np.asarray(PchipInterpolator(places, values)(wanted))


def _numbers(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])
