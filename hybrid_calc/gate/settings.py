"""What the user may decide about the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hybrid_calc.errors import SettingsError
from hybrid_calc.gate.regime import RegimeRule, check_rules

KCAL_PER_MOL = 0.0433641153
"""One kcal/mol in eV."""
Policy = Literal["uncertain", "contradiction", "unseen", "audit"]
PRESETS: dict[str, frozenset[Policy]] = {
    "uncertainty": frozenset({"uncertain", "audit"}),
    "contradiction": frozenset({"contradiction", "audit"}),
    "unseen": frozenset({"unseen", "audit"}),
    "all": frozenset({"uncertain", "contradiction", "unseen", "audit"}),
}
"""When to validate: one choice alone, or all of them; each with the audits that judge it."""


class GateSettings(BaseModel):
    """When to ask the reference, and what to do when it cannot be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    force_tolerance_ev_per_ang: float = Field(
        0.2, gt=0, description="Largest error of any atom's force that is still good, eV/A."
    )
    energy_tolerance_ev: float = Field(
        2 * KCAL_PER_MOL,
        gt=0,
        description="Largest error of the energy relative to the run's "
        "first label that is still good, eV (default 2 kcal/mol).",
    )
    factor: float = Field(
        3.0, gt=0, description="Expected error over spread until enough labels of this run exist."
    )
    factor_bounds: tuple[float, float] = Field(
        (1.0, 20.0), description="Bounds of that factor once it is estimated from labels."
    )
    factor_labels: int = Field(
        5,
        ge=1,
        description="Labels of a regime from which on the factor is the quantile of "
        "error over spread.",
    )
    factor_quantile: float = Field(0.9, gt=0, lt=1, description="That quantile.")
    trust: bool = Field(
        True, description="Let validated frames nearby silence flags and unvalidated regimes."
    )
    trust_frames: int = Field(
        3, ge=1, description="Validated frames nearby, all within tolerance, that earn trust."
    )
    trust_radius: float = Field(
        0.5,
        gt=0,
        description="Largest distance of an atom's environment fingerprint that is "
        "nearby: independent 300 K frames are 0.2 to 0.3 apart, an X-H bond stretched by a "
        "quarter is 0.5 away at least (benchmarks/flags.py).",
    )
    hysteresis_steps: int = Field(
        5,
        ge=1,
        description="In dynamics: calm steps in a row after which the committee answers again "
        "once it was uncertain.",
    )
    hysteresis_share: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Share of the threshold below which a step is calm; up to the threshold it "
        "is calm where the reference finds the committee right.",
    )
    policies: frozenset[Policy] = Field(
        PRESETS["all"],
        description="Reasons to ask that are switched on, or a preset: uncertainty, "
        "contradiction, unseen (each with audits) or all.",
    )
    second_opinion: Literal["none", "gfn2-xtb"] = Field(
        "none",
        description="Ask GFN2-xTB as well; how far its forces are from the committee's is a "
        "signal that is recorded, and decides nothing until a calibration uses it.",
    )
    second_opinion_for: Literal["flagged", "all"] = Field(
        "flagged",
        description="Which geometries it is asked about: those with a flag up, or all, which "
        "costs about as much as a committee does. A calibration that uses it in a regime without "
        "flags needs all, when it is made and when it is used.",
    )
    regimes: tuple[RegimeRule, ...] = Field(
        (), description="Regimes of your own, each a part of a parent."
    )
    audit_probability: float = Field(
        0.03,
        ge=0.01,
        le=1,
        description="Share of unflagged geometries that are labelled all the same. Audits are "
        "switched off only by leaving audit out of the policies: nothing then tells what the "
        "gate misses. One that is due when the budget is spent leaves its step unverified, and "
        "the steps from there on are not counted in what is said about missed failures.",
    )
    audit_probability_new: float = Field(
        0.2,
        ge=0.01,
        le=1,
        description="The same in a regime that is new, where that is larger.",
    )
    audits_until_settled: int = Field(
        10,
        ge=0,
        description="Audits of an unvalidated regime in a row that must find nothing until it "
        "is new no longer.",
    )
    budget: int | None = Field(
        None, ge=0, description="Reference calls granted to the run; none means no limit."
    )
    audit_reserve: float = Field(
        0.1, ge=0, lt=1, description="Share of the budget that only audits may spend."
    )
    when_budget_ends: Literal["stop", "continue"] = Field(
        "stop",
        description="Stop (the run can be resumed with a larger budget), or go on with "
        "every step that should have been asked marked unverified; calls are then saved for "
        "the worst steps while the budget lasts, where the number of steps to come is known "
        "(hybrid-calc run knows it; in scripts set calc.engine.gate.horizon).",
    )
    when_reference_fails: Literal["raise", "continue"] = Field(
        "raise",
        description="Raise the failure, or go on with the committee's answer marked "
        "unverified; a hard flag always raises.",
    )
    outside_domain: Literal["reference", "refuse"] = Field(
        "reference",
        description="What to do with an element, charge or spin the committee was "
        "not trained on: ask the reference at every step, or refuse.",
    )
    calibration: Path | None = Field(
        None,
        description="File written by hybrid-calc calibrate for this committee, level and "
        "tolerance, relative to the settings file (in Python: to the working directory); what a "
        "bundle carries needs no mention.",
    )
    seed: int = Field(0, ge=0, description="Of the audits' own random stream.")

    @field_validator("policies", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value not in PRESETS:
            raise ValueError(f"known presets are {', '.join(PRESETS)}; or give a list of policies")
        return PRESETS[value]

    @field_validator("regimes")
    @classmethod
    def _a_tree(cls, rules: tuple[RegimeRule, ...]) -> tuple[RegimeRule, ...]:
        try:
            check_rules(rules)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return rules

    @field_validator("factor_bounds")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 < bounds[0] <= bounds[1]:
            raise ValueError("bounds are positive, the lower one first")
        return bounds
