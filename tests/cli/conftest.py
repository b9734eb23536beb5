from __future__ import annotations

import pytest

from hybrid_calc.committee.toy import ToyCommittee
from tests.cli.jobs import Jobs


@pytest.fixture
def jobs(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    return Jobs(tmp_path, monkeypatch, capfd)


@pytest.fixture
def at_call(monkeypatch):
    """Let something happen at the n-th geometry the toy committee is asked about."""

    def arrange(number: int, what) -> None:
        calls = []
        original = ToyCommittee.predict

        def predict(self, atoms):
            calls.append(1)
            if len(calls) == number:
                what()
            return original(self, atoms)

        monkeypatch.setattr(ToyCommittee, "predict", predict)

    return arrange
