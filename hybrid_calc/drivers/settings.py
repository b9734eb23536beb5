"""What the user may decide about a job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class StretchSettings(BaseModel):
    """A spring that pulls two atoms apart during dynamics."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    atoms: tuple[int, int] = Field(..., description="Indices of the two atoms.")
    to_length_ang: float = Field(..., gt=0, description="Distance the spring goes to, A.")
    from_step: int = Field(0, ge=0, description="Step at which the pull begins.")
    over_steps: int = Field(200, ge=1, description="Steps the pull takes.")
    spring_ev_per_ang2: float = Field(30.0, gt=0, description="Stiffness, eV/A^2.")


class MdSettings(BaseModel):
    """Molecular dynamics."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(1000, ge=1, description="Steps to take in all, resumed ones included.")
    timestep_fs: float = Field(0.5, gt=0, le=5, description="Time step, fs.")
    ensemble: Literal["nve", "langevin"] = Field(
        "langevin", description="Constant energy (velocity Verlet) or a Langevin thermostat."
    )
    temperature_kelvin: float = Field(
        300.0, ge=0, description="Of the starting velocities and the thermostat, K."
    )
    friction_per_fs: float = Field(0.01, gt=0, description="Of the thermostat, 1/fs.")
    seed: int = Field(0, ge=0, description="Of velocities and thermostat.")
    stretch: StretchSettings | None = Field(None, description="Pull two atoms apart on the way.")
    trajectory_interval: int = Field(1, ge=1, description="Steps between trajectory frames.")
    checkpoint_interval: int = Field(
        20, ge=1, description="Steps between states a killed run can be resumed from."
    )


class RelaxSettings(BaseModel):
    """Geometry optimisation with one of ASE's optimisers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    optimizer: Literal["BFGS", "LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "FIRE"] = Field(
        "BFGS", description="ASE optimiser."
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, description="Largest force at the end, eV/A.")
    steps: int = Field(200, ge=1, description="Optimiser steps after which the run gives up.")


class NebSettings(BaseModel):
    """A nudged elastic band with ASE's NEB."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    images: int = Field(7, ge=3, description="Images of the band, both ends included.")
    interpolation: Literal["idpp", "linear"] = Field("idpp", description="Of the first band.")
    climb: bool = Field(True, description="Let the highest image climb.")
    spring_ev_per_ang: float = Field(0.1, gt=0, description="Between images, eV/A.")
    fmax_ev_per_ang: float = Field(0.1, gt=0, description="Largest force at the end, eV/A.")
    steps: int = Field(200, ge=1, description="Optimiser steps after which the run gives up.")
    relax_ends: bool = Field(True, description="Relax both ends before the band.")
