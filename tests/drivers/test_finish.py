"""What is done after a transition state is confirmed: polished, and its ends labelled."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from hybrid_calc.drivers import confirm
from hybrid_calc.drivers.band import band_through
from hybrid_calc.drivers.downhill import DOWNHILL, DownhillEnd, label_downhill_ends, missing_of
from hybrid_calc.drivers.labelling import LabelBook, max_force
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.polish import POLISH, polish_on_reference
from hybrid_calc.drivers.saddle import judge_saddle, surface_hessian
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.errors import BudgetExhausted, ReferenceFailed, RunInterrupted, StructureError
from tests.drivers.conftest import (
    Reference,
    committee_of,
    hop,
    killed_and_resumed,
    numerical,
    transfer,
)

QUICK = NebSettings(images=7)
SADDLE = hop(0.0)
"""Of `transfer`: s = 0, r02 + r12 = 2.8 A, r01 = 2.4 A by construction."""


def near(positions):
    return transfer(positions, barrier=0.6, stiffness=5.0)


@pytest.fixture
def learned():
    """A book with labels around the saddle, and a start 0.03 A off it."""

    def make(reference, template=None):
        template = template or Atoms("CCH", positions=SADDLE)
        book = LabelBook(template, committee_of(near), reference)
        rng = np.random.default_rng(3)
        moved = np.ones((3, 1))
        moved[template.constraints[0].index if template.constraints else []] = 0.0
        for _ in range(6):
            book.ask(SADDLE + 0.1 * moved * rng.normal(size=(3, 3)), "acquisition")
        start = book.ask(SADDLE + 0.03 * moved * rng.normal(size=(3, 3)), "acquisition")
        return book, start, surface_hessian(book.surface(), start.positions)

    return make


@pytest.mark.parametrize("method", ["dimer", "sella"])
def test_polishing_reaches_the_references_own_saddle_and_counts_its_labels(learned, method):
    reference = Reference(transfer)
    book, start, hessian = learned(reference)
    before = len(reference.asked)
    assert max_force(book.template, start) > 0.3
    polish = polish_on_reference(
        book, start, hessian, method=method, fmax=0.005, max_labels=60, record=lambda: None
    )
    assert polish.converged
    energy, forces = numerical(transfer, polish.label.positions)
    assert energy == pytest.approx(0.8, abs=1e-4)  # the saddle's height by construction
    assert np.linalg.norm(forces, axis=1).max() == pytest.approx(polish.fmax, abs=1e-6)
    assert polish.fmax <= 0.005
    assert polish.labels == len(reference.asked) - before > 0
    assert polish.energy_change == pytest.approx(energy - start.energy, abs=1e-8)
    assert reference.repeats() == 0


@pytest.mark.parametrize("method", ["dimer", "sella"])
def test_polishing_again_after_a_kill_pays_for_the_rest_only(learned, method):
    book, start, hessian = learned(Reference(transfer))
    options = {"method": method, "fmax": 0.005, "max_labels": 60}
    whole = polish_on_reference(book, start, hessian, record=lambda: None, **options)
    first = Reference(transfer)
    begun, start, hessian = learned(first)
    first.budget = len(first.asked) + whole.labels // 2
    saved = []
    with pytest.raises(BudgetExhausted):
        polish_on_reference(
            begun, start, hessian, record=lambda: saved.append(begun.to_dict()), **options
        )
    second = Reference(transfer)
    resumed = LabelBook(begun.template, committee_of(near), second)
    resumed.restore(json.loads(json.dumps(begun.to_dict())))
    rest = polish_on_reference(resumed, start, hessian, record=lambda: None, **options)
    assert np.array_equal(rest.label.positions, whole.label.positions)
    assert rest.labels == whole.labels  # all it took, before the kill and after
    assert len(second.asked) == whole.labels - whole.labels // 2


@pytest.mark.parametrize("method", ["dimer", "sella"])
def test_polishing_leaves_a_frozen_atom_where_it_is(learned, method):
    template = Atoms("CCH", positions=SADDLE, constraint=FixAtoms([0]))
    reference = Reference(transfer)
    book, start, hessian = learned(reference, template)
    polish = polish_on_reference(
        book, start, hessian, method=method, fmax=0.01, max_labels=60, record=lambda: None
    )
    assert polish.converged
    assert all(np.abs(one[0] - SADDLE[0]).max() < 1e-12 for one in reference.asked)


def test_a_start_that_is_good_enough_is_polished_for_nothing(learned):
    reference = Reference(transfer)
    book, start, hessian = learned(reference)
    before = len(reference.asked)
    polish = polish_on_reference(
        book, start, hessian, method="dimer", fmax=100.0, max_labels=9, record=lambda: None
    )
    assert polish.converged
    assert polish.labels == len(reference.asked) - before == 0
    assert polish.label is start


def test_polish_out_of_labels_leaves_the_band_unconfirmed(ends):
    settings = QUICK.model_copy(
        update={"polish": "dimer", "polish_fmax_ev_per_ang": 1e-7, "polish_labels": 3}
    )
    result = HybridNEB(*ends, committee_of(near), Reference(transfer), settings).run()
    assert not result.confirmed
    assert "raise neb.polish_labels" in result.missing
    assert result.barrier == pytest.approx(0.8, abs=2e-3)


def test_a_budget_that_ends_while_the_polished_saddle_is_judged_confirms_nothing(ends, monkeypatch):
    def open_(*arguments, **options):
        found = judge_saddle(*arguments, **options)
        return replace(found, verdict="undecided", curvature_std=np.array([0.0, 9e9]))

    monkeypatch.setattr(confirm, "judge_saddle", open_)  # so that a label decides
    settings = QUICK.model_copy(update={"polish": "dimer"})

    def make(ask, **more):
        return HybridNEB(*ends, committee_of(near), ask, settings, **more)

    whole = Reference(transfer)
    expected = make(whole).run()
    assert expected.confirmed, expected.missing
    assert expected.highest.polish.converged
    last = len(whole.asked) - 1
    stopped = make(Reference(transfer, budget=last)).run()
    assert not stopped.confirmed
    assert stopped.barrier == pytest.approx(expected.barrier, abs=5e-3)
    result, asked = killed_and_resumed(make, transfer, budget=last)
    assert result.confirmed, result.missing
    assert asked == len(whole.asked)
    assert result.barrier == expected.barrier


@pytest.mark.parametrize("reason", [POLISH, DOWNHILL])
def test_a_pathway_that_was_given_up_while_it_was_concluded_stays_given_up(ends, reason):
    reference, saved = Reference(transfer), []

    def refusing(atoms, why):
        if why.startswith(reason):
            raise ReferenceFailed("no convergence")
        return reference(atoms, why)

    wanted = {"polish": "dimer", "polish_fmax_ev_per_ang": 1e-5, "label_downhill_ends": True}
    settings = QUICK.model_copy(update=wanted)
    first = HybridNEB(*ends, committee_of(near), refusing, settings, save=saved.append)
    expected = first.run()
    assert not expected.confirmed
    assert "the reference gave no label" in expected.missing
    asked = len(reference.asked)
    driver = HybridNEB(*ends, committee_of(near), refusing, settings)
    driver.restore(json.loads(json.dumps(saved[-1])))
    result = driver.run()
    assert len(reference.asked) == asked
    assert [one.missing for one in result.pathways] == [one.missing for one in expected.pathways]
    assert result.barrier == expected.barrier


def test_a_polished_band_has_the_polished_barrier(ends):
    settings = QUICK.model_copy(update={"polish": "sella", "polish_fmax_ev_per_ang": 1e-4})
    result = HybridNEB(*ends, committee_of(near), Reference(transfer), settings).run()
    assert result.confirmed, result.missing
    assert result.highest.polish.converged
    assert result.highest.transition_fmax == result.highest.polish.fmax <= 1e-4
    assert np.array_equal(result.transition_state, result.highest.polish.label.positions)
    reactant = numerical(transfer, result.reactant.positions)[0]
    assert result.barrier == pytest.approx(
        numerical(transfer, result.transition_state)[0] - reactant, abs=1e-8
    )


def test_labelled_ends_downhill_are_reactant_and_product(ends):
    reference = Reference(transfer)
    settings = QUICK.model_copy(update={"label_downhill_ends": True})
    result = HybridNEB(*ends, committee_of(near), reference, settings).run()
    assert result.confirmed, result.missing
    assert sorted(one.joins for one in result.highest.downhill) == ["end", "start"]
    for one in result.highest.downhill:
        assert one.energy == pytest.approx(0.0, abs=0.01)  # both minima are at zero
        assert abs(one.error) <= 0.03
    calls = result.end_calls + result.interior_labels + result.confirmation_labels
    assert calls == len(reference.asked)


def test_a_surface_that_is_wrong_downhill_learns_from_the_label_and_walks_again():
    reference = Reference(transfer)
    book = LabelBook(Atoms("CCH", positions=SADDLE), committee_of(near), reference)
    saddle = book.ask(SADDLE, "acquisition")
    ends = tuple(book.ask(hop(s), "known to lie here") for s in (-1.0, 1.0))
    # only a wrong opinion of what lies between
    book.labels = [saddle]
    book.reasons = ["acquisition"]
    rounds, asked = [], len(reference.asked)
    found = label_downhill_ends(book, saddle, ends, rounds, lambda: None)
    assert len(rounds) > 1
    assert len(reference.asked) - asked == 2 * len(rounds)
    assert missing_of(found) == ""
    again = label_downhill_ends(book, saddle, ends, json.loads(json.dumps(rounds)), lambda: None)
    assert again == found
    assert len(reference.asked) - asked == 2 * len(rounds)


def test_what_labelled_ends_leave_open_is_said():
    def end(joins, error=0.0, confirmed=True):
        return DownhillEnd(
            joins=joins, energy=0.0, error=error, fmax=0.1, away=0.1, confirmed=confirmed
        )

    assert missing_of([end("end"), end("start")]) == ""
    assert "start and start" in missing_of([end("start"), end("start")])
    assert "neither" in missing_of([end("start"), end("neither")])
    wrong = missing_of([end("end", error=-0.2, confirmed=False), end("start")])
    assert "-0.200 eV off" in wrong


# --- ends and paths


def test_a_signal_in_the_search_gives_the_best_so_far(ends):
    reference = Reference(transfer)
    whole = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK).run()

    def label(atoms, reason):
        if len(reference.asked) == whole.end_calls + 1:
            raise RunInterrupted("a signal asked for it")
        return reference(atoms, reason)

    result = HybridNEB(*ends, committee_of(near), label, QUICK).run()
    assert not result.confirmed
    assert "a signal asked for it" in result.missing


def test_frames_of_a_path_that_repeat_the_ends_are_left_out(ends):
    reactant, product = ends
    guess = Atoms("CCH", positions=[[0, 0, 0], [2.4, 0, 0], [1.2, 0.72, 0]])
    path = [reactant, guess, product]
    driver = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK, path=path)
    assert driver.path == [guess]


def test_a_long_path_is_thinned_to_the_images_of_the_band(ends):
    reactant, product = ends
    between = [
        Atoms("CCH", positions=reactant.positions + t * (product.positions - reactant.positions))
        for t in np.linspace(0.05, 0.95, 30)
    ]
    assert band_through([reactant, *between, product], 7).shape == (7, 3, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda end: end.set_constraint(FixAtoms([1])), "fix different atoms"),
        (lambda end: end.translate([0.1, 0, 0]), "0.100 A apart"),
    ],
)
def test_ends_that_do_not_hold_the_same_atoms_are_refused(ends, change, words):
    reactant, product = ends
    reactant.set_constraint(FixAtoms([0]))
    change(product)
    with pytest.raises(StructureError, match=words):
        HybridNEB(reactant, product, committee_of(near), Reference(transfer))
