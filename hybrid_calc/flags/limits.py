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
        3,
        ge=1,
        le=100,
        description="Steps of dynamics a bond must stay broken or formed to count, at most 100; "
        "records of labelled frames have as many.",
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
    temperature_window_fs: float = Field(
        50.0,
        gt=0,
        description="Length of the running mean of the temperature, fs. In scripts of your own "
        "set trajectory.monitor.timestep_fs where it is not 0.5.",
    )
    strained_bond: float = Field(
        0.15,
        gt=0,
        description="Relative change of a bond's initial length that is beyond thermal motion "
        "at 300 K; grows as the root of the temperature.",
    )
    strained_angle: float = Field(
        0.2,
        gt=0,
        description="The same for the distance between two neighbours of one atom.",
    )
    length_margin_ang: float = Field(
        0.03,
        ge=0,
        description="How far a bond may lie outside the range of the training frames, A.",
    )
    coordination_margin: float = Field(
        0.5,
        ge=0,
        description="How far a number of neighbours may lie outside the training frames' range.",
    )
    site_margin: float = Field(
        0.75,
        gt=0,
        description="How far the number of neighbours of a site of a solid may lie from its "
        "bulk's; beyond it is a defect.",
    )
    energy_drift_ev_per_atom: float = Field(
        0.005,
        gt=0,
        description="How far the conserved quantity of constant-energy dynamics may drift, eV "
        "per atom.",
    )
    spin_contamination: float = Field(
        0.1, gt=0, description="<S^2> of a label beyond its pure spin's value that is flagged."
    )
    small_gap_ev: float = Field(
        1.0, ge=0, description="Gap of a label's state below which it is flagged, eV."
    )
    antisymmetry: float = Field(
        0.01,
        gt=0,
        description="Antisymmetric share of the Jacobian of forces that are not known to be a "
        "gradient, above which they are flagged.",
    )
