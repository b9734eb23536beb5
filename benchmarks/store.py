"""The store against plain HDF5 and ASE's database: rate of appending, size, what a kill costs.

Frames are random: 20 atoms, four members, a header as runs write it.  Every
append is durable before the next.  Opening, selecting and iterating are
measured in processes of their own, so that memory is theirs alone.  A store
of more frames than fill a shard is one of shards, as compaction leaves it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import bench  # first: sets the threads
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.block import blocks_of
from hybrid_calc.store.catalog import shard_folder, shard_path
from hybrid_calc.store.compaction import FRAMES_PER_SHARD
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import write_blocks
from hybrid_calc.store.record import Record

LEVEL = LevelOfTheory(program="pyscf", functional="wb97x", basis="6-31g*", grid_level=3)
NUMBERS = np.array([6] * 6 + [8] * 2 + [1] * 12)
REGIMES = ("equilibrium H C O", "warm H C O", "reactive H C O")
MEMBERS = 4
TARGETS = {
    "append_rate_over_h5py_fsync": (">=", 1.0),
    "append_rate_over_asedb": (">=", 5.0),
    "open_s_100000": ("<=", 1.0),
    "query_s_100000": ("<=", 2.0),
    "peak_mb_iterating_100000": ("<=", 300.0),
    "lost_ours": ("==", 0.0),
}

LOOK = """
import resource, sys, time
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query

start = time.perf_counter()
store = FrameStore(sys.argv[1])
opened = time.perf_counter()
query = Query(regime="reactive", run="run-0", elements=("C", "O"), min_force_error=1.0)
found = sum(1 for _ in store.select(query))
selected = time.perf_counter()
assert found > 0 and not store.damage
if sys.argv[2] == "iterate":
    assert sum(1 for _ in store) == len(store)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(opened - start, selected - opened, time.perf_counter() - selected, peak)
