"""ASE's own tests with HybridCalculator in EMT's place, in a process of their own.

Plain EMT, ASE 3.29: 199 of these tests pass, one is ASE's own expected
failure, the rest need asap3 or other programs.  Nothing is deselected but
what ASE marks slow: every test that passes with EMT has to pass here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ase.test
import pytest

HERE = Path(__file__).parent
ASE_TESTS = Path(ase.test.__file__).parent

FOLDERS = ["optimize", "md", "neb", "filter", "emt"]
FILES = ["calculator/test_fd.py", "calculator/test_traj.py", "test_dimer_method.py"]
QUICK_MD = [  # the rest of md takes minutes, or never makes an EMT
    "md/test_CO2linear_Au111_langevin.py",
    "md/test_irun_force_call_order.py",
    "md/test_langevin_com.py",
    "md/test_md.py",
    "md/test_md_stepwise.py",
    "md/test_rng.py",
]

DESELECTED: dict[str, str] = {}
"""Test and reason; a reason is a property of the class EMT, never a defect of ours."""


def run_ase_tests(paths: list[str], folder: Path, *options: str) -> tuple[dict[str, int], str]:
    """Run some of ASE's tests over the swap; return the counts of its last lines and the output.

    Neither our pytest settings nor our warnings apply: the settings file is
    empty and the root is ASE's.
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-p", "emt_swap", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, f"--rootdir={ASE_TESTS}", f"--basetemp={folder / 'ase'}"]
    command += ["-q", "-rfE", "--tb=short", "-m", "not slow", *options]
    for name in DESELECTED:
        command += ["--deselect", name]
    done = subprocess.run(
        [*command, *[str(ASE_TESTS / path) for path in paths]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    counts = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", tail(output, 3))}
    return {"code": done.returncode, **counts}, output


def tail(text: str, lines: int = 60) -> str:
    return "\n".join(text.splitlines()[-lines:])


def test_ases_quick_tests_pass_with_the_hybrid_calculator_in_emts_place(tmp_path):
    counts, output = run_ase_tests(
        [folder for folder in FOLDERS if folder != "md"] + QUICK_MD + FILES, tmp_path
    )
    assert counts["code"] == 0, tail(output)
    assert counts["passed"] >= 100
    assert counts["times"] >= 100, "HybridCalculator was hardly made in EMT's place"
    assert counts["geometries"] >= 1500


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ases_tests_pass_with_the_hybrid_calculator_in_emts_and_asap3s_place(tmp_path):
    counts, output = run_ase_tests([*FOLDERS, *FILES], tmp_path, "--as-asap3")
    assert counts["code"] == 0, tail(output)
    assert counts["passed"] >= 250
    assert counts["geometries"] >= 10_000
