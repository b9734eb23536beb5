"""Every store against the contract; the one there is, in the states it can be in."""

from __future__ import annotations

import pytest

from hybrid_calc.store.frames import FrameStore
from tests.contracts.store import StoreContract


class TestFrameStoreInItsJournal(StoreContract):
    @staticmethod
    def open(folder):
        return FrameStore(folder / "run.h5")


class TestFrameStoreCompacted(StoreContract):
    @staticmethod
    def open(folder):
        return FrameStore(folder / "run.h5")

    def settle(self, store):
        store.compact()


class TestFrameStoreInAFolderToBeMade(StoreContract):
    @staticmethod
    def open(folder):
        return FrameStore(folder / "one" / "two" / "run.hdf5")


class TestFrameStoreByRelativeName(StoreContract):
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @staticmethod
    def open(folder):
        return FrameStore("run.h5")

    def settle(self, store):
        store.close()
