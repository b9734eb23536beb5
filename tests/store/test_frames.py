"""The store: journals and file together, several processes at once, disks that fill up."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import subprocess
import time

import numpy as np
import pytest

from hybrid_calc.errors import InputError, LevelMismatchError, StoreDamagedError, StoreError
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store import journal as journal_module
from hybrid_calc.store.bound_level import bind_level
from hybrid_calc.store.frames import FrameStore, open_existing
from hybrid_calc.store.journal import SUFFIX
from tests.store.samples import forget_kept, identities, in_file, python, sample


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def journals(path):
    return sorted(path.with_name(path.name + ".journals").glob(f"*{SUFFIX}"))


def acknowledged(process, seconds=60):
    """Return what a process printed, once it has ended well."""
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0
    return out.split()


@pytest.mark.parametrize("name", ["run.txt", "run", "run.h5.bak"])
def test_name_that_is_no_store_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"a store is a file NAME\.h5"):
        FrameStore(tmp_path / name)


def test_folder_is_refused(tmp_path):
    (tmp_path / "run.h5").mkdir()
    with pytest.raises(InputError, match="a store is a file"):
        FrameStore(tmp_path / "run.h5")


def test_looking_into_a_store_that_is_not_there_is_refused_and_creates_nothing(tmp_path):
    with pytest.raises(InputError, match="there is no store"):
        open_existing(tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


def test_opening_and_reading_write_nothing(path):
    FrameStore(path).read()
    assert list(path.parent.iterdir()) == []


def test_store_that_is_only_journals_can_be_looked_into(path):
    FrameStore(path).append(sample(1))
    assert not path.exists()
    assert identities(open_existing(path)) == identities([sample(1)])


def test_close_moves_every_frame_into_the_file(path):
    with FrameStore(path) as store:
        store.append(sample(1))
        store.append(sample(2))
    assert in_file(path) == identities([sample(1), sample(2)])
    assert journals(path) == []
    assert {p.suffix for p in path.with_name("run.h5.journals").iterdir()} == {".kept", ".json"}


def test_closing_an_unused_store_leaves_an_empty_file(path):
    FrameStore(path).close()
    assert in_file(path) == {}


def test_journal_cut_inside_its_last_record_loses_only_that_record(path):
    # test_journal.py cuts at every byte; here the store reads what is left
    store = FrameStore(path)
    sizes = [0]
    for number in range(3):
        store.append(sample(number))
        sizes.append(journals(path)[0].stat().st_size)
    (journal,) = journals(path)
    data = journal.read_bytes()
    for end in range(sizes[-2], sizes[-1], 29):
        journal.write_bytes(data[:end])
        content = FrameStore(path).read()
        assert identities(content.records) == identities([sample(0), sample(1)])
        assert content.damage == ()
        assert len(content.torn_tails) == (end > sizes[-2])


@pytest.mark.slow
def test_journal_cut_at_every_byte_of_its_last_three_records_loses_only_what_is_cut(path):
    store = FrameStore(path)
    ends = [0]
    for number in range(5):
        store.append(sample(number))
        ends.append(journals(path)[0].stat().st_size)
    (journal,) = journals(path)
    for end in range(ends[-1], ends[2] - 1, -1):
        os.truncate(journal, end)
        content = FrameStore(path).read()
        whole = sum(end >= other for other in ends[1:])
        assert [record.meta["step"] for record in content.records] == list(range(whole)), end
        assert content.damage == ()
        assert len(content.torn_tails) == (end not in ends)


def test_damaged_record_in_the_middle_is_named_and_its_journal_kept(path):
    store = FrameStore(path)
    for number in range(3):
        store.append(sample(number))
    (journal,) = journals(path)
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 0x10
    journal.write_bytes(data)
    reader = FrameStore(path)
    assert identities(reader) == identities([sample(0), sample(2)])
    assert len(reader.damage) == 1
    assert journal.name in reader.damage[0]
    store.close()
    assert in_file(path) == identities([sample(0), sample(2)])
    assert journals(path) == []
    assert journal.with_suffix(".damaged").read_bytes() == bytes(data)


def test_damage_in_the_last_record_keeps_its_journal_too(path):
    store = FrameStore(path)
    store.append(sample(0))
    store.append(sample(1))
    (journal,) = journals(path)
    data = bytearray(journal.read_bytes())
    data[-5] ^= 0x10
    journal.write_bytes(data)
    store.close()
    assert in_file(path) == identities([sample(0)])
    assert journal.with_suffix(".damaged").exists()


def test_record_that_is_whole_but_senseless_is_named_and_its_journal_kept(path):
    store = FrameStore(path)
    store.append(sample(0))
    store._journal.append(b"complete, checksummed, and not a record")
    store.append(sample(1))
    reader = FrameStore(path)
    assert identities(reader) == identities([sample(0), sample(1)])
    assert "record 1" in reader.damage[0]
    (journal,) = journals(path)
    store.close()
    assert journal.with_suffix(".damaged").exists()


def test_torn_tail_is_no_damage_and_its_journal_goes(path):
    store = FrameStore(path)
    store.append(sample(0))
    (journal,) = journals(path)
    journal.write_bytes(journal.read_bytes() + journal_module.MAGIC + b"\x40\0\0")
    content = FrameStore(path).read()
    assert content.damage == ()
    assert "torn tail, 7 bytes" in content.torn_tails[0]
    store.close()
    assert in_file(path) == identities([sample(0)])
    assert journals(path) == []


def test_damaged_file_is_left_as_it_is_and_the_journal_goes_on(path):
    with FrameStore(path) as store:
        store.append(sample(1))
    data = bytearray(path.read_bytes())
    data[:8] = b"\x89HDF\r\n\x1a\n"
    data[8:600] = bytes(592)
    path.write_bytes(data)
    forget_kept(path)
    store = FrameStore(path)
    assert store.damage
    store.append(sample(2))
    with pytest.raises(StoreDamagedError, match="left as it is"):
        store.compact()
    assert path.read_bytes() == bytes(data)
    assert identities(FrameStore(path)) == identities([sample(2)])


def test_what_a_killed_compaction_left_is_cleared_away(path):
    with FrameStore(path) as store:
        store.append(sample(1))
        left = path.with_name("run.h5.99999.tmp")
        left.write_bytes(b"half a file")
    assert in_file(path) == identities([sample(1)])
    assert not left.exists()


# Several processes

WRITER = """
import sys
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import sample

