"""Relaxations and bands on one surface from the command line: results, honesty, resuming."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory

from hybrid_calc.errors import MemberLost
from hybrid_calc.reference.ase_backend import gfn2_xtb
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.frames import FrameStore
from tests.cli.jobs import decisions_of, summary_of
from tests.cli.test_run import KILL, failing
from tests.drivers.conftest import hop

CONFIGS = Path(__file__).parents[2] / "configs"
ROUGH = {"kind": "toy", "perturbation": 0.3}
RELAX = {"task": "relax", "committee": ROUGH, "relax": {"fmax_ev_per_ang": 0.005}}
BAND = {
    "task": "neb",
    "structure": {"file": "hcn.xyz"},
    "end": {"file": "hnc.xyz"},
    "reference": {"kind": "xtb"},
    "allow_level_mismatch": True,
    "neb": {"images": 5},
}
"""HCN to HNC with GFN2-xTB: three atoms, some 15 labels of 10 ms."""


@pytest.fixture
def ends(tmp_path):
    for name in ("hcn.xyz", "hnc.xyz"):
        shutil.copy(CONFIGS / "structures" / name, tmp_path)


@pytest.fixture(scope="module")
def finished():
    """Bands that nothing stopped, by settings; each is run once."""
    return {}


@pytest.fixture
def whole_band(jobs, ends, finished, tmp_path_factory):
    """Return the summary of a band that nothing stopped."""

    def run(**neb):
        key = json.dumps(neb, sort_keys=True)
        if key not in finished:
            output = tmp_path_factory.mktemp("band") / "run"
            ended = jobs.run(output, **BAND | {"neb": BAND["neb"] | neb})
            assert ended.code == 0, ended.out
            finished[key] = output, ended.out
        return finished[key]

    return run


def assert_same_result(summary, other):
    """Compare what was found, to the bit; times and what was reused may differ."""
    keys = [
        "confirmed", "missing", "steps", "reference_calls", "energy_ev", "fmax_ev_per_ang",
        "barrier_ev", "barrier_interval_95_ev", "profile", "labelled_images", "prior",
        "labels_by_purpose", "forecasts", "elementary_steps", "vibrations",
    ]  # fmt: skip
    for key in keys:
        assert summary.get(key) == other.get(key), key


# --- relaxations


def test_a_relaxation_is_confirmed_by_the_reference_and_written(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(output, **RELAX)
    assert ended.code == 0
    summary = summary_of(output)
    assert summary["driver"] == "surface"
    assert summary["confirmed"]
    relaxed = ase.io.read(output / summary["files"]["relaxed"])
    truth = ToyReference().label(relaxed)
    assert np.linalg.norm(truth.forces, axis=1).max() == pytest.approx(
        summary["fmax_ev_per_ang"], abs=1e-6
    )
    assert summary["fmax_ev_per_ang"] <= 0.005
    assert relaxed.get_potential_energy() == pytest.approx(truth.energy, abs=1e-8)
    assert summary["energy_ev"] == pytest.approx(truth.energy, abs=1e-8)
    assert "Result: confirmed by the reference" in ended.out


def test_every_label_goes_through_gate_record_trajectory_and_store(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, **RELAX)
    summary = summary_of(output)
    decisions = decisions_of(output)
    labels = summary["reference_calls"]
    assert labels == summary["steps"] == len(decisions) > 1
    frames = ase.io.read(output / "trajectory.traj", index=":")
    assert len(frames) == labels
    with FrameStore(output / "run.h5") as store:
        records = list(store)
    assert len(records) == labels
    for record, line, frame in zip(records, decisions, frames, strict=True):
        assert line["reasons"][0][0] == record.meta["reasons"][0][0] == "acquisition"
        # a search chose this geometry: nothing may be concluded from it by chance
        assert record.meta["audit_probability"] == line["audit_probability"] == 0
        assert record.meta["regime"] == line["regime"]
        assert record.meta["force_error"] == line["force_error"] > 0
        assert frame.get_potential_energy() == record.label.energy
        assert np.array_equal(frame.positions, record.positions)


@pytest.mark.parametrize("where", ["in the settings", "in the file"])
def test_a_frozen_atom_stays_through_the_command_line(jobs, tmp_path, where):
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=3)
    if where == "in the file":
        atoms.set_constraint(FixAtoms([0, 2]))
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
    fixed = {"fixed": [0, 2]} if where == "in the settings" else {}
    start = ase.io.read(tmp_path / "start.xyz").positions
    output = tmp_path / "run"
    assert jobs.run(output, structure={"file": "start.xyz"} | fixed, **RELAX).code == 0
    for frame in ase.io.read(output / "trajectory.traj", index=":"):
        assert np.array_equal(frame.positions[[0, 2]], start[[0, 2]])
    relaxed = ase.io.read(output / "relaxed.xyz")
    assert np.abs(relaxed.positions[[0, 2]] - start[[0, 2]]).max() < 1e-7
    assert np.abs(relaxed.positions[1] - start[1]).max() > 1e-3
    forces = ToyReference().label(relaxed).forces
    assert np.linalg.norm(forces, axis=1).max() > 0.05  # the frozen ones are pulled at
    assert summary_of(output)["fmax_ev_per_ang"] <= 0.005


def test_an_atom_that_is_not_there_cannot_be_fixed(jobs, tmp_path):
    ended = jobs.run(tmp_path / "run", structure={"molecule": "H2O", "fixed": [3]}, **RELAX)
    assert ended.code == 2
    assert "structure.fixed names atoms [3]; the structure has 3" in ended.err


def test_labels_of_the_store_cost_nothing_the_next_time(jobs, tmp_path):
    jobs.run(tmp_path / "one", store="shared.h5", **RELAX)
    assert summary_of(tmp_path / "one")["softest_invcm"] > 100
    moved = ase.io.read(tmp_path / "one" / "relaxed.xyz")
    moved.calc = None
    moved.rotate(50, "x")
    moved.rattle(0.02, seed=1)
    ase.io.write(tmp_path / "moved.xyz", moved)
    again = RELAX | {"structure": {"file": "moved.xyz"}, "store": "shared.h5"}
    assert jobs.run(tmp_path / "two", **again).code == 0
    one, two = (summary_of(tmp_path / name) for name in ("one", "two"))
    assert two["known_labels"] == one["reference_calls"] > 0
    assert two["reference_calls"] == 0
    assert two["energy_ev"] == pytest.approx(one["energy_ev"], abs=1e-9)


def test_a_committee_that_fails_at_the_softest_mode_costs_no_result(jobs, tmp_path, monkeypatch):
    def fails(*_):
        raise MemberLost("a member died")

    monkeypatch.setattr("hybrid_calc.drivers.relax.surface_hessian", fails)
    ended = jobs.run(tmp_path / "run", **RELAX)
    assert ended.code == 0, ended.err
    assert summary_of(tmp_path / "run")["softest_invcm"] is None


def test_frequencies_are_in_the_summary_and_printed(jobs, tmp_path):
    output = tmp_path / "run"
    settings = RELAX | {"relax": RELAX["relax"] | {"frequencies": "reference"}}
    ended = jobs.run(output, **settings)
    assert ended.code == 0
    found = summary_of(output)["vibrations"]
    assert len(found["frequencies_invcm"]) == 3
    assert found["imaginary_modes"] == 0
    assert f"{found['zero_point_energy_ev']:.4f} eV" in ended.out
    assert summary_of(output)["softest_invcm"] == found["frequencies_invcm"][0]
    # six more labels an atom, each paid and kept
    assert summary_of(output)["reference_calls"] == len(FrameStore(output / "run.h5")) > 18


def test_a_molecule_the_committee_does_not_know_is_relaxed_on_labels_alone(jobs, tmp_path):
    output = tmp_path / "run"
    settings = {"committee": {"kind": "ani"}, "reference": {"kind": "xtb"}}
    water = {"structure": {"molecule": "SH2"}, "allow_level_mismatch": True}
    ended = jobs.run(output, task="relax", **settings, **water)
    assert ended.code == 0, ended.err
    summary = summary_of(output)
    assert summary["prior"] == "none"
    assert summary["fmax_ev_per_ang"] <= 0.05
    assert "labels alone" in ended.out


# --- endings


def test_a_budget_that_ends_early_leaves_the_best_so_far_unconfirmed(jobs, tmp_path):
    output = tmp_path / "run"
    stopped = jobs.run(output, "--set", "gate.budget=2", **RELAX)
    assert stopped.code == 4
    summary = summary_of(output)
    assert (summary["confirmed"], summary["reference_calls"]) == (False, 2)
    assert "budget" in summary["missing"]
    assert "NOT CONFIRMED" in stopped.out
    best = ase.io.read(output / "relaxed.xyz")
    assert not best.info["confirmed"]
    energies = [f.get_potential_energy() for f in ase.io.read(output / "trajectory.traj", ":")]
    assert best.get_potential_energy() == pytest.approx(min(energies), abs=1e-8)
    assert jobs.run(output, "--resume", **RELAX).code == 0
    jobs.run(tmp_path / "whole", **RELAX)
    assert_same_result(summary_of(output), summary_of(tmp_path / "whole"))


def test_the_whole_budget_is_for_labels_because_nothing_is_audited(jobs, tmp_path):
    output = tmp_path / "run"
    gate = {"budget": 3, "audit_reserve": 0.5}
    assert jobs.run(output, gate=gate, **RELAX).code in {0, 4}
    assert summary_of(output)["reference_calls"] == 3


def test_what_is_not_confirmed_exits_with_6_and_says_what_is_missing(jobs, tmp_path):
    output = tmp_path / "run"
    relax = {"fmax_ev_per_ang": 1e-6, "max_labels": 1, "steps": 1}
    ended = jobs.run(output, **RELAX | {"relax": relax})
    assert ended.code == 6
    assert summary_of(output)["ending"] == "not confirmed"
    assert "over the target 1e-06; raise relax.steps" in " ".join(ended.out.split())


@pytest.mark.parametrize("task", ["relax", "neb"])
def test_a_budget_of_nothing_can_be_resumed(jobs, tmp_path, ends, task):
    output = tmp_path / "run"
    settings = RELAX if task == "relax" else BAND
    assert jobs.run(output, "--set", "gate.budget=0", **settings).code == 4
    assert summary_of(output)["confirmed"] is False
    assert "budget" in summary_of(output)["missing"]
    with Trajectory(output / "trajectory.traj") as frames:
        assert len(frames) == 0
    more = ["--resume", "--set", "gate.budget=1"]
    assert jobs.run(output, *more, **settings).code == 4
    assert summary_of(output)["reference_calls"] == 1


def test_a_reference_that_fails_at_the_start_is_one_line_and_exit_code_1(
    jobs, tmp_path, monkeypatch
):
    failing(monkeypatch, lambda atoms: True)
    ended = jobs.run(tmp_path / "run", **RELAX)
    assert ended.code == 1
    assert ended.err == "hybrid-calc: the toy reference was told to fail here.\n"


def test_a_periodic_structure_is_refused_before_anything_is_written(jobs, tmp_path):
    box = molecule("H2O", vacuum=3.0, pbc=True)
    ase.io.write(tmp_path / "box.xyz", box)
    ended = jobs.run(tmp_path / "run", structure={"file": "box.xyz"}, **RELAX)
    assert ended.code == 2
    assert "driver: ase" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_driver_is_not_resumed_by_the_other(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, "--set", "gate.budget=1", **RELAX)
    ended = jobs.run(output, "--resume", "--set", "relax.driver=ase", **RELAX)
    assert ended.code == 2
    assert "another driver" in ended.err


def test_resuming_a_finished_run_as_it_is_changes_nothing(jobs, tmp_path):
    output = tmp_path / "run"
    jobs.run(output, **RELAX)
    before, decisions = summary_of(output), decisions_of(output)
    assert jobs.run(output, "--resume", **RELAX).code == 0
    assert_same_result(summary_of(output), before)
    assert decisions_of(output) == decisions


def test_dynamics_leaves_a_frozen_atom_where_it_is(jobs, tmp_path):
    output = tmp_path / "run"
    fixed = {"molecule": "CH3OH", "fixed": [0]}
    assert jobs.run(output, structure=fixed, md={"steps": 6, "ensemble": "nve"}).code == 0
    frames = ase.io.read(output / "trajectory.traj", index=":")
    assert len(frames) == 7
    assert all(np.array_equal(one.positions[0], frames[0].positions[0]) for one in frames)
    assert np.abs(frames[-1].positions[1] - frames[0].positions[1]).max() > 1e-3


# --- signals and kills


def test_a_signal_ends_after_this_label_and_the_resumed_run_is_the_same(
    jobs, tmp_path, monkeypatch
):
    jobs.run(tmp_path / "whole", **RELAX)
    output = tmp_path / "run"
    original = ToyReference.label

    def label(self, atoms):
        if self.calls == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(self, atoms)

    with monkeypatch.context() as patched:
        patched.setattr(ToyReference, "label", label)
        stopped = jobs.run(output, **RELAX)
    assert stopped.code == 5
    assert summary_of(output)["ending"] == "interrupted"
    assert not summary_of(output)["confirmed"]
    assert len(decisions_of(output)) == 2
    assert jobs.run(output, "--resume", **RELAX).code == 0
    assert_same_result(summary_of(output), summary_of(tmp_path / "whole"))
    assert decisions_of(output) == decisions_of(tmp_path / "whole")


def killed_and_resumed(jobs, output, at_label, **settings):
    """Kill a run with SIGKILL when a label is durable and nobody has seen it; resume it."""
    kill = KILL + f"Tally.add = after({at_label}, Tally.add)"
    process = jobs.spawn("run", jobs.write(**settings), "--output", output, before=kill)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert len(FrameStore(output / "run.h5")) == at_label
    assert jobs.run(output, "--resume", **settings).code == 0
    return summary_of(output)


@pytest.mark.parametrize("at_label", [1, 3])
def test_a_killed_relaxation_goes_on_to_the_same_result(jobs, tmp_path, at_label):
    jobs.run(tmp_path / "whole", **RELAX)
    summary = killed_and_resumed(jobs, tmp_path / "run", at_label, **RELAX)
    assert_same_result(summary, summary_of(tmp_path / "whole"))


def test_a_killed_band_goes_on_to_the_same_result(jobs, tmp_path, ends, whole_band):
    expected, _ = whole_band()
    inside = summary_of(expected)["labels_by_purpose"]["ends"] + 3
    summary = killed_and_resumed(jobs, tmp_path / "run", inside, **BAND)
    assert_same_result(summary, summary_of(expected))
    for name in ("path.xyz", "transition_state.xyz"):
        ours, theirs = (ase.io.read(f / name, ":") for f in (tmp_path / "run", expected))
        for one, two in zip(ours, theirs, strict=True):
            assert np.array_equal(one.positions, two.positions)


@pytest.mark.slow
@pytest.mark.parametrize("polish", ["dimer", "sella"])
def test_a_band_killed_at_every_third_label_goes_on_to_the_same_result(
    jobs, tmp_path, ends, whole_band, polish
):
    after = {"polish": polish, "label_downhill_ends": True}
    expected, _ = whole_band(**after)
    settings = BAND | {"neb": BAND["neb"] | after}
    for at_label in range(2, summary_of(expected)["steps"], 3):
        summary = killed_and_resumed(jobs, tmp_path / f"at-{at_label}", at_label, **settings)
        assert_same_result(summary, summary_of(expected))


# --- bands


def test_a_band_is_confirmed_written_and_drawn(whole_band):
    output, printed = whole_band()
    summary = summary_of(output)
    assert summary["confirmed"]
    assert summary["driver"] == "surface"
    calculator = gfn2_xtb()
    energies = {}
    for name in ("reactant", "product", "transition_state"):
        frame = ase.io.read(output / summary["files"][name])
        energies[name] = calculator.label(frame).energy
        assert frame.get_potential_energy() == pytest.approx(energies[name], abs=1e-6)
    up = energies["transition_state"] - energies["reactant"]
    down = energies["transition_state"] - energies["product"]
    assert summary["barrier_ev"] == pytest.approx(up, abs=1e-6)
    assert summary["reverse_barrier_ev"] == pytest.approx(down, abs=1e-6)
    assert summary["reaction_energy_ev"] == pytest.approx(up - down, abs=1e-6)
    low, high = summary["barrier_interval_95_ev"]
    assert low < up < high
    assert f"{up:.3f} eV  (95 %: {low:.3f} to {high:.3f})" in printed
    back = summary["reverse_barrier_interval_95_ev"]
    assert back == pytest.approx([low - up + down, high - up + down], abs=1e-6)
    assert f"{down:.3f} eV  (95 %: {back[0]:.3f} to {back[1]:.3f})" in printed
    purposes = summary["labels_by_purpose"]
    assert sum(purposes.values()) == summary["reference_calls"] == summary["steps"]


def test_the_profile_is_in_the_summary_as_it_is_in_the_files(whole_band):
    output, _ = whole_band()
    summary = summary_of(output)
    profile = summary["profile"]
    path = ase.io.read(output / "path.xyz", ":")
    zero = ase.io.read(output / "reactant.xyz").get_potential_energy()
    assert len(path) == len(profile["energy_ev"]) == 5
    for index, frame in enumerate(path):
        assert frame.get_potential_energy() - zero == pytest.approx(
            profile["energy_ev"][index], abs=1e-6
        )
        assert frame.info["labelled"] == profile["labelled"][index]
    assert profile["distance_ang"][0] == 0.0
    assert (np.diff(profile["distance_ang"]) > 0).all()
    assert [i for i, on in enumerate(profile["labelled"]) if on] == summary["labelled_images"]
    assert profile["labelled"][0]
    assert profile["labelled"][-1]
    assert all(half > 0 for half in profile["half_width_95_ev"])
    top = profile["transition_state"]
    assert top["energy_ev"] == summary["barrier_ev"]
    picture = (output / summary["files"]["profile"]).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_a_polished_band_with_labelled_ends_downhill_says_so(whole_band):
    output, printed = whole_band(polish="sella", label_downhill_ends=True)
    summary = summary_of(output)
    (step,) = summary["elementary_steps"]
    assert step["polish"]["converged"]
    assert summary["transition_fmax_ev_per_ang"] <= 0.01
    assert sorted(one["joins"] for one in step["downhill_ends"]) == [
        "product",
        "reactant",
    ]
    assert "sella" in printed
    assert summary["labels_by_purpose"]["confirmation"] >= 2


def test_a_way_over_an_intermediate_is_shown_and_written_step_by_step(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parent))  # for the members' processes
    for name, s in (("r.xyz", -0.9), ("p.xyz", 0.9)):
        ase.io.write(tmp_path / name, Atoms("CCH", positions=hop(s)))
    truth = {"calculator": "tests.drivers.conftest:Stepwise"}
    models = {
        "committee": {"kind": "external", "members": [truth, truth]},
        "reference": {"kind": "ase"} | truth,
    }
    output = tmp_path / "run"
    settings = BAND | {"structure": {"file": "r.xyz"}, "end": {"file": "p.xyz"}}
    ended = jobs.run(output, **settings | models | {"neb": {"images": 7}})
    assert ended.code == 0, ended.out
    summary = summary_of(output)
    assert [step["joins"] for step in summary["elementary_steps"]] == [
        ["reactant", "intermediate 1"],
        ["intermediate 1", "product"],
    ]
    heights = [step["barrier_ev"] for step in summary["elementary_steps"]]
    assert heights == pytest.approx([0.8, 0.8], abs=5e-3)  # by construction
    assert not any(step["barrierless"] for step in summary["elementary_steps"])
    assert summary["pathways"][0]["steps"] == 2
    assert all(one["confirmed"] == (not one["missing"]) for one in summary["pathways"])
    assert "reactant to intermediate 1" in ended.out
    saddles = ase.io.read(output / summary["files"]["transition_states"], ":")
    (middle,) = ase.io.read(output / summary["files"]["intermediates"], ":")
    assert [one.info["joins"] for one in saddles] == [
        "reactant and intermediate 1",
        "intermediate 1 and product",
    ]
    assert middle.get_potential_energy() == pytest.approx(0.0, abs=5e-3)
    assert len(summary["profile"]["energy_ev"]) == 13


def test_a_band_out_of_labels_is_written_and_marked_unconfirmed(jobs, tmp_path, ends):
    output = tmp_path / "run"
    ended = jobs.run(output, **BAND | {"neb": {"images": 5, "max_labels": 1}})
    assert ended.code == 6
    summary = summary_of(output)
    assert not summary["confirmed"]
    assert "1 labels were not enough" in summary["missing"]
    assert "NOT CONFIRMED" in ended.out
    assert len(ase.io.read(output / "path.xyz", ":")) == 5
    assert "transition_state" not in summary["files"]
    assert summary["barrier_ev"] is None


def test_a_guess_of_the_transition_state_comes_from_a_file(jobs, tmp_path, ends, whole_band):
    expected, _ = whole_band()
    shutil.copy(expected / "transition_state.xyz", tmp_path / "guess.xyz")
    output = tmp_path / "run"
    settings = BAND | {"neb": {"images": 5, "guess": "guess.xyz"}}
    assert jobs.run(output, **settings).code == 0
    with_guess, without = summary_of(output), summary_of(expected)
    assert with_guess["barrier_ev"] == pytest.approx(without["barrier_ev"], abs=0.005)
    assert with_guess["reference_calls"] <= without["reference_calls"]
    guess = ase.io.read(tmp_path / "guess.xyz").get_all_distances()
    first = [  # of the labels between the ends
        next(
            frame
            for frame in ase.io.read(folder / "trajectory.traj", ":")
            if frame.info["reason"].startswith("acquisition")
        )
        for folder in (output, expected)
    ]
    apart = [abs(frame.get_all_distances() - guess).max() for frame in first]
    assert apart[0] < 0.1 < apart[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"neb": {"guess": "none.xyz"}}, "none.xyz is not there"),
        ({"neb": {"guess": "other.xyz"}}, "neb.guess: frame 0 of"),
        ({"structure": {"file": "hcn.xyz", "fixed": [0]}}, "atoms that are fixed stand"),
    ],
)
def test_what_no_band_can_use_is_refused_before_anything_is_written(
    jobs, tmp_path, ends, change, words
):
    ase.io.write(tmp_path / "other.xyz", molecule("H2O"))
    ended = jobs.run(tmp_path / "run", **BAND | change)
    assert ended.code == 2
    assert words in ended.err
    assert not (tmp_path / "run").exists()


def test_a_terminal_shows_the_run_and_its_labels(jobs, tmp_path):
    config = jobs.write(**RELAX)
    code = "from hybrid_calc.cli.app import main; main()"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(config), "--output", str(tmp_path / "run")],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so where the other side has closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    text = shown.decode(errors="replace")
    assert process.wait(timeout=60) == 0, text
    assert "label 1: acquisition" in text
    assert "\x1b[" in text  # it took this for a terminal, with its live bar
