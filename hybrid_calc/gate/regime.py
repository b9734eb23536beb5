"""Which kind of geometry this is, from chemistry and flags alone.

A regime never depends on the model's output, so that what was validated in
one regime cannot be claimed for another because the model feels the same
about both.  Regimes are data: a rule has a name, conditions and a parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hybrid_calc.errors import SettingsError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import FlagReport, Severity
from hybrid_calc.geometry import Composition

OUTSIDE, CLASH, REACTIVE, DEFECT = "outside", "clash", "reactive", "defect"
HIGH_ENERGY, EQUILIBRIUM, WARM, HOT = "high-energy", "equilibrium", "warm", "hot"

BOND_FLAGS = frozenset({"bond_breaking", "bond_forming", "fragments"})
"""Flags of bonds that are not what they were."""
BY_FLAG = (
    (CLASH, frozenset({"close_contact"})),
    (REACTIVE, BOND_FLAGS),
    (DEFECT, frozenset({"site_coordination"})),
    (
        HIGH_ENERGY,
        frozenset({"strained_bond", "strained_angle", "bond_length", "coordination"}),
    ),
)
"""Regimes that flags decide, first come first served; before temperature."""
BUILT_IN = (OUTSIDE, *(name for name, _ in BY_FLAG), EQUILIBRIUM, WARM, HOT)
"""Regimes every geometry falls into exactly one of, before the user's refine them."""
GEOMETRY_FLAGS = frozenset(
    {"mean_temperature", "step_displacement"}.union(*(flags for _, flags in BY_FLAG))
)
"""Flags that a rule may rest on: those that geometry, momenta and training ranges decide.

Not the rest, which the model's output or a label decides (large_force, energy_drift,
not_conservative, small_gap, spin_contamination), or which lead outside anyway.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What is validated together.

    Attributes
    ----------
    name
        One of `BUILT_IN` or of the user's rules.
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


class RegimeRule(BaseModel):
    """A regime of the user's own: a part of another one that is validated by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(
        ..., pattern=r"^[a-z][a-z0-9-]*$", description="In lower case, such as proton-transfer."
    )
    parent: str = Field(
        ...,
        description="The regime it is a part of: outside, clash, reactive, defect, high-energy, "
        "equilibrium, warm, hot, or one of your own above it. What was validated for the parent "
        "says nothing about it.",
    )
    flags: list[str] = Field(
        [],
        description="One of these flags of the geometry must be up, such as bond_forming; none "
        "means any.",
    )
    elements: list[str] = Field(
        [], description="Elements that must be among those of the flagged structure."
    )
    charges: list[int] = Field([], description="Total charges it holds for; none means any.")
    above_kelvin: float | None = Field(
        None, ge=0, description="Mean temperature above which it holds, K; only in dynamics."
    )
    up_to_kelvin: float | None = Field(
        None, gt=0, description="Mean temperature up to which it holds, K; only in dynamics."
    )

    @field_validator("flags")
    @classmethod
    def _of_geometry(cls, flags: list[str]) -> list[str]:
        for flag in flags:
            if flag not in GEOMETRY_FLAGS:
                known = ", ".join(sorted(GEOMETRY_FLAGS))
                raise ValueError(
                    f"no regime can rest on the flag {flag}: it is not known, or depends on what "
                    f"the committee or the reference said. Flags of the geometry: {known}"
                )
        return flags

    @field_validator("elements")
    @classmethod
    def _known(cls, symbols: list[str]) -> list[str]:
        for symbol in symbols:
            if symbol not in chemical_symbols[1:]:
                raise ValueError(f"{symbol} is no element")
        return symbols

    def holds(self, composition: Composition, report: FlagReport) -> bool:
        """Tell whether a geometry of the parent regime belongs to this one."""
        temperature = report.mean_temperature
        if self.above_kelvin is not None or self.up_to_kelvin is not None:
            if temperature is None:
                return False
            if self.above_kelvin is not None and not temperature > self.above_kelvin:
                return False
            if self.up_to_kelvin is not None and not temperature <= self.up_to_kelvin:
                return False
        if self.flags and not set(self.flags) & set(report.names):
            return False
        if not set(self.elements) <= set(composition.elements.split()):
            return False
        return not self.charges or composition.charge in self.charges


def check_rules(rules: Sequence[RegimeRule]) -> None:
    """Refuse rules that do not form a tree under the built-in regimes.

    Raises
    ------
    SettingsError
        A name is taken, or a parent does not stand above its child.
    """
    known = list(BUILT_IN)
    for rule in rules:
        if rule.name in known:
            raise SettingsError(f"regime {rule.name} is there already; give it another name.")
        if rule.parent not in known:
            raise SettingsError(
                f"regime {rule.name} has the parent {rule.parent}, which does not stand above it; "
                f"known there: {', '.join(known)}."
            )
        known.append(rule.name)


def classes_of(rules: Sequence[RegimeRule], limits: FlagLimits) -> dict[str, Any]:
    """Return what geometries are classed by, JSON-able: two that differ mean other regimes.

    Parameters
    ----------
    rules
        Of the user.
    limits
        Of the flags, whose temperatures bound regimes.
    """
    return {
        "gate.regimes": [rule.model_dump(mode="json") for rule in rules],
        "flags.warm_above_kelvin": limits.warm_above_kelvin,
        "flags.hot_above_kelvin": limits.hot_above_kelvin,
    }


def always_flagged(name: str, rules: Sequence[RegimeRule] = ()) -> bool:
    """Tell whether every geometry of a regime, by its name, has a flag up.

    Parameters
    ----------
    name
        One of `BUILT_IN`, or of a rule.
    rules
        Of the user; one that asks for no flag is as flagged as its parent.
    """
    known = {rule.name: rule for rule in rules}
    while name in known:
        if known[name].flags:
            return True
        name = known[name].parent
    return name not in {EQUILIBRIUM, WARM}  # hot has the flag of its mean temperature


def classify(
    composition: Composition,
    report: FlagReport,
    limits: FlagLimits,
    rules: Sequence[RegimeRule] = (),
) -> Regime:
    """Return the regime of a geometry.

    Broken or formed bonds count before temperature; geometries without
    momenta (optimisations, bands) are classed by geometry alone.

    Parameters
    ----------
    composition
        Elements, charge, multiplicity.
    report
        Flags and mean temperature.
    limits
        Temperatures that part equilibrium, warm and hot.
    rules
        Of the user, in order; each takes its part out of its parent.
    """
    return refine(_name(report, limits), composition, report, rules)


def refine(
    name: str, composition: Composition, report: FlagReport, rules: Sequence[RegimeRule]
) -> Regime:
    """Return the regime of a geometry of which one is known.

    Parameters
    ----------
    name
        One of `BUILT_IN`.
    composition, report, rules
        As for `classify`.
    """
    for rule in rules:
        if rule.parent == name and rule.holds(composition, report):
            name = rule.name
    return _regime(name, composition)


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
            return OUTSIDE
        up = set(report.names)
        for name, flags in BY_FLAG:
            if up & flags:
                return name
        if report.of(Severity.REGIME):
            return REACTIVE  # a flag that changes the chemistry, of a kind not known here
    temperature = report.mean_temperature
    if temperature is None or temperature <= limits.warm_above_kelvin:
        return EQUILIBRIUM
    return WARM if temperature <= limits.hot_above_kelvin else HOT
