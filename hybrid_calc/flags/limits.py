"""The numbers the flags compare with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FlagLimits(BaseModel):
    """Limits of every flag; each was set so that ordinary 300 K dynamics stays below it.

    ``benchmarks/flags.py`` measures the share of false alarms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    close_contact_ratio: float = Field(
        0.65,
        gt=0,
        lt=1,
        description="Distance over the sum of covalent radii below which two atoms clash.",
    )
    bonded_ratio: float = Field(
        1.3,
        gt=1,
        description="Distance over the sum of covalent radii up to which two atoms "
        "are bonded in the initial graph.",
    )
    breaking_ratio: float = Field(
        1.25, gt=1, description="Length over initial length beyond which a bond is breaking."
    )
    forming_bond_order: float = Field(
        0.4,
        gt=0,
        description="Bond order exp((R_i + R_j - r) / 0.3 A) beyond which a pair "
        "that was not bonded is forming a bond.",
    )
    persistence_steps: int = Field(
        3, ge=1, description="Steps of dynamics a bond must stay broken or formed to count."
    )
    max_step_displacement_ang: float = Field(
        0.3, gt=0, description="How far an atom may move between two geometries of a dynamics, A."
    )
    warm_above_kelvin: float = Field(
        350.0, gt=0, description="Mean temperature at which the equilibrium regime ends, K."
    )
    hot_above_kelvin: float = Field(
        700.0, gt=0, description="Mean temperature at which the warm regime ends, K."
    )
    temperature_window_steps: int = Field(
        100,
        ge=1,
        description="Steps of the running mean of the temperature; 50 fs at a time step of 0.5 fs.",
    )