"""


def frame(number: int, chance: np.random.Generator) -> Record:
    forces = chance.normal(size=(len(NUMBERS), 3))
    label = Label(
        energy=-230 * 27.2 + chance.normal(),
        forces=forces,
        level=LEVEL,
        checks={"net_force": 1e-4, "cycles": 9, "gap_ev": 7.1},
        wall_seconds=3.3,
        versions={"pyscf": "2.14.0"},
    )
    meta = {
        "regime": REGIMES[number % 3],
        "run": f"run-{number // 1000}",
        "step": number,
        "force_error": abs(float(chance.normal())),
        "spread": 0.1,
        "good": True,
        "reasons": [["uncertain", "3 x spread 0.678 = 2.03 eV/A, tolerance 0.8"]],
        "committee": "0123456789abcdef",
        "committee_name": "ani1x",
        "versions": {"numpy": "2.1", "ase": "3.29", "torch": "2.13"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    members = forces + 0.1 * chance.normal(size=(MEMBERS, len(NUMBERS), 3))
    return Record(
        numbers=NUMBERS,
        positions=chance.normal(size=(len(NUMBERS), 3), scale=3.0),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        charge=0,
        multiplicity=1,
        level=LEVEL,
        label=label,
        prediction=Prediction(energies=chance.normal(size=MEMBERS), forces=members),
        meta=meta,
    )


def frames(count: int, seed: int = 0) -> Iterator[Record]:
    chance = np.random.default_rng(seed)
    return (frame(number, chance) for number in range(count))


# Writers: each returns a function that appends one frame


def ours(folder: Path) -> Callable[[int, Record], None]:
    store = FrameStore(folder / "run.h5")
    return lambda _, record: store.append(record)


def plain_h5py(folder: Path, *, fsync: bool) -> Callable[[int, Record], None]:
    """Append rows to growing datasets, the way one does by hand."""
    file = h5py.File(folder / "plain.h5", "w")
    atoms, members = len(NUMBERS), (MEMBERS, len(NUMBERS), 3)
    shapes = {"positions": (atoms, 3), "forces": (atoms, 3), "members": members, "energy": ()}
    columns = {
        name: file.create_dataset(name, (0, *shape), maxshape=(None, *shape), dtype="f8")
        for name, shape in shapes.items()
    }
    columns["header"] = file.create_dataset(
        "header", (0,), maxshape=(None,), dtype=h5py.string_dtype()
    )

    def append(number: int, record: Record) -> None:
        rows = {
            "positions": record.positions,
            "forces": record.label.forces,
            "members": record.prediction.forces,
            "energy": record.label.energy,
            "header": str(record.header()),
        }
        for name, row in rows.items():
            columns[name].resize(number + 1, axis=0)
            columns[name][number] = row
        file.flush()
        if fsync:
            os.fsync(file.id.get_vfd_handle())

    return append


def ase_db(folder: Path) -> Callable[[int, Record], None]:
    database = connect(folder / "frames.db")

    def append(number: int, record: Record) -> None:
        atoms = record.atoms()
        label = record.label
        atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces)
        data = {"members": record.prediction.forces, "header": record.header()}
        database.write(atoms, number=number, data=data)

    return append


def rates(
    makers: dict[str, Callable[[Path], Callable[[int, Record], None]]], records: list[Record]
) -> dict[str, float]:
    """Return how many frames each appends per second; they take turns, for the disk is shared."""
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    appends, seconds = {}, dict.fromkeys(makers, 0.0)
    for name, make in makers.items():
        (folder / name).mkdir()
        appends[name] = make(folder / name)
    for number, record in enumerate(records):
        for name, append in appends.items():
            start = time.perf_counter()
            append(number, record)
            seconds[name] += time.perf_counter() - start
    shutil.rmtree(folder)
    return {name: len(records) / spent for name, spent in seconds.items()}


def lost(
    make: Callable[[Path], Callable[[int, Record], None]],
    count: Callable[[Path], int],
    kills: int,
    records: list[Record],
) -> tuple[int, int]:
    """Kill a writer again and again; return frames acknowledged and not there, and all of them."""
    chance = random.Random(7)  # noqa: S311  (not for secrets)
    missing = acknowledged = 0
    for _ in range(kills):
        folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        child = os.fork()
        if child == 0:
            append = make(folder)
            for number, record in enumerate(records):
                append(number, record)
                os.write(said, b".")
            os._exit(0)
        while os.fstat(said).st_size < 3:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = os.fstat(said).st_size
        os.close(said)
        missing += max(0, told - count(folder))
        acknowledged += told
        shutil.rmtree(folder)
    return missing, acknowledged


def count_h5py(folder: Path) -> int:
    try:
        with h5py.File(folder / "plain.h5", "r") as file:
            return min(len(file[name][:]) for name in ("positions", "forces", "energy", "header"))
    except (OSError, RuntimeError, KeyError):
        return 0


def look(path: Path, what: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(path), what], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


def build(path: Path, count: int) -> None:
    """Write a store of so many frames as compaction leaves it."""
    stream, shards = frames(count), []
    shard_folder(path).mkdir()
    for number in range(1, count // FRAMES_PER_SHARD + 1):
        write_blocks(shard_path(path, number), blocks_of(islice(stream, FRAMES_PER_SHARD)))
        shards.append((number, FRAMES_PER_SHARD))
    write_blocks(path, blocks_of(stream), shards)


def size_figures(count: int) -> dict[str, float]:
    """Return what a store of so many frames costs."""
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    path = folder / "run.h5"
    figures = {}
    start = time.perf_counter()
    build(path, count)
    figures[f"write_s_{count}"] = time.perf_counter() - start
    figures[f"file_mb_{count}"] = sum(file.stat().st_size for file in folder.rglob("*.h5")) / 1e6
    opened, query, iterating, peak = look(path, "iterate")
    figures[f"open_s_{count}"], figures[f"query_s_{count}"] = opened, query
    figures[f"iterate_s_{count}"], figures[f"peak_mb_iterating_{count}"] = iterating, peak
    store = FrameStore(path)
    for record in frames(10, seed=1):
        store.append(record)
    written = sum(file.stat().st_size for file in folder.rglob("*.journal"))
    figures[f"journal_kb_per_frame_{count}"] = written / 10 / 1e3
    figures[f"file_kb_per_frame_{count}"] = figures[f"file_mb_{count}"] / count * 1e3
    start = time.perf_counter()
    store.compact()
    figures[f"compact_s_{count}"] = time.perf_counter() - start
    shutil.rmtree(folder)
    return figures


def main() -> None:
    options = bench.parser(__doc__.splitlines()[0])
    options.add_argument(
        "--million",
        action="store_true",
        help="also 10^6 frames: minutes, and 4 GB of temporary space",
    )
    arguments = options.parse_args()
    records = list(frames(150 if arguments.quick else 1000))
    figures = {}
    makers = {
        "ours": ours,
        "h5py_fsync": lambda folder: plain_h5py(folder, fsync=True),
        "h5py_flush": lambda folder: plain_h5py(folder, fsync=False),
        "asedb": ase_db,
    }
    per_second = rates(makers, records)
    figures |= {f"append_per_s_{name}": value for name, value in per_second.items()}
    figures["append_rate_over_h5py_fsync"] = per_second["ours"] / per_second["h5py_fsync"]
    figures["append_rate_over_asedb"] = per_second["ours"] / per_second["asedb"]
    many = list(frames(3000, seed=2))  # more than anybody writes before it is killed
    kills = 8 if arguments.quick else 300
    writers = {
        "ours": (ours, lambda folder: len(FrameStore(folder / "run.h5").read().records)),
        "h5py": (lambda folder: plain_h5py(folder, fsync=False), count_h5py),
        "asedb": (ase_db, lambda folder: connect(folder / "frames.db").count()),
    }
    for name, (make, count) in writers.items():
        missing, told = lost(make, count, kills, many)
        figures[f"lost_{name}"], figures[f"acknowledged_{name}"] = missing, told
    sizes = [1_000, 10_000] + [100_000] * (not arguments.quick) + [1_000_000] * arguments.million
    for size in sizes:
        figures |= size_figures(size)
    bench.report(figures, TARGETS, arguments.json, kills=kills)


if __name__ == "__main__":
    main()
