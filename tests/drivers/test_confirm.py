"""What must hold before a transition state is called confirmed, and what a refusal costs."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.drivers import bands, confirm
from hybrid_calc.drivers.asker import Asker
from hybrid_calc.drivers.band import relax_band
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.confirm import DESCENT, PROBE, SaddleCheck
from hybrid_calc.drivers.finish import FAR_ANG
from hybrid_calc.drivers.labelling import LabelBook, ReferenceFailed
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.polish import polish_on_reference
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.saddle import Saddle
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.walk import curvature_along
from hybrid_calc.errors import InputError
from tests.drivers.conftest import Reference, committee_of, hop, stepwise, transfer

QUICK = NebSettings(images=7)
ALONG = np.array([[-0.2, 0, 0], [-0.2, 0, 0], [1.0, 0, 0]])
"""At the saddle of `transfer` downhill: its curvature there is negative."""
ACROSS = np.array([[0, -0.2, 0], [0, -0.2, 0], [0, 1.0, 0]])
"""Uphill."""


def near(positions):
    return transfer(positions, barrier=0.6, stiffness=5.0)


@pytest.fixture
def book():
    return LabelBook(Atoms("CCH", positions=hop(0.0)), committee_of(near), Reference(transfer))


def saddle_of(modes, curvatures, std):
    modes = np.array([mode / np.linalg.norm(mode) for mode in modes])
    return Saddle(
        positions=hop(0.0),
        curvatures=np.array(curvatures),
        modes=modes,
        curvature_std=np.array(std),
        verdict="undecided",
    )


@pytest.mark.parametrize(
    ("seen", "verdict", "probes"),
    [
        (((ALONG, ACROSS), (-1.0, 2.0), (0.9, 0.1)), "first order", 1),
        (((ACROSS, ALONG), (-1.0, 2.0), (0.9, 0.1)), "no saddle", 1),
        (((ALONG, ACROSS), (-1.0, 0.5), (0.1, 0.9)), "first order", 1),
        (((ALONG, ALONG), (-1.0, 0.5), (0.1, 0.9)), "higher order", 1),
        (((ALONG, ACROSS), (-1.0, 0.5), (0.9, 0.9)), "first order", 2),
    ],
)
def test_the_mode_that_is_open_is_the_one_that_is_asked(book, monkeypatch, seen, verdict, probes):
    found = saddle_of(*seen)
    monkeypatch.setattr(confirm, "judge_saddle", lambda *_, **__: found)
    label = book.ask(hop(0.0), "acquisition")
    ends = tuple(book.ask(hop(s), "end") for s in (-1, 1))
    check = SaddleCheck(book, Progress(), QUICK, SearchLimits(), ends=ends, ask=lambda *_: label)
    assert check.judged(book.surface(), label, hop(0.0)).verdict == verdict
    # Both directions of one mode are one geometry: the label is there already.
    assert book.reasons.count(PROBE) <= probes
    assert book.reasons.count(PROBE) >= 1


def test_a_curvature_that_is_refused_on_one_side_is_asked_on_the_other():
    reference, refused = Reference(transfer), []

    def fragile(atoms, reason):
        if not refused and reason == PROBE:
            refused.append(np.array(atoms.positions))
            raise ReferenceFailed("no convergence")
        return reference(atoms, reason)

    book = LabelBook(Atoms("CCH", positions=hop(0.0)), committee_of(near), fragile)
    label = book.ask(hop(0.0), "acquisition")
    found = curvature_along(book, label, ALONG, PROBE, step=0.1)
    assert found < -1
    other = book.labels[-1].positions
    assert other - hop(0.0) == pytest.approx(hop(0.0) - refused[0])


def test_labels_that_are_refused_again_and_again_end_the_search_not_one_alone(ends):
    def refusing(times):
        reference, refused = Reference(transfer), []

        def label(atoms, reason):
            if reason == PROBE and len(refused) < times:
                refused.append(reason)
                raise ReferenceFailed("no convergence")
            return reference(atoms, reason)

        return label, refused

    undecided = pytest.MonkeyPatch()
    judge = confirm.judge_saddle
    undecided.setattr(
        confirm,
        "judge_saddle",
        lambda *a, **k: replace(
            judge(*a, **k), verdict="undecided", curvature_std=np.array([0.0, 9e9])
        ),
    )
    try:
        label, refused = refusing(3)
        result = HybridNEB(*ends, committee_of(near), label, QUICK).run()
        assert result.confirmed, result.missing
        assert len(refused) == 3
        label, refused = refusing(10**6)
        result = HybridNEB(*ends, committee_of(near), label, QUICK).run()
        assert not result.confirmed
        assert "the reference keeps failing" in result.missing
        most = SearchLimits()  # every pathway has its own patience
        assert len(refused) <= 2 * (most.max_failures + 1) * most.max_pathways
    finally:
        undecided.undo()


def test_a_band_that_is_at_rest_at_once_is_still_asked_how_sure_it_is(ends):
    book = LabelBook(Atoms("CCH", positions=hop(0.0)), committee_of(transfer), Reference(transfer))
    for s in (-1.0, 1.0):
        book.ask(hop(s), "end")
    surface = book.surface(min_amplitude_ev=1.0)
    start = np.array([hop(s) for s in np.linspace(-1, 1, 7)])
    rest = relax_band(book.template, surface, start).positions
    again = relax_band(book.template, surface, rest, max_std=1e-6)
    assert again.unsure is not None
    assert not again.converged
    assert np.abs(again.positions - rest).max() < 0.05
    assert relax_band(book.template, surface, rest, max_std=9.0).unsure is None


def test_of_bands_that_do_not_come_to_rest_the_reference_decides(ends, monkeypatch):
    relax = bands.relax_band
    monkeypatch.setattr(
        bands, "relax_band", lambda *a, **k: replace(relax(*a, **k), converged=False)
    )
    reference, reasons = Reference(transfer), []

    def label(atoms, reason):
        reasons.append(reason)
        return reference(atoms, reason)

    result = HybridNEB(*ends, committee_of(near), label, QUICK).run()
    assert result.confirmed, result.missing
    assert result.barrier == pytest.approx(0.8, abs=5e-3)
    assert DESCENT in reasons  # it was followed downhill
    few = QUICK.model_copy(update={"max_confirmation_labels": 2})
    result = HybridNEB(*ends, committee_of(near), Reference(transfer), few).run()
    assert not result.confirmed
    assert "not enough to confirm it" in result.missing
    assert result.barrier == pytest.approx(0.8, abs=5e-3)  # the best so far
    assert result.confirmation_labels <= 2 * (2 + 2)


def test_what_was_refused_is_not_asked_again():
    reference, asked = Reference(transfer), []

    def fragile(atoms, reason):
        asked.append(np.array(atoms.positions))
        if np.array_equal(atoms.positions, bad):
            raise ReferenceFailed("no convergence")
        return reference(atoms, reason)

    committee = committee_of(near)
    book = LabelBook(Atoms("CCH", positions=hop(0.0)), committee, fragile)
    here, bad = hop(0.0), hop(0.0) + np.array([[0, 0, 0], [0, 0, 0], [0, 0.1, 0]])
    for _ in range(3):
        book.ask(here, "acquisition")
        with pytest.raises(ReferenceFailed):
            book.ask(bad, "acquisition")
    assert len(asked) == 2
    assert [book.refused(one) for one in (here, bad, hop(0.5))] == [False, True, False]
    other = LabelBook(book.template, committee, fragile)
    other.restore(book.to_dict())
    with pytest.raises(ReferenceFailed, match="before"):
        other.ask(bad, "acquisition")
    # Of a band whose least certain image was refused the next one is asked.
    asker = Asker(other, Progress())
    asker.learn(other.surface(min_amplitude_ev=1.0), np.array([hop(-1.0), here, bad, hop(1.0)]))
    assert len(asked) == 2
    asker.learn(other.surface(), np.array([hop(-1.0), bad, hop(0.3), hop(1.0)]))
    assert np.array_equal(asked[-1], hop(0.3))


@pytest.mark.parametrize("phase", ["ridge", "walk", "confirm"])
def test_who_is_after_one_saddle_does_not_look_for_a_third_structure(ends, phase):
    driver = HybridNEB(
        *ends,
        committee_of(near),
        Reference(stepwise),
        QUICK,
        limits=SearchLimits(hard_band_labels=1),
    )
    driver.run()
    rounds = driver._pathways[0].steps[0].search
    rounds.progress.done, rounds.progress.tried = False, []
    rounds.progress.phase = "search"
    assert rounds.third_structure(set()) is not None
    rounds.progress.phase = phase
    assert rounds.third_structure(set()) is None


@pytest.mark.parametrize(("asked", "confirmed"), [(False, False), (True, True)])
def test_what_a_saddle_joins_that_polishing_moved_far_is_asked_again(
    ends, monkeypatch, asked, confirmed
):
    def far(*arguments, **options):
        return replace(polish_on_reference(*arguments, **options), moved_ang=FAR_ANG + 0.1)

    monkeypatch.setattr("hybrid_calc.drivers.finish.polish_on_reference", far)
    settings = QUICK.model_copy(update={"polish": "dimer", "label_downhill_ends": asked})
    result = HybridNEB(*ends, committee_of(near), Reference(transfer), settings).run()
    assert result.confirmed is confirmed
    assert ("label_downhill_ends" in result.missing) is not confirmed


def test_of_pathways_that_are_not_confirmed_the_lowest_with_a_saddle_is_the_best_so_far(ends):
    driver = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK)
    assert driver.run().confirmed
    found = driver._pathways[0]
    found.missing = "a doubt"
    other = HybridNEB(*ends, committee_of(near), Reference(transfer, budget=20), QUICK)
    other.run()
    empty = other._pathways[0]
    empty.steps[0].progress.saddle = empty.steps[0].finish.label = None
    driver._pathways = [empty, found]
    assert not np.isfinite(empty.led_over)
    assert found.led_over == pytest.approx(0.8, abs=5e-3)
    result = driver._result("spent")
    assert not result.confirmed
    assert result.barrier == pytest.approx(0.8, abs=5e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"schema": 5}, "another version"), ({"starts": [[[0.0] * 3] * 3] * 2}, "another geometry")],
)
def test_a_state_of_another_search_is_refused(ends, change, words):
    driver = HybridNEB(*ends, committee_of(near), Reference(transfer), QUICK)
    with pytest.raises(InputError, match=words):
        driver.restore(driver.state() | change)
