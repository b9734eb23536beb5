"""Prior plus process: one surface for one molecule."""

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import BFGS

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.correction.surface import (
    SurfaceCalculator,
    SurfaceLabel,
    evaluate_surface,
    fit_surface,
    surface_std,
)
from hybrid_calc.errors import ReferenceFailed, StructureError


@pytest.fixture
def molecule(geometries):
    return Atoms("C5", positions=geometries[0])


@pytest.fixture
def committee(truth):
    """Two members, softer and longer than the truth, with another zero of energy."""

    def predict_many(frames):
        answers = []
        for frame in frames:
            one, two = (truth(frame.positions[None], depth=0.9, length=x) for x in (1.53, 1.55))
            answers.append(
                Prediction(
                    energies=np.concatenate([one[0], two[0]]) + 100.0,
                    forces=np.concatenate([one[1], two[1]]),
                )
            )
        return answers

    return predict_many


def label_at(truth, committee, positions):
    energies, forces = truth(positions[None])
    said = committee([Atoms("C5", positions=positions)])[0]
    return SurfaceLabel(
        positions=positions,
        energy=float(energies[0]),
        forces=forces[0],
        prior_energy=said.energy,
        prior_forces=said.mean_forces,
    )


@pytest.fixture
def labels(truth, committee, geometries):
    return [label_at(truth, committee, one) for one in geometries[:6]]


def test_zero_labels_give_exactly_the_committee(molecule, committee, geometries):
    surface = fit_surface(molecule, committee, [])
    energies, forces = evaluate_surface(surface, geometries[:2])
    said = committee([Atoms("C5", positions=one) for one in geometries[:2]])
    assert energies.tolist() == [one.energy for one in said]
    assert np.array_equal(forces, [one.mean_forces for one in said])
    assert np.isinf(surface_std(surface, geometries[:2], geometries[0])).all()


@pytest.mark.parametrize("prior", ["committee", "none"])
def test_surface_passes_through_its_labels(molecule, committee, labels, prior):
    surface = fit_surface(molecule, committee, labels, prior=prior)
    energies, forces = evaluate_surface(surface, np.array([one.positions for one in labels]))
    assert energies == pytest.approx([one.energy for one in labels], abs=1e-3)
    assert forces == pytest.approx(np.array([one.forces for one in labels]), abs=0.01)


def test_a_good_committee_is_chosen_as_prior(molecule, committee, labels):
    surface = fit_surface(molecule, committee, labels)
    assert surface.prior == "committee"
    assert surface.evidence["committee"] > surface.evidence["none"]


def test_a_committee_worse_than_nothing_is_not(molecule, truth, labels):
    def nonsense(frames):
        answers = []
        for frame in frames:
            waves = 3.0 * np.sin(9.0 * frame.positions)
            answers.append(Prediction(energies=np.zeros(1), forces=waves[None]))
        return answers

    relabelled = [label_at(truth, nonsense, one.positions) for one in labels]
    surface = fit_surface(molecule, nonsense, relabelled)
    assert surface.prior == "none"
    energies, _ = evaluate_surface(surface, labels[0].positions[None])
    assert energies == pytest.approx([labels[0].energy], abs=1e-3)


def test_forces_of_the_whole_surface_are_conservative(molecule, committee, labels, geometries):
    surface = fit_surface(molecule, committee, labels)
    here = geometries[8][None]
    steps = 1e-4 * np.eye(15).reshape(15, 5, 3)
    up, down = (evaluate_surface(surface, here + sign * steps)[0] for sign in (1, -1))
    numerical = -(up - down).reshape(5, 3) / 2e-4
    assert evaluate_surface(surface, here)[1][0] == pytest.approx(numerical, abs=1e-6)


def test_ase_relaxes_on_the_surface(molecule, committee, labels, truth):
    molecule.calc = SurfaceCalculator(fit_surface(molecule, committee, labels))
    assert BFGS(molecule, logfile=None).run(fmax=0.01, steps=100)
    there = label_at(truth, committee, molecule.positions)
    assert np.linalg.norm(there.forces, axis=1).max() < 0.3


def test_a_label_beyond_sense_is_refused(molecule, committee, labels):
    mad = labels[0].to_dict() | {"forces": (labels[0].forces * 1e3).tolist()}
    with pytest.raises(ReferenceFailed, match="at most 15"):
        fit_surface(molecule, committee, [SurfaceLabel.from_dict(mad)])


def test_a_periodic_structure_is_refused(molecule, committee):
    molecule.pbc = True
    with pytest.raises(StructureError, match="one molecule"):
        fit_surface(molecule, committee, [])


def test_labels_survive_json(labels):
    again = SurfaceLabel.from_dict(labels[0].to_dict())
    assert np.array_equal(again.positions, labels[0].positions)
    assert again.to_dict() == labels[0].to_dict()
