"""Who may still call, by counting."""

from __future__ import annotations

import pytest

from hybrid_calc.gate.budget import Budget


def test_no_limit_allows_everything_and_counts():
    budget = Budget(total=None, audit_reserve=0.5)
    for _ in range(100):
        assert budget.allows(audit=False)
        budget.spend(audit=False)
    assert (budget.spent, budget.audits, budget.left) == (100, 0, None)


def test_the_last_call_of_ten_is_for_an_audit():
    budget = Budget(total=10, audit_reserve=0.1)
    for _ in range(9):
        assert budget.allows(audit=False)
        budget.spend(audit=False)
    assert not budget.allows(audit=False)
    assert budget.allows(audit=True)
    budget.spend(audit=True)
    assert not budget.allows(audit=True)
    assert budget.left == 0


def test_an_audit_already_made_frees_its_reserve():
    budget = Budget(total=10, audit_reserve=0.1, spent=9, audits=1)
    assert budget.allows(audit=False)


def test_more_audits_than_reserved_take_from_the_rest():
    budget = Budget(total=10, audit_reserve=0.2, spent=8, audits=5)
    assert budget.allows(audit=False)
    budget = Budget(total=10, audit_reserve=0.2, spent=8, audits=1)
    assert budget.allows(audit=False)
    budget = Budget(total=10, audit_reserve=0.2, spent=9, audits=1)
    assert not budget.allows(audit=False)


@pytest.mark.parametrize("audit", [True, False])
def test_a_budget_of_nothing_allows_nothing(audit):
    assert not Budget(total=0, audit_reserve=0.1).allows(audit=audit)


def test_spending_beyond_the_total_leaves_nothing_not_less():
    budget = Budget(total=1, spent=3)
    assert budget.left == 0
    assert not budget.allows(audit=True)
