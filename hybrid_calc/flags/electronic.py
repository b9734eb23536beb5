"""What the reference's own state says about the geometry, where it was asked."""

from __future__ import annotations

from collections.abc import Mapping

from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import Flag, Severity


def electronic_flags(
    checks: Mapping[str, float], multiplicity: int, limits: FlagLimits
) -> tuple[Flag, ...]:
    """Flag a spin that is not pure, a small gap and an unstable state.

    They come with the label, too late to decide about it; they tell training
    and the reader that one determinant may not describe this geometry.

    Parameters
    ----------
    checks
        Of a label: ``s_squared``, ``gap_ev``, ``restricted_above_hartree``,
        ``internally_stable``; what is absent was not looked at.
    multiplicity
        2S+1 of the structure.
    limits
        What to compare with.
    """
    flags = []
    spin = (multiplicity - 1) / 2
    contamination = checks.get("s_squared", 0.0) - spin * (spin + 1)
    if contamination > limits.spin_contamination:
        flags.append(
            Flag(
                name="spin_contamination",
                severity=Severity.SOFT,
                value=contamination,
                limit=limits.spin_contamination,
            )
        )
    gap = checks.get("gap_ev", -1.0)
    if 0 <= gap < limits.small_gap_ev:  # negative: there was none to measure
        flags.append(
            Flag(
                name="small_gap",
                severity=Severity.SOFT,
                value=gap,
                limit=limits.small_gap_ev,
                unit="eV",
            )
        )
    below = checks.get("restricted_above_hartree")
    if below is not None:
        flags.append(
            Flag(name="restricted_unstable", severity=Severity.SOFT, value=below, unit="hartree")
        )
    if checks.get("internally_stable", 1.0) == 0.0:
        flags.append(Flag(name="unstable_state", severity=Severity.SOFT))
    return tuple(flags)
