"""Walks on the reference itself: up to a saddle and down from it."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from hybrid_calc.drivers.downhill import descend_on_reference
from hybrid_calc.drivers.labelling import LabelBook, max_force
from hybrid_calc.drivers.saddle import Descent, Saddle
from hybrid_calc.drivers.walk import MAX_STEP_ANG, bofill_update, next_uphill
from hybrid_calc.errors import BudgetExhausted
from tests.drivers.conftest import Reference, hop, numerical, transfer

MOLECULE = Atoms("CCH", positions=hop(0.0))


def hessian_of(energy, positions):
    """Hessian by differences of numerical forces, eV/A^2."""
    columns = []
    for step in 1e-3 * np.eye(positions.size).reshape(-1, *positions.shape):
        up, down = (numerical(energy, positions + sign * step)[1] for sign in (1, -1))
        columns.append((down - up).ravel() / 2e-3)
    return np.array(columns)


@pytest.fixture
def book():
    return LabelBook(MOLECULE, None, Reference(transfer))


@pytest.fixture
def saddle():
    """The saddle of `transfer` and its mode: along s = r02 - r12, which is x."""
    along = np.zeros((3, 3))
    along[2, 0] = 1.0
    return Saddle(
        positions=hop(0.0),
        curvatures=np.array([-1.0, 1.0]),
        modes=np.stack([along, along]),
        curvature_std=np.zeros(2),
        verdict="first order",
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_uphill_ends_at_the_saddle(book, seed):
    start = hop(0.25) + np.random.default_rng(seed).normal(0, 0.05, (3, 3))
    walk = [book.ask(start, "walk")]
    hessian = hessian_of(transfer, start)
    while max_force(MOLECULE, walk[-1]) > 0.01:
        here = next_uphill(MOLECULE, walk, hessian)
        assert np.linalg.norm(here - walk[-1].positions, axis=1).max() < MAX_STEP_ANG + 1e-12
        walk.append(book.ask(here, "walk"))
        assert len(walk) <= 15
    # 0.8 eV at the saddle by construction.
    assert walk[-1].energy == pytest.approx(0.8, abs=1e-4)


def test_a_frozen_atom_does_not_walk():
    molecule = MOLECULE.copy()
    molecule.set_constraint(FixAtoms([0]))
    book = LabelBook(molecule, None, Reference(transfer))
    walk = [book.ask(hop(0.2), "walk")]
    here = next_uphill(molecule, walk, hessian_of(transfer, hop(0.2)))
    assert np.array_equal(here[0], walk[0].positions[0])
    assert np.abs(here - walk[0].positions).max() > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_an_updated_hessian_explains_the_change_it_saw(seed):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(9, 9))
    before += before.T
    step, change = rng.normal(size=(2, 9))
    after = bofill_update(before, step, change)
    assert after @ step == pytest.approx(change)
    assert after == pytest.approx(after.T)


def test_what_the_hessian_foresaw_does_not_change_it():
    hessian = np.diag([-1.0, 2.0, 3.0])
    step = np.array([0.1, 0.2, -0.1])
    assert np.array_equal(bofill_update(hessian, step, hessian @ step), hessian)


def test_walks_downhill_end_in_both_minima_and_cost_nothing_again(book, saddle):
    ways = descend_on_reference(book, saddle, "down", lambda one: max_force(MOLECULE, one) < 0.02)
    for way, s in zip(ways, (1.0, -1.0), strict=True):
        end = way.positions
        near, far = (np.linalg.norm(end[2] - end[k]) for k in (0, 1))
        assert near - far == pytest.approx(s, abs=0.02)
        assert np.array_equal(way.walked[0], saddle.positions)
    asked = book.asked
    again = descend_on_reference(book, saddle, "down", lambda one: max_force(MOLECULE, one) < 0.02)
    assert book.asked == asked
    assert np.array_equal(again[1].walked, ways[1].walked)


def test_a_walk_downhill_out_of_labels_says_so(saddle):
    book = LabelBook(MOLECULE, None, Reference(transfer, budget=3))
    with pytest.raises(BudgetExhausted):
        descend_on_reference(book, saddle, "down", lambda one: False)
    assert book.asked == 3


def test_geometries_are_spread_evenly_over_a_way():
    walked = np.zeros((5, 1, 3))
    walked[:, 0, 0] = [0.0, 0.1, 0.2, 0.5, 1.0]
    spread = Descent(walked=walked, unsure=False).spread(3)
    assert spread[:, 0, 0] == pytest.approx([0.25, 0.5, 0.75])
