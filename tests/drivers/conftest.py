"""Cheap truths, a committee that is wrong on purpose, and references that count."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.polynomial import Polynomial

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.errors import BudgetExhausted
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory

LEVEL = LevelOfTheory(program="toy")


def numerical(energy, positions):
    """Energy, eV, and forces, eV/A, of an energy function by central differences."""
    steps = 1e-5 * np.eye(positions.size).reshape(-1, *positions.shape)
    up, down = energy(positions + steps), energy(positions - steps)
    return float(energy(positions)), ((down - up) / 2e-5).reshape(positions.shape)


def distance(positions, i, j):
    """Distance of atoms i and j of geometries (..., N, 3), A."""
    return np.linalg.norm(positions[..., i, :] - positions[..., j, :], axis=-1)


def cluster(positions, *, scale=1.0):
    """Morse pairs: a compact cluster with one minimum nearby."""
    first, second = np.triu_indices(positions.shape[-2], k=1)
    r = distance(positions, first, second)
    return ((scale * (1 - np.exp(-1.3 * (r - 1.5 * scale)))) ** 2).sum(axis=-1)


def transfer(positions, *, barrier=0.8, stiffness=4.0):
    """An atom (2) that passes between two others (0, 1) held 2.4 A apart.

    A double well of s = r02 - r12 with minima at s = -1 and 1 A and a saddle of the
    stated height, eV, at s = 0; the atom's path is an arc of fixed r02 + r12 = 2.8 A.
    """
    r01, r02, r12 = (distance(positions, i, j) for i, j in ((0, 1), (0, 2), (1, 2)))
    well = barrier * ((r02 - r12) ** 2 - 1) ** 2
    return well + stiffness * (r01 - 2.4) ** 2 + stiffness * (r02 + r12 - 2.8) ** 2


def height_of(positions):
    """Height of the fourth atom over the plane of the others, A."""
    origin = positions[..., 0, :]
    normal = np.cross(positions[..., 1, :] - origin, positions[..., 2, :] - origin)
    fourth = positions[..., 3, :] - origin
    return (fourth * normal).sum(axis=-1) / np.linalg.norm(normal, axis=-1)


def folded(positions, *, barrier=0.8):
    """`transfer` beside a fourth atom that leaves the plane while the third one passes.

    h is the fourth atom's height over the plane of the others.  At the ends (s = -1, 1)
    h = 0 is a minimum, half-way it is a maximum: the planar path is a ridge 0.107 eV,
    0.8^2 / (4 * 1.5), above the two true saddles.
    """
    height = height_of(positions)
    s = distance(positions, 0, 2) - distance(positions, 1, 2)
    near, far = distance(positions, 0, 3), distance(positions, 1, 3)
    springs = 4.0 * (near - 1.6) ** 2 + 4.0 * (far - 1.6) ** 2
    fold = 2.0 * (s**2 - 0.4) * height**2 + 1.5 * height**4
    return transfer(positions, barrier=barrier) + springs + fold


def ridged(positions):
    """`transfer` with a second, lower saddle along the ridge of the first one.

    Half-way (s = 0) the energy along the fourth atom's height h has minima at h = 0 and at
    h^2 = 0.8, where it is 0.397 eV lower: saddles of 0.8 and 0.403 eV, both from end to end.
    """
    height = height_of(positions)
    s = distance(positions, 0, 2) - distance(positions, 1, 2)
    near, far = distance(positions, 0, 3), distance(positions, 1, 3)
    springs = 4.0 * (near - 1.6) ** 2 + 4.0 * (far - 1.6) ** 2
    # Its slope in u = h^2 is 6 (u - 0.06) (u - 0.8).
    wells = 0.288 * height**2 - 2.58 * height**4 + 2.0 * height**6
    half_way = np.exp(-(s**2))
    return transfer(positions) + springs + half_way * wells + 0.6 * (1 - half_way) * height**2


def stepwise(positions):
    """A transfer in two steps: minima at s = -1, 0 and 1, both barriers 0.8 eV.

    Half-way the atom is 1.45 A from both others, too far for a bond.
    """
    r01, r02, r12 = (distance(positions, i, j) for i, j in ((0, 1), (0, 2), (1, 2)))
    s = r02 - r12
    # s^2 (1 - s^2)^2 is 4/27 at its maxima, s^2 = 1/3.
    well = 0.8 * 27 / 4 * s**2 * (s**2 - 1) ** 2
    return well + 4.0 * (r01 - 2.4) ** 2 + 4.0 * (r02 + r12 - 2.9) ** 2


SHELF_SLOPE = Polynomial.fromroots([-1.0, -0.5, 0.0, 0.1, 1.0])
SHELF = 24.0 * (SHELF_SLOPE.integ() - SHELF_SLOPE.integ()(-1.0))


def shelved(positions):
    """A transfer over a shelf: minima at s = -1, 0 and 1, saddles at s = -0.5 and 0.1.

    The first is 0.579 eV above the first minimum, the second 2.2 meV above the second one.
    """
    r01, r02, r12 = (distance(positions, i, j) for i, j in ((0, 1), (0, 2), (1, 2)))
    return SHELF(r02 - r12) + 4.0 * (r01 - 2.4) ** 2 + 4.0 * (r02 + r12 - 2.9) ** 2


def negative_modes(energy, positions):
    """Number of clearly negative curvatures of a truth, eV/A^2."""
    size = positions.size
    hessian = np.empty((size, size))
    for k in range(size):
        step = np.zeros(size)
        step[k] = 1e-3
        step = step.reshape(positions.shape)
        up, down = (numerical(energy, positions + sign * step)[1].ravel() for sign in (1, -1))
        hessian[k] = (down - up) / 2e-3
    return int((np.linalg.eigvalsh(0.5 * (hessian + hessian.T)) < -0.05).sum())


class Stepwise(Calculator):
    """`stepwise` for ASE."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces = numerical(stepwise, self.atoms.positions)
        self.results = {"energy": energy, "forces": forces}


