"""Pytest plugin that puts HybridCalculator in EMT's place, for ASE's own tests.

Use it with ``PYTHONPATH=tests/conformance python -m pytest -p emt_swap``.
The committee is two real EMT members, the reference a third; no policy is
switched on, so that the committee answers and its mean is EMT's answer.

With ``--as-asap3`` it also stands in for asap3 (a faster EMT in C++), which
turns another hundred of ASE's tests on.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import ase.calculators.emt
from ase.calculators.emt import EMT

from hybrid_calc import AseReference, GateSettings, HybridCalculator, MembersCommittee


class HybridEMT(HybridCalculator):
    """HybridCalculator with EMT's keyword arguments; a class, since some tests subclass EMT."""

    made = 0
    computed = 0

    def __init__(self, **parameters: object) -> None:
        super().__init__(
            MembersCommittee([EMT(**parameters), EMT(**parameters)]),
            AseReference(EMT(**parameters)),
            GateSettings(policies=frozenset()),
            on_step=self.count,
        )
        HybridEMT.made += 1

    @staticmethod
    def count(step: object) -> None:
        HybridEMT.computed += 1


def pytest_addoption(parser: object) -> None:
    parser.addoption("--as-asap3", action="store_true", help="stand in for asap3.EMT as well")


def pytest_configure(config: object) -> None:
    """Swap before any test module imports EMT."""
    ase.calculators.emt.EMT = HybridEMT
    if config.getoption("--as-asap3"):
        asap3 = ModuleType("asap3")
        asap3.EMT = HybridEMT
        asap3.__version__ = "0"
        asap3.__spec__ = ModuleSpec("asap3", None)
        sys.modules["asap3"] = asap3


def pytest_terminal_summary(terminalreporter: object) -> None:
    """Say how often the swap was used, so that a run that tests nothing is seen."""
    terminalreporter.write_line(
        f"HybridCalculator made {HybridEMT.made} times, {HybridEMT.computed} geometries"
    )
