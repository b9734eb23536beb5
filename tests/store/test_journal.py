"""The journal: complete records or none, wherever it is cut, bent or interrupted."""

from __future__ import annotations

import errno
import os
import threading
from types import SimpleNamespace

import pytest

from hybrid_calc.errors import StoreError
from hybrid_calc.store import journal as module
from hybrid_calc.store.journal import HEADER, MAGIC, Journal, Notes, lock_of, payloads_at, take_over
from hybrid_calc.store.journal import read_journal as stream_journal

PAYLOADS = [b"first", b"", b"third " * 9, MAGIC + b" inside a payload", bytes(range(64))]


class Faulty:
    """The module ``os``, with some functions replaced."""

    def __init__(self, **replaced):
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(os, name)


def read_journal(path):
    """Return all that a journal gives, and check that each record is where it is said to be."""
    notes = Notes()
    places, payloads = [], []
    for at, payload in stream_journal(path, notes):
        places.append(at)
        payloads.append(payload)
    assert list(payloads_at(path, places)) == payloads
    return SimpleNamespace(
        payloads=tuple(payloads),
        damage=tuple(notes.damage),
        torn_tail="".join(notes.torn_tails),
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run.h5.journals"


@pytest.fixture
def journal(folder):
    journal = Journal(folder)
    yield journal
    journal.close()


@pytest.fixture
def written(journal):
    """Write all payloads; return the path and where each record ends."""
    ends = []
    for payload in PAYLOADS:
        journal.append(payload)
        ends.append(journal.path.stat().st_size)
    return journal.path, ends


def test_records_come_back_in_order(written):
    content = read_journal(written[0])
    assert content.payloads == tuple(PAYLOADS)
    assert content.damage == ()
    assert content.torn_tail == ""


def test_nothing_is_created_before_the_first_record(journal, folder):
    assert not folder.exists()
    assert journal.path is None


def test_empty_journal_has_no_records(tmp_path):
    path = tmp_path / "empty.journal"
    path.touch()
    assert read_journal(path).payloads == ()


def test_torn_tail_is_cut_off_and_reported_wherever_it_is_torn(written, tmp_path):
    path, ends = written
    data = path.read_bytes()
    cut = tmp_path / "cut.journal"
    for end in range(len(data)):
        cut.write_bytes(data[:end])
        content = read_journal(cut)
        whole = sum(e <= end for e in ends)
        assert content.payloads == tuple(PAYLOADS[:whole]), end
        assert content.damage == (), end
        rest = end - ([0, *ends][whole])
        assert (f"torn tail, {rest} bytes" in content.torn_tail) == (rest > 0), end


def test_flipped_bit_costs_its_own_record_and_is_reported(written, tmp_path):
    path, ends = written
    data = path.read_bytes()
    bent = tmp_path / "bent.journal"
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (5 * at) % 8
        bent.write_bytes(broken)
        content = read_journal(bent)
        hit = sum(end <= at for end in ends)
        assert content.payloads == tuple(PAYLOADS[:hit] + PAYLOADS[hit + 1 :]), at
        assert content.damage or content.torn_tail, at


def test_damaged_record_in_the_middle_is_named_and_the_others_survive(written):
    path, ends = written
    data = bytearray(path.read_bytes())
    data[ends[1] + HEADER.size + 3] ^= 0x40
    path.write_bytes(data)
    content = read_journal(path)
    assert content.payloads == tuple(PAYLOADS[:2] + PAYLOADS[3:])
    assert content.damage == (f"{path.name}: damaged record from byte {ends[1]} to {ends[2]}",)
    assert content.torn_tail == ""


def test_damage_in_the_last_record_is_not_taken_for_a_torn_tail(written):
    # It was acknowledged: it must be told as lost, and its journal kept.
    path, ends = written
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x01
    path.write_bytes(data)
    content = read_journal(path)
    assert content.damage == (f"{path.name}: damaged record from byte {ends[3]} to {ends[4]}",)
    assert content.torn_tail == ""


def test_zeros_after_the_last_record_are_damage(written):
    path, ends = written
    path.write_bytes(path.read_bytes() + bytes(100))
    content = read_journal(path)
    assert content.payloads == tuple(PAYLOADS)
    assert content.damage == (
        f"{path.name}: damaged record from byte {ends[4]} to {ends[4] + 100}",
    )


def test_file_of_something_else_has_no_records_and_says_so(tmp_path):
    path = tmp_path / "foreign.journal"
    path.write_bytes(b"hello, this was never a journal")
    content = read_journal(path)
    assert content.payloads == ()
    assert content.damage


def fail_after(bytes_left, error=errno.ENOSPC):
    """Return an ``os.write`` of a disk with so much space left."""
    space = [bytes_left]

    def write(descriptor, data):
        if not space[0]:
            raise OSError(error, os.strerror(error))
        written = os.write(descriptor, bytes(data)[: space[0]])
        space[0] -= written
        return written

    return write


@pytest.mark.parametrize("space", [0, 1, 3, 15, 16, 17, 30])
def test_full_disk_raises_and_leaves_what_was_there(journal, monkeypatch, space):
    journal.append(b"before")
    size = journal.path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Faulty(write=fail_after(space)))
        with pytest.raises(StoreError, match="No space left on device") as caught:
            journal.append(b"x" * 100)
        assert "acknowledged before are safe" in str(caught.value)
    assert journal.path.stat().st_size == size
    assert read_journal(journal.path).torn_tail == ""
    journal.append(b"after")
    assert read_journal(journal.path).payloads == (b"before", b"after")


