"""<S^2> of a determinant against what its multiplicity makes it."""

from __future__ import annotations

BROKEN_PAIR = 1.0
"""<S^2> of a singlet with one pair of electrons apart: half singlet, half triplet."""


def expected_s_squared(multiplicity: int) -> float:
    """Return S (S + 1) of a pure spin state of multiplicity 2S + 1."""
    spin = (multiplicity - 1) / 2
    return spin * (spin + 1)


def contamination(s_squared: float, multiplicity: int) -> float:
    """Return how far <S^2> lies above that of a pure spin state."""
    return s_squared - expected_s_squared(multiplicity)


def impure_spin(s_squared: float, multiplicity: int, limit: float) -> str:
    """Return why a state's spin disqualifies it; empty where it does not.

    A singlet may have one broken pair, which is how an unrestricted
    determinant describes a breaking bond; two pairs, or a doublet mixed with
    a quartet, are beyond one determinant.

    Parameters
    ----------
    s_squared
        <S^2> of the determinant.
    multiplicity
        2S + 1 that was asked for.
    limit
        Contamination allowed.
    """
    allowed = limit + (BROKEN_PAIR if multiplicity == 1 else 0.0)
    beyond = contamination(s_squared, multiplicity)
    if beyond <= allowed:
        return ""
    return (
        f"multireference suspected: <S^2> is {s_squared:.2f} where multiplicity {multiplicity} "
        f"has {expected_s_squared(multiplicity):.2f} (contamination up to {allowed:g} is allowed)"
    )
