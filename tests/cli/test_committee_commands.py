"""hybrid-calc committee: from pickles to one file of numbers and back."""

from __future__ import annotations

import pytest

from hybrid_calc.committee.mace import MaceCommittee


@pytest.fixture
def bundle(jobs, mace_model_files, tmp_path):
    path = tmp_path / "mine.bundle"
    ended = jobs.call(
        "committee", "import", *map(str, mace_model_files), "--output", str(path),
        "--level", "ani-1x", "--trust", "--training-set", str(mace_model_files[0]),
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    return path


def test_import_info_export_and_run_go_round(jobs, bundle, mace_model_files, tmp_path):
    ended = jobs.call("committee", "info", str(bundle))
    assert ended.code == 0
    for words in ("3 ScaleShiftMACE", "H C O", "wb97x/6-31g*", "not validated", "SHA-256"):
        assert words in ended.out
    ended = jobs.call("committee", "export", str(bundle), str(tmp_path / "models"))
    assert ended.code == 0
    again = MaceCommittee.from_files(ended.out.split(), trust=True)
    assert (
        again.info.identity == MaceCommittee.from_files(mace_model_files, trust=True).info.identity
    )


def test_import_without_trust_is_refused_in_one_line(jobs, mace_model_files, tmp_path):
    ended = jobs.call(
        "committee", "import", *map(str, mace_model_files), "--output", str(tmp_path / "x.bundle"),
        "--level", "ani-1x",
    )  # fmt: skip
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "SHA-256" in ended.err


@pytest.mark.parametrize("level", ["b3lyp", "{functional: pbe}", "[", "{basis: 3, functional: x}"])
def test_a_level_that_is_none_is_refused_in_one_line(jobs, mace_model_files, tmp_path, level):
    ended = jobs.call(
        "committee", "import", *map(str, mace_model_files), "--output", str(tmp_path / "x.bundle"),
        "--level", level, "--trust",
    )  # fmt: skip
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "level" in ended.err


def test_info_of_something_else_is_one_line(jobs, tmp_path):
    other = tmp_path / "other.bundle"
    other.write_text("no bundle")
    ended = jobs.call("committee", "info", str(other))
    assert ended.code == 2
    assert ended.err.count("\n") == 1


LOOSE = {"policies": [], "outside_domain": "refuse"}


def test_a_job_runs_on_a_bundle(jobs, bundle, tmp_path):
    ended = jobs.run(
        tmp_path / "run",
        committee={"kind": "bundle", "file": str(bundle)},
        allow_level_mismatch=True,
        gate=LOOSE,
        md={"steps": 2},
    )
    assert (ended.code, ended.err) == (0, "")


def test_a_job_runs_on_published_models_given_as_files(jobs, mace_model_files, tmp_path):
    models = [str(path) for path in mace_model_files[:2]]
    chosen = {"kind": "mace-foundation", "models": models, "trust": True}
    settings = {"allow_level_mismatch": True, "gate": LOOSE, "md": {"steps": 2}}
    ended = jobs.run(tmp_path / "run", committee=chosen, **settings)
    assert (ended.code, ended.err) == (0, "")
    ended = jobs.run(tmp_path / "again", committee=chosen | {"trust": False}, **settings)
    assert ended.code == 2
    ended = jobs.run(tmp_path / "one", committee=chosen | {"models": models[:1]}, **settings)
    assert ended.code == 2
    assert "at least 2" in ended.err


def test_a_job_runs_on_members_in_processes_of_their_own(jobs, tmp_path):
    members = [
        {"calculator": "ase.calculators.lj:LennardJones", "arguments": {"sigma": size}}
        for size in (0.8, 0.81)
    ]
    ended = jobs.run(
        tmp_path / "run",
        committee={"kind": "external", "members": members},
        gate=LOOSE,
        md={"steps": 2},
    )
    assert (ended.code, ended.err) == (0, "")
