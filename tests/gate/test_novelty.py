"""Novelty and distance to validated environments: by hand, and whatever the coordinates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from hybrid_calc.errors import InputError
from hybrid_calc.gate.novelty import Novelty, fit_cloud

WATER = np.array([8, 1, 1])


def gaussian(frames: int, width: int = 40, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    axes = random.normal(size=(width, width)) * np.geomspace(1, 1e-3, width)
    return [random.normal(size=(3, width)) @ axes.T for _ in range(frames)]


@pytest.fixture
def fitted():
    frames = gaussian(400)
    return Novelty.fit([WATER] * 400, frames), frames


def test_by_hand_along_the_only_axis_and_off_it():
    # ten points at x = -1 and 1: all of them are equally far out, so novelty there is 1
    points = np.zeros((10, 2))
    points[:, 0] = [-1, 1] * 5
    novelty = Novelty({1: fit_cloud(points)})
    asked = np.array([[1.0, 0], [-2.0, 0], [0, 0], [0.0, 0.5]])
    along, further, centre, off = novelty.of_atoms(np.ones(4, int), asked)
    assert (along, further, centre) == pytest.approx((1, 2, 0), abs=1e-5)
    assert off > 10  # training never left the axis


def test_a_change_along_no_training_axis_is_seen():
    frames = gaussian(200, width=60)
    flat = [np.concatenate([frame, np.zeros((3, 1))], axis=1) for frame in frames]
    novelty = Novelty.fit([WATER] * 200, flat)
    shifted = flat[0].copy()
    shifted[1, -1] = 10.0
    before, after = novelty.of_atoms(WATER, flat[0]), novelty.of_atoms(WATER, shifted)
    assert after[1] > 2 > before[1]
    assert np.delete(after, 1) == pytest.approx(np.delete(before, 1))


def test_one_is_the_quantile_of_the_training_atoms(fitted):
    novelty, frames = fitted
    values = np.array([novelty.of_atoms(WATER, frame) for frame in frames])
    for element in (8, 1):
        share = (values[:, element == WATER] <= 1 + 1e-4).mean()
        assert 0.99 <= share < 0.9975  # 400 and 800 atoms: not one more than the quantile needs


def test_new_atoms_of_the_same_kind_are_mostly_inside_and_far_ones_are_not(fitted):
    novelty, _ = fitted
    fresh = np.array([novelty.of_atoms(WATER, frame) for frame in gaussian(600)[400:]])
    assert 0.9 < (fresh <= 1).mean() < 1
    assert (novelty.of_atoms(WATER, 5 * gaussian(1, seed=3)[0]) > 2).all()


def test_it_does_not_depend_on_the_descriptors_coordinates_or_unit(fitted):
    novelty, frames = fitted
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))
    moved = [7.0 * frame @ turn + 3.0 for frame in frames]
    other = Novelty.fit([WATER] * 400, moved)
    for frame, image in zip(frames[:5], moved[:5], strict=True):
        expected = novelty.of_atoms(WATER, frame)
        assert other.of_atoms(WATER, image) == pytest.approx(expected, rel=2e-2)


def test_atoms_may_come_in_any_order(fitted):
    novelty, frames = fitted
    order = [2, 0, 1]
    expected = novelty.of_atoms(WATER, frames[0])[order]
    assert novelty.of_atoms(WATER[order], frames[0][order]) == pytest.approx(expected)


def test_it_is_the_distance_to_the_origin_of_its_coordinates(fitted):
    novelty, frames = fitted
    places = novelty.clouds[8].coordinates(frames[3][:1])
    assert novelty.of_atoms(WATER, frames[3])[0] == pytest.approx(np.linalg.norm(places), rel=1e-3)


def test_an_element_never_trained_on_is_infinitely_new(fitted):
    novelty, frames = fitted
    found = novelty.of_atoms(np.array([8, 17, 1]), frames[0])
    assert found[1] == np.inf
    assert np.isfinite(found[[0, 2]]).all()
    assert (novelty.of_atoms(np.array([17]), frames[0][:1]) == np.inf).all()


@given(st.integers(0, 2), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_no_number_that_is_not_finite_passes(atom, value):
    frames = gaussian(30)
    novelty = Novelty.fit([WATER] * 30, frames)
    frame = frames[0].copy()
    frame[atom, 5] = value
    found = novelty.of_atoms(WATER, frame)
    assert found[atom] == np.inf
    assert np.isfinite(np.delete(found, atom)).all()


def test_bad_training_data_are_refused():
    with pytest.raises(InputError, match="finite"):
        fit_cloud(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="at least 1"):
        fit_cloud(np.zeros((0, 4)))
    with pytest.raises(InputError, match="at least one"):
        Novelty.fit([], [])


@pytest.mark.parametrize("atoms", [1, 2, 7])
def test_a_handful_of_training_atoms_gives_numbers(atoms):
    points = np.random.default_rng(0).normal(size=(atoms, 30))
    novelty = Novelty({6: fit_cloud(points)})
    assert np.isfinite(novelty.of_atoms(np.full(atoms, 6), points)).all()
    assert (novelty.of_atoms(np.array([6]), points[:1] + 100) > 10).all()


def test_arrays_carry_everything(fitted):
    novelty, frames = fitted
    again = Novelty.from_arrays(load(save(novelty.arrays())))
    assert np.array_equal(again.of_atoms(WATER, frames[7]), novelty.of_atoms(WATER, frames[7]))
    assert again.clouds[1].atoms == 800
