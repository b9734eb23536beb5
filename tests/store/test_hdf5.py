"""The HDF5 file: whole or not there, readable by anyone, never wrong in silence."""

from __future__ import annotations

import errno
import os
import random
import select
import stat
import subprocess
from collections import Counter

import h5py
import numpy as np
import pytest

from hybrid_calc.errors import StoreDamagedError, StoreError
from hybrid_calc.store import hdf5 as module
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import FORMAT, SCHEMA, check_format, read_hdf5, write_hdf5
from hybrid_calc.store.journal import Notes, read_journal
from hybrid_calc.store.record import ARRAYS
from hybrid_calc.store.seal import image_is_whole, read_seal, write_seal
from tests.store.samples import KINDS, crystal, editing, identities, python, rejected, sample


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.fixture
def records():
    return [make(number) for number, make in enumerate(KINDS.values())]


def read(path):
    damage = []
    return list(read_hdf5(path, damage)), damage


def test_records_come_back_to_the_bit_and_in_order(path, records):
    write_hdf5(path, records)
    back, damage = read(path)
    assert [r.to_bytes() for r in back] == [r.to_bytes() for r in records]
    assert damage == []


def test_file_without_frames_is_a_store(path):
    write_hdf5(path, [])
    check_format(path)
    assert read(path) == ([], [])


def test_every_column_has_its_unit(path, records):
    write_hdf5(path, records)
    with h5py.File(path) as file:
        assert file.attrs["format"] == FORMAT
        assert file.attrs["schema"] == SCHEMA
        assert file["frames/energy"].attrs["unit"] == "eV"
        for name, unit in ARRAYS.items():
            assert file[f"arrays/{name}/values"].attrs["unit"] == unit


def test_columns_can_be_read_without_this_package(path):
    records = [sample(1), crystal(2), rejected(3)]
    write_hdf5(path, records)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            file["frames/energy"][:], [records[0].label.energy, records[1].label.energy, np.nan]
        )
        forces = file["arrays/forces"]
        np.testing.assert_array_equal(forces["offsets"][:], [0, 9, 21, 21])
        np.testing.assert_array_equal(forces["dimensions"][:], [2, 2, -1])
        np.testing.assert_array_equal(forces["shapes"][:2], [[3, 3, 1], [4, 3, 1]])
        np.testing.assert_array_equal(forces["values"][9:21].reshape(4, 3), records[1].label.forces)


def test_numbers_are_compressed_with_checksums(path):
    write_hdf5(path, [sample(1)])
    with h5py.File(path) as file:
        for name in ARRAYS:
            if name not in {"stress", "member_stress"}:
                values = file[f"arrays/{name}/values"]
                assert values.fletcher32, name
                assert values.compression == "gzip"


def test_single_and_double_precision_members_live_in_one_file(path):
    single = sample(1)
    single = sample(
        1,
        prediction=type(single.prediction)(
            energies=single.prediction.energies.astype(np.float32),
            forces=single.prediction.forces.astype(np.float32),
        ),
    )
    write_hdf5(path, [single, sample(2)])
    back, damage = read(path)
    assert damage == []
    assert [r.to_bytes() for r in back] == [single.to_bytes(), sample(2).to_bytes()]


def test_file_is_replaced_whole_and_nothing_is_left_beside_it(path):
    write_hdf5(path, [sample(1)])
    before = path.stat().st_ino
    with h5py.File(path, locking=False) as reader:  # a reader of the old file goes on reading it
        write_hdf5(path, [sample(1), sample(2)])
        assert len(reader["frames/energy"]) == 1
    assert path.stat().st_ino != before
    assert identities(read(path)[0]) == identities([sample(1), sample(2)])
    assert os.listdir(path.parent) == ["run.h5"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_file_that_cannot_be_finished_leaves_the_one_before(path, monkeypatch, step):
    class Faulty:
        def __getattr__(self, name):
            return getattr(os, name)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_hdf5(path, [sample(1)])
    before = path.read_bytes()
    faulty = Faulty()
    setattr(faulty, step, fail)
    monkeypatch.setattr(module, "os", faulty)
    with pytest.raises(StoreError, match="frames are safe in its journal"):
        write_hdf5(path, [sample(1), sample(2)])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.h5"]


def test_folder_that_is_gone_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="could not be rewritten"):
        write_hdf5(tmp_path / "nowhere" / "run.h5", [sample(1)])


