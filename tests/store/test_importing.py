"""Out and in again: extended XYZ, ASE's database, the archive; MACE's shards."""

from __future__ import annotations

import zipfile

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from hybrid_calc.errors import InputError, LevelMismatchError
from hybrid_calc.store.archive import export_archive
from hybrid_calc.store.export import export_db, export_extxyz, export_mace_hdf5
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.importing import merge, read_frames
from tests.contracts.store import OTHER_LEVEL
from tests.store.samples import REFERENCE, crystal, identities, odd, rejected, sample, water

RECORDS = [sample(1), crystal(2), odd(3)]


def test_database_gives_every_frame_back_to_the_bit(tmp_path):
    assert export_db([*RECORDS, rejected(4)], tmp_path / "all.db") == 3
    back = list(read_frames(tmp_path / "all.db"))
    assert [r.to_bytes() for r in back] == [r.to_bytes() for r in RECORDS]


def test_database_can_be_selected_on_and_has_the_results(tmp_path):
    export_db(RECORDS, tmp_path / "all.db")
    (row,) = connect(tmp_path / "all.db").select(frame=crystal(2).identity)
    assert row.regime == "intact"
    assert row.energy == crystal(2).label.energy
    np.testing.assert_array_equal(row.forces, crystal(2).label.forces)
    np.testing.assert_array_equal(row.stress, crystal(2).label.stress)


def test_extended_xyz_gives_level_checks_and_provenance_back(tmp_path):
    export_extxyz([sample(1), crystal(2)], tmp_path / "all.xyz")
    for back, record in zip(read_frames(tmp_path / "all.xyz"), RECORDS, strict=False):
        assert back.header() == record.header()
        np.testing.assert_allclose(back.positions, record.positions, atol=1e-8)
        np.testing.assert_allclose(back.label.forces, record.label.forces, atol=1e-8)
        assert back.label.energy == record.label.energy


def test_archive_explains_itself_and_gives_everything_back(tmp_path):
    records = [*RECORDS, rejected(4)]
    assert export_archive(records, tmp_path / "all.zip") == 4
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["README.md", "store.h5"]
        text = archive.read("README.md").decode()
    assert "4 frames, of which 1 were rejected" in text
    assert "forces (eV/A)" in text
    back = list(read_frames(tmp_path / "all.zip"))
    assert [r.to_bytes() for r in back] == [r.to_bytes() for r in records]
    assert [p.name for p in tmp_path.iterdir()] == ["all.zip"]


def test_frames_of_others_need_a_level(tmp_path):
    atoms = water(1)
    label = REFERENCE.label(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces)
    ase.io.write(tmp_path / "other.traj", [atoms])
    with pytest.raises(InputError, match=r"does not say its level of theory.*--level"):
        list(read_frames(tmp_path / "other.traj"))
    (back,) = read_frames(tmp_path / "other.traj", REFERENCE.level)
    assert back.label.energy == label.energy
    np.testing.assert_array_equal(back.label.forces, label.forces)
    assert back.meta["source"] == "other.traj, frame 0"


def test_frame_without_energy_is_refused_by_its_place(tmp_path):
    ase.io.write(tmp_path / "bare.xyz", [water(1)])
    with pytest.raises(InputError, match=r"bare\.xyz, frame 0 has no energy"):
        list(read_frames(tmp_path / "bare.xyz", REFERENCE.level))


def test_frame_that_is_not_finite_is_refused(tmp_path):
    atoms = water(1)
    atoms.info["REF_energy"] = -1.0
    atoms.arrays["REF_forces"] = np.full((3, 3), np.nan)
    ase.io.write(tmp_path / "nan.xyz", [atoms], format="extxyz")
    with pytest.raises(InputError, match="not finite"):
        list(read_frames(tmp_path / "nan.xyz", REFERENCE.level))


def test_file_that_is_not_there_and_zip_that_is_no_archive_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        list(read_frames(tmp_path / "none.xyz"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("text", "words")
    with pytest.raises(InputError, match="is no archive of a store"):
        list(read_frames(tmp_path / "other.zip"))


def test_merging_counts_what_is_new_and_refuses_another_level(tmp_path):
    target, other = FrameStore(tmp_path / "a.h5"), FrameStore(tmp_path / "b.h5")
    target.append(sample(1))
    other.append(sample(1))
    other.append(sample(2))
    assert merge(target, other) == (1, 1)
    assert identities(target) == identities([sample(1), sample(2)])
    label = REFERENCE.label(water(5))
    foreign = sample(5, level=OTHER_LEVEL, label=label)
    with pytest.raises(LevelMismatchError):
        merge(target, [foreign])


def test_database_and_shards_never_write_over_something(tmp_path):
    (tmp_path / "all.db").write_text("words")
    with pytest.raises(InputError, match="is there already"):
        export_db(RECORDS, tmp_path / "all.db")
    with pytest.raises(InputError, match="not empty"):
        export_mace_hdf5(RECORDS, tmp_path)


def test_weight_follows_the_regime(tmp_path):
    records = [sample(1, meta={"regime": "reactive H O"}), sample(2)]
    export_extxyz(records, tmp_path / "all.xyz", {"reactive": 4.0})
    found = [atoms.info["config_weight"] for atoms in ase.io.read(tmp_path / "all.xyz@:")]
    assert found == [4.0, 1.0]


def test_mace_reads_its_shards(tmp_path):
    data = pytest.importorskip("mace.data")
    tools = pytest.importorskip("mace.tools")
    records = [sample(number) for number in range(5)]
    folder = tmp_path / "shards"
    assert export_mace_hdf5(records, folder, {"intact": 2.0}, frames_per_shard=2) == 5
    assert sorted(p.name for p in folder.iterdir()) == [f"train_{n}.h5" for n in range(3)]
    table = tools.AtomicNumberTable([1, 8])
    found = data.dataset_from_sharded_hdf5(str(folder), r_max=4.0, z_table=table)
    assert len(found) == 5
    energies = sorted(float(found[index].energy) for index in range(5))
    assert energies == pytest.approx(sorted(r.label.energy for r in records), abs=1e-5)
    assert {float(found[index].weight) for index in range(5)} == {2.0}
