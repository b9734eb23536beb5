"""Files that are damaged or gone: what the journals kept beside give back, and what is said."""

from __future__ import annotations

import os
import shutil

import h5py
import pytest

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store import catalog as catalog_module
from hybrid_calc.store import seal as module
from hybrid_calc.store.catalog import aside_in, shards_in
from hybrid_calc.store.frames import FrameStore, open_existing
from hybrid_calc.store.hdf5 import open_image, write_hdf5
from hybrid_calc.store.seal import check_structure, image_is_whole, read_seal
from hybrid_calc.store.verify import check_store
from tests.store.samples import (
    bytes_of,
    crystal,
    forget_kept,
    identities,
    in_file,
    rejected,
    sample,
)

RECORDS = [sample(1), crystal(2), rejected(3), sample(4)]


@pytest.fixture
def path(tmp_path):
    """Two runs, one after another, both compacted."""
    for half in (RECORDS[:2], RECORDS[2:]):
        with FrameStore(tmp_path / "run.h5") as store:
            for record in half:
                store.append(record)
    return tmp_path / "run.h5"


def flip(path, at, bit=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def chunk_of(path, name):
    with h5py.File(path) as file:
        return file[name].id.get_chunk_info(0)


def assert_all(path, damage=None):
    """Every frame is read to the bit, once, and the damage is named."""
    store = FrameStore(path)
    assert {r.identity: r.to_bytes() for r in store} == {r.identity: r.to_bytes() for r in RECORDS}
    assert len(store) == len(list(store)) == len(RECORDS)
    assert store.lost == 0
    if damage is None:
        assert store.damage == ()
        assert check_store(store).damage == ()
    else:
        assert any(damage in sentence for sentence in store.damage), store.damage
        assert check_store(store).damage
    label = store.find_label(RECORDS[0].atoms(), RECORDS[0].level)
    assert label.energy == RECORDS[0].label.energy
    assert not store.append(RECORDS[1])


def heal(path):
    FrameStore(path).compact()
    assert_all(path)
    assert in_file(path) == identities(RECORDS)
    assert aside_in(path) == []


def test_flipped_bit_in_the_metadata_falls_back_to_the_journals_and_is_healed(path):
    flip(path, read_seal(path).extents[1][0] + 5)
    assert_all(path, "4 frames are read from the journals kept beside, instead of run.h5")
    heal(path)


def test_structure_that_is_damaged_is_never_given_to_hdf5(path, monkeypatch):
    flip(path, read_seal(path).extents[1][0] + 5)
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(StoreDamagedError, match="structure is damaged"), open_image(path, []):
        pass


@pytest.mark.parametrize("ruin", ["missing", "empty", "half", "text", "zeros"])
def test_file_that_is_gone_or_something_else_falls_back_to_the_journals(path, ruin):
    size = path.stat().st_size
    if ruin == "missing":
        path.unlink()
    elif ruin == "half":
        os.truncate(path, size // 2)
    else:
        path.write_bytes({"empty": b"", "text": b"words", "zeros": bytes(size)}[ruin])
    assert_all(path, "4 frames are read from the journals kept beside")
    if ruin == "missing":
        heal(path)
        return
    with pytest.raises(StoreDamagedError, match=r"can be read nowhere.*--repair"):
        FrameStore(path).compact()  # nobody knows how many frames it held
    FrameStore(path).compact(repair=True)
    (aside,) = aside_in(path)
    assert in_file(path) == identities(RECORDS)
    assert f"{aside.name}: kept aside by a repair" in FrameStore(path).damage[0]
    aside.unlink()
    assert_all(path)


@pytest.mark.parametrize("name", ["arrays/forces/values", "frames/digest", "headers/values"])
def test_damaged_chunk_is_read_from_the_journals_and_healed(path, name):
    chunk = chunk_of(path, name)
    flip(path, chunk.byte_offset + min(chunk.size // 2, 50))
    store = FrameStore(path)
    assert store.damage == (), "nothing is read before it is asked for"
    assert {r.identity: r.to_bytes() for r in store} == {r.identity: r.to_bytes() for r in RECORDS}
    assert "damaged frames are read from the journals kept beside" in store.damage[-1]
    assert check_store(FrameStore(path)).damage
    FrameStore(path).compact(repair=True)
    assert_all(path)
    assert aside_in(path) == []


def test_ordinary_compaction_heals_what_it_comes_across(path):
    flip(path, chunk_of(path, "arrays/forces/values").byte_offset + 9)
    with FrameStore(path) as store:
        store.append(sample(9))
    assert check_store(FrameStore(path)).damage == ()
    assert in_file(path) == identities([*RECORDS, sample(9)])


def test_every_byte_of_a_file_is_under_its_checksum(path):
    chunk = chunk_of(path, "frames/identity")
    flip(path, chunk.byte_offset + chunk.size - 1)  # in a row that no frame has
    store = FrameStore(path)
    assert identities(store) == identities(RECORDS)
    assert store.damage == ()
    assert "its bytes are not those that were written" in check_store(store).damage[0]
    FrameStore(path).compact(repair=True)
    assert_all(path)


def test_damaged_seal_is_named_and_healed(path):
    flip(path, path.stat().st_size - 1)
    assert_all(path, "its seal is damaged or missing")
    FrameStore(path).compact(repair=True)
    assert_all(path)


def test_older_copy_of_the_file_put_back_is_found_by_verify_and_repaired(path, tmp_path):
    old = tmp_path / "old"
    shutil.copy(path, old)
    with FrameStore(path) as store:
        store.append(sample(9))
    shutil.copy(old, path)
    (sentence,) = check_store(FrameStore(path)).damage
    assert "1 frames of the kept journals are in no file" in sentence
    FrameStore(path).compact(repair=True)
    assert in_file(path) == identities([*RECORDS, sample(9)])


def test_frames_that_are_nowhere_else_are_named_and_given_up_only_by_a_repair(path):
    forget_kept(path)
    with h5py.File(path) as file:
        spot = file["frames/energy"].id.get_chunk_info(0).byte_offset
    flip(path, spot + 8, 0x40)
    before = path.read_bytes()
    store = FrameStore(path)
    assert len(list(store)) == 3
    assert store.lost == 1
    assert check_store(store).lost == 1
    store.append(sample(9))
    with pytest.raises(StoreDamagedError, match="1 frames can be read nowhere"):
        store.compact()
    store.close()
    assert path.read_bytes() == before
    FrameStore(path).compact(repair=True)
    (aside,) = aside_in(path)
    assert aside.read_bytes() == before
    assert in_file(path) == identities([*RECORDS[:1], *RECORDS[2:], sample(9)])
    assert len(FrameStore(path).damage) == 1


def test_broken_file_without_journals_says_how_many_frames_are_lost(path):
    forget_kept(path)
    flip(path, read_seal(path).extents[1][0] + 5)
    store = FrameStore(path)
    assert list(store) == []
    assert store.lost == 4
    assert "4 are lost" in store.damage[1]


def test_kept_journal_that_is_damaged_is_named_by_verify(path):
    journal = next(path.with_name("run.h5.journals").glob("*.kept"))
    flip(journal, 100)
    assert FrameStore(path).damage == ()
    assert journal.name in check_store(FrameStore(path)).damage[0]


def test_seal_notices_every_flipped_bit_of_what_hdf5_interprets(tmp_path):
    path = tmp_path / "run.h5"
    write_hdf5(path, [sample(1)])
    seal, data = read_seal(path), path.read_bytes()
    assert sum(size for _, size, _ in seal.extents) > 10_000
    for start, size, _ in seal.extents:
        for at in range(start, start + size, 997):
            broken = bytearray(data)
            broken[at] ^= 1 << at % 8
            path.write_bytes(broken)
            with pytest.raises(StoreDamagedError):
                check_structure(path, seal)
            assert not image_is_whole(path, seal)


def test_seal_cut_or_changed_anywhere_is_no_seal(tmp_path):
    path = tmp_path / "run.h5"
    write_hdf5(path, [sample(1)])
    seal, data = read_seal(path), path.read_bytes()
    for at in range(seal.size, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        assert read_seal(path) is None
    for length in (0, 1, module.FOOTER.size, len(data) - 1):
        path.write_bytes(data[:length])
        assert read_seal(path) is None


# Shards


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """Eleven frames, four to a shard."""
    monkeypatch.setattr("hybrid_calc.store.compaction.FRAMES_PER_SHARD", 4)
    monkeypatch.setattr("hybrid_calc.store.block.FRAMES_PER_BLOCK", 2)
    path = tmp_path / "run.h5"
    for first in (0, 3, 8):
        with FrameStore(path) as store:
            for number in range(first, min(first + 5, 11)):
                store.append(sample(number))
    return path


ELEVEN = [sample(number) for number in range(11)]


def test_what_fills_the_file_goes_into_shards_that_are_never_written_again(sharded):
    before = {path.name: path.read_bytes() for path in shards_in(sharded)}
    assert sorted(before) == ["000001.h5", "000002.h5"]
    store = FrameStore(sharded)
    assert [record.meta["step"] for record in store] == list(range(11))
    assert store.damage == check_store(store).damage == ()
    assert in_file(sharded) == identities(ELEVEN)
    assert not store.append(sample(0))
    assert store.find_label(ELEVEN[1].atoms(), ELEVEN[1].level) is not None
    with FrameStore(sharded) as store:
        for number in range(11, 14):
            store.append(sample(number))
    now = {path.name: path.read_bytes() for path in shards_in(sharded)}
    assert before.items() <= now.items()
    assert len(now) == 3
    assert in_file(sharded) == identities([sample(number) for number in range(14)])


@pytest.mark.parametrize("ruin", ["missing", "metadata", "chunk"])
def test_damaged_shard_falls_back_to_the_journals_and_is_healed(sharded, ruin):
    shard = shards_in(sharded)[0]
    if ruin == "missing":
        shard.unlink()
    elif ruin == "metadata":
        flip(shard, 300)
    else:
        flip(shard, chunk_of(shard, "arrays/forces/values").byte_offset + 3)
    store = FrameStore(sharded)
    assert identities(store) == identities(ELEVEN)
    assert store.lost == 0
    assert store.damage
    assert check_store(store).damage
    FrameStore(sharded).compact(repair=ruin == "chunk")
    assert check_store(FrameStore(sharded)).damage == ()
    assert in_file(sharded) == identities(ELEVEN)
    assert aside_in(sharded) == []


def test_missing_shard_without_journals_is_never_silent(sharded):
    forget_kept(sharded)
    shards_in(sharded)[0].unlink()
    store = FrameStore(sharded)
    assert store.lost == 4
    assert "000001.h5 is missing" in store.damage
    with pytest.raises(StoreDamagedError, match=r"000001\.h5"):
        store.compact()


def test_shards_are_found_without_the_file_that_lists_them(sharded):
    sharded.unlink()
    shutil.rmtree(sharded.with_name("run.h5.journals"))
    store = open_existing(sharded)
    assert identities(store) == identities(ELEVEN[:8])
    assert "run.h5 is missing" in store.damage


def test_compaction_killed_between_shard_and_file_leaves_every_frame_once(sharded, monkeypatch):
    store = FrameStore(sharded)
    for number in range(11, 16):
        store.append(sample(number))

    def die(path, *arguments):
        if path == sharded:
            raise KeyboardInterrupt
        original(path, *arguments)

    from hybrid_calc.store import compaction

    original = compaction.write_blocks
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "write_blocks", die)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
    assert len(shards_in(sharded)) == 4
    expected = identities([sample(number) for number in range(16)])
    assert identities(FrameStore(sharded)) == expected
    assert FrameStore(sharded).damage == ()
    FrameStore(sharded).compact()
    assert in_file(sharded) == expected


def test_reading_goes_on_while_the_file_becomes_shards(sharded):
    reader = FrameStore(sharded)
    frames = iter(reader)
    seen = [next(frames) for _ in range(2)]
    with FrameStore(sharded) as store:
        for number in range(11, 14):
            store.append(sample(number))
    seen += list(frames)
    assert identities(seen) == identities(ELEVEN)
    assert reader.damage == ()


def test_catalog_of_a_store_that_is_compacted_meanwhile_is_looked_up_again(path, monkeypatch):
    store = FrameStore(path)
    other = FrameStore(path)
    other.append(sample(9))
    original, times = catalog_module.index_journal, []

    def compacted_first(*arguments):
        times.append(1)
        if len(times) == 1:
            monkeypatch.setattr(catalog_module, "index_journal", original)
            other.compact()
        return original(*arguments)

    monkeypatch.setattr(catalog_module, "index_journal", compacted_first)
    assert identities(store) == identities([*RECORDS, sample(9)])
    assert store.damage == ()
    assert times == [1]


def test_bytes_of_a_store_do_not_change_when_it_is_cut_into_shards(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    with FrameStore(path) as store:
        for record in ELEVEN:
            store.append(record)
    before = bytes_of(path)
    monkeypatch.setattr("hybrid_calc.store.compaction.FRAMES_PER_SHARD", 4)
    FrameStore(path).compact(repair=True)
    assert len(shards_in(path)) >= 1
    assert bytes_of(path) == before
