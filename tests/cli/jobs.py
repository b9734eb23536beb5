"""The command in this process or in one of its own, on jobs that take a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_calc.cli import app


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    code: int
    out: str
    err: str


class Jobs:
    """Toy jobs in a folder of their own."""

    def __init__(self, folder: Path, monkeypatch, capfd) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def write(self, **settings: Any) -> Path:
        """Write a settings file: MD of water with the toys unless told otherwise."""
        path = self.folder / "job.yaml"
        toys = {
            "task": "md",
            "structure": {"molecule": "H2O"},
            "committee": {"kind": "toy"},
            "reference": {"kind": "toy"},
        }
        merged = {**toys, **settings}
        path.write_text(yaml.safe_dump({k: v for k, v in merged.items() if v is not None}))
        return path

    def call(self, *arguments: object) -> Ended:
        """Run the command in this process."""
        self._capfd.readouterr()
        argv = ["hybrid-calc", *map(str, arguments)]
        self._monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = self._capfd.readouterr()
        return Ended(code=int(ended.value.code or 0), out=out, err=err)

    def run(self, output: Path, *arguments: object, **settings: Any) -> Ended:
        """Run a toy job in this process."""
        return self.call("run", self.write(**settings), "--output", output, *arguments)

    def spawn(self, *arguments: object, before: str = "") -> subprocess.Popen:
        """Start the command in a process of its own; `before` is Python to run first."""
        code = before + "\nfrom hybrid_calc.cli.app import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        )


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def decisions_of(output: Path) -> list[dict[str, Any]]:
    """Return what was decided; how long it took is not part of it."""
    lines = [json.loads(line) for line in (output / "decisions.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def end_state_of(output: Path) -> dict[str, Any]:
    """Return where dynamics stands, to the bit."""
    state = json.loads((output / "state.json").read_text())
    keys = ("step", "positions", "momenta", "random", "answer", "start_length", "decisions")
    return {key: state[key] for key in (*keys, "frames", "trajectory")}
