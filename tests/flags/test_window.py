"""What is kept of the last steps: as much as asked, digit for digit, of any structure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.flags.window import Recent

STRUCTURES = {
    "water": molecule("H2O"),
    "one atom": Atoms("He"),
    "no bond": Atoms("He2", [[0, 0, 0], [0, 0, 5]]),
}


def monitor():
    return Monitor(FlagLimits(), CommitteeInfo(name="test", identity="0", size=2))


def moves(name, steps):
    """Return that structure, rattled anew at each step."""
    frames = [STRUCTURES[name].copy() for _ in range(steps)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.03, seed=number)
        atoms.set_momenta(np.full((len(atoms), 3), 0.1))
    return frames


def same(one, other):
    assert one.kept == other.kept
    for name in ("bonds", "initial", "lengths", "counts"):
        assert getattr(one, name).shape == getattr(other, name).shape
        assert np.array_equal(getattr(one, name), getattr(other, name))


def written(data):
    return json.loads(json.dumps(data))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_record_has_it_back_with_its_geometry(name, steps):
    watch, frames = monitor(), moves(name, steps)
    for atoms in frames:
        watch.survey(atoms)
    recent = watch.recent()
    assert len(recent.lengths) == len(recent.counts) == min(steps, 3)
    same(Recent.from_dict(written(recent.to_dict()), frames[-1]), recent)
    alone = Recent.alone(frames[-1], FlagLimits().bonded_ratio)
    assert np.array_equal(alone.lengths, recent.lengths[-1:])
    assert np.array_equal(alone.counts, recent.counts[-1:])


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("steps", range(6))
def test_a_state_has_it_back_even_before_the_first_step(name, steps):
    whole, first, second = monitor(), monitor(), monitor()
    frames = moves(name, 8)
    for watch in (whole, first):
        watch.start(frames[0])
        for atoms in frames[:steps]:
            watch.survey(atoms)
    second.restore(written(first.state()))
    same(second.recent(), whole.recent())
    for atoms in frames[steps:]:
        whole.survey(atoms)
        second.survey(atoms)
        same(second.recent(), whole.recent())


def test_before_the_first_geometry_there_is_none():
    assert monitor().recent() is None
