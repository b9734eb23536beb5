"""What the user may decide about a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from hybrid_calc.correction.gp import ProcessSettings
from hybrid_calc.correction.kernel import KernelName


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


class AseRelaxSettings(BaseModel):
    """Geometry optimisation with one of ASE's optimisers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    driver: Literal["ase"] = Field(
        "ase", description="ASE's own optimiser; the gate decides about every geometry on its own."
    )
    optimizer: Literal["BFGS", "LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "FIRE"] = Field(
        "BFGS", description="ASE optimiser."
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, description="Largest force at the end, eV/A.")
    steps: int = Field(200, ge=1, description="Optimiser steps after which the run gives up.")


class AseNebSettings(BaseModel):
    """A nudged elastic band with ASE's NEB."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    driver: Literal["ase"] = Field(
        "ase", description="ASE's own band; the gate decides about every geometry on its own."
    )
    images: int = Field(7, ge=3, description="Images of the band, both ends included.")
    interpolation: Literal["idpp", "linear"] = Field("idpp", description="Of the first band.")
    climb: bool = Field(True, description="Let the highest image climb.")
    spring_ev_per_ang: float = Field(0.1, gt=0, description="Between images, eV/A.")
    fmax_ev_per_ang: float = Field(0.1, gt=0, description="Largest force at the end, eV/A.")
    steps: int = Field(200, ge=1, description="Optimiser steps after which the run gives up.")
    relax_ends: bool = Field(True, description="Relax both ends before the band.")


class RelaxSettings(BaseModel):
    """What `HybridRelax` is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    driver: Literal["surface"] = Field(
        "surface",
        description="The minimum is sought on one surface, committee plus the labels of this "
        "molecule, and the reference confirms it.",
    )
    optimizer: Literal["BFGS", "LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "FIRE"] = Field(
        "BFGS", description="ASE optimiser."
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, description="Largest force at the end, eV/A.")
    steps: int = Field(
        200,
        ge=1,
        description="Steps of the plain optimiser that takes over after max_labels.",
    )
    max_step_ang: float = Field(
        0.1, gt=0, description="Largest step of an optimiser on the surface or after it, A."
    )
    max_labels: int = Field(
        12, ge=0, description="Labels of proposals before the plain optimiser takes over."
    )
    max_displacement_ang: float = Field(
        0.6, gt=0, description="A proposal stays this near to the label it started from, A."
    )
    max_std_ev: float = Field(
        0.2,
        gt=0,
        description="A proposal ends where the posterior's standard deviation from that label "
        "passes this, eV.",
    )
    kernel: KernelName = Field("matern52", description="Of the Gaussian process.")
    frequencies: Literal["none", "surface", "reference"] = Field(
        "none",
        description="Hessian at the minimum, frequencies and zero-point energy: from the surface "
        "(no further label) or from the reference (six labels an atom).",
    )

    @property
    def process(self) -> ProcessSettings:
        """How the residual is modelled: with no more noise than a tenth of the target.

        Forces noisier than the target could not tell where it is met.
        """
        usual = ProcessSettings(kernel=self.kernel)
        noise = min(usual.force_noise_ev_per_ang, 0.1 * self.fmax_ev_per_ang)
        return replace(usual, force_noise_ev_per_ang=noise)


class NebSettings(BaseModel):
    """What `HybridNEB` is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    driver: Literal["surface"] = Field(
        "surface",
        description="The band is sought on one surface, committee plus the labels of this "
        "molecule, and the reference confirms its transition state.",
    )
    images: int = Field(9, ge=3, description="Images of the band, both ends included.")
    fmax_ev_per_ang: float = Field(
        0.1,
        gt=0,
        description="The reference's largest force at the transition state, eV/A.",
    )
    end_fmax_ev_per_ang: float = Field(
        0.03, gt=0, description="Largest force at the relaxed ends, eV/A."
    )
    max_labels: int = Field(
        120,
        ge=1,
        description="Labels between two minima, an elementary step, before giving up; a hard band "
        "is followed by up to three more pathways. Looked at between rounds, and not while a "
        "climbing image is being confirmed.",
    )
    max_confirmation_labels: int = Field(
        400,
        ge=1,
        description="Labels of confirming what an elementary step found, of those before giving "
        "up; a reference that is followed downhill takes some tens a side.",
    )
    max_std_ev: float = Field(
        0.4,
        gt=0,
        description="A band is stopped and labelled where the posterior's standard deviation from "
        "its first image passes this, eV.",
    )
    max_step_ang: float = Field(0.1, gt=0, description="Largest step on the surface, A.")
    kernel: KernelName = Field("matern52", description="Of the Gaussian process.")
    seed: int = Field(0, ge=0, description="Of the jitter that breaks the symmetry of a path.")
    guess: Path | None = Field(
        None,
        description="A file with geometries between the ends, or one guess of the transition "
        "state, relative to the settings file; interpolated without it.",
    )
    polish: Literal["none", "dimer", "sella"] = Field(
        "none",
        description="Refine the confirmed transition state on the reference itself: with ASE's "
        "dimer, or with Sella (needs the extra sella).",
    )
    polish_fmax_ev_per_ang: float = Field(
        0.01, gt=0, description="The reference's largest force after that, eV/A."
    )
    polish_labels: int = Field(60, ge=1, description="Labels it may take.")
    label_downhill_ends: bool = Field(
        False,
        description="Label where the paths downhill from the transition state end on the "
        "surface: two labels or more that confirm what it joins.",
    )

    @property
    def process(self) -> ProcessSettings:
        """How the residual is modelled."""
        return ProcessSettings(kernel=self.kernel)

    @property
    def ends(self) -> RelaxSettings:
        """How the ends are relaxed."""
        return RelaxSettings(fmax_ev_per_ang=self.end_fmax_ev_per_ang, kernel=self.kernel)


def _driver_of(value: Any) -> str:
    """Return which driver a settings file asks for; the surface where it does not say."""
    if isinstance(value, dict):
        return str(value.get("driver", "surface"))
    return str(getattr(value, "driver", "surface"))


AnyRelaxSettings = Annotated[
    Annotated[RelaxSettings, Tag("surface")] | Annotated[AseRelaxSettings, Tag("ase")],
    Discriminator(_driver_of),
]
"""What ``relax:`` of a settings file may hold."""

AnyNebSettings = Annotated[
    Annotated[NebSettings, Tag("surface")] | Annotated[AseNebSettings, Tag("ase")],
    Discriminator(_driver_of),
]
"""What ``neb:`` of a settings file may hold."""
