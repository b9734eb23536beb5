"""A MACE training that starts from what a store exports comes to its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hybrid_calc.committee.toy import TOY_LEVEL
from hybrid_calc.reference.label import Label
from hybrid_calc.store.export import export_extxyz, export_mace_hdf5
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query
from hybrid_calc.store.record import Record
from tests.mace_training import ISOLATED, labelled_frames

SETTINGS = {
    "name": "trained",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "E0s": str(ISOLATED),
    "atomic_numbers": str(sorted(ISOLATED)),
    "model": "ScaleShiftMACE",
    "hidden_irreps": "4x0e",
    "MLP_irreps": "4x0e",
    "radial_MLP": "[8,8]",
    "num_interactions": 2,
    "max_ell": 1,
    "correlation": 1,
    "r_max": 3.0,
    "batch_size": 5,
    "valid_batch_size": 5,
    "max_num_epochs": 2,
    "default_dtype": "float64",
    "device": "cpu",
    "plot": "False",
    "num_workers": 0,
}


@pytest.fixture
def store(tmp_path):
    """Thirty frames in two regimes."""
    store = FrameStore(tmp_path / "run.h5")
    for number, atoms in enumerate(labelled_frames(30)):
        label = Label(
            energy=atoms.info.pop("REF_energy"),
            forces=atoms.arrays.pop("REF_forces"),
            level=TOY_LEVEL,
        )
        regime = "equilibrium" if number < 25 else "reactive"
        store.append(Record.of(atoms, level=TOY_LEVEL, label=label, meta={"regime": regime}))
    return store


def extxyz(store, folder):
    export_extxyz(store.select(Query(regime="equilibrium")), folder / "train.xyz")
    export_extxyz(store.select(Query(regime="reactive")), folder / "valid.xyz")
    return {"train_file": "train.xyz", "valid_file": "valid.xyz"}


def shards(store, folder):
    query = Query(regime="equilibrium")
    export_mace_hdf5(store.select(query), folder / "train", frames_per_shard=10)
    export_mace_hdf5(store.select(Query(regime="reactive")), folder / "valid")
    return {"train_file": "train", "valid_file": "valid"}


@pytest.mark.parametrize("export", [pytest.param(extxyz, marks=pytest.mark.slow), shards])
def test_training_from_an_export_comes_to_its_end(store, tmp_path, export):
    pytest.importorskip("mace")
    settings = SETTINGS | export(store, tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "mace.cli.run_train"),
            *(f"--{key}={value}" for key, value in settings.items()),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "trained.model").is_file()