path, first, count, every = sys.argv[1], *map(int, sys.argv[2:])
store = FrameStore(path)
for number in range(first, first + count):
    record = sample(number)
    store.append(record)
    print(record.identity, flush=True)
    if every and number % every == 0:
        store.compact()
"""


def test_frames_of_several_processes_are_read_exactly_once(path):
    # the last two write the same frames
    firsts = (0, 100, 200, 200)
    writers = [python(WRITER, path, first, 20, 7) for first in firsts]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = FrameStore(path).read()
        assert content.damage == ()
        now = {record.identity for record in content.records}
        assert seen <= now, "a frame that was there is gone"
        seen = now
        time.sleep(0.05)
    said = [frame for writer in writers for frame in acknowledged(writer)]
    assert len(set(said)) == 60
    assert identities(FrameStore(path)) == dict.fromkeys(said, 1)
    FrameStore(path).close()
    assert in_file(path) == dict.fromkeys(said, 1)
    assert journals(path) == []


def test_compaction_while_another_process_writes_loses_nothing(path):
    writer = python(WRITER, path, 0, 40, 0)
    compactions = 0
    while writer.poll() is None:
        FrameStore(path).compact()
        compactions += 1
        if journals(path):
            assert in_file(path).keys() <= identities(FrameStore(path)).keys()
    said = acknowledged(writer)
    assert compactions >= 2
    assert len(said) == 40
    assert identities(FrameStore(path)) == dict.fromkeys(said, 1)
    FrameStore(path).compact()
    assert in_file(path) == dict.fromkeys(said, 1)


def test_compaction_leaves_the_journal_of_a_living_writer_alone(path):
    writer, other = FrameStore(path), FrameStore(path)
    writer.append(sample(1))
    (journal,) = journals(path)
    other.append(sample(2))
    other.compact()
    assert journals(path) == [journal]
    writer.append(sample(3))
    other.compact()
    assert identities(FrameStore(path)) == identities([sample(1), sample(2), sample(3)])
    writer.close()
    assert in_file(path) == identities([sample(1), sample(2), sample(3)])


# One level for all writers

OTHER = LevelOfTheory(program="toy", parameters={"well_depth_ev": 7})


def other(number):
    label = dataclasses.replace(sample(number).label, level=OTHER)
    return sample(number, level=OTHER, label=label)


def test_second_of_two_processes_that_opened_an_empty_store_cannot_bring_another_level(path):
    one, two = FrameStore(path), FrameStore(path)
    one.append(sample(1))
    with pytest.raises(LevelMismatchError, match=OTHER.hash):
        two.append(other(2))
    with pytest.raises(LevelMismatchError):
        FrameStore(path).check_level(OTHER)
    assert identities(FrameStore(path)) == identities([sample(1)])


def test_level_that_another_process_binds_in_between_is_noticed(path, monkeypatch):
    store, link = FrameStore(path), os.link

    def late(source, target):
        monkeypatch.setattr(os, "link", link)
        bind_level(target.parent, OTHER)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(LevelMismatchError):
        store.append(sample(1))
    assert list(FrameStore(path)) == []
    assert sorted(p.name for p in path.with_name("run.h5.journals").iterdir()) == ["level.json"]


def test_damaged_level_file_is_written_again_as_the_frames_say(path):
    FrameStore(path).append(sample(1))
    file = path.with_name("run.h5.journals") / "level.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0", b"1"))
    with pytest.raises(LevelMismatchError):
        FrameStore(path).append(other(2))
    FrameStore(path).append(sample(2))
    assert file.read_bytes() == whole


BINDER = """
import sys
from hybrid_calc.errors import LevelMismatchError
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import sample
from tests.store.test_frames import other

