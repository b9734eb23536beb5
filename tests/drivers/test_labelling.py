"""Which labels a surface is fitted to."""

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.correction.surface import evaluate_surface
from hybrid_calc.drivers.labelling import MOST_UNTHINNED, LabelBook
from tests.drivers.conftest import Reference, hop, numerical, transfer

WALK = np.linspace(-0.9, 0.9, 2 * MOST_UNTHINNED)
"""Places whose distances differ by 0.01 A from one to the next."""


def fitted(book):
    return len(book.surface().process.energy_weights)


def walked(places, reason):
    book = LabelBook(Atoms("CCH", positions=hop(0.0)), None, Reference(transfer))
    for s in places:
        book.ask(hop(s), reason)
    return book


def test_few_labels_are_all_used():
    near = WALK[:MOST_UNTHINNED]
    assert fitted(walked(near, "confirmation: down")) == MOST_UNTHINNED


def test_a_long_walk_is_thinned_and_loses_nothing():
    book = walked(WALK, "confirmation: down")
    assert fitted(book) < 0.3 * len(WALK)
    energies, _ = evaluate_surface(book.surface(), np.array([hop(s) for s in WALK]))
    truth = [numerical(transfer, hop(s))[0] for s in WALK]
    assert energies == pytest.approx(truth, abs=5e-3)


def test_what_a_search_asked_for_is_never_left_out():
    book = walked(WALK, "acquisition: climbing image")
    assert fitted(book) == len(WALK)


def test_the_last_of_near_labels_stays():
    # The end of a walk is a minimum, which a band has to start from.
    book = walked(WALK, "confirmation: down")
    end = hop(WALK[-1])
    energies, _ = evaluate_surface(book.surface(), end[None])
    assert energies[0] == pytest.approx(numerical(transfer, end)[0], abs=5e-4)
