"""Which kind of geometry this is, from chemistry and flags alone.

A regime never depends on the model's output, so that what was validated in
one regime cannot be claimed for another because the model feels the same
about both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import FlagReport, Severity
from hybrid_calc.geometry import Composition


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What is validated together.

    Attributes
    ----------
    name
        ``equilibrium``, ``warm``, ``hot``, ``reactive``, ``clash`` or ``outside``.
    elements
        Symbols in the order of the periodic table, ``H C O``.
    charge
        Total charge, elementary charges.
    multiplicity
        2S+1.
    """

    name: str
    elements: str
    charge: int
    multiplicity: int

    def __str__(self) -> str:
        charge = f", charge {self.charge:+d}" if self.charge else ""
        spin = f", multiplicity {self.multiplicity}" if self.multiplicity != 1 else ""
        return f"{self.name} {self.elements}{charge}{spin}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able; the arguments of a new one."""
        return {
            "name": self.name,
            "elements": self.elements,
            "charge": self.charge,
            "multiplicity": self.multiplicity,
        }


def classify(composition: Composition, report: FlagReport, limits: FlagLimits) -> Regime:
    """Return the regime of a geometry.

    Broken or formed bonds count before temperature; geometries without
    momenta (optimisations, bands) are classed by geometry alone.
    """
    return _regime(_name(report, limits), composition)


@lru_cache(maxsize=256)
def _regime(name: str, composition: Composition) -> Regime:
    return Regime(
        name=name,
        elements=composition.elements,
        charge=composition.charge,
        multiplicity=composition.multiplicity,
    )


def _name(report: FlagReport, limits: FlagLimits) -> str:
    if report.flags:
        if any(not flag.trustable for flag in report.flags):
            return "outside"
        if "close_contact" in report.names:
            return "clash"
        if report.of(Severity.REGIME):
            return "reactive"
    temperature = report.mean_temperature
    if temperature is None or temperature <= limits.warm_above_kelvin:
        return "equilibrium"
    return "warm" if temperature <= limits.hot_above_kelvin else "hot"
