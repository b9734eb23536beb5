"""Every settings file in ``configs/`` runs offline; each is shortened, none is faked."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import ase.io
import pytest

from hybrid_calc.config.load import load_settings
from tests.cli.conftest import jobs  # noqa: F401 - a fixture
from tests.cli.jobs import decisions_of, summary_of

CONFIGS = Path(__file__).parents[2] / "configs"

NO_MODELS = importlib.util.find_spec("tests.mace_training") is None

ONE_LABEL_IS_ENOUGH = (
    "gate.trust_frames=1",
    "gate.policies=[uncertain, contradiction, unseen]",
)


@pytest.fixture
def run(jobs, tmp_path, monkeypatch):  # noqa: F811
    """Run a settings file with some keys changed, without a network; return its summary."""

    def refuse(*arguments):
        raise AssertionError(f"a network was asked for: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def call(name, *changes, code=0):
        sets = [word for change in changes for word in ("--set", change)]
        ended = jobs.call("run", CONFIGS / name, "--output", tmp_path / "run", *sets)
        assert ended.code == code, ended.err
        assert ended.err == ""
        assert json.loads((tmp_path / "run" / "summary.json").read_text())
        return summary_of(tmp_path / "run")

    return call


def test_every_settings_file_is_run_below():
    here = Path(__file__).read_text()
    for path in CONFIGS.glob("*.yaml"):
        if path.name == "label-slurm.yaml":
            continue  # needs a cluster: its settings are checked in tests/cli/test_label.py
        assert f'run("{path.name}"' in here.replace("\n        ", "")
        assert load_settings(path)


def test_the_demo_answers_with_dft_until_a_frame_is_validated_and_then_with_ani(run, tmp_path):
    summary = run("md-ethanol.yaml", "md.steps=3", *ONE_LABEL_IS_ENOUGH)
    assert summary["level"] == "wb97x/6-31g* (Cartesian d)"
    assert summary["committee"] == "ANI-1x"
    assert summary["reference_calls"] == 1
    sources = [line["source"] for line in decisions_of(tmp_path / "run")]
    assert sources == ["reference", "committee", "committee", "committee"]
    (regime,) = summary["errors_by_regime"].values()
    assert 0.01 < regime["max_force_error_ev_per_ang"] < 1.0  # measured: 0.12


def test_an_optimisation_with_the_default_pair_is_confirmed_by_dft(run, tmp_path):
    summary = run("relax.yaml", "structure.molecule=H2O")
    assert summary["confirmed"]
    assert summary["fmax_ev_per_ang"] <= 0.01
    assert 0 < summary["reference_calls"] < 8
    relaxed = ase.io.read(tmp_path / "run" / summary["files"]["relaxed"])
    assert 0.94 < relaxed.get_distance(0, 1) < 0.98  # experiment: 0.958 A
    assert 102 < relaxed.get_angle(1, 0, 2) < 107  # experiment: 104.5
    bend, *stretches = summary["vibrations"]["frequencies_invcm"]
    assert 1550 < bend < 1900  # experiment, harmonic: 1649, 3832, 3943
    assert all(3700 < one < 4200 for one in stretches)


def test_a_band_of_three_real_atoms_says_what_it_found_when_its_labels_end(run, tmp_path):
    summary = run("neb.yaml", "neb.images=5", "neb.max_labels=1", code=6)
    assert not summary["confirmed"]
    assert "1 labels were not enough" in summary["missing"]
    # two minima, 0.7 eV apart in DFT (0.65 eV in experiment-based work)
    assert 0.4 < summary["reaction_energy_ev"] < 1.0
    assert len(ase.io.read(tmp_path / "run" / "path.xyz", index=":")) == 5
    frames = ase.io.read(tmp_path / "run" / "trajectory.traj", index=":")
    assert len(frames) == summary["reference_calls"]


def test_every_option_at_its_default_is_a_job_that_runs(run):
    toys = ("committee={kind: toy}", "reference={kind: toy}")
    summary = run("every-option.yaml", "md.steps=3", *toys)
    assert summary["steps"] == 3


@pytest.mark.skipif(NO_MODELS, reason="tests/mace_training.py makes the models")
def test_a_mace_committee_given_by_path_runs_the_same_job(run, request):
    files = [str(path) for path in request.getfixturevalue("mace_model_files")]
    summary = run(
        "md-mace.yaml",
        f"committee.files={json.dumps(files)}",
        "structure.molecule=H2O",
        "md.steps=2",
        "md.stretch=null",
    )
    assert summary["steps"] == 2
    assert summary["committee"].startswith("MACE")
    assert summary["reference_calls"] > 0


def test_the_mace_file_and_the_demo_are_the_same_job_at_the_same_level():
    demo, mace = (load_settings(CONFIGS / name) for name in ("md-ethanol.yaml", "md-mace.yaml"))
    assert mace.md == demo.md
    assert mace.structure == demo.structure
    assert mace.reference.level.to_level() == demo.reference.level.to_level()
    assert mace.committee.level.to_level().same_physics(demo.reference.level.to_level())


def test_the_ends_of_the_band_are_shipped_and_are_the_same_atoms():
    settings = load_settings(CONFIGS / "neb.yaml")
    ends = [ase.io.read(CONFIGS / end.file) for end in (settings.structure, settings.end)]
    assert ends[0].get_chemical_symbols() == ends[1].get_chemical_symbols() == ["H", "C", "N"]
    assert ends[0].get_distance(0, 1) == pytest.approx(1.06, abs=0.02)  # H on carbon
    assert ends[1].get_distance(0, 2) == pytest.approx(1.00, abs=0.02)  # H on nitrogen