def test_short_writes_are_continued(journal, monkeypatch):
    monkeypatch.setattr(module, "os", Faulty(write=lambda fd, data: os.write(fd, bytes(data)[:7])))
    journal.append(b"a payload longer than seven bytes")
    assert read_journal(journal.path).payloads == (b"a payload longer than seven bytes",)


def test_failed_fsync_is_no_acknowledgement(journal, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal.append(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Faulty(fdatasync=fsync))
        with pytest.raises(StoreError, match="Input/output error"):
            journal.append(b"lost")
    journal.append(b"after")
    assert read_journal(journal.path).payloads == (b"before", b"after")


def test_tail_that_cannot_be_cut_off_is_left_behind_in_its_file(journal, monkeypatch):
    def refuse(descriptor, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal.append(b"before")
    first = journal.path
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Faulty(write=fail_after(20), ftruncate=refuse))
        with pytest.raises(StoreError):
            journal.append(b"x" * 100)
    journal.append(b"after")
    assert journal.path != first
    old = read_journal(first)
    assert old.payloads == (b"before",)
    assert "torn tail, 20 bytes" in old.torn_tail
    assert read_journal(journal.path).payloads == (b"after",)


def test_interruption_between_write_and_fsync_cannot_cost_a_later_record(journal, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    journal.append(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Faulty(fdatasync=interrupt))
        with pytest.raises(KeyboardInterrupt):
            journal.append(b"interrupted")
    journal.append(b"acknowledged")
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Faulty(write=fail_after(9)))
        with pytest.raises(StoreError):
            journal.append(b"no space")
    assert read_journal(journal.path).payloads == (b"before", b"acknowledged")


def test_journal_whose_folder_could_not_be_synced_is_not_written_to(journal, folder, monkeypatch):
    synced, broken = [], [True]

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path == str(folder) and broken:
            broken.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append(path)
        os.fsync(descriptor)

    monkeypatch.setattr(module, "os", Faulty(fsync=fsync))
    with pytest.raises(StoreError):
        journal.append(b"lost")
    assert str(folder) not in synced
    journal.append(b"after")
    assert str(folder) in synced, "the entry of the new journal was never made durable"
    assert read_journal(journal.path).payloads == (b"after",)


def test_folder_that_is_a_file_is_a_store_error(tmp_path):
    (tmp_path / "run.h5.journals").write_text("in the way")
    with pytest.raises(StoreError, match="could not be written"):
        Journal(tmp_path / "run.h5.journals").append(b"x")


def test_writer_holds_its_journal_while_it_lives(journal):
    journal.append(b"x")
    path = journal.path
    assert take_over(path) is None
    journal.close()
    lock = take_over(path)
    assert lock is not None
    assert take_over(path) is None, "one compactor at a time"
    lock.release()


def test_two_journals_in_one_folder_are_two_files(folder):
    one, two = Journal(folder), Journal(folder)
    one.append(b"one")
    two.append(b"two")
    assert one.path != two.path
    assert lock_of(one.path).lock_file != lock_of(two.path).lock_file
    one.close()
    two.close()


def test_closing_twice_does_nothing_and_appending_goes_on_in_a_new_file(journal):
    journal.append(b"one")
    first = journal.path
    journal.close()
    journal.close()
    journal.append(b"two")
    assert journal.path != first
    assert read_journal(first).payloads == (b"one",)
    assert read_journal(journal.path).payloads == (b"two",)


def test_journal_opened_in_one_thread_can_be_closed_in_another(journal):
    journal.append(b"x")
    path = journal.path
    thread = threading.Thread(target=journal.close)
    thread.start()
    thread.join()
    lock = take_over(path)
    assert lock is not None
    lock.release()
