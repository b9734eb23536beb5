"""``hybrid-calc run``: what it leaves behind, how it ends, how it goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase.build import molecule
from ase.io.trajectory import Trajectory

from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.frames import FrameStore
from tests.cli.jobs import decisions_of, end_state_of, summary_of

DATA = Path(__file__).parents[1] / "data"
SUMMARY_KEYS = {
    "task",
    "ending",
    "steps",
    "geometries",
    "reference_calls",
    "audits",
    "reasons",
    "reference_failures",
    "unverified_steps",
    "wall_seconds",
    "store",
    "committee_hash",
    "level_hash",
}
STAGES = {"flags", "committee", "gate", "reference", "store", "total"}
PULL = {"atoms": [0, 1], "from_step": 8, "over_steps": 20, "to_length_ang": 1.4}
"""A stretch of water's O-H in whose middle the runs below are stopped."""


KILL = """
import os, signal
from hybrid_calc.committee.toy import ToyCommittee as T
from hybrid_calc.answer.tally import Tally
from hybrid_calc.drivers import folder
def after(number, original):
    calls = []
    def called(*arguments):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    return called
"""
"""Python that lets a process kill itself at the n-th call of something."""


def md(**settings):
    return {"steps": 36, "seed": 3, "checkpoint_interval": 5, "stretch": PULL, **settings}


def ends(folder):
    """Write two structures with a barrier between them, HNC bent on the way."""
    first = molecule("HCN")
    last = molecule("HCN")
    last.positions[:, 2] *= -1
    last.rotate(75, "x")
    for name, atoms in (("first", first), ("last", last)):
        ase.io.write(folder / f"{name}.xyz", atoms)
    return {"structure": {"file": "first.xyz"}, "end": {"file": "last.xyz"}}


@pytest.fixture(scope="module")
def finished():
    """Runs without a stop, by ensemble; each is made once."""
    return {}


@pytest.fixture
def whole(jobs, tmp_path_factory, finished):
    """Return where dynamics without a stop ended."""

    def run(ensemble):
        if ensemble not in finished:
            finished[ensemble] = tmp_path_factory.mktemp("whole") / "run"
            assert jobs.run(finished[ensemble], md=md(ensemble=ensemble)).code == 0
        return finished[ensemble]

    return run


def assert_same_run(output, expected):
    assert end_state_of(output) == end_state_of(expected)
    assert decisions_of(output) == decisions_of(expected)
    calls = [summary_of(folder)["reference_calls"] for folder in (output, expected)]
    assert calls[0] == calls[1]
    frames, others = (
        ase.io.read(folder / "trajectory.traj", index=":") for folder in (output, expected)
    )
    assert len(frames) == len(others) == 37
    for frame, other in zip(frames, others, strict=True):
        assert np.array_equal(frame.positions, other.positions)
        assert np.array_equal(frame.get_forces(), other.get_forces())


