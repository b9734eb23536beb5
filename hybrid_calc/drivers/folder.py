"""What a run leaves on disk: decisions, trajectory, state to go on from, summary."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ase.io
import orjson
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from hybrid_calc.answer.step import Step
from hybrid_calc.errors import InputError
from hybrid_calc.reference.label import Label

LINES_AT_ONCE = 20
"""Lines of decisions.jsonl kept back; the store, not this file, is what loses nothing."""
ONE_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
STATE_SCHEMA = 2


class RunFolder:
    """The output folder of one run.

    Parameters
    ----------
    path
        Created where it is not there.
    resume
        Go on with what is there; without it a folder that holds a run is refused.

    Raises
    ------
    InputError
        There is a run already, or none to resume, or its state is of another schema.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._state = path / "state.json"
        if resume and not self._state.exists():
            raise InputError(f"{path} holds no run to resume; run without --resume.")
        if not resume and self._state.exists():
            raise InputError(
                f"{path} holds a run already; add --resume to go on with it, "
                "or give another --output."
            )
        self.resumed: dict[str, Any] | None = self._load() if resume else None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._trim()
            mode = "a" if resume else "w"
            self._decisions = (path / "decisions.jsonl").open(f"{mode}b")
            self._trajectory = Trajectory(str(self.trajectory_path), mode)
        except OSError as error:
            raise InputError(
                f"folder {path} cannot hold a run: {error.strerror or error}: {error.filename}. "
                "Give another --output."
            ) from error
        self._lines = self.resumed["decisions"] if self.resumed else 0
        self._unwritten: list[Step] = []
        self._frames = self.resumed["frames"] if self.resumed else 0
        before = self.resumed["wall_seconds"] if self.resumed else 0.0
        self._start = time.perf_counter() - before

    @property
    def trajectory_path(self) -> Path:
        """ASE trajectory of the run."""
        return self.path / "trajectory.traj"

    @property
    def wall_seconds(self) -> float:
        """Time since the run began, s; without the pauses between its parts."""
        return time.perf_counter() - self._start

    def log(self, step: Step) -> None:
        """Take in one line about a geometry; lines are written a few at a time.

        Writing one by one costs three times as much a step, because the
        committee has filled the processor's caches in between.
        """
        self._unwritten.append(step)
        self._lines += 1
        if len(self._unwritten) >= LINES_AT_ONCE:
            self._write_lines()

    def _write_lines(self) -> None:
        for step in self._unwritten:
            self._decisions.write(orjson.dumps(step.to_dict(), option=ONE_LINE))
        self._unwritten.clear()

    def decisions(self) -> Iterator[dict[str, Any]]:
        """Yield what was logged before this run was resumed."""
        with (self.path / "decisions.jsonl").open("rb") as file:
            for text in itertools.islice(file, self._lines):
                yield json.loads(text)

    def write_frame(self, atoms: Atoms, step: Step) -> None:
        """Append a frame with the answer it got and who gave it."""
        frame = atoms.copy()
        frame.set_constraint()
        frame.info["source"] = step.source.value
        frame.info["verified"] = step.verified
        frame.calc = SinglePointCalculator(
            frame, energy=step.energy, forces=step.forces, free_energy=step.energy
        )
        self._trajectory.write(frame)
        self._frames += 1

    def write_label(self, atoms: Atoms, label: Label, reason: str) -> None:
        """Append a geometry with the reference's own answer, not aligned, and why it was asked."""
        frame = atoms.copy()
        frame.set_constraint()
        frame.info |= {"source": "reference", "verified": True, "reason": reason}
        frame.calc = SinglePointCalculator(
            frame, energy=label.energy, forces=label.forces, free_energy=label.energy
        )
        self._trajectory.write(frame)
        self._frames += 1

    def write_structures(self, name: str, frames: Sequence[Atoms]) -> str:
        """Write structures with what stands on their calculators as extended XYZ.

        Returns
        -------
        str
            The file's name in the folder.
        """
        path = self.path / f"{name}.xyz"
        temporary = path.with_name(path.name + ".tmp")
        ase.io.write(temporary, list(frames), format="extxyz")
        os.replace(temporary, path)
        return path.name

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from, durably and all at once."""
        self._write_lines()
        self._decisions.flush()
        full = {
            **state,
            "schema": STATE_SCHEMA,
            "decisions": self._lines,
            "frames": self._frames,
            "wall_seconds": self.wall_seconds,
        }
        _replace(self._state, json.dumps(full).encode())

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        text = json.dumps(summary, indent=2) + "\n"
        _replace(self.path / "summary.json", text.encode())

    def close(self) -> None:
        """Close every file."""
        self._write_lines()
        self._decisions.close()
        self._trajectory.close()

    def _load(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state.read_text())
            schema = state.get("schema")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self._state} cannot be read; start the run again with another --output. "
                "Labels are safe in the store."
            ) from error
        if schema != STATE_SCHEMA:
            raise InputError(
                f"{self._state} has schema {schema}; this version resumes schema "
                f"{STATE_SCHEMA}. Resume with the version that wrote it."
            )
        return dict(state)

    def _trim(self) -> None:
        """Drop what was logged after the state that is resumed from; it will happen again."""
        if self.resumed is None:
            return
        decisions = self.path / "decisions.jsonl"
        lines = decisions.read_bytes().splitlines(keepends=True)
        _replace(decisions, b"".join(lines[: self.resumed["decisions"]]))
        if not self.resumed["frames"]:  # ASE cannot read a trajectory without frames
            self.trajectory_path.write_bytes(b"")
            return
        with Trajectory(str(self.trajectory_path)) as frames:
            if len(frames) == self.resumed["frames"]:
                return
            kept = [frames[index] for index in range(self.resumed["frames"])]
        temporary = self.trajectory_path.with_suffix(".tmp")
        ase.io.write(temporary, kept, format="traj")
        os.replace(temporary, self.trajectory_path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
