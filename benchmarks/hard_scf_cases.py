"""Geometries on which SCFs fail, or converge to something that is not the ground state.

Two to nine atoms, written down here or taken from the transition states of the
reactions in the data folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read


def pair(symbols: str, distance: float, *, charge: int = 0, multiplicity: int = 1) -> Atoms:
    """Return a diatomic, A."""
    atoms = Atoms(symbols, positions=[[0, 0, 0], [0, 0, distance]])
    return with_spin(atoms, charge, multiplicity)


def with_spin(atoms: Atoms, charge: int = 0, multiplicity: int = 1) -> Atoms:
    atoms = Atoms(atoms.numbers, atoms.positions)
    atoms.info = {"charge": charge, "spin": multiplicity}
    return atoms


def built(name: str, charge: int = 0, multiplicity: int = 1) -> Atoms:
    return with_spin(molecule(name), charge, multiplicity)


def stretched(name: str, first: int, second: int, distance: float) -> Atoms:
    """Return a closed-shell molecule with one bond at some length, A."""
    atoms = built(name)
    atoms.set_distance(first, second, distance, fix=0)
    return atoms


def scaled(name: str, factor: float) -> Atoms:
    atoms = built(name)
    atoms.positions *= factor
    return atoms


def twisted_ethylene(degrees: float) -> Atoms:
    atoms = built("C2H4")
    axis = atoms.positions[1] - atoms.positions[0]
    near = [
        i
        for i in range(2, 6)
        if np.linalg.norm(atoms.positions[i] - atoms.positions[1])
        < np.linalg.norm(atoms.positions[i] - atoms.positions[0])
    ]
    group = atoms[near]
    group.rotate(degrees, axis, center=atoms.positions[1])
    atoms.positions[near] = group.positions
    return atoms


def ozone() -> Atoms:
    half = np.radians(116.8 / 2)
    out = 1.272 * np.array([[0, np.sin(half), np.cos(half)], [0, -np.sin(half), np.cos(half)]])
    return with_spin(Atoms("O3", positions=[[0, 0, 0], *out]))


def nitrate_radical() -> Atoms:
    angles = np.radians([90, 210, 330])
    out = 1.24 * np.array([[np.cos(a), np.sin(a), 0] for a in angles])
    return with_spin(Atoms("NO3", positions=[[0, 0, 0], *out]), 0, 2)


def water_both_stretched() -> Atoms:
    atoms = built("H2O")
    atoms.positions = atoms.positions[0] + 2.0 * (atoms.positions - atoms.positions[0])
    return atoms


def written() -> dict[str, Atoms]:
    """Return the cases that need no file, by name."""
    return {
        "H2 compressed 0.40": pair("HH", 0.40),
        "H2 stretched 2.5": pair("HH", 2.5),
        "LiH stretched 3.5": pair("LiH", 3.5),
        "HF stretched 2.0": pair("HF", 2.0),
        "F2": pair("FF", 1.412),
        "F2 stretched 2.2": pair("FF", 2.2),
        "N2 compressed 0.80": pair("NN", 0.80),
        "N2 stretched 1.7": pair("NN", 1.7),
        "N2 stretched 2.5": pair("NN", 2.5),
        "CO stretched 1.8": pair("CO", 1.8),
        "C2 singlet": pair("CC", 1.243),
        "O2 triplet": pair("OO", 1.208, multiplicity=3),
        "O2 triplet stretched 2.0": pair("OO", 2.0, multiplicity=3),
        "O2 singlet": pair("OO", 1.216),
        "O2 anion": pair("OO", 1.35, charge=-1, multiplicity=2),
        "N2 cation": pair("NN", 1.116, charge=1, multiplicity=2),
        "NO radical": pair("NO", 1.151, multiplicity=2),
        "NO radical stretched 1.9": pair("NO", 1.9, multiplicity=2),
        "OH radical": pair("OH", 0.97, multiplicity=2),
        "OH anion": pair("OH", 0.964, charge=-1),
        "CN radical": pair("CN", 1.172, multiplicity=2),
        "CN anion": pair("CN", 1.177, charge=-1),
        "NO2 radical": built("NO2", 0, 2),
        "NO2 anion": with_spin(molecule("NO2"), -1, 1),
        "ozone": ozone(),
        "NO3 radical": nitrate_radical(),
        "HO2 radical": with_spin(
            Atoms("OOH", positions=[[0, 0, 0], [1.33, 0, 0], [1.58, 0.93, 0]]), 0, 2
        ),
        "water cation": built("H2O", 1, 2),
        "water both bonds x 2": water_both_stretched(),
        "CH2 singlet": built("CH2_s1A1d"),
        "CH2 triplet": built("CH2_s3B1d", 0, 3),
        "CH3 radical": built("CH3", 0, 2),
        "NH3 compressed x 0.7": scaled("NH3", 0.7),
        "methane C-H 2.5": stretched("CH4", 0, 1, 2.5),
        "formaldehyde C-O 1.9": stretched("H2CO", 1, 0, 1.9),
        "ethylene twisted 90": twisted_ethylene(90),
        "ethylene twisted 80": twisted_ethylene(80),
        "methanol O-H 2.5": stretched("CH3OH", 1, 3, 2.5),
        "vinyl radical": built("C2H3", 0, 2),
    }


def transition_states(data: Path) -> dict[str, Atoms]:
    """Return the transition state of every reaction of the data folder, by name."""
    return {
        f"transition state {folder.name}": with_spin(read(folder / "ts.xyz"))
        for folder in sorted((data / "reactions").glob("rxn*"))
    }


def digest(atoms: Atoms) -> str:
    """Return what tells whether two were asked the same thing, 16 hex digits."""
    text = f"{atoms.numbers.tolist()}{np.round(atoms.positions, 6).tolist()}{atoms.info}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
