"""A disk that keeps only what was fsynced: every acknowledged frame is on it.

SIGKILL proves nothing about fsync, since the page cache survives the process.
Here `os` of the store's modules is replaced by a model of the disk, and the
store is read from what a power cut would leave.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from hybrid_calc.store import bound_level, compaction, hdf5, journal
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import crystal, rejected, sample


class Disk:
    """What is durable below a folder, noted at every fsync.

    Parameters
    ----------
    root
        The folder; it exists, its entries are durable once it is synced.
    scratch
        Where images of the disk are put to be read.
    deaf_to
        Kinds of fsync that do nothing: ``files``, ``folders``.
    """

    def __init__(self, root: Path, scratch: Path, deaf_to: frozenset[str] = frozenset()) -> None:
        self.root, self._scratch, self._deaf_to = root, scratch, deaf_to
        self._bytes: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        self.acknowledged: set[str] = set()
        self.checks = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        # An inode that is held open is not given to another file.
        self._held.append(os.dup(descriptor))
        if stat.S_ISDIR(status.st_mode):
            if "folders" not in self._deaf_to:
                entries = {entry.name: entry.inode() for entry in os.scandir(descriptor)}
                self._entries[status.st_ino] = entries
        elif "files" not in self._deaf_to:
            self._bytes[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        self.check()

    fdatasync = fsync

    def replace(self, source, target) -> None:
        os.replace(source, target)
        self.check()

    def link(self, source, target) -> None:
        os.link(source, target)
        self.check()

    def acknowledge(self, *identities: str) -> None:
        self.acknowledged.update(identities)
        self.check()

    def check(self) -> None:
        """Cut the power now, in two ways, and read what is left.

        Entries of folders may have reached the disk without being synced, or
        not; the bytes of a file only by fsync.
        """
        self.checks += 1
        for early in (False, True):
            image = self._scratch / "image"
            self._put(self.root, image, early=early)
            found = FrameStore(image / "new" / "run.h5").read()
            lost = self.acknowledged - {record.identity for record in found.records}
            assert not lost, f"{len(lost)} frames lost"
            assert found.damage == ()
            if self.acknowledged:
                level = bound_level.bound_level(image / "new" / "run.h5.journals")
                assert level == sample(1).level, "frames of another level could be written now"
            shutil.rmtree(image)

    def _put(self, folder: Path, image: Path, *, early: bool) -> None:
        image.mkdir()
        now = {entry.name: entry.inode() for entry in os.scandir(folder)}
        durable = self._entries.get(folder.stat().st_ino, {})
        folders = {p.stat().st_ino: p for p in self.root.rglob("*") if p.is_dir()}
        for name, inode in (now if early else durable).items():
            if inode in folders:
                self._put(folders[inode], image / name, early=early)
            else:
                (image / name).write_bytes(self._bytes.get(inode, b""))

    def forget(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)


@pytest.fixture
def disk_of(tmp_path, monkeypatch):
    disks = []

    def make(deaf_to=frozenset()):
        root = tmp_path / "disk"
        root.mkdir()
        disk = Disk(root, tmp_path, deaf_to)
        disks.append(disk)
        monkeypatch.setattr(journal, "os", disk)
        monkeypatch.setattr(hdf5, "os", disk)
        monkeypatch.setattr(bound_level, "os", disk)
        monkeypatch.setattr(compaction, "FRAMES_PER_SHARD", 2)
        for name in ("unlink", "rename"):  # how the store's modules remove journals
            original = getattr(Path, name)

            def checked(self, *arguments, original=original, **more):
                original(self, *arguments, **more)
                if root in self.parents:
                    disk.check()

            monkeypatch.setattr(Path, name, checked)
        return disk

    yield make
    monkeypatch.undo()
    for disk in disks:
        disk.forget()


def live(disk):
    """Append, compact, append, close and come back."""
    path = disk.root / "new" / "run.h5"
    store = FrameStore(path)
    for number, record in enumerate([sample(1), crystal(2), rejected(3), sample(4), sample(5)]):
        store.append(record)
        disk.acknowledge(record.identity)
        if number in {2, 3}:
            store.compact()
    store.close()
    second = FrameStore(path)
    second.append(sample(6))
    disk.acknowledge(sample(6).identity)
    second.close()


def test_every_acknowledged_frame_survives_a_power_cut_at_any_time(disk_of):
    disk = disk_of()
    live(disk)
    assert disk.checks > 40
    assert len(list((disk.root / "new" / "run.h5.shards").iterdir())) == 2
    assert len(disk.acknowledged) == 6


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_without_fsync_the_model_loses_frames(disk_of, kind):
    disk = disk_of(frozenset({kind}))
    with pytest.raises(AssertionError, match="frames lost"):
        live(disk)


def test_without_any_fsync_the_first_frame_is_lost(disk_of):
    disk = disk_of(frozenset({"files", "folders"}))
    with pytest.raises(AssertionError, match="1 frames lost"):
        live(disk)
    assert len(disk.acknowledged) == 1


def test_folder_that_another_process_made_and_never_synced_is_synced(disk_of):
    disk = disk_of()
    (disk.root / "new").mkdir()
    descriptor = os.open(disk.root, os.O_RDONLY)
    disk.fsync(descriptor)
    os.close(descriptor)
    (disk.root / "new" / "run.h5.journals").mkdir()
    store = FrameStore(disk.root / "new" / "run.h5")
    store.append(sample(1))
    disk.acknowledge(sample(1).identity)