def test_a_finished_run_leaves_summary_decisions_trajectory_and_store(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(output, md={"steps": 12})
    assert ended.code == 0
    summary = summary_of(output)
    assert set(summary) >= SUMMARY_KEYS
    assert set(summary["wall_seconds"]) == STAGES
    assert (summary["task"], summary["ending"], summary["steps"]) == ("md", "finished", 12)
    decisions = decisions_of(output)
    assert [line["index"] for line in decisions] == list(range(13))
    assert summary["geometries"] == 13
    labelled = sum(line["labelled"] for line in decisions)
    assert summary["reference_calls"] == labelled > 0
    assert sum(summary["reasons"].values()) >= labelled
    with FrameStore(summary["store"]) as store:
        assert len(store) == labelled
        assert store.levels[0].hash == summary["level_hash"]
        assert {record.meta["committee"] for record in store} == {summary["committee_hash"]}
    for words in ("reference calls", "hybrid-calc store info", "hybrid-calc store export"):
        assert words in ended.out


def test_the_progress_line_says_what_audits_found_while_the_run_goes_on(jobs, tmp_path):
    gate = {"audit_probability": 0.5, "policies": ["audit"]}
    ended = jobs.run(tmp_path / "run", md={"steps": 20}, gate=gate)
    lines = [line for line in ended.out.splitlines() if line.startswith("step ")]
    audits = [
        re.search(r"missed failures: .* % \(.* to .* %, 95 %\), from (\d+) audits?", line)
        for line in lines
    ]
    numbers = [int(found.group(1)) for found in audits if found]
    assert len(numbers) > 3
    assert numbers == sorted(numbers)
    assert 0 < numbers[0] < numbers[-1]


def test_the_trajectory_has_a_frame_per_step_with_its_answer_and_source(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, md={"steps": 8})
    frames = ase.io.read(output / "trajectory.traj", index=":")
    decisions = decisions_of(output)
    assert [frame.info["source"] for frame in frames] == [line["source"] for line in decisions]
    energies = [frame.get_potential_energy() for frame in frames]
    assert energies == [line["energy"] for line in decisions]


def test_the_trajectory_interval_thins_frames_but_not_decisions(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, md={"steps": 8, "trajectory_interval": 4})
    assert len(ase.io.read(output / "trajectory.traj", index=":")) == 3
    assert len(decisions_of(output)) == 9


def test_a_relaxation_ends_below_its_target_force(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(output, task="relax", relax={"driver": "ase", "fmax_ev_per_ang": 0.02})
    assert ended.code == 0
    summary = summary_of(output)
    assert summary["fmax_ev_per_ang"] < 0.02
    assert len(ase.io.read(output / "trajectory.traj", index=":")) == summary["steps"] + 1


def test_a_relaxation_out_of_steps_exits_with_3_and_resumes_to_the_end(jobs, tmp_path):
    output = tmp_path / "run"
    settings = {"task": "relax", "relax": {"driver": "ase", "fmax_ev_per_ang": 0.001, "steps": 2}}
    assert jobs.run(output, **settings).code == 3
    assert summary_of(output)["ending"] == "not converged"
    ended = jobs.run(output, "--resume", "--set", "relax.steps=100", **settings)
    assert ended.code == 0
    summary = summary_of(output)
    assert summary["geometries"] == len(decisions_of(output)) == summary["steps"] + 1
    assert len(ase.io.read(output / "trajectory.traj", index=":")) == summary["steps"] + 1


def test_a_band_reports_barrier_and_who_answered_each_image(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(
        output, task="neb", neb={"driver": "ase", "images": 5, "steps": 40}, **ends(tmp_path)
    )
    summary = summary_of(output)
    assert ended.code in {0, 3}
    assert len(summary["image_energies_ev"]) == len(summary["image_sources"]) == 5
    assert summary["barrier_ev"] >= summary["reaction_energy_ev"]
    assert summary["mixed_levels"] == (len(set(summary["image_sources"])) > 1)
    frames = ase.io.read(output / "trajectory.traj", index=":")
    assert len(frames) == 5 * (summary["steps"] + 1)
    assert [frame.info["source"] for frame in frames[-5:]] == summary["image_sources"]


def test_a_spent_budget_exits_with_4_and_a_larger_one_goes_on(jobs, tmp_path):
    output = tmp_path / "run"
    settings = {"md": {"steps": 30, "seed": 3}, "gate": {"audit_reserve": 0}}
    stopped = jobs.run(output, "--set", "gate.budget=2", **settings)
    assert stopped.code == 4
    assert "gate.budget" in stopped.out
    summary = summary_of(output)
    assert (summary["reference_calls"], summary["budget_left"]) == (2, 0)
    assert summary["steps"] < 30
    resumed = jobs.run(output, "--resume", "--set", "gate.budget=40", **settings)
    assert resumed.code == 0
    whole = tmp_path / "whole"
    jobs.run(whole, **settings)
    assert end_state_of(output) == end_state_of(whole)
    assert summary_of(output)["reference_calls"] == summary_of(whole)["reference_calls"]


@pytest.mark.parametrize("task", ["md", "relax", "neb"])
def test_a_budget_of_nothing_stops_before_the_first_answer_and_can_be_resumed(jobs, tmp_path, task):
    output = tmp_path / "run"
    settings = {
        "task": task,
        "md": {"steps": 2},
        "relax": {"driver": "ase", "steps": 2},
        "neb": {"driver": "ase", "images": 3, "steps": 2},
        **ends(tmp_path),
    }
    assert jobs.run(output, "--set", "gate.budget=0", **settings).code == 4
    assert summary_of(output)["geometries"] == 0
    with Trajectory(output / "trajectory.traj") as frames:
        assert len(frames) == 0
    assert jobs.run(output, "--resume", **settings).code in {0, 3}


@pytest.mark.parametrize("how", ["nve SIGTERM", "nve SIGINT", "langevin SIGTERM"])
def test_dynamics_stopped_by_a_signal_and_resumed_is_the_same_to_the_bit(
    jobs, tmp_path, at_call, whole, how
):
    ensemble, name = how.split()
    number = signal.Signals[name]
    expected = whole(ensemble)
    output = tmp_path / "run"
    settings = md(ensemble=ensemble)
    at_call(18, lambda: signal.raise_signal(number))
    stopped = jobs.run(output, md=settings)
    assert stopped.code == 5
    assert "ending after this step" in stopped.err
    summary = summary_of(output)
    assert summary["ending"] == "interrupted"
    assert summary["steps"] == 17
    assert len(decisions_of(output)) == 18
    assert jobs.run(output, "--resume", md=settings).code == 0
    assert_same_run(output, expected)


def test_the_report_of_a_resumed_run_covers_what_was_before(jobs, tmp_path, at_call, whole):
    expected = summary_of(whole("langevin"))
    output = tmp_path / "run"
    at_call(18, lambda: signal.raise_signal(signal.SIGTERM))
    jobs.run(output, md=md())
    first = summary_of(output)
    jobs.run(output, "--resume", md=md())
    summary = summary_of(output)
    for key in ("geometries", "labels", "audits", "reasons", "errors_by_regime", "simulated_fs"):
        assert summary[key] == expected[key], key
    assert summary["run"] == first["run"]
    assert summary["wall_seconds"]["total"] > first["wall_seconds"]["total"]


def test_the_drift_of_a_resumed_run_is_counted_from_its_start(jobs, tmp_path, at_call):
    settings = {"steps": 20, "ensemble": "nve", "seed": 3}
    jobs.run(tmp_path / "whole", md=settings)
    output = tmp_path / "run"
    at_call(9, lambda: signal.raise_signal(signal.SIGTERM))
    jobs.run(output, md=settings)
    jobs.run(output, "--resume", md=settings)
    drifts = [summary_of(f)["conserved_energy_drift_ev"] for f in (output, tmp_path / "whole")]
    assert drifts[0] == drifts[1] != 0.0


@pytest.mark.parametrize(
    "when",
    [
        # in the middle of a step between two checkpoints
        "T.predict = after(18, T.predict)",
        # before the second step, when only the start is on disk
        "T.predict = after(2, T.predict)",
        # when a label is durable but nobody has seen it
        "Tally.add = after(12, Tally.add)",
        # in the middle of replacing the state
        "folder.os.replace = after(6, folder.os.replace)",
    ],
)
def test_dynamics_killed_and_resumed_is_the_same_to_the_bit(jobs, tmp_path, whole, when):
    settings = md(ensemble="langevin")
    expected = whole("langevin")
    output = tmp_path / "run"
    kill = KILL + when
    process = jobs.spawn("run", jobs.write(md=settings), "--output", output, before=kill)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = {record.identity for record in FrameStore(output / "run.h5")}
    assert jobs.run(output, "--resume", md=settings).code == 0
    assert_same_run(output, expected)
    assert before <= {record.identity for record in FrameStore(output / "run.h5")}


def test_labels_from_before_a_kill_are_not_charged_to_the_budget_again(jobs, tmp_path, whole):
    decisions = decisions_of(whole("nve"))
    fifth = [line["index"] for line in decisions if line["labelled"]][4]
    output = tmp_path / "run"
    settings = {
        "md": md(ensemble="nve", checkpoint_interval=1000),
        "gate": {"budget": 5, "audit_reserve": 0},
    }
    kill = KILL + f"T.predict = after({fifth + 2}, T.predict)"
    process = jobs.spawn("run", jobs.write(**settings), "--output", output, before=kill)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(FrameStore(output / "run.h5")) == 5
    assert jobs.run(output, "--resume", **settings).code == 4
    assert decisions_of(output)[: fifth + 1] == decisions[: fifth + 1]
    assert summary_of(output)["steps"] >= fifth


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_from_outside_ends_the_process_cleanly(jobs, tmp_path, number):
    output = tmp_path / "run"
    config = jobs.write(md={"steps": 100000})
    process = jobs.spawn("run", config, "--output", output)
    wait_for(lambda: (output / "state.json").exists() and steps_in(output) > 0)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert err == "hybrid-calc: ending after this step; a second signal ends at once.\n"
    steps = summary_of(output)["steps"]
    assert steps_in(output) == steps
    assert len(decisions_of(output)) == steps + 1
    more = ["--resume", "--set", f"md.steps={steps + 3}"]
    assert jobs.call("run", config, "--output", output, *more).code == 0
    assert summary_of(output)["steps"] == steps + 3


def test_a_second_signal_ends_at_once_and_what_was_validated_is_there(jobs, tmp_path, monkeypatch):
    label = ToyReference.label

    def impatient(self, atoms):
        if self.calls == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return label(self, atoms)

    monkeypatch.setattr(ToyReference, "label", impatient)
    output = tmp_path / "run"
    ended = jobs.run(output)
    assert ended.code == 130
    assert ended.err.splitlines()[-1].startswith("hybrid-calc: interrupted")
    assert len(FrameStore(output / "run.h5")) == 2
    monkeypatch.setattr(ToyReference, "label", label)
    assert jobs.run(output, "--resume", md={"steps": 8}).code == 0


def test_a_relaxation_stopped_by_a_signal_goes_on_with_the_next_geometry(jobs, tmp_path, at_call):
    output = tmp_path / "run"
    settings = {
        "task": "relax",
        "relax": {"driver": "ase", "fmax_ev_per_ang": 0.001, "optimizer": "FIRE"},
    }
    at_call(4, lambda: signal.raise_signal(signal.SIGTERM))
    assert jobs.run(output, **settings).code == 5
    assert summary_of(output)["geometries"] == 4
    assert jobs.run(output, "--resume", **settings).code == 0
    frames = ase.io.read(output / "trajectory.traj", index=":")
    assert len(frames) == summary_of(output)["geometries"] == len(decisions_of(output))
    assert len({frame.positions.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize(
    ("call", "where"), [(2, "in the first end"), (60, "in the band")], ids=["end", "band"]
)
def test_a_band_stopped_by_a_signal_resumes_where_it_was(jobs, tmp_path, at_call, call, where):
    output = tmp_path / "run"
    settings = {"task": "neb", "neb": {"driver": "ase", "images": 5, "steps": 30}, **ends(tmp_path)}
    at_call(call, lambda: signal.raise_signal(signal.SIGINT))
    stopped = jobs.run(output, **settings)
    assert stopped.code == 5, where
    state = json.loads((output / "state.json").read_text())
    assert state["has_band"] == (where == "in the band")
    if where == "in the first end":
        assert summary_of(output)["geometries"] == 2
    assert jobs.run(output, "--resume", **settings).code in {0, 3}
    summary = summary_of(output)
    assert summary["steps"] >= state["step"]
    assert len(ase.io.read(output / "trajectory.traj", index=":")) % 5 == 0
    assert len(summary["image_energies_ev"]) == 5


def test_ends_that_do_not_relax_are_said_and_resumed(jobs, tmp_path):
    output = tmp_path / "run"
    settings = {"task": "neb", **ends(tmp_path)}
    short = {"neb": {"driver": "ase", "images": 3, "steps": 1, "fmax_ev_per_ang": 0.001}}
    stopped = jobs.run(output, **settings, **short)
    assert stopped.code == 3
    assert "An end of the band is not relaxed" in " ".join(stopped.out.split())
    longer = {"neb": {"driver": "ase", "images": 3, "steps": 60, "fmax_ev_per_ang": 0.1}}
    assert jobs.run(output, "--resume", **settings, **longer).code in {0, 3}
    assert summary_of(output)["steps"] > 0


def test_charge_and_multiplicity_of_the_start_hold_for_the_whole_band(jobs, tmp_path, monkeypatch):
    seen = set()
    original = ToyReference.label

    def label(self, atoms):
        seen.add((atoms.info["charge"], atoms.info["spin"]))
        return original(self, atoms)

    monkeypatch.setattr(ToyReference, "label", label)
    structures = ends(tmp_path)
    structures["structure"] |= {"charge": 1, "multiplicity": 2}
    jobs.run(
        tmp_path / "run", task="neb", neb={"driver": "ase", "images": 3, "steps": 2}, **structures
    )
    assert seen == {(1, 2)}


def test_resuming_a_finished_run_with_more_steps_goes_on(jobs, tmp_path, whole):
    output = tmp_path / "run"
    assert jobs.run(output, md=md(steps=10)).code == 0
    assert jobs.run(output, "--resume", md=md()).code == 0
    assert_same_run(output, whole("langevin"))


def test_resuming_a_finished_run_as_it_is_does_nothing(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, md=md(steps=10))
    before = decisions_of(output)
    assert jobs.run(output, "--resume", md=md(steps=10)).code == 0
    assert decisions_of(output) == before
    assert len(ase.io.read(output / "trajectory.traj", index=":")) == 11


def test_a_failed_reference_is_one_line_and_exit_code_1_and_the_frame_is_quarantined(
    jobs, tmp_path, monkeypatch
):
    output = tmp_path / "run"
    fails = iter([False, False, True])
    failing(monkeypatch, lambda atoms: next(fails, False))
    ended = jobs.run(output, md=md())
    assert ended.code == 1
    assert ended.err == "hybrid-calc: the toy reference was told to fail here.\n"
    records = list(FrameStore(output / "run.h5"))
    assert [record.label is None for record in records] == [False, False, True]
    assert jobs.run(output, "--resume", md=md()).code == 0


def test_a_damaged_store_is_said_and_does_not_end_the_run(jobs, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(DATA / "store-schema-1.h5", output / "run.h5")
    content = bytearray((output / "run.h5").read_bytes())
    with h5py.File(output / "run.h5") as file:
        content[file["frames/energy"].id.get_chunk_info(0).byte_offset] ^= 1
    (output / "run.h5").write_bytes(content)
    ended = jobs.run(output, md={"steps": 3})
    assert ended.code == 0
    assert "store damaged: 7 places, 5 frames lost" in ended.out
    assert (output / "run.h5").read_bytes() == bytes(content)


def test_a_failed_reference_may_be_tolerated_and_is_counted(jobs, tmp_path, monkeypatch):
    failing(monkeypatch, lambda atoms: True)
    output = tmp_path / "run"
    gate = {"when_reference_fails": "continue", "policies": ["unseen"]}
    assert jobs.run(output, md={"steps": 3}, gate=gate).code == 0
    summary = summary_of(output)
    assert (summary["reference_failures"], summary["unverified_steps"]) == (4, 4)


def test_a_tolerance_the_committee_cannot_meet_is_said_once_with_the_figure(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(
        output,
        md={"steps": 25},
        gate={"force_tolerance_ev_per_ang": 0.001, "factor_labels": 100},
    )
    assert ended.code == 0
    assert " ".join(ended.out.split()).count("is below what this committee reaches") == 1
    assert "eV/A" in summary_of(output)["notice"]


def test_a_run_without_momenta_starts_at_the_temperature_asked_for(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, structure={"molecule": "CH3CH2OH"}, md={"steps": 1, "temperature_kelvin": 50})
    first = ase.io.read(output / "trajectory.traj", index=0)
    assert 5 < first.get_temperature() < 150
    assert np.abs(first.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.abs(first.get_angular_momentum()).max() < 1e-8


def test_dynamics_of_a_linear_molecule_starts_without_a_warning(jobs, tmp_path):
    ended = jobs.run(tmp_path / "run", structure={"molecule": "HCN"}, md={"steps": 2})
    assert (ended.code, ended.err) == (0, "")


def test_the_store_named_in_the_settings_is_used_and_its_labels_cost_nothing(jobs, tmp_path):
    for name in ("one", "two"):
        jobs.run(tmp_path / name, store="shared.h5", md={"steps": 5, "seed": 3})
    one, two = summary_of(tmp_path / "one"), summary_of(tmp_path / "two")
    assert one["store"] == two["store"] == str(tmp_path / "shared.h5")
    assert one["reference_calls"] > 0
    assert (two["reference_calls"], two["labels_reused"]) == (0, one["reference_calls"])


def test_bad_input_leaves_no_folder_behind(jobs, tmp_path):
    output = tmp_path / "run"
    assert jobs.run(output, committee={"kind": "mace", "files": "none-*.model"}).code == 2
    assert not output.exists()


def test_without_output_the_run_is_named_after_its_settings_file(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jobs.call("run", jobs.write(md={"steps": 1})).code == 0
    assert (tmp_path / "runs" / "job" / "summary.json").exists()


def failing(monkeypatch, fails):
    """Let the toy reference fail where the function says so."""
    original = ToyReference.__init__
    monkeypatch.setattr(ToyReference, "__init__", lambda self: original(self, fails=fails))


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def steps_in(output):
    return json.loads((output / "state.json").read_text())["step"]
