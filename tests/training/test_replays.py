"""A run's store replayed: the same gate does the same, another one does otherwise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hybrid_calc import FrameStore, Gate, GateSettings, ToyCommittee, ToyReference
from hybrid_calc.flags.coverage import fingerprint_of
from hybrid_calc.gate.replay import replay
from hybrid_calc.training.replays import replay_frames
from tests.scripted import always, hybrid, pair


@pytest.fixture
def run(tmp_path):
    """Two trajectories over one engine, every geometry labelled; their steps and the store."""
    steps = []
    store = FrameStore(tmp_path / "run.h5")
    calc = hybrid(
        always(),
        committee=ToyCommittee(perturbation=0.2),
        reference=ToyReference(energy_offset_ev=5.0),
        store=store,
        on_step=steps.append,
    )
    other = calc.handle()
    for number in range(12):
        atoms = pair(0.72 + 0.004 * number, momentum=0.1)
        atoms.calc = calc if number % 3 else other
        atoms.get_forces()
    yield steps, store
    calc.close()


def test_the_frames_are_what_the_gate_saw(run):
    steps, store = run
    frames = replay_frames(store)
    assert len(frames) == len(steps) == 12
    for frame, step in zip(frames, steps, strict=True):
        seen = frame.observation
        assert seen.regime == step.regime
        assert seen.report == step.observation.report
        assert seen.signals == step.observation.signals
        assert seen.worst_atoms == step.observation.worst_atoms
        assert seen.mean_temperature == step.flags.mean_temperature > 0
        assert seen.fingerprint == pytest.approx(step.observation.fingerprint)
        assert frame.outcome.force_error == pytest.approx(step.force_error)
        assert frame.outcome.energy_error == pytest.approx(step.energy_error)
        assert frame.step == step.index


def test_trajectories_are_told_apart(run):
    _, store = run
    names = [frame.trajectory for frame in replay_frames(store)]
    assert len(set(names)) == 2
    assert [name == names[0] for name in names] == [number % 3 == 0 for number in range(12)]


def test_a_replay_with_the_runs_own_settings_asks_what_the_run_asked(run):
    steps, store = run
    result = replay(replay_frames(store), Gate(always()))
    assert result.asked.all()
    assert result.reasons == tuple(step.decision.policies for step in steps)
    assert np.array_equal(result.bad, [not step.good for step in steps])


def test_another_tolerance_asks_otherwise(run):
    _, store = run
    frames = replay_frames(store)
    tight, loose = (
        replay(
            frames,
            Gate(
                GateSettings(
                    policies={"uncertain"},
                    force_tolerance_ev_per_ang=value,
                    energy_tolerance_ev=9,
                )
            ),
        )
        for value in (1e-4, 1e4)
    )
    assert tight.asked.all()
    assert tight.bad.any()
    assert not loose.asked.any()
    assert not loose.bad.any()


def test_frames_that_do_not_say_what_was_seen_are_left_out(run):
    _, store = run
    records = list(store)
    bare = {key: value for key, value in records[0].meta.items() if key != "observation"}
    records[0] = dataclasses.replace(records[0], meta=bare)
    records[1] = dataclasses.replace(records[1], label=None, rejection="no")
    records[2] = dataclasses.replace(records[2], prediction=None)
    assert len(replay_frames(records)) == 9


def test_a_fingerprint_needs_no_history():
    atoms = pair(0.8)
    assert fingerprint_of(atoms).shape[0] == 2
    atoms.rotate(30, "x")
    assert fingerprint_of(atoms) == pytest.approx(fingerprint_of(pair(0.8)))
