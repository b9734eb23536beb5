"""Trajectories whose every step has its GFN2-xTB energy and forces, a cheap stand-in for DFT.

Seven small molecules at 300, 600 and 1,200 K, one bond of each pulled apart, and
six reactions and a proton transfer driven along the distances that change.  The
springs move the atoms; energies and forces that are kept are GFN2-xTB's alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ase.io
import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from numpy.typing import NDArray
from reference import malonaldehyde

KINDS = ("300K", "600K", "1200K", "breaking", "reaction")
STEP_FS = 1.0
FRICTION_PER_FS = 0.02
SPRING = 20.0
"""Of the driven distances, eV/A^2."""
SETTLING = {"md": 80, "drive": 80, "training": 200}
"""Steps before anything is kept."""
STEPS = {"md": 240, "drive": 240, "training": 1000}
SEEDS = 3
"""Trajectories of each kind."""
TRAINING_EVERY = 10
"""Steps between two frames that are trained on."""
REACTIONS = {
    "acetonitrile": "rxn003850",
    "acetaldehyde": "rxn003348",
    "propyne": "rxn003191",
    "acetamide": "rxn003891",
    "urea": "rxn005826",
    "oxirane": "rxn000900",
}
PULLED = {
    "acetonitrile": (0, 3),
    "acetaldehyde": (0, 1),
    "propyne": (0, 1),
    "acetamide": (1, 3),
    "urea": (0, 4),
    "oxirane": (0, 2),
    "malonaldehyde": (0, 1),
}
"""The bond that is broken: C-H, C-C, C-C, C-N, N-H, C-O and C-C."""
STRETCH = 2.2
"""How far a bond is pulled, in its own length."""
MOLECULES = tuple(PULLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path3:
    """Distances to drive: pairs (K, 2) and their lengths at start, middle and end, A, (3, K)."""

    pairs: NDArray[np.intp]
    lengths: NDArray[np.float64]

    def at(self, progress: float) -> NDArray[np.float64]:
        """Return the lengths when this share of the way is done, shape (K,)."""
        places = [0.0, 0.5, 1.0]
        return np.array([np.interp(progress, places, column) for column in self.lengths.T])


class Driven(Calculator):
    """GFN2-xTB with springs on top; `truth` is what it says without them."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, path: Path3 | None = None) -> None:
        super().__init__()
        from tblite.ase import TBLite

        self._inner = TBLite(method="GFN2-xTB", verbosity=0)
        self._path = path
        self.progress = 0.0
        self.truth: tuple[float, NDArray[np.float64]] = (np.nan, np.zeros((0, 3)))

    def calculate(
        self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self._inner.calculate(atoms, ["energy", "forces"], system_changes)
        energy = float(self._inner.results["energy"])
        forces = np.array(self._inner.results["forces"])
        self.truth = energy, forces
        total = forces.copy()
        if self._path is not None:
            for (i, j), wanted in zip(self._path.pairs, self._path.at(self.progress), strict=True):
                apart = atoms.positions[j] - atoms.positions[i]
                length = np.linalg.norm(apart)
                pull = SPRING * (length - wanted) * apart / length
                total[i] += pull
                total[j] -= pull
        self.results = {"energy": energy, "forces": total}


def start(molecule: str, data: Path) -> Atoms:
    """Return a molecule relaxed by GFN2-xTB."""
    atoms = (
        malonaldehyde()
        if molecule not in REACTIONS
        else ase.io.read(data / "reactions" / REACTIONS[molecule] / "r.xyz")
    )
    atoms = Atoms(atoms.numbers, atoms.positions)
    atoms.calc = Driven()
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    return atoms


def reaction(molecule: str, atoms: Atoms, data: Path) -> Path3:
    """Return what a reaction drives: every pair whose bonding changes on the way."""
    if molecule not in REACTIONS:  # the proton of malonaldehyde
        oh, far = atoms.get_distance(4, 5), atoms.get_distance(3, 5)
        middle = 0.5 * (min(oh, far) + 1.4)
        lengths = np.array([[oh, far], [middle, middle], [far, oh]])
        return Path3(pairs=np.array([[4, 5], [3, 5]]), lengths=lengths)
    folder = data / "reactions" / REACTIONS[molecule]
    ends = [ase.io.read(folder / f"{name}.xyz").get_all_distances() for name in ("r", "ts", "p")]
    radii = covalent_radii[atoms.numbers]
    reach = 1.3 * (radii[:, None] + radii[None, :])
    bonded = np.array([distances < reach for distances in ends])
    changes = np.argwhere(np.triu(bonded.any(0) & ~bonded.all(0), 1))
    return Path3(pairs=changes, lengths=np.array([[d[i, j] for i, j in changes] for d in ends]))


def breaking(molecule: str, atoms: Atoms) -> Path3:
    """Return what pulls one bond apart."""
    i, j = PULLED[molecule]
    length = atoms.get_distance(i, j)
    half = 0.5 * (1 + STRETCH)
    return Path3(pairs=np.array([[i, j]]), lengths=length * np.array([[1.0], [half], [STRETCH]]))


def run(
    atoms: Atoms,
    kelvin: float,
    seed: int,
    path: Path3 | None = None,
    *,
    what: str = "md",
    shorter: int = 1,
) -> dict[str, NDArray[Any]]:
    """Return every step of a dynamics: positions, momenta, energies, forces and elements."""
    steps = STEPS[what] // shorter
    atoms = atoms.copy()
    atoms.calc = calculator = Driven(path)
    random = np.random.default_rng(seed)
    thermalize_momenta(atoms, kelvin, rng=random)
    dynamics = Langevin(
        atoms,
        STEP_FS * units.fs,
        temperature_K=kelvin,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=random,
    )
    dynamics.run(SETTLING[what])
    kept: dict[str, list[Any]] = {"positions": [], "momenta": [], "energies": [], "forces": []}
    for step in range(steps):
        calculator.progress = step / steps
        calculator.reset()
        dynamics.run(1)
        energy, forces = calculator.truth
        kept["positions"].append(atoms.positions.copy())
        kept["momenta"].append(atoms.get_momenta())
        kept["energies"].append(energy)
        kept["forces"].append(forces)
    return {name: np.array(values) for name, values in kept.items()} | {"numbers": atoms.numbers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One trajectory: of a molecule, at a temperature or along a path, from a seed.

    It has one step in `shorter` of `STEPS`.
    """

    molecule: str
    kind: str
    seed: int
    shorter: int = 1

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.molecule}-{self.kind}-{self.seed}"


def jobs(seeds: range, shorter: int = 1) -> Iterator[Job]:
    """Yield every trajectory; training first."""
    for molecule in MOLECULES:
        yield Job(molecule=molecule, kind="training", seed=1000, shorter=shorter)
    for seed in seeds:
        for molecule in MOLECULES:
            for kind in KINDS:
                yield Job(molecule=molecule, kind=kind, seed=seed, shorter=shorter)


def trajectory(folder: Path, data: Path, job: Job) -> Path:
    """Run one trajectory unless it is there; return its file."""
    molecule, kind = job.molecule, job.kind
    file = folder / f"{job.name}.npz"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    atoms = start(molecule, data)
    random = 1000 * job.seed + MOLECULES.index(molecule)
    if kind == "training":
        found = run(atoms, 300, random, what="training", shorter=job.shorter)
    elif kind in ("breaking", "reaction"):
        path = breaking(molecule, atoms) if kind == "breaking" else reaction(molecule, atoms, data)
        found = run(atoms, 300, random, path, what="drive", shorter=job.shorter)
    else:
        found = run(atoms, float(kind.removesuffix("K")), random, shorter=job.shorter)
    partial = file.with_suffix(".part.npz")
    np.savez(partial, start=atoms.positions, **found)
    partial.rename(file)
    return file


def training_set(folder: Path, data: Path, shorter: int = 1) -> tuple[Path, Path]:
    """Write the 300 K frames to train on and the free atoms; return both files."""
    frames, isolated = folder / "training.xyz", folder / "isolated.xyz"
    chosen = []
    for job in jobs(range(0), shorter):
        found = np.load(trajectory(folder, data, job))
        for step in range(0, len(found["energies"]), TRAINING_EVERY):
            atoms = Atoms(found["numbers"], found["positions"][step])
            chosen.append(_labelled(atoms, found["energies"][step], found["forces"][step]))
    ase.io.write(frames, chosen)
    ase.io.write(isolated, [_free_atom(z) for z in sorted({z for a in chosen for z in a.numbers})])
    return frames, isolated


def _free_atom(number: int) -> Atoms:
    from tblite.ase import TBLite

    multiplicity = {1: 2, 6: 3, 7: 4, 8: 3}[int(number)]
    atoms = Atoms([number], positions=[[0.0, 0.0, 0.0]])
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, multiplicity=multiplicity)
    return _labelled(atoms, atoms.get_potential_energy(), np.zeros((1, 3)))


def _labelled(atoms: Atoms, energy: float, forces: NDArray[np.float64]) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = Atoms(atoms.numbers, atoms.positions)
    copy.calc = SinglePointCalculator(copy, energy=float(energy), forces=forces)
    return copy


def main() -> None:
    """Run the trajectories, so that the benchmark finds them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--training-only", action="store_true")
    chosen = options.parse_args()
    if chosen.training_only:
        training_set(chosen.folder, chosen.data)
        return
    for job in jobs(range(chosen.seeds)):
        trajectory(chosen.folder, chosen.data, job)


if __name__ == "__main__":
    main()
