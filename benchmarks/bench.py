"""What every benchmark shares: its options, its figures, and where it ran."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, limit: value == limit,
}


def parser(description: str) -> argparse.ArgumentParser:
    """Return the options every benchmark takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--json", type=Path, help="write figures, targets and environment here")
    options.add_argument("--quick", action="store_true", help="smaller systems, under 50 s")
    return options


def report(
    figures: dict[str, float],
    targets: dict[str, tuple[str, float]],
    path: Path | None,
    **more: Any,
) -> None:
    """Print every figure beside its target and write them as JSON.

    A figure that was not measured is absent, never zero.
    """
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        line = f"{name:{width}s}  {value:.4g}"
        if name in targets:
            operator, limit = targets[name]
            met = OPERATORS[operator](value, limit)
            line += f"  (target {operator} {limit:g}: {'met' if met else 'NOT MET'})"
        print(line)
    if path is not None:
        content = {
            "figures": figures,
            "targets": {name: list(target) for name, target in targets.items()},
            "environment": environment(),
            **more,
        }
        path.write_text(json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Return when, on what kind of machine and with which versions."""
    versions = {}
    for package in ("hybrid_calc", "ase", "torch", "mace-torch", "torchani", "pyscf", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
