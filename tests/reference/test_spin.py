"""<S^2> judged, by hand."""

from __future__ import annotations

import pytest

from hybrid_calc.reference.spin import contamination, expected_s_squared, impure_spin


@pytest.mark.parametrize(
    ("multiplicity", "value"), [(1, 0.0), (2, 0.75), (3, 2.0), (4, 3.75), (5, 6.0)]
)
def test_pure_spin_states(multiplicity, value):
    assert expected_s_squared(multiplicity) == value
    assert contamination(value + 0.1, multiplicity) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("s_squared", "multiplicity"), [(0.0, 1), (1.0, 1), (1.29, 1), (0.76, 2), (1.04, 2), (2.02, 3)]
)
def test_state_of_one_determinant_is_taken(s_squared, multiplicity):
    assert impure_spin(s_squared, multiplicity, 0.3) == ""


@pytest.mark.parametrize(("s_squared", "multiplicity"), [(1.31, 1), (1.06, 2), (1.75, 2), (2.4, 3)])
def test_state_beyond_one_determinant_is_refused_with_its_numbers(s_squared, multiplicity):
    why = impure_spin(s_squared, multiplicity, 0.3)
    assert why.startswith("multireference suspected: ")
    assert f"{s_squared:.2f}" in why
