"""A barrier confirmed by the reference."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from hybrid_calc.drivers.band import idpp_band
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import displacement_between, distance_between
from hybrid_calc.errors import StructureError
from tests.drivers.conftest import (
    Reference,
    committee_of,
    folded,
    killed_and_resumed,
    negative_modes,
    transfer,
)

QUICK = NebSettings(images=7)


def near(positions):
    return transfer(positions, barrier=0.6, stiffness=5.0)


def near_folded(positions):
    return 0.9 * folded(positions, barrier=0.7)


def test_barrier_of_a_transfer_is_found_and_confirmed(ends):
    reference = Reference(transfer)
    result = HybridNEB(*ends, committee_of(near), reference, QUICK).run()
    assert result.confirmed, result.missing
    assert result.missing == ""
    # 0.8 eV by construction; the relaxed ends are within 1 meV of zero.
    assert result.barrier == pytest.approx(0.8, abs=2e-3)
    assert result.reverse_barrier == pytest.approx(0.8, abs=2e-3)
    assert result.reaction_energy == pytest.approx(0.0, abs=2e-3)
    assert result.interval[0] <= 0.8 <= result.interval[1]
    assert result.highest.transition_fmax <= QUICK.fmax_ev_per_ang
    assert negative_modes(transfer, result.transition_state) == 1
    calls = result.end_calls + result.interior_labels + result.confirmation_labels
    assert calls == len(reference.asked)
    assert result.interior_labels <= 12


def test_no_label_is_asked_twice(ends):
    reference = Reference(transfer)
    HybridNEB(*ends, committee_of(near), reference, QUICK).run()
    assert reference.repeats() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_a_symmetric_path_over_a_second_order_saddle_is_not_accepted(planar_ends, seed):
    settings = QUICK.model_copy(update={"seed": seed})
    result = HybridNEB(*planar_ends, committee_of(near_folded), Reference(folded), settings).run()
    assert result.confirmed, result.missing
    assert negative_modes(folded, result.transition_state) == 1
    assert result.barrier == pytest.approx(0.8 - 0.16 / 1.5, abs=0.01)


def test_a_band_without_a_barrier_is_a_collapse_not_a_result(ends):
    reactant, _ = ends
    other = reactant.copy()
    other.positions[2] += [0.05, 0.05, 0.0]
    result = HybridNEB(reactant, other, committee_of(near), Reference(transfer), QUICK).run()
    assert not result.confirmed
    assert "collapsing" in result.missing


def test_an_inverted_pyramid_is_not_taken_for_the_pyramid():
    flat = np.array([[0, 0, 0], [0.94, 0, 0], [-0.47, 0.814, 0], [-0.47, -0.814, 0]])
    lifted = np.array([[0, 0, 0.38], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    up, down = flat + lifted, flat - lifted
    assert distance_between(up, down) == pytest.approx(0.0, abs=1e-12)
    assert displacement_between(up, down) > 0.3
    assert displacement_between(up, up @ np.diag([-1.0, -1.0, 1.0]) + 2.0) < 1e-9


def test_a_spent_budget_is_not_confirmed_and_says_so(ends):
    whole = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK).run()
    reference = Reference(transfer, budget=whole.end_calls + 1)
    result = HybridNEB(*ends, committee_of(near), reference, QUICK).run()
    assert not result.confirmed
    assert "spent" in result.missing
    assert result.path.shape == (7, 3, 3)


def test_resume_after_a_kill_gives_the_same_result(ends):
    whole = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK).run()
    result, asked = killed_and_resumed(
        lambda ask, **more: HybridNEB(*ends, committee_of(near), ask, QUICK, **more),
        transfer,
        budget=whole.end_calls + 2,
    )
    total = whole.end_calls + whole.interior_labels + whole.confirmation_labels
    assert asked == total
    assert result.barrier == whole.barrier
    assert np.array_equal(result.transition_state, whole.transition_state)


def test_a_frozen_atom_stays(ends):
    reactant, product = ends
    reactant.set_constraint(FixAtoms([0]))
    reference = Reference(transfer)
    result = HybridNEB(reactant, product, committee_of(near), reference, QUICK).run()
    assert result.confirmed, result.missing
    for one in [*reference.asked, *result.path, result.transition_state]:
        assert np.abs(one[0] - reactant.positions[0]).max() < 1e-12


def test_a_guess_of_the_transition_state_is_passed_through(ends):
    reactant, product = ends
    guess = Atoms("CCH", positions=[[0, 0, 0], [2.4, 0, 0], [1.2, 0.72, 0]])
    result = HybridNEB(
        reactant, product, committee_of(near), Reference(transfer), QUICK, path=[guess]
    ).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.8, abs=2e-3)


def test_atoms_passing_through_each_other_are_parted():
    first = Atoms("CNC", positions=[[0, 0, 0], [1.2, 0, 0], [-1.5, 0, 0]])
    second = Atoms("CNC", positions=[[0, 0, 0], [-1.2, 0, 0], [1.5, 0, 0]])
    band = idpp_band(first, second, 7)
    gaps = np.linalg.norm(band[:, 0] - band[:, 1], axis=1)
    assert gaps.min() > 0.8


def test_ends_of_different_molecules_are_refused(ends):
    reactant, _ = ends
    with pytest.raises(StructureError, match="same order"):
        HybridNEB(reactant, Atoms("CHC"), committee_of(near), Reference(transfer))