class Reference:
    """Counts its calls, remembers where, and stops at its budget."""

    def __init__(self, energy, budget=10**6):
        self.energy = energy
        self.budget = budget
        self.asked = []

    def __call__(self, atoms, reason):
        if len(self.asked) >= self.budget:
            raise BudgetExhausted("the calls of this run are spent.")
        self.asked.append(np.array(atoms.positions))
        energy, forces = numerical(self.energy, atoms.positions)
        return Label(energy=energy, forces=forces, level=LEVEL)

    def repeats(self):
        """Number of pairs of calls at one geometry."""
        calls = self.asked
        return sum(
            np.abs(one - two).max() < 1e-6 for k, one in enumerate(calls) for two in calls[:k]
        )


def killed_and_resumed(make, truth, *, budget):
    """Result and calls of a driver that stops at its budget and goes on from what it saved last.

    Parameters
    ----------
    make
        Returns the driver of a reference, with ``save`` where that is given.
    truth
        Energy function of the reference.
    budget
        Calls before the kill.
    """
    saved = []
    first, second = Reference(truth, budget=budget), Reference(truth)
    stopped = make(first, save=saved.append).run()
    assert not stopped.confirmed
    driver = make(second)
    driver.restore(json.loads(json.dumps(saved[-1])))
    return driver.run(), len(first.asked) + len(second.asked)


def committee_of(energy):
    """A committee of one opinion, twice, with another zero of energy."""

    def predict_many(frames):
        answers = []
        for frame in frames:
            value, forces = numerical(energy, frame.positions)
            answers.append(
                Prediction(energies=np.full(2, value - 40.0), forces=np.stack([forces, forces]))
            )
        return answers

    return predict_many


@pytest.fixture
def start():
    """Five atoms, rattled."""
    base = np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.6, 0.2], [0.3, 0.2, 1.5], [-1.1, -1.0, 0.3]])
    return Atoms("C5", positions=base + np.random.default_rng(1).normal(0, 0.1, (5, 3)))


def hop(s):
    """Three atoms with the middle one at r02 - r12 = s on the arc r02 + r12 = 2.8 A."""
    near, far = 1.4 + s / 2, 1.4 - s / 2
    x = (near**2 - far**2 + 2.4**2) / (2 * 2.4)
    return np.array([[0, 0, 0], [2.4, 0, 0], [x, np.sqrt(near**2 - x**2), 0]])


@pytest.fixture
def ends():
    """Reactant and product of the transfer, a little off their minima."""
    return tuple(Atoms("CCH", positions=hop(s)) for s in (-0.9, 0.9))


@pytest.fixture
def planar_ends():
    """Reactant and product of `folded`, all four atoms in one plane."""
    fourth = [1.2, -np.sqrt(1.6**2 - 1.2**2), 0.0]
    return tuple(Atoms("CCHO", positions=[*hop(s), fourth]) for s in (-0.95, 0.95))
