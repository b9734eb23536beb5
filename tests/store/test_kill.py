"""kill -9 while appending and compacting: every acknowledged frame is read back, exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import pytest

from hybrid_calc.store.frames import FrameStore
from tests.store.samples import identities, in_file, python

# Imports once, then forks a writer whenever it is told to, and kills it.
NURSERY = """
import os, signal, sys
from hybrid_calc.store import compaction
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import sample

compaction.FRAMES_PER_SHARD = 12  # shards are killed too

def write(folder, first):
    said = os.open(f"{folder}/said-{first}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = FrameStore(f"{folder}/run.h5")
    number = first
    while True:
        record = sample(number)
        store.append(record)
        os.write(said, record.identity.encode() + b"\\n")
        number += 1
        if number % 5 == 0:
            store.compact()

for line in sys.stdin:
    word, *rest = line.split()
    if word == "start":
        child = os.fork()
        if child == 0:
            try:
                write(rest[0], int(rest[1]))
            finally:
                os._exit(1)
        print(child, flush=True)
    else:
        os.kill(int(rest[0]), signal.SIGKILL)
        print(os.WTERMSIG(os.waitpid(int(rest[0]), 0)[1]), flush=True)
"""


@pytest.fixture
def nursery():
    process = python(NURSERY, stdin=subprocess.PIPE)

    def tell(*words):
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield tell
    process.stdin.close()
    process.wait()
    process.stdout.close()


def said(folder):
    """Return every acknowledged frame of all writers."""
    return [line for path in folder.glob("said-*") for line in path.read_text().split()]


def wait_for_frames(folder, count):
    end = time.monotonic() + 60
    while len(said(folder)) < count:
        assert time.monotonic() < end, "the writers write nothing"
        time.sleep(0.002)


def kill_and_count(tmp_path, tell, *, kills, writers):
    """Kill writers at random times and compare what they said with what is there."""
    chance = random.Random(5)  # noqa: S311  (not for secrets)
    done, acknowledged, number = 0, 0, 0
    while done < kills:
        folder = tmp_path / str(done)
        folder.mkdir()
        for _ in range(2):  # a store that was killed is gone on with
            before = len(said(folder))
            children = []
            for _ in range(writers):
                number += 1
                children.append(tell("start", folder, number * 100_000))
            wait_for_frames(folder, before + chance.randrange(1, 12))
            for child in children:
                time.sleep(chance.uniform(0, 0.03))
                assert tell("kill", child) == signal.SIGKILL, "the writer died by itself"
            done += writers
            assert_all_there(folder)
        FrameStore(folder / "run.h5").compact()
        assert set(in_file(folder / "run.h5").values()) == {1}
        assert_all_there(folder)
        acknowledged += len(said(folder))
    return acknowledged


def assert_all_there(folder):
    content = FrameStore(folder / "run.h5").read()
    found = identities(content.records)
    assert content.damage == ()
    assert set(said(folder)) <= set(found)
    assert set(found.values()) == {1}


def test_killed_writer_loses_no_acknowledged_frame(tmp_path, nursery):
    assert kill_and_count(tmp_path, nursery, kills=10, writers=1) >= 10


def test_four_killed_writers_lose_no_acknowledged_frame(tmp_path, nursery):
    assert kill_and_count(tmp_path, nursery, kills=8, writers=4) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 4])
def test_three_hundred_kills_lose_no_acknowledged_frame(tmp_path, nursery, writers):
    assert kill_and_count(tmp_path, nursery, kills=300, writers=writers) >= 300
