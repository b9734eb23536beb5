"""kill -9 of a whole run: every label that the run has told of is in the store."""

from __future__ import annotations

import random
import signal
import time

from hybrid_calc.store.frames import FrameStore
from tests.store.samples import identities, in_file, python

RUN = """
import sys
import numpy as np
from ase import units
from ase.build import molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.toy import ToyCommittee
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.record import Record

path, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reference = ToyReference()
calculator = HybridCalculator(
    ToyCommittee(), reference, GateSettings(audit_probability=1.0), store=path
)
atoms = molecule("H2O")
atoms.calc = calculator
MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(seed))

def tell():
    label = calculator.last_step.label
    if label is not None:
        frame = Record.of(calculator.atoms, level=reference.level, label=label)
        print(frame.identity, flush=True)

dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
dynamics.attach(tell)
dynamics.run(steps)
calculator.close()
"""


def read_lines(process, count):
    return [process.stdout.readline().strip() for _ in range(count)]


def test_killed_runs_lose_no_label_they_told_of(tmp_path):
    chance = random.Random(2)  # noqa: S311  (not for secrets)
    path = tmp_path / "run.h5"
    told = []
    for seed in range(3):
        run = python(RUN, path, seed, 1_000_000)
        told += read_lines(run, chance.randrange(3, 25))
        time.sleep(chance.uniform(0, 0.05))
        run.kill()
        rest, _ = run.communicate()
        assert run.returncode == -signal.SIGKILL
        told += rest.split("\n")[:-1]  # the last line may be cut off
        content = FrameStore(path).read()
        assert content.damage == ()
        assert set(told) <= set(identities(content.records))
    assert len(set(told)) >= 9


def test_run_that_ends_by_itself_goes_on_with_the_store_of_a_killed_one(tmp_path):
    path = tmp_path / "run.h5"
    killed = python(RUN, path, 1, 1_000_000)
    told = read_lines(killed, 5)
    killed.kill()
    killed.communicate()
    whole = python(RUN, path, 2, 10)
    out, _ = whole.communicate(timeout=60)
    assert whole.returncode == 0
    assert len(out.split()) == 11
    found = in_file(path)
    assert set(told) | set(out.split()) <= set(found)
    assert set(found.values()) == {1}
