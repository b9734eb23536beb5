"""A label farm of two workers against two independent processes, and a worker killed on the way.

Forty rattled geometries of five small molecules at the level ani-1x.  They are
labelled in blocks, turn and turn about, so that other work on the machine meets
all alike: by two processes that know nothing of each other, each with half of
the block, at the same time; by the farm with two workers, regimes and the store
with its journal included; by the farm with one.  Every process has solved a
hydrogen molecule before.  Then the farm again, into another store, and one of
its workers gets SIGKILL in the middle.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bench  # first: it sets the threads
import numpy as np
from ase import Atoms
from ase.build import molecule

from hybrid_calc.farm import Harvest, label_frames
from hybrid_calc.reference.executor import ExecutorReference
from hybrid_calc.reference.local_executor import LocalExecutor
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.verify import check_store

TARGETS = {
    "efficiency_2_workers": (">=", 0.9),
    "killed_worker_retries": ("==", 1),
    "killed_worker_lost_frames": ("==", 0),
}
MOLECULES = ("H2O", "NH3", "HCN", "H2CO", "CH4")
WORKERS = 2


def frames(count: int) -> list[Atoms]:
    made = []
    for number in range(count):
        atoms = molecule(MOLECULES[number % len(MOLECULES)])
        atoms.rattle(0.04, seed=number)
        made.append(atoms)
    return made


def independent(pipe: Connection) -> None:
    """Label whatever comes, in a process that knows of no other."""
    reference = PySCFReference()
    while (asked := pipe.recv()) is not None:
        pipe.send([reference.label(atoms).energy for atoms in asked])
    reference.close()


class Pair:
    """Two independent processes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(WORKERS):
            here, there = context.Pipe()
            process = context.Process(target=independent, args=(there,))
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def label(self, asked: list[Atoms]) -> list[float]:
        for number, pipe in enumerate(self.pipes):
            pipe.send(asked[number::WORKERS])
        energies = np.empty(len(asked))
        for number, pipe in enumerate(self.pipes):
            energies[number::WORKERS] = pipe.recv()
        return energies.tolist()

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def farm(workers: int) -> ExecutorReference:
    return ExecutorReference(PySCFReference, functools.partial(LocalExecutor, workers))


def warm(reference: ExecutorReference, workers: int) -> None:
    """Have every worker started and its PySCF loaded."""
    hydrogen = [Atoms("H2", [[0, 0, 0], [0, 0, 0.74 + 0.001 * i]]) for i in range(200)]
    seen: set[str] = set()
    for arrival in reference.label_many(hydrogen):
        seen.add(arrival.place)
        if len(seen) == workers:
            return


def timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(asked: list[Atoms], block: int, folder: Path) -> dict[str, Any]:
    """Return seconds of each way, block by block, and whether they say the same."""
    pair, two, one = Pair(), farm(2), farm(1)
    pair.label(frames(2))
    warm(two, 2)
    warm(one, 1)
    stores = {"two": FrameStore(folder / "two.h5"), "one": FrameStore(folder / "one.h5")}
    seconds: dict[str, list[float]] = {"independent": [], "two": [], "one": []}
    energies: list[float] = []
    for first in range(0, len(asked), block):
        some = asked[first : first + block]
        ways = {
            "independent": functools.partial(pair.label, some),
            "two": functools.partial(label_frames, some, two, stores["two"]),
            "one": functools.partial(label_frames, some, one, stores["one"]),
        }
        order = list(ways) if (first // block) % 2 == 0 else list(ways)[::-1]
        for name in order:
            spent, result = timed(ways[name])
            seconds[name].append(spent)
            if name == "independent":
                energies += result
        print({name: round(sum(times), 2) for name, times in seconds.items()}, flush=True)
    pair.close()
    differences = []
    for store in stores.values():
        labels = [store.find_label(atoms, two.level) for atoms in asked]
        missing = [label for label in labels if label is None]
        assert not missing, f"{len(missing)} frames have no label"
        differences += [abs(label.energy - e) for label, e in zip(labels, energies, strict=True)]
        store.close()
    two.close()
    one.close()
    return {"seconds": seconds, "largest_difference_ev": max(differences)}


def kill_one(asked: list[Atoms], folder: Path) -> dict[str, Any]:
    """Label with two workers, one of which is killed after a quarter of the frames."""
    reference = farm(2)
    victims: list[int] = []

    def on_label(harvest: Harvest) -> None:
        if not victims and harvest.asked >= len(asked) // 4:
            victims.append(int(next(iter(harvest.workers)).split(":")[1]))
            os.kill(victims[0], signal.SIGKILL)

    with FrameStore(folder / "killed.h5") as store:
        harvest = label_frames(asked, reference, store, progress=on_label)
        lost = sum(store.find_label(atoms, reference.level) is None for atoms in asked)
        damage = check_store(store).damage
    reference.close()
    assert victims, "nobody was killed"
    return {"harvest": harvest.to_dict(), "lost": lost, "damage": list(damage)}


def main() -> None:
    options = bench.parser(__doc__ or "")
    options.add_argument("--frames", type=int, default=40)
    options.add_argument("--block", type=int, default=10)
    chosen = options.parse_args()
    asked = frames(8 if chosen.quick else chosen.frames)
    block = 4 if chosen.quick else chosen.block
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(asked, block, Path(folder))
        killed = kill_one(asked, Path(folder))
    total = {name: sum(times) for name, times in compared["seconds"].items()}
    figures = {
        "efficiency_2_workers": total["independent"] / total["two"],
        "speedup_2_over_1_workers": total["one"] / total["two"],
        "seconds_per_frame_2_workers": total["two"] / len(asked),
        "largest_energy_difference_ev": compared["largest_difference_ev"],
        "killed_worker_retries": killed["harvest"]["retries"],
        "killed_worker_lost_frames": killed["lost"],
    }
    bench.report(figures, TARGETS, chosen.json, results={"compared": compared, "killed": killed})


if __name__ == "__main__":
    main()
