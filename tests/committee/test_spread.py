"""Spread and error, by hand and by what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hybrid_calc.committee.spread import (
    energy_spread_per_atom,
    force_spread,
    max_force_error,
    max_force_spread,
)

any_forces = arrays(np.float64, (3, 4, 3), elements=st.floats(-50, 50))


def test_two_members_five_apart_spread_by_five_over_root_two():
    forces = np.zeros((2, 3, 3))
    forces[1, 2] = [3.0, 0.0, 4.0]
    assert force_spread(forces) == pytest.approx([0, 0, 5 / math.sqrt(2)])
    assert max_force_spread(forces) == pytest.approx(5 / math.sqrt(2))


def test_three_members_on_a_triangle_spread_by_root_of_the_squares_over_two():
    # distances from the mean (0, 0, 0) are 2, 1, 1 after centring: (4 + 1 + 1) / 2 = 3
    forces = np.array([[[2.0, 0, 0]], [[-1.0, 0, 0]], [[-1.0, 0, 0]]])
    assert max_force_spread(forces) == pytest.approx(math.sqrt(3))


def test_members_that_agree_have_no_spread():
    assert max_force_spread(np.ones((4, 5, 3))) == 0


def test_energies_one_and_three_on_two_atoms_spread_by_root_two_over_two():
    assert energy_spread_per_atom(np.array([1.0, 3.0]), 2) == pytest.approx(math.sqrt(2) / 2)


def test_the_largest_error_is_the_worst_atoms_distance():
    forces, reference = np.zeros((3, 3)), np.zeros((3, 3))
    forces[0], reference[1] = [0.3, 0, 0], [0, -0.3, 0.4]
    assert max_force_error(forces, reference) == pytest.approx(0.5)


@given(any_forces, arrays(np.float64, (4, 3), elements=st.floats(-50, 50)))
def test_a_force_common_to_all_members_changes_no_spread(forces, common):
    np.testing.assert_allclose(
        force_spread(forces + common), force_spread(forces), rtol=0, atol=1e-10
    )


@given(any_forces, st.floats(-5, 5))
def test_spread_scales_with_the_forces(forces, scale):
    np.testing.assert_allclose(
        force_spread(scale * forces), abs(scale) * force_spread(forces), rtol=1e-9, atol=1e-9
    )


@given(any_forces, st.permutations(range(3)), st.permutations(range(4)))
def test_the_order_of_members_and_atoms_does_not_matter(forces, members, atoms):
    np.testing.assert_allclose(
        force_spread(forces[members][:, atoms]), force_spread(forces)[atoms], atol=1e-10
    )


@given(any_forces)
def test_turning_all_forces_changes_no_spread(forces):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    np.testing.assert_allclose(
        force_spread(forces @ rotation), force_spread(forces), rtol=0, atol=1e-10
    )
