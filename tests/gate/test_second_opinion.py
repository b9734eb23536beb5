"""GFN2-xTB is asked about flagged geometries, and about no other."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from hybrid_calc import ToyReference, gfn2_xtb
from hybrid_calc.committee.spread import max_force_error
from tests.scripted import hybrid, settings


def answered(*, stretch, opinion="gfn2-xtb", **more):
    calc = hybrid(settings(second_opinion=opinion, **more))
    start, atoms = molecule("H2O"), molecule("H2O")
    calc.start(start)
    atoms.set_distance(0, 1, stretch * atoms.get_distance(0, 1), fix=0)
    atoms.calc = calc
    atoms.get_forces()
    step = calc.last_step
    calc.close()
    return atoms, step


def test_a_flagged_geometry_gets_the_distance_of_two_forces_as_a_signal():
    atoms, step = answered(stretch=1.4)
    assert "bond_breaking" in step.flags.names
    other = gfn2_xtb().label(atoms).forces
    ours = step.prediction.mean_forces
    assert step.observation.signal("second_opinion") == pytest.approx(max_force_error(ours, other))
    assert step.observation.worst_atoms["second_opinion"] == (
        np.linalg.norm(ours - other, axis=1).argmax()
    )


def test_no_other_geometry_and_nobody_who_did_not_ask_pays_for_it():
    assert "second_opinion" not in answered(stretch=1.0)[1].observation.signals
    assert "second_opinion" not in answered(stretch=1.4, opinion="none")[1].observation.signals


def test_every_geometry_is_shown_to_it_where_the_user_says_so():
    _, step = answered(stretch=1.0, second_opinion_for="all")
    assert step.flags.names == ()
    assert step.observation.signal("second_opinion") > 0


def test_an_opinion_that_cannot_be_had_is_unknown():
    calc = hybrid()
    calc.engine.second_opinion = ToyReference(fails=lambda atoms: True)
    calc.start(molecule("H2O"))
    atoms = molecule("H2O")
    atoms.set_distance(0, 1, 1.4, fix=0)
    atoms.calc = calc
    atoms.get_forces()
    assert calc.last_step.flags.flags
    assert np.isnan(calc.last_step.observation.signal("second_opinion"))
    assert calc.engine.second_opinion.calls == 1
