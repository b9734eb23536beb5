"""What happened in a run: as data, and as tables a person can read."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid_calc.engine import Engine
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.report.scope import ScopeLog, scope_line

POLICY_WORDS = {
    "outside": "outside the committee's domain",
    "uncertain": "committee uncertain",
    "contradiction": "flags and committee disagree",
    "unseen": "nothing validated nearby",
    "audit": "audit at random",
    "acquisition": "wanted by the driver",
}


class ErrorLog:
    """What the labels of a run said about the committee, regime by regime."""

    def __init__(self) -> None:
        self._errors: dict[str, list[tuple[float, bool]]] = {}

    def add(self, regime: str, force_error: float | None, good: bool | None) -> None:
        """Take in one geometry; nothing happens where there was no label or no prediction."""
        if force_error is not None and good is not None:
            self._errors.setdefault(regime, []).append((force_error, good))

    def by_regime(self) -> dict[str, dict[str, float]]:
        """Return labels, share good, median and largest force error (eV/A) of each regime."""
        result = {}
        for regime, entries in self._errors.items():
            errors = sorted(error for error, _ in entries)
            result[regime] = {
                "labels": len(entries),
                "within_tolerance": sum(good for _, good in entries) / len(entries),
                "median_force_error_ev_per_ang": errors[len(errors) // 2],
                "max_force_error_ev_per_ang": errors[-1],
            }
        return result


def summarise(engine: Engine, errors: ErrorLog, scope: ScopeLog) -> dict[str, Any]:
    """Return the figures of a run, JSON-able; ``summary.json`` holds them."""
    tally, gate, info = engine.tally, engine.gate, engine.committee.info
    missed = gate.audits.missed()
    return {
        "geometries": tally.geometries,
        "reference_calls": gate.budget.spent,
        "labels": tally.labels,
        "labels_reused": tally.reused,
        "audits": missed.audits,
        "audits_bad": missed.bad,
        "missed_failures": str(missed),
        "missed_share": missed.estimate if missed.audits else None,
        "missed_share_95": [missed.low, missed.high],
        "unflagged_share": missed.unflagged_share if tally.geometries else None,
        "calibrations_set_aside": gate.doubted,
        "budget_left": gate.budget.left,
        "reasons": dict(tally.reasons),
        "reference_failures": tally.failures,
        "unverified_steps": tally.unverified,
        "errors_by_regime": errors.by_regime(),
        "scope": scope.summary(_card(engine)),
        "force_tolerance_ev_per_ang": gate.settings.force_tolerance_ev_per_ang,
        "notice": gate.notice,
        "wall_seconds": {stage: round(value, 3) for stage, value in tally.seconds.items()},
        "committee": info.name,
        "committee_hash": info.identity,
        "level": str(engine.reference.level),
        "level_hash": engine.reference.level.hash,
        "store": None if engine.store is None else str(engine.store.path),
        "run": engine.run,
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """Print what happened, why the reference was asked, and what it said about the committee."""
    table = Table(title=f"{summary['task']}: {summary['ending']}", show_header=False)
    calls, geometries = summary["reference_calls"], summary["geometries"]
    share = calls / geometries if geometries else math.nan
    left = "no limit" if summary["budget_left"] is None else f"{summary['budget_left']} left"
    surface = summary.get("driver") == "surface"  # every step a label, nothing left to chance
    for name, value in (
        ("steps", str(summary["steps"])),
        ("geometries", str(geometries)),
        ("reference calls", f"{calls} ({share:.0%} of geometries, budget: {left})"),
        ("reference failures", str(summary["reference_failures"])),
        ("unverified steps", str(summary["unverified_steps"])),
        ("audits", _audits(summary)),
        ("inside the scope", scope_line(summary["scope"])),
        ("wall time", _wall(summary["wall_seconds"])),
        ("committee", f"{summary['committee']} ({summary['committee_hash']})"),
        ("level of theory", f"{summary['level']} ({summary['level_hash']})"),
    ):
        if not (surface and name in {"steps", "unverified steps", "audits"}):
            table.add_row(name, value)
    console.print(table)
    if summary["reasons"]:
        reasons = Table("why the reference was asked", "times", title="Reasons (several may hold)")
        for policy, times in sorted(summary["reasons"].items(), key=lambda item: -item[1]):
            reasons.add_row(POLICY_WORDS.get(policy, policy), str(times))
        console.print(reasons)
    if summary["errors_by_regime"]:
        console.print(_errors_table(summary))


def _card(engine: Engine) -> ScopeCard | None:
    """Return what the committee of a run is validated for, None where nobody knows."""
    calibration = engine.gate.usable_calibration
    return calibration.card if isinstance(calibration, CommitteeCalibration) else None


def _errors_table(summary: dict[str, Any]) -> Table:
    tolerance = summary["force_tolerance_ev_per_ang"]
    table = Table(
        "regime",
        "labels",
        f"within {tolerance:g} eV/A",
        "median error, eV/A",
        "largest, eV/A",
        title="What the reference said about the committee's forces",
    )
    for regime, row in summary["errors_by_regime"].items():
        table.add_row(
            regime,
            str(row["labels"]),
            f"{row['within_tolerance']:.0%}",
            f"{row['median_force_error_ev_per_ang']:.2f}",
            f"{row['max_force_error_ev_per_ang']:.2f}",
        )
    return table


def _audits(summary: dict[str, Any]) -> str:
    if not summary["audits"]:
        return "none: nothing is known about what the gate missed"
    text: str = summary["missed_failures"]
    return text


def _wall(seconds: dict[str, float]) -> str:
    parts = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    return parts or "none"