def test_text_file_is_refused(path):
    path.write_text("energy = -1.0\n")
    for action in (check_format, FrameStore):
        with pytest.raises(StoreDamagedError, match=r"is not an HDF5 file; give .* another path"):
            action(path)
    assert path.read_text() == "energy = -1.0\n"


def test_other_hdf5_file_is_refused_and_left_alone(path):
    with h5py.File(path, "w") as file:
        file["config_batch_0"] = np.arange(3)  # as MACE writes its own
    before = path.read_bytes()
    for action in (check_format, FrameStore):
        with pytest.raises(StoreDamagedError, match=f"is HDF5 but not a {FORMAT}"):
            action(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "x"])
def test_other_schema_is_refused_with_what_to_do(path, schema):
    write_hdf5(path, [sample(1)])
    os.truncate(path, read_seal(path).size)
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = schema
    if isinstance(schema, int):
        unsealed = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            write_seal(file, schema=schema, frames=1)
        with pytest.raises(StoreDamagedError, match=f"has schema {schema}.*Install the version"):
            FrameStore(path)
        path.write_bytes(unsealed)
    with pytest.raises(StoreDamagedError, match=f"has schema {schema}.*Install the version"):
        FrameStore(path)


def test_truncated_file_is_reported_and_never_overwritten(path):
    write_hdf5(path, [sample(1), sample(2)])
    os.truncate(path, path.stat().st_size // 2)
    before = path.read_bytes()
    store = FrameStore(path)
    assert "cannot be read" in store.damage[0]
    store.append(sample(3))
    with pytest.raises(StoreDamagedError, match=r"frames in the journals are safe.*--repair"):
        store.compact()
    store.close()
    assert "It is left as it is" in store.damage[-1]
    assert path.read_bytes() == before
    assert identities(FrameStore(path)) == identities([sample(3)])


def test_frame_whose_header_was_changed_is_refused_and_the_others_survive(path):
    write_hdf5(path, [sample(1), sample(2), sample(3)])
    with editing(path) as file:
        text = file["headers/values"][:].tobytes()
        second = text.index(b"intact", int(file["headers/offsets"][1]))
        file["headers/values"][second : second + 6] = np.frombuffer(b"broken", dtype=np.uint8)
    back, damage = read(path)
    assert identities(back) == identities([sample(1), sample(3)])
    assert damage == ["run.h5: frame 1 is not what was written (content hash differs)"]


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_frame_with_one_changed_number_is_refused_and_the_others_survive(path, name):
    records = [crystal(1), crystal(2), crystal(3)]
    write_hdf5(path, records)
    with editing(path) as file:
        values = file[f"arrays/{name}/values"]
        middle = int(file[f"arrays/{name}/offsets"][1])
        values[middle] = 1 - values[middle]
    back, damage = read(path)
    assert identities(back) == identities([records[0], records[2]])
    assert len(damage) == 1
    assert "frame 1" in damage[0]


@pytest.mark.parametrize("column", ["energy", "identity", "digest"])
def test_frame_with_a_changed_column_is_refused(path, column):
    write_hdf5(path, [sample(1), sample(2)])
    with editing(path) as file:
        file[f"frames/{column}"][0] = file[f"frames/{column}"][1]
    back, damage = read(path)
    assert identities(back) == identities([sample(2)])
    assert len(damage) == 1


@pytest.mark.parametrize("column", ["frames/identity", "headers/offsets", "arrays/forces/offsets"])
def test_column_that_lost_a_row_does_not_lose_a_frame_in_silence(path, column):
    write_hdf5(path, [sample(1), sample(2), sample(3)])
    with editing(path) as file:
        values, attributes = file[column][:-1], dict(file[column].attrs)
        del file[column]
        file[column] = values
        file[column].attrs.update(attributes)
    back, damage = read(path)
    assert identities(back) == identities([sample(1), sample(2)])
    assert damage == ["run.h5: between 2 and 3 frames; the least are read"]


def test_missing_column_is_named(path):
    write_hdf5(path, [sample(1)])
    with editing(path) as file:
        del file["arrays/positions"]
    back, damage = read(path)
    assert back == []
    assert "positions" in damage[0]


# Flips bits of a store's file, one at a time as told, and says what became of its frames.
FLIPPER = """
import os, sys
from pathlib import Path
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import read_hdf5
from hybrid_calc.store.verify import check_store
from tests.store.samples import bytes_of

path = Path(sys.argv[1])
written, data = bytes_of(path), path.read_bytes()
descriptor = os.open(path, os.O_WRONLY)

def right(records):
    return all(written.get(record.identity) == record.to_bytes() for record in records)

for line in sys.stdin:
    at, bit = map(int, line.split())
    os.pwrite(descriptor, bytes([data[at] ^ 1 << bit]), at)
    damage = []
    alone = list(read_hdf5(path, damage))
    store = FrameStore(path)
    found = list(store)
    if not right(alone) or not right(found):
        print("wrong")
    elif len(alone) < len(written) and not damage:
        print("silent")
    elif {record.identity for record in found} != set(written):
        print("lost")
    elif not check_store(FrameStore(path)).damage:
        print("undetected")
    elif not alone:
        print("fallback")
    elif len(alone) < len(written):
        print("spared")
    else:
        print("whole")
    sys.stdout.flush()
    os.pwrite(descriptor, data[at : at + 1], at)
"""


def flip(path, flips):
    """Flip bits, one at a time; count what became of the frames."""
    with FrameStore(path) as store:
        for record in (sample(1), crystal(2), rejected(3)):
            store.append(record)
    # most of a small file is unused space; half of the flips stay near what was written
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    near = np.flatnonzero(np.convolve(data != 0, np.ones(17), "same") > 0.5).tolist()
    chance = random.Random(11)  # noqa: S311  (not for secrets)
    counts = Counter()
    process = None
    for number in range(flips):
        if process is None:
            process = python(FLIPPER, path, stdin=subprocess.PIPE)
        at = chance.choice(near) if number % 2 else chance.randrange(len(data))
        process.stdin.write(f"{at} {chance.randrange(8)}\n")
        process.stdin.flush()
        answered, _, _ = select.select([process.stdout], [], [], 20.0)
        verdict = process.stdout.readline().strip() if answered else "endless"
        counts[verdict or "crashed"] += 1
        if verdict in {"", "endless"}:
            end(process)
            process = None
    end(process)
    return counts


def end(process):
    if process is not None:
        process.kill()
        process.communicate()


def assert_nothing_is_lost(counts):
    """Fallback: the file gave nothing, the journals everything. Spared: it gave some frames."""
    assert set(counts) <= {"fallback", "spared", "whole"}, counts
    assert counts["fallback"] > 10
    assert counts["spared"] > 0


def test_flipped_bit_is_detected_and_loses_no_frame(path):
    assert_nothing_is_lost(flip(path, 120))


@pytest.mark.slow
def test_four_thousand_flipped_bits_are_detected_and_lose_no_frame(path):
    assert_nothing_is_lost(flip(path, 4000))


@pytest.mark.slow
def test_a_bit_flipped_in_every_byte_of_a_store_is_detected(path):
    with FrameStore(path) as store:
        for record in (sample(1), crystal(2), rejected(3)):
            store.append(record)
    seal, data = read_seal(path), path.read_bytes()
    descriptor = os.open(path, os.O_WRONLY)
    for at, byte in enumerate(data):
        os.pwrite(descriptor, bytes([byte ^ 1 << at % 8]), at)
        assert read_seal(path) is None if at >= seal.size else not image_is_whole(path, seal), at
        os.pwrite(descriptor, data[at : at + 1], at)
    os.close(descriptor)
    for journal in path.with_name("run.h5.journals").glob("*.kept"):
        content = journal.read_bytes()
        for at, byte in enumerate(content):
            journal.write_bytes(content[:at] + bytes([byte ^ 1 << at % 8]) + content[at + 1 :])
            notes = Notes()
            assert len(list(read_journal(journal, notes))) < 3, at
            assert notes.damage or notes.torn_tails, at
        journal.write_bytes(content)


def test_file_can_be_read_by_whoever_may_read_the_folder(path):
    before = os.umask(0o022)
    try:
        write_hdf5(path, [sample(1)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
