"""Columns and queries: what frames are selected on, never wrong in silence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hybrid_calc.errors import InputError, StoreDamagedError
from hybrid_calc.store import block
from hybrid_calc.store.block import blocks_of
from hybrid_calc.store.columns import columns_of, concatenate
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import SCHEMA, _columns, read_index, read_rows, write_hdf5
from hybrid_calc.store.query import Query
from hybrid_calc.store.verify import check_store, same_columns
from tests.store.samples import (
    KINDS,
    REFERENCE,
    bytes_of,
    crystal,
    editing,
    forget_kept,
    identities,
    rejected,
    sample,
)

DATA = Path(__file__).parents[1] / "data"


def frame(number, regime, run, error):
    return sample(number, meta={"regime": regime, "run": run, "step": number, "force_error": error})


@pytest.fixture
def records():
    return [
        frame(1, "equilibrium H O", "a", 0.1),
        frame(2, "reactive H O", "a", 0.5),
        frame(3, "reactive H O", "b", None),
        crystal(4),
        rejected(5),
    ]


@pytest.fixture
def path(tmp_path, records):
    """Three frames in the file, two in a journal."""
    store = FrameStore(tmp_path / "run.h5")
    for record in records[:3]:
        store.append(record)
    store.compact()
    for record in records[3:]:
        store.append(record)
    return store.path


QUERIES = {
    "regime": (Query(regime="reactive"), [2, 3]),
    "whole regime": (Query(regime="equilibrium H O"), [1]),
    "level hash": (Query(level=REFERENCE.level.hash), [1, 2, 3, 4, 5]),
    "level name": (Query(level=str(REFERENCE.level)), [1, 2, 3, 4, 5]),
    "other level": (Query(level="nothing"), []),
    "elements": (Query(elements=("Cu",)), [4]),
    "two elements": (Query(elements=("H", "O")), [1, 2, 3, 5]),
    "run": (Query(run="b"), [3]),
    "formula": (Query(formula="Cu4"), [4]),
    "rejected": (Query(labelled=False), [5]),
    "validated": (Query(labelled=True), [1, 2, 3, 4]),
    "large error": (Query(min_force_error=0.2), [2]),
    "small error": (Query(max_force_error=0.2), [1]),
    "two conditions": (Query(regime="reactive", run="a"), [2]),
    "everything": (Query(), [1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("name", QUERIES)
def test_frames_are_selected_from_file_and_journal(path, records, name):
    query, expected = QUERIES[name]
    found = [record.to_bytes() for record in FrameStore(path).select(query)]
    assert found == [records[number - 1].to_bytes() for number in expected]


def test_word_that_is_no_element_is_refused():
    with pytest.raises(InputError, match="Xq is no element"):
        Query(elements=("Xq",))


def test_selecting_reads_no_frame_but_the_selected(path, monkeypatch):
    FrameStore(path).compact()
    calls = []
    original = block.Block.record
    monkeypatch.setattr(
        block.Block, "record", lambda self, index: calls.append(index) or original(self, index)
    )
    store = FrameStore(path)
    assert len(store) == 5
    assert calls == []
    assert len(list(store.select(Query(run="b")))) == 1
    assert len(calls) == 1


def test_columns_stay_with_their_frames_through_compactions(path, records):
    store = FrameStore(path)
    assert same_columns(store.columns(), columns_of(records))
    FrameStore(path).compact()
    assert same_columns(FrameStore(path).columns(), columns_of(records))


def test_columns_of_parts_are_the_columns_of_all(records):
    parts = [columns_of(records[:2]), columns_of([]), columns_of(records[2:])]
    assert same_columns(concatenate(parts), columns_of(records))


def test_more_frames_than_a_block_come_back_in_order(path, monkeypatch):
    monkeypatch.setattr("hybrid_calc.store.block.FRAMES_PER_BLOCK", 4)
    monkeypatch.setattr("hybrid_calc.store.rows.FRAMES_PER_BLOCK", 4)
    records = [sample(number) for number in range(11)]
    assert [len(b) for b, _ in blocks_of(records)] == [4, 4, 3]
    write_hdf5(path, records)
    for rows in ([0], [3, 4], [0, 2, 4, 6, 8, 10], [1, 9], list(range(11)), [10, 40]):
        damage = []
        found = list(read_rows(path, damage, np.array(rows)))
        assert damage == []
        assert [row for row, *_ in found] == [row for row in rows if row < 11]
        assert all(record.meta["step"] == row for row, _, record in found)


# Damage


def test_flipped_bit_in_the_columns_is_seen_and_they_are_rebuilt(path, records):
    FrameStore(path).compact()
    with editing(path) as file:
        file["columns/force_error"][1] = 0.05
    store = FrameStore(path)
    assert "columns are damaged; they were rebuilt" in store.damage[0]
    assert same_columns(store.columns(), columns_of(records))
    assert identities(store.select(Query(min_force_error=0.2))) == identities([records[1]])
    assert len(check_store(store).damage) == 1
    store.append(sample(9))
    store.close()
    assert FrameStore(path).damage == ()
    assert check_store(FrameStore(path)).damage == ()


@pytest.mark.parametrize("name", ["tables", "identity", "question", "run"])
def test_missing_column_is_rebuilt(path, records, name):
    FrameStore(path).compact()
    with editing(path) as file:
        del file[f"columns/{name}"]
    store = FrameStore(path)
    assert len(store.damage) == 1
    assert same_columns(store.columns(), columns_of(records))


def test_columns_that_agree_with_their_digest_and_not_with_the_frames_are_found(path):
    FrameStore(path).compact()
    with editing(path) as file:
        group = file["columns"]
        steps = group["step"][:]
        group["step"][:] = steps + 1
        group.attrs["digest"] = _columns(group).digest()
    store = FrameStore(path)
    assert store.damage == ()
    assert check_store(store).damage == ("run.h5: columns of frames from 0 are wrong",)


def test_bits_flipped_anywhere_never_select_a_wrong_frame(path, records):
    FrameStore(path).compact()
    written, right = bytes_of(path), columns_of(records)
    data = path.read_bytes()
    near = np.convolve(np.frombuffer(data, dtype=np.uint8) != 0, np.ones(17), "same") > 0.5
    candidates = np.flatnonzero(near).tolist()
    chance = random.Random(3)  # noqa: S311  (not for secrets)
    for _ in range(60):
        at, bit = chance.choice(candidates), chance.randrange(8)
        broken = bytearray(data)
        broken[at] ^= 1 << bit
        path.write_bytes(broken)
        try:
            store = FrameStore(path)
        except StoreDamagedError:
            continue
        for record in store:
            assert written[record.identity] == record.to_bytes(), (at, bit)
        assert store.damage or same_columns(store.columns(), right), (at, bit)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("arrays/forces/values", 456),
        ("arrays/forces/offsets", 257),
        ("frames/digest", 1),
        ("frames/energy", 1),
        ("columns/step", 0),
    ],
)
def test_damaged_chunk_spares_the_other_frames(tmp_path, name, most):
    path = tmp_path / "run.h5"
    few = [sample(number) for number in range(3)]
    forces = [few[n % 3].label.forces + n for n in range(600)]
    records = [
        dataclasses.replace(few[n % 3], label=dataclasses.replace(few[n % 3].label, forces=force))
        for n, force in enumerate(forces)
    ]
    write_hdf5(path, records)
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2 - 3] ^= 4
    path.write_bytes(data)
    found = identities(FrameStore(path))
    assert found.keys() <= identities(records).keys()
    assert 600 - most <= len(found) <= 600 - bool(most)


def test_label_whose_frame_is_damaged_is_asked_and_stored_again(path, records):
    FrameStore(path).compact()
    forget_kept(path)
    with editing(path) as file:
        file["frames/energy"][1] = 0.0
    store = FrameStore(path)
    record = records[1]
    assert store.damage == ()
    assert store.find_label(record.atoms(), record.level) is None
    assert "frame 1" in store.damage[0]
    assert store.append(record), "the frame in the file is lost: it must be written again"
    assert identities(FrameStore(path)) == identities(records)


def test_same_frame_is_written_again_where_the_one_in_the_file_is_damaged(path, records):
    FrameStore(path).compact()
    forget_kept(path)
    with editing(path) as file:
        file["frames/energy"][1] = 0.0
    store = FrameStore(path)
    assert not store.append(records[0])
    assert store.append(records[1])
    assert identities(FrameStore(path)) == identities(records)


# Older schemas


def test_store_of_schema_1_is_read_to_the_bit_and_upgraded_by_compacting(tmp_path):
    path = tmp_path / "run.h5"
    shutil.copy(DATA / "store-schema-1.h5", path)
    expected = json.loads((DATA / "store-schema-1.json").read_text())
    before = path.read_bytes()
    for schema in (1, SCHEMA):
        assert read_index(path, []).schema == schema
        store = FrameStore(path)
        assert store.damage == ()
        assert len(store) == len(KINDS)
        frames = {k: hashlib.sha256(v).hexdigest() for k, v in bytes_of(path).items()}
        assert frames == expected
        assert same_columns(store.columns(), columns_of(store))
        assert len(list(store.select(Query(labelled=False)))) == 1
        assert check_store(store).damage == ()
        assert schema == SCHEMA or path.read_bytes() == before, "looking writes nothing"
        store.compact()
    assert read_index(path, []).schema == SCHEMA


def test_store_of_schema_2_with_shards_and_journals_is_read_to_the_bit(tmp_path):
    shutil.copytree(DATA / "store-schema-2", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "run.h5"
    expected = json.loads((DATA / "store-schema-2.json").read_text())
    store = FrameStore(path)
    assert (read_index(path, []).schema, len(store.catalog().shards)) == (2, 1)
    assert {k: hashlib.sha256(v).hexdigest() for k, v in bytes_of(path).items()} == expected
    assert [record.descriptors for record in store] == [f"3x4:{'0' * 32}", "", "", "", ""]
    assert check_store(store).damage == ()
    assert store.levels == (REFERENCE.level,)
    path.unlink()
    shutil.rmtree(tmp_path / "run.h5.shards")
    assert identities(FrameStore(path)) == dict.fromkeys(expected, 1), "the journals alone are it"


def test_damaged_frame_of_schema_1_is_named_and_the_file_left_as_it_is(tmp_path):
    path = tmp_path / "run.h5"
    shutil.copy(DATA / "store-schema-1.h5", path)
    with editing(path) as file:
        file["frames/energy"][1] = 0.0
    before = path.read_bytes()
    store = FrameStore(path)
    assert "frame 1" in store.damage[0]
    assert len(store.columns()) == len(KINDS) - 1
    assert len(list(store.select(Query()))) == len(KINDS) - 1
    with pytest.raises(StoreDamagedError, match="left as it is"):
        store.compact()
    assert path.read_bytes() == before
