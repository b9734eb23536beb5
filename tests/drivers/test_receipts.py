"""Answers that are kept until what they were asked for is remembered."""

import json

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.drivers.labelling import LabelBook
from hybrid_calc.drivers.receipts import Receipts
from hybrid_calc.errors import BudgetExhausted, ReferenceCrashed, ReferenceFailed
from tests.drivers.conftest import Reference, hop, transfer


def frame(s):
    return Atoms("CCH", positions=hop(s))


def test_an_answer_is_paid_for_once_and_survives_a_kill():
    reference, kept = Reference(transfer), []
    receipts = Receipts(reference, lambda: kept.append(receipts.to_list()))
    first = receipts(frame(0.2), "acquisition")
    again = receipts(frame(0.2), "acquisition")
    assert len(reference.asked) == 1
    assert again.energy == first.energy
    assert np.array_equal(again.forces, first.forces)
    resumed = Receipts(Reference(transfer, budget=0), lambda: None)
    resumed.restore(json.loads(json.dumps(kept[-1])))
    answer = resumed(frame(0.2), "acquisition")
    assert answer.energy == first.energy
    assert np.array_equal(answer.forces, first.forces)
    with pytest.raises(BudgetExhausted):
        resumed(frame(0.3), "acquisition")


def test_a_refusal_is_kept_and_a_dead_worker_is_not():
    errors = [ReferenceFailed("no convergence"), ReferenceCrashed("killed")]
    asked, kept = [], []

    def refusing(atoms, reason):
        asked.append(reason)
        raise errors[len(asked) - 1]

    receipts = Receipts(refusing, lambda: kept.append(receipts.to_list()))
    for _ in range(2):
        with pytest.raises(ReferenceFailed, match="no convergence"):
            receipts(frame(0.2), "acquisition")
    assert len(asked) == 1
    resumed = Receipts(refusing, lambda: None)
    resumed.restore(json.loads(json.dumps(kept[-1])))
    book = LabelBook(frame(0.0), None, resumed)
    with pytest.raises(ReferenceFailed, match="no convergence"):
        book.ask(hop(0.2), "acquisition")
    assert len(asked) == 1
    resumed.forget([book])
    assert resumed.to_list() == []
    with pytest.raises(ReferenceCrashed):
        book.ask(hop(0.3), "acquisition")
    assert [book.refused(hop(s)) for s in (0.2, 0.3)] == [True, False]


def test_only_what_a_book_has_is_forgotten():
    reference = Reference(transfer)
    receipts = Receipts(reference, lambda: None)
    book = LabelBook(frame(0.0), None, receipts)
    book.ask(hop(0.1), "acquisition")
    receipts(frame(0.4), "acquisition")
    assert len(receipts.to_list()) == 2
    receipts.forget([book])
    assert [one["positions"] for one in receipts.to_list()] == [hop(0.4).tolist()]