stores = [FrameStore(f"{sys.argv[1]}/{number}.h5") for number in range(30)]
print("ready", flush=True)
sys.stdin.readline()
for number, store in enumerate(stores):
    try:
        store.append((other if sys.argv[2] == "other" else sample)(number))
        print(number, flush=True)
    except LevelMismatchError:
        pass
"""


def test_two_processes_race_for_the_level_of_thirty_stores_and_one_wins_each(tmp_path):
    racers = [python(BINDER, tmp_path, kind, stdin=subprocess.PIPE) for kind in ("other", "this")]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [number for racer in racers for number in acknowledged(racer)]
    assert sorted(map(int, won)) == list(range(30))
    for number in range(30):
        assert len(FrameStore(tmp_path / f"{number}.h5").levels) == 1


# Disks that fill up


def test_full_disk_raises_and_the_frame_can_be_appended_later(path, monkeypatch):
    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        @staticmethod
        def write(descriptor, data):
            if len(data) > 800:
                return os.write(descriptor, bytes(data)[:800])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = FrameStore(path)
    store.append(sample(1))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "os", Full())
        with pytest.raises(StoreError, match="No space left on device"):
            store.append(sample(2))
        assert len(store) == 1
        assert store.find_label(sample(2).atoms(), sample(2).level) is None
        assert identities(FrameStore(path)) == identities([sample(1)])
    assert store.append(sample(2)), "a frame that failed must not count as known"
    store.close()
    assert in_file(path) == identities([sample(1), sample(2)])


LIMITED = """
import resource, sys
from hybrid_calc.errors import StoreError
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import forget_kept, identities, sample

def limit(size):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

store = FrameStore(sys.argv[1])
limit(30_000)
said = []
try:
    for number in range(1000):
        store.append(sample(number))
        said.append(sample(number).identity)
except StoreError as error:
    assert "could not be written" in str(error), error
else:
    raise SystemExit("the limit was never reached")
assert len(said) > 3
assert identities(FrameStore(sys.argv[1])) == dict.fromkeys(said, 1)
limit(5_000)
try:
    store.compact()
except StoreError as error:
    assert "safe in its journal" in str(error), error
else:
    raise SystemExit("a file larger than the limit was written")
assert identities(FrameStore(sys.argv[1])) == dict.fromkeys(said, 1)
limit(resource.RLIM_INFINITY)
store.append(sample(2000))
said.append(sample(2000).identity)
store.close()
assert identities(FrameStore(sys.argv[1])) == dict.fromkeys(said, 1)
print(*said)
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY,
    reason="the limit could not be lifted again",
)
def test_file_size_limit_of_the_system_stops_writing_and_loses_nothing(path):
    said = acknowledged(python(LIMITED, path))
    assert in_file(path) == dict.fromkeys(said, 1)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "run.h5", "run.h5.journals", "run.h5.lock"
    ]  # fmt: skip


def test_frame_that_cannot_be_written_as_json_is_refused_before_anything_is_written(path):
    store = FrameStore(path)
    store.append(sample(1))
    with pytest.raises(TypeError):
        store.append(sample(2).with_meta(what=np.arange(3)))
    assert store.append(sample(2))
    assert identities(FrameStore(path)) == identities([sample(1), sample(2)])
