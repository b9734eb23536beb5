"""``ase.io.read`` and ``ase gui`` on a store."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase.gui.images import Images
from ase.io import formats

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import crystal, rejected, sample, water

GROUP = "ase.ioformats"


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Register the entry points as an installation does, from pyproject.toml itself."""
    monkeypatch.setattr(formats, "ioformats", dict(formats.ioformats))
    monkeypatch.setattr(formats, "all_formats", formats.ioformats)
    monkeypatch.setattr(formats, "extension2format", dict(formats.extension2format))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"][GROUP].items():
        formats.ioformats.pop(name, None)  # where the package is installed
        for extension in ("h5", "hdf5"):
            formats.extension2format.pop(extension, None)
        formats.define_external_io_format(EntryPoint(name=name, value=value, group=GROUP))


@pytest.fixture
def records():
    return [sample(1), crystal(2), rejected(3), sample(4)]


@pytest.fixture
def path(tmp_path, records):
    """Three frames in the file, one in a journal."""
    store = FrameStore(tmp_path / "run.h5")
    for record in records[:3]:
        store.append(record)
    store.compact()
    store.append(records[3])
    return store.path


def test_every_validated_frame_is_read_with_its_label(path, records):
    frames = ase.io.read(f"{path}@:")
    labelled = [record for record in records if record.label is not None]
    for atoms, record in zip(frames, labelled, strict=True):
        assert atoms.get_potential_energy() == record.label.energy
        np.testing.assert_array_equal(atoms.get_forces(), record.label.forces)
        np.testing.assert_array_equal(atoms.positions, record.positions)
        np.testing.assert_array_equal(atoms.cell, record.cell)
        assert atoms.info["frame"] == record.identity
        assert atoms.info["regime"] == "intact"
    np.testing.assert_array_equal(frames[1].get_stress(), records[1].label.stress)


@pytest.mark.parametrize("index", ["0", "-1", "1", ":2", "::2", "::-1", "1:", "5:"])
def test_index_counts_validated_frames(path, records, index):
    labelled = [record.identity for record in records if record.label is not None]
    found = ase.io.read(path, index=index)
    expected = labelled[ase.io.formats.string2index(index)]
    if isinstance(expected, list):
        assert [atoms.info["frame"] for atoms in found] == expected
    else:
        assert found.info["frame"] == expected


def test_frame_is_its_own_question_again(path):
    store = FrameStore(path)
    atoms = ase.io.read(path, index=0)
    label = store.find_label(atoms, sample(1).level)
    assert label.energy == atoms.get_potential_energy()


def test_charge_and_multiplicity_come_back(tmp_path):
    ion = water(1)
    ion.info |= {"charge": -1, "spin": 2}
    with FrameStore(tmp_path / "run.h5") as store:
        store.append(sample(1, ion))
    info = ase.io.read(store.path).info
    assert (info["charge"], info["spin"]) == (-1, 2)


def test_reader_of_the_viewer_opens_a_store(path):
    images = Images()
    images.read([f"{path}@::2"])  # the viewer warns of mixed periodicity
    assert len(images) == 2
    assert images.get_energy(images[0]) == pytest.approx(sample(1).label.energy)


def test_written_trajectory_reads_back_as_the_store(path, tmp_path):
    frames = ase.io.read(f"{path}@:")
    ase.io.write(tmp_path / "all.traj", frames)
    for one, other in zip(ase.io.read(tmp_path / "all.traj@:"), frames, strict=True):
        assert one == other
        assert one.get_potential_energy() == other.get_potential_energy()


def test_other_hdf5_file_is_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreDamagedError, match="is HDF5 but not"):
        ase.io.read(tmp_path / "other.h5")
