"""What a committee is validated for, in words and as data, and how much of a run lay inside."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid_calc.committee.bundle import read_header
from hybrid_calc.errors import BundleError, CalibrationError, InputError
from hybrid_calc.gate.calibration_file import CommitteeCalibration, read_calibration
from hybrid_calc.gate.reasons import listed
from hybrid_calc.gate.regime_entry import RegimeEntry
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.gate.scope_entry import band_name, band_of

NO_CARD = "nothing is validated: no calibration of this committee was used"


class ScopeLog:
    """Steps of a run, by kind of geometry, temperature and molecule."""

    def __init__(self) -> None:
        self._steps: Counter[tuple[str, tuple[float | None, float | None], str | None]] = Counter()

    def add(self, regime: str, temperature: float | None, molecule: str | None) -> None:
        """Take in one step; None is a molecule that was not recorded."""
        self._steps[regime, band_of(temperature), molecule] += 1

    def summary(self, card: ScopeCard | None) -> dict[str, Any]:
        """Return which share of the steps lay inside the scope of a card, JSON-able."""
        rows: list[dict[str, Any]] = []
        for (regime, band, molecule), steps in self._steps.most_common():
            known = frozenset[str]() if card is None else card.molecules(regime, band)
            inside = molecule in known
            row = {
                "kind": f"{regime}, {band_name(band)}",
                "molecule": molecule,
                "steps": steps,
                "inside": inside,
            }
            if known and not inside:
                who = molecule or "the molecule was not recorded"
                row["why"] = f"{who}: not among the molecules validated, {listed(sorted(known))}"
            rows.append(row)
        total = sum(self._steps.values())
        inside_steps = sum(row["steps"] for row in rows if row["inside"])
        return {
            "steps": total,
            "steps_inside": inside_steps,
            "share_inside": inside_steps / total if total else None,
            "kinds": rows,
            "card": None if card is None else card.to_dict(),
        }


def scope_line(scope: Mapping[str, Any]) -> str:
    """Return in one line which share of a run's steps lay inside the scope."""
    if scope["card"] is None:
        return f"0 % of steps: {NO_CARD}"
    if scope["share_inside"] is None:
        return "no steps"
    outside = [
        f"{row['kind']} {row['steps']}" + (f" ({row['why']})" if "why" in row else "")
        for row in scope["kinds"]
        if not row["inside"]
    ]
    line = f"{scope['share_inside']:.0%} of steps".replace("%", " %")
    return line + (f"; outside: {'; '.join(outside)}" if outside else "")


def read_scope(path: Path) -> tuple[ScopeCard | None, dict[str, Any] | None]:
    """Return the scope card of a bundle, a calibration or a run, and what a run says of its steps.

    Parameters
    ----------
    path
        ``NAME.bundle``, the file that ``hybrid-calc calibrate`` wrote, or the folder of a run.

    Raises
    ------
    InputError
        It is none of these.
    """
    if path.is_dir():
        scope = _of_run(path)
        card = scope["card"]
        return (None if card is None else ScopeCard.from_dict(card)), scope
    if not path.exists():
        raise InputError(f"there is no {path}; give a bundle, a calibration or a run's folder.")
    try:
        header = read_header(path)
    except BundleError:
        try:
            return read_calibration(path).card, None
        except CalibrationError as error:
            raise InputError(
                f"{path} is neither a committee bundle nor a calibration nor a run's folder."
            ) from error
    return (None if header.scope is None else ScopeCard.from_dict(header.scope)), None


def _of_run(folder: Path) -> dict[str, Any]:
    try:
        scope = json.loads((folder / "summary.json").read_text())["scope"]
        return dict(scope)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no summary.json with a scope; give the folder of a finished run."
        ) from error


def print_scope(
    console: Console, card: ScopeCard | None, run: Mapping[str, Any] | None = None
) -> None:
    """Print what is validated, and by name everything that is not."""
    if run is not None:
        _line(console, f"inside the scope: {scope_line(run)}")
    if card is None:
        if run is None:
            _line(console, NO_CARD)
        return
    _line(console, f"scope of {card.committee_name} ({card.committee}) against {card.level}")
    _line(console, "validated:")
    for sentence in card.statements() or ["nothing"]:
        _line(console, f"  {sentence}")
    _line(console, "NOT validated:")
    for sentence in card.not_validated():
        _line(console, f"  {sentence}")
    _line(console, card.noise())
    for entry in card.entries:
        _line(console, f"  {card.errors(entry)}")
    for chosen in card.chosen:
        _line(console, str(chosen))
    for why, frames in card.left_out.items():
        _line(console, f"left out, {why}: {frames}")


def print_calibration(console: Console, calibration: CommitteeCalibration) -> None:
    """Print thresholds by regime and the scope."""
    table = Table(
        "regime", "frames", "bad", "asked from", "asks for", "error within", "signals",
        title=f"at most {calibration.missed_share:.0%} of bad frames pass unasked",
    )  # fmt: skip
    for entry in calibration.entries:
        table.add_row(*_row(entry, calibration.missed_share))
    console.print(table)
    training = calibration.training or "not given: no ranges, no novelty"
    _line(console, f"training frames: {training}")
    print_scope(console, calibration.card)


def calibration_json(calibration: CommitteeCalibration) -> dict[str, Any]:
    """Return everything but arrays, JSON-able."""
    return {
        "missed_share": calibration.missed_share,
        "regimes": [entry.to_dict() for entry in calibration.entries],
        "training": calibration.training,
        "ranges": None if calibration.ranges is None else calibration.ranges.to_dict(),
        "provenance": dict(calibration.provenance),
        "scope": calibration.card.to_dict(),
    }


def _row(entry: RegimeEntry, missed_share: float) -> tuple[str, ...]:
    known = entry.for_gate(missed_share)
    limit = f"{known.threshold:.3g} {known.unit}" if known.unit else f"P = {known.threshold:.2g}"
    factor = known.error_factor
    return (
        str(entry.regime),
        f"{entry.frames} of {entry.labelled}",
        f"{entry.failures} ({entry.bad_share:.0%})",
        limit if known.validated else "unvalidated: always",
        f"{entry.call_rate:.0%}",
        f"{factor:.2g} x spread" if math.isfinite(factor) else "unknown",
        ", ".join(entry.score.signals),
    )


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
