"""What a relaxation or a band found, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_FREQUENCIES = 6
"""Lowest frequencies that are printed; all are in ``summary.json``."""
TELLING_INVCM = 75.0
"""Softer modes than this are spoken of, such as a methyl group's on its barrier."""


def print_result(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the result of a job on one surface; nothing for other jobs."""
    if summary.get("driver") != "surface" or "files" not in summary:
        return  # another driver, or not even a first label
    rows = _minimum(summary) if summary["task"] == "relax" else _barrier(summary)
    state = "confirmed by the reference" if summary["confirmed"] else "NOT CONFIRMED"
    table = Table(title=f"Result: {state}", show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if "profile" in summary:
        _print_profile(console, summary)


def _minimum(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("energy", f"{summary['energy_ev']:.4f} eV"),
        ("largest force of the reference", f"{summary['fmax_ev_per_ang']:.4f} eV/A"),
        *_how(summary),
    ]
    softest = summary.get("softest_invcm")
    if softest is not None and softest < TELLING_INVCM:
        words = (
            f"{softest:.0f} 1/cm: too soft for forces, or for a surface, to tell a minimum from a "
            "saddle; relax.frequencies: reference does, above 50i"
        )
        rows.append(("softest mode", words))
    found = summary.get("vibrations")
    if found is not None:
        lowest = ", ".join(f"{one:.0f}" for one in found["frequencies_invcm"][:MOST_FREQUENCIES])
        rows += [
            ("lowest frequencies", f"{lowest} 1/cm"),
            ("imaginary modes", str(found["imaginary_modes"])),
            ("zero-point energy", f"{found['zero_point_energy_ev']:.4f} eV"),
        ]
    return rows


def _ev_within(summary: Mapping[str, Any], name: str) -> str:
    """Return an energy with its interval, where it is known."""
    low, high = summary[f"{name}_interval_95_ev"]
    interval = "" if low is None or high is None else f"  (95 %: {low:.3f} to {high:.3f})"
    return f"{_ev(summary[f'{name}_ev'])}{interval}"


def _barrier(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = summary["labels_by_purpose"]
    counts = ", ".join(f"{count} {where}" for where, count in labels.items() if count)
    rows = [
        ("barrier", _ev_within(summary, "barrier")),
        ("barrier of the way back", _ev_within(summary, "reverse_barrier")),
        ("reaction energy", _ev(summary["reaction_energy_ev"])),
        ("largest force at the transition state", _force(summary["transition_fmax_ev_per_ang"])),
    ]
    if summary["curvatures_ev_per_ang2"]:
        two = " and ".join(f"{one:+.2f}" for one in summary["curvatures_ev_per_ang2"] if one)
        rows.append(("lowest curvatures there", f"{two} eV/A^2"))
    steps = summary["elementary_steps"]
    for step in steps:
        rows += _step(step, named=len(steps) > 1)
    for other in summary["pathways"] if len(summary["pathways"]) > 1 else ():
        state = "confirmed" if other["confirmed"] else f"given up: {other['missing']}"
        words = f"{_ev(other['barrier_ev'])}, steps: {other['steps']}, {state}"
        rows.append(("pathway sought", words))
    return [*rows, ("labels", counts or "none"), *_how(summary)]


def _step(step: Mapping[str, Any], *, named: bool) -> list[tuple[str, str]]:
    """Return what is known of one elementary step beside its barrier, with it where named."""
    rows = []
    if named:
        force = _force(step["transition_fmax_ev_per_ang"])
        state = "" if step["confirmed"] else ", NOT CONFIRMED"
        height = f"{_ev(step['barrier_ev'])}, {force}"
        if step["barrierless"]:
            height = "no barrier above the higher of the two"
        words = f"{height}, {step['labels']} labels{state}"
        rows.append((" to ".join(step["joins"]), words))
    if (polish := step.get("polish")) is not None:
        walk = f"{polish['labels']} labels, moved {polish['moved_ang']:.3f} A"
        words = f"{polish['method']}, {walk}, energy {polish['energy_change_ev']:+.4f} eV"
        rows.append(("polished", words))
    return rows + [
        (
            "labelled end downhill",
            f"{end['joins']}, {end['away_ang']:.2f} A from that minimum, "
            f"{end['energy_ev']:+.3f} eV, {end['fmax_ev_per_ang']:.2f} eV/A",
        )
        for end in step.get("downhill_ends", ())
    ]


def _how(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the result rests on."""
    priors = {"committee": "committee + labels of this molecule", "none": "labels alone"}
    rows = [("surface", priors.get(summary["prior"], summary["prior"]))]
    if summary.get("method") == "reference":
        rows.append(("finished by", "the plain optimiser on the reference"))
    if summary["known_labels"]:
        rows.append(("labels from the store", str(summary["known_labels"])))
    seen = summary["forecasts"]
    if seen["predicted_before_label"]:
        rows.append(
            (
                "labels within the stated 95 %",
                f"{seen['within_interval_95']} of {seen['predicted_before_label']}",
            )
        )
    return rows


def _print_profile(console: Console, summary: Mapping[str, Any]) -> None:
    profile = summary["profile"]
    table = Table("image", "along the path, A", "energy, eV", "95 %, eV", "", title="Path")
    columns = ("distance_ang", "energy_ev", "half_width_95_ev", "labelled")
    top = (profile["transition_state"] or {}).get("image")
    rows = zip(*(profile[name] for name in columns), strict=True)
    for image, (distance, energy, half, labelled) in enumerate(rows):
        table.add_row(
            str(image),
            f"{distance:.2f}",
            "" if energy is None else f"{energy:.3f}",
            "" if half is None else f"+- {half:.3f}",
            "transition state" if image == top else "label" if labelled else "surface",
        )
    console.print(table)


def _ev(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} eV"


def _force(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} eV/A"
