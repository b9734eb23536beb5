"""The exact process on energies and forces."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hybrid_calc.correction.gp import (
    ProcessSettings,
    fit_process,
    is_linear,
    refuse_senseless,
)
from hybrid_calc.correction.posterior import difference_std, functional_std, predict_process
from hybrid_calc.errors import InputError, ReferenceFailed

KERNELS = ["matern52", "rbf"]


@pytest.fixture
def process(truth, geometries):
    return fit_process(geometries, *truth(geometries), ProcessSettings())


@pytest.mark.parametrize("kernel", KERNELS)
def test_forces_are_minus_the_gradient_of_the_energy(truth, geometries, kernel):
    fitted = fit_process(geometries, *truth(geometries), ProcessSettings(kernel=kernel))
    here = geometries[:1] + np.random.default_rng(0).normal(0, 0.1, (1, 5, 3))
    steps = 1e-4 * np.eye(15).reshape(15, 5, 3)
    up, down = (predict_process(fitted, here + sign * steps)[0] for sign in (1, -1))
    numerical = -(up - down).reshape(5, 3) / 2e-4
    assert predict_process(fitted, here)[1][0] == pytest.approx(numerical, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_surface_passes_through_its_labels_within_the_noise(truth, geometries, kernel):
    energies, forces = truth(geometries)
    settings = ProcessSettings(kernel=kernel)
    fitted = fit_process(geometries, energies, forces, settings)
    predicted, slopes = predict_process(fitted, geometries)
    assert predicted == pytest.approx(energies, abs=2 * settings.energy_noise_ev)
    assert slopes == pytest.approx(forces, abs=2 * settings.force_noise_ev_per_ang)


def test_error_between_labels_falls_with_their_number(truth, geometries):
    unseen = geometries[10:]
    errors = []
    for count in (1, 3, 10):
        energies, forces = truth(geometries[:count])
        fitted = fit_process(geometries[:count], energies, forces, ProcessSettings())
        errors.append(np.abs(predict_process(fitted, unseen)[1] - truth(unseen)[1]).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_one_label_of_two_atoms_is_enough():
    positions = np.array([[[0.0, 0, 0], [0, 0, 1.1]]])
    forces = np.array([[[0.0, 0, -0.4], [0, 0, 0.4]]])
    fitted = fit_process(positions, np.array([3.0]), forces, ProcessSettings())
    energies, slopes = predict_process(fitted, positions)
    assert energies == pytest.approx([3.0], abs=1e-3)
    assert slopes == pytest.approx(forces, abs=5e-3)


def test_a_constant_residual_is_the_mean_and_costs_no_force(geometries):
    fitted = fit_process(geometries, np.full(12, -7.5), np.zeros((12, 5, 3)), ProcessSettings())
    energies, forces = predict_process(fitted, geometries + 0.3)
    assert fitted.mean == pytest.approx(-7.5)
    assert energies == pytest.approx(np.full(12, -7.5))
    assert forces == pytest.approx(np.zeros((12, 5, 3)), abs=1e-9)


def test_energy_shift_of_all_labels_shifts_only_the_mean(truth, geometries, process):
    energies, forces = truth(geometries)
    shifted = fit_process(geometries, energies - 1000.0, forces, ProcessSettings())
    assert shifted.mean == pytest.approx(process.mean - 1000.0, abs=1e-6)
    assert shifted.log_likelihood == pytest.approx(process.log_likelihood, abs=1e-4)


def test_rotation_and_translation_change_nothing(truth, geometries, process):
    turn = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    moved = geometries @ turn.T + [3.0, -1.0, 2.0]
    energies, forces = predict_process(process, geometries[:3] + 0.0)
    again, turned = predict_process(process, moved[:3])
    assert again == pytest.approx(energies, abs=1e-9)
    assert turned == pytest.approx(forces @ turn.T, abs=1e-9)
    refitted = fit_process(moved, *truth(moved), ProcessSettings())
    assert refitted.log_likelihood == pytest.approx(process.log_likelihood, abs=1e-5)


def test_order_of_atoms_and_of_labels_changes_nothing(truth, geometries, process):
    order, shuffle = np.array([3, 1, 4, 0, 2]), np.random.default_rng(3).permutation(12)
    moved = geometries[shuffle][:, order]
    other = fit_process(moved, *truth(moved), ProcessSettings(), length=process.length)
    same = fit_process(geometries, *truth(geometries), ProcessSettings(), length=process.length)
    here = geometries[:2] + np.random.default_rng(1).normal(0, 0.05, (2, 5, 3))
    energies, forces = predict_process(same, here)
    again, permuted = predict_process(other, here[:, order])
    assert again == pytest.approx(energies, abs=1e-7)
    assert permuted == pytest.approx(forces[:, order], abs=1e-6)


def test_net_force_and_torque_of_the_surface_vanish(process, geometries):
    forces = predict_process(process, geometries + 0.1)[1]
    assert forces.sum(axis=1) == pytest.approx(np.zeros((12, 3)), abs=1e-9)
    torque = np.cross(geometries + 0.1, forces).sum(axis=1)
    assert torque == pytest.approx(np.zeros((12, 3)), abs=1e-9)


def test_searched_length_is_no_less_likely_than_others(truth, geometries):
    settings = ProcessSettings(length_bounds=(0.2, 5.0))
    data = truth(geometries)
    best = fit_process(geometries, *data, settings)
    for length in (0.2, 0.5, 1.0, 2.0, 5.0):
        other = fit_process(geometries, *data, settings, length=length)
        assert best.log_likelihood >= other.log_likelihood - 1.0


def test_likelihood_counts_internal_directions_only(truth, geometries, process):
    # 12 labels of 5 atoms: 12 (15 + 1 - 6) rows.
    assert process.factor.shape == (120, 120)
    line = np.array([[[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.5]]])
    assert is_linear(line[0])
    # One label of a linear triatomic: 3 N + 1 - 5 rows.
    assert fit_process(line, *truth(line), ProcessSettings()).factor.shape == (5, 5)


def test_std_vanishes_at_the_origin_and_grows_away_from_labels(process, geometries):
    near = geometries[:1] + np.random.default_rng(0).normal(0, 0.02, (1, 5, 3))
    far = geometries[:1] * 1.4
    at_origin, close, away = difference_std(
        process, np.concatenate([geometries[:1], near, far]), geometries[0]
    )
    assert at_origin == pytest.approx(0.0, abs=1e-6)
    assert 0 < close < 0.1 * away


def test_std_of_energies_and_forces_matches_a_direct_posterior(truth, geometries):
    """Sampling distribution check: functionals of the posterior, from its definition."""
    settings = ProcessSettings()
    few = geometries[:4]
    fitted = fit_process(few, *truth(few), settings, length=1.0)
    here = geometries[5:6]
    step = np.random.default_rng(2).normal(size=(1, 5, 3))
    h = 1e-3
    pair = np.concatenate([here + h * step, here - h * step])
    as_energies = functional_std(fitted, pair, np.array([[0.5 / h, -0.5 / h]]))
    as_gradient = functional_std(fitted, here, np.zeros((1, 1)), step[None])
    assert as_gradient == pytest.approx(as_energies, rel=1e-3)


def test_posterior_std_covers_errors_of_a_smooth_truth(truth, geometries, process):
    here = geometries + np.random.default_rng(9).normal(0, 0.1, geometries.shape)
    error = predict_process(process, here)[0] - truth(here)[0]
    error -= predict_process(process, geometries[:1])[0] - truth(geometries[:1])[0]
    z_scores = error / difference_std(process, here, geometries[0])
    assert 0.05 < np.sqrt(np.mean(z_scores**2)) < 5


def test_labels_beyond_sense_are_refused():
    forces = np.zeros((2, 3, 3))
    refuse_senseless(np.zeros(2), forces, limit=15.0)
    forces[1, 2] = [12.0, 0, 12.0]
    with pytest.raises(ReferenceFailed, match=r"17\.0 eV/A on atom 2"):
        refuse_senseless(np.zeros(2), forces, limit=15.0)
    with pytest.raises(ReferenceFailed, match="not finite"):
        refuse_senseless(np.array([0.0, np.nan]), np.zeros((2, 3, 3)), limit=15.0)


@pytest.mark.parametrize(
    ("positions", "energies", "forces"),
    [
        (np.zeros((0, 3, 3)), np.zeros(0), np.zeros((0, 3, 3))),
        (np.zeros((1, 1, 3)), np.zeros(1), np.zeros((1, 1, 3))),
        (np.zeros((2, 3, 3)), np.zeros(1), np.zeros((2, 3, 3))),
        (np.zeros((2, 3, 3)), np.zeros(2), np.zeros((2, 2, 3))),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(positions, energies, forces):
    with pytest.raises(InputError):
        fit_process(positions, energies, forces, ProcessSettings())


def test_fitted_state_is_frozen(process):
    with pytest.raises(dataclasses.FrozenInstanceError):
        process.mean = 0.0
