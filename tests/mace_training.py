"""A small MACE committee, trained on the spot: minutes of nothing, seconds of one thread."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.io import write

MOLECULES = ("CH3CH2OH", "H2O", "CH4")
ISOLATED = {1: -13.0, 6: -1030.0, 8: -2040.0}  # eV
WELL_DEPTH = 0.8  # eV
STEEPNESS = 1.6  # 1/A


def morse(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (eV/A) of Morse bonds between all atoms, plus atoms at rest."""
    energy = sum(ISOLATED[number] for number in atoms.numbers)
    forces = np.zeros((len(atoms), 3))
    for one, other in itertools.combinations(range(len(atoms)), 2):
        vector = atoms.positions[other] - atoms.positions[one]
        distance = np.linalg.norm(vector)
        rest = covalent_radii[atoms.numbers[[one, other]]].sum()
        decay = np.exp(-STEEPNESS * (distance - rest))
        energy += WELL_DEPTH * (decay**2 - 2 * decay)
        slope = WELL_DEPTH * -2 * STEEPNESS * (decay**2 - decay)
        forces[one] += slope * vector / distance
        forces[other] -= slope * vector / distance
    return float(energy), forces


def labelled_frames(count: int, seed: int = 0) -> list[Atoms]:
    """Return rattled molecules with ``REF_energy`` and ``REF_forces``."""
    random = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        atoms = molecule(MOLECULES[number % len(MOLECULES)])
        atoms.positions += random.normal(scale=0.06, size=atoms.positions.shape)
        energy, forces = morse(atoms)
        atoms.info["REF_energy"] = energy
        atoms.arrays["REF_forces"] = forces
        frames.append(atoms)
    return frames


def train_small_committee(folder: Path, members: int) -> list[Path]:
    """Train MACE networks that differ in their seed; return their ``.model`` files.

    One process of one thread after another; about ten seconds each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.xyz", labelled_frames(40), format="extxyz")
    return [_train(folder, seed) for seed in range(members)]


def _train(folder: Path, seed: int) -> Path:
    name = f"member_{seed}"
    settings = {
        "name": name,
        "seed": seed,
        "train_file": "train.xyz",
        "valid_fraction": 0.1,
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "E0s": str(ISOLATED),
        "model": "ScaleShiftMACE",
        "hidden_irreps": "8x0e",
        "MLP_irreps": "8x0e",
        "radial_MLP": "[16,16]",
        "num_interactions": 2,
        "max_ell": 2,
        "correlation": 2,
        "r_max": 4.0,
        "batch_size": 5,
        "energy_weight": 10,
        "forces_weight": 100,
        "valid_batch_size": 10,
        "max_num_epochs": 20,
        "lr": 0.02,
        "default_dtype": "float64",
        "device": "cpu",
        "plot": "False",
        "num_workers": 0,
    }
    options = [f"--{key}={value}" for key, value in settings.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mace.cli.run_train", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    model = folder / f"{name}.model"
    if done.returncode or not model.is_file():
        raise RuntimeError(f"training {name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return model
