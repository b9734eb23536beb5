"""Who answers where the committee cannot, in settings files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hybrid_calc.config.base import Settings
from hybrid_calc.config.executor import ExecutorSettings
from hybrid_calc.config.level import LevelSettings, named_level
from hybrid_calc.reference.checks import MAX_NET_FORCE

ELSEWHERE = "Where labels are computed; null is one after another in a process of this machine."


class PySCFSettings(Settings):
    """DFT by PySCF in a worker process."""

    kind: Literal["pyscf"] = "pyscf"
    level: LevelSettings = Field(
        LevelSettings.model_validate(named_level("ani-1x")),
        description="Level of theory: ani-1x (wB97X/6-31G(d), what ANI-1x learned), mace-off, "
        "rmd17, pbe-d3, balanced, fast, one of them with -strict, or the keys of a level.",
    )
    threads: int = Field(1, ge=1, description="Threads of the worker; one is best for 10 atoms.")
    max_memory_mb: int = Field(4000, ge=100, description="What PySCF may use, MB.")
    wall_limit_s: float = Field(3600.0, gt=0, description="Time for one label, s.")
    warm_start: bool = Field(
        True,
        description="Start from the densities of geometries before, in half the cycles: labels "
        "then depend on them within the SCF's convergence. A resumed run has them back.",
    )
    cold_share: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of warm-started labels solved cold as well, to detect a locked state.",
    )
    stability: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether to ask if the state is a minimum; auto: where bonds look broken, "
        "gaps are small, shells open. never stays with the closed-shell state that a committee "
        "like ANI-1x learned, also where it is eV above the lowest.",
    )
    when_unstable: Literal["unrestricted", "reject"] = Field(
        "unrestricted",
        description="What to do with an unstable restricted singlet: take the unrestricted state "
        "below it, or reject the label as multireference suspected.",
    )
    max_spin_contamination: float = Field(
        0.3,
        gt=0,
        description="<S^2> above the value of the multiplicity beyond which a label is rejected; "
        "a singlet may have one broken pair, which adds 1.",
    )

    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="cuda solves molecules on a graphics processor, the level unchanged; needs "
        "gpu4pyscf.",
    )
    executor: ExecutorSettings | None = Field(None, description=ELSEWHERE)

    _named = field_validator("level", mode="before")(named_level)


class XtbSettings(Settings):
    """GFN2-xTB through tblite: a cheap stand-in for DFT."""

    kind: Literal["xtb"] = "xtb"
    executor: ExecutorSettings | None = Field(None, description=ELSEWHERE)


class AseSettings(Settings):
    """Any ASE calculator: ORCA, Psi4, VASP, GPAW."""

    kind: Literal["ase"] = "ase"
    calculator: str = Field(..., description="module:callable that makes the calculator.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the callable."
    )
    level: LevelSettings | None = Field(
        None,
        description="What it solves, as reference.level of kind pyscf, where that is compared with "
        "the committee's; the calculator's name and parameters are part of the level either way.",
    )
    max_net_force_ev_per_ang: float = Field(
        MAX_NET_FORCE,
        gt=0,
        description="Net force on an isolated molecule beyond which a label is refused, eV/A.",
    )
    executor: ExecutorSettings | None = Field(None, description=ELSEWHERE)

    _named = field_validator("level", mode="before")(named_level)


class ToyReferenceSettings(Settings):
    """The Lennard-Jones truth behind the toy committee."""

    kind: Literal["toy"] = "toy"


ReferenceSettings = Annotated[
    PySCFSettings | XtbSettings | AseSettings | ToyReferenceSettings, Field(discriminator="kind")
]
