"""``hybrid-calc label``: a file of frames in, a store of labels out."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import ase.io
import pytest
import yaml

from hybrid_calc.config.build import build_executor, build_reference
from hybrid_calc.config.load import load_label_settings
from hybrid_calc.errors import InputError, SettingsError
from hybrid_calc.label_job import with_workers
from hybrid_calc.reference.executor import ExecutorReference
from hybrid_calc.store.frames import FrameStore
from tests.reference.executor_jobs import frames

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def asked(tmp_path):
    ase.io.write(tmp_path / "frames.xyz", frames(6), format="extxyz")
    return tmp_path / "frames.xyz"


def settings(folder, **reference):
    path = folder / "label.yaml"
    path.write_text(yaml.safe_dump({"reference": reference}))
    return path


def test_frames_are_labelled_and_gone_on_with(jobs, asked, tmp_path):
    config, store = settings(tmp_path, kind="toy"), tmp_path / "out.h5"
    ended = jobs.call("label", asked, "--config", config, "--store", store, "--budget", "4")
    assert ended.code == 4
    assert "4 labelled, 0 in quarantine, 0 known before, 2 left" in ended.out
    ended = jobs.call("label", asked, "--config", config, "--store", store, "--json")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert (told["labelled"], told["known"], told["left"]) == (2, 4, 0)
    assert len(FrameStore(store)) == 6
    assert "6 validated frames" in jobs.call("store", "info", store).out


def test_workers_of_the_command_line_share_the_frames(jobs, asked, tmp_path):
    pytest.importorskip("tblite")
    config, store = settings(tmp_path, kind="xtb"), tmp_path / "out.h5"
    ended = jobs.call("label", asked, "--config", config, "--store", store, "--workers", "2")
    assert ended.code == 0
    assert "6 labelled" in ended.out
    assert "6 of 6 frames" in ended.out


def test_a_jobs_settings_will_do(jobs, asked, tmp_path):
    store = tmp_path / "out.h5"
    ended = jobs.call("label", asked, "--config", jobs.write(), "--store", store)
    assert ended.code == 0
    assert len(FrameStore(store)) == 6


def test_regimes_are_judged_as_the_options_say(jobs, asked, tmp_path):
    config, store = settings(tmp_path, kind="toy"), tmp_path / "out.h5"
    words = ("--temperature", "600", "--graph", asked)
    assert jobs.call("label", asked, "--config", config, "--store", store, *words).code == 0
    assert {record.meta["regime"] for record in FrameStore(store)} == {"warm H O"}
    assert {record.meta["judged_by"] for record in FrameStore(store)} == {"structure"}


def test_a_signal_ends_after_the_frames_in_flight_and_the_rest_can_be_labelled(jobs, tmp_path):
    ase.io.write(tmp_path / "many.xyz", frames(60), format="extxyz")
    config, store = settings(tmp_path, kind="toy"), tmp_path / "out.h5"
    slow = (
        "import time\nfrom hybrid_calc.reference.toy import ToyReference\n"
        "label = ToyReference.label\n"
        "ToyReference.label = lambda self, atoms: time.sleep(0.1) or label(self, atoms)"
    )
    words = ("label", tmp_path / "many.xyz", "--config", config, "--store", store)
    process = jobs.spawn(*words, before=slow)
    assert "of 60 frames" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "ending after the frames in flight" in err
    done = len(FrameStore(store))
    assert 6 <= done < 60
    assert f"{60 - done} left" in out
    assert jobs.call(*words).code == 0
    assert len(FrameStore(store)) == 60


def test_bad_input_is_one_line(jobs, asked, tmp_path):
    config, store = settings(tmp_path, kind="toy"), tmp_path / "out.h5"
    for words, said in (
        ((tmp_path / "none.xyz", "--config", config, "--store", store), "there is no file"),
        ((config, "--config", config, "--store", store), "cannot be read by ASE"),
        ((asked, "--config", config, "--store", store, "--workers", "2"), "toy reference"),
        ((asked, "--config", asked, "--store", store), "settings file"),
    ):
        ended = jobs.call("label", *words)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert said in ended.err


def test_unknown_keys_name_the_nearest(tmp_path):
    path = tmp_path / "label.yaml"
    path.write_text("refrence: {kind: toy}\n")
    with pytest.raises(SettingsError, match="unknown key refrence; did you mean reference"):
        load_label_settings(path)
    path.write_text("reference: {kind: pyscf, executor: {kind: local, worker: 2}}\n")
    with pytest.raises(SettingsError, match=r"reference\.executor\.worker; did you mean workers"):
        load_label_settings(path)


def test_workers_are_put_into_whatever_executor_there_is(tmp_path):
    bare = load_label_settings(settings(tmp_path, kind="pyscf"))
    assert with_workers(bare, None) is bare
    assert with_workers(bare, 3).reference.executor.workers == 3
    assert with_workers(bare, 3).reference.executor.kind == "local"
    own = {"kind": "own", "function": "tests.reference.executor_jobs:threads"}
    named = load_label_settings(settings(tmp_path, kind="pyscf", executor=own))
    assert with_workers(named, 2).reference.executor.kind == "own"
    with pytest.raises(InputError, match="toy"):
        with_workers(load_label_settings(settings(tmp_path, kind="toy")), 2)


def test_executors_of_the_settings_are_built(tmp_path):
    own = {"kind": "own", "function": "tests.reference.executor_jobs:threads"}
    given = {"kind": "xtb", "executor": own | {"arguments": {"count": 2}, "patience_s": 5}}
    made = load_label_settings(settings(tmp_path, **given)).reference
    executor = build_executor(made.executor)
    assert executor.submit(int, "7").result() == 7
    executor.shutdown()
    local = load_label_settings(
        settings(tmp_path, kind="xtb", executor={"kind": "local", "workers": 3})
    )
    executor = build_executor(local.reference.executor)
    assert executor.workers == 3
    executor.shutdown()


def test_the_slurm_example_is_what_parsl_would_be_given():
    """No SLURM here: Parsl's own classes take every argument, nothing is submitted."""
    pytest.importorskip("parsl", reason="an extra: pip install hybrid_calc[parsl]")
    from parsl import providers

    loaded = load_label_settings(CONFIGS / "label-slurm.yaml").reference
    reference = build_reference(loaded)
    assert isinstance(reference, ExecutorReference)
    assert str(reference.level) == "wb97x/6-31g* (Cartesian d)"
    reference.close()
    provider = getattr(providers, loaded.executor.provider)(**loaded.executor.provider_arguments)
    assert provider.label == "slurm"
    assert (provider.max_blocks, provider.walltime) == (4, "12:00:00")
    assert provider.worker_init.startswith("source ")
