"""The README's first example is run, and its output compared with what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    if found is None:
        pytest.fail(f"README has no {language} block")
    return found.group(1)


def test_the_first_example_prints_what_stands_below_it(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    shown, printed = block("text"), ended.stdout
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=0.1, abs=0.02)
    assert (tmp_path / "methanol.h5").exists()


def test_the_table_example_prints_what_stands_below_it():
    pattern = r"```python\n([^`]*?replay\(frames.*?)```\n\n```text\n(.*?)```"
    ((code, shown),) = re.findall(pattern, README, re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.stdout == shown, ended.stderr


def test_the_first_example_has_about_fifteen_lines():
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 17


def test_every_file_and_command_the_readme_names_is_there():
    root = Path(__file__).parents[1]
    for name in re.findall(r"(?:configs|benchmarks)/[\w.-]+\.\w+", README):
        assert (root / name).exists(), name
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile, target


def test_the_readme_keeps_its_order():
    places = [
        README.index(mark)
        for mark in (
            "# hybrid_calc", "```python", "## The way of one geometry", "## Install",
            "## Three jobs", "## What it is not validated for", "## Benchmarks", "## Develop",
        )
    ]  # fmt: skip
    assert places == sorted(places)
