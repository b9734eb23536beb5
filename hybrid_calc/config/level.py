"""Levels of theory in settings files: a name, or keys."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from hybrid_calc.config.base import Settings
from hybrid_calc.errors import SettingsError
from hybrid_calc.reference.cells import CELL, check_level
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.recipes import RECIPES
from hybrid_calc.reference.solvent import check_solvent
from hybrid_calc.reference.user_function import level_parameters

LowerCase = Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True)]


class CellSettings(Settings):
    """What a level needs for a periodic cell."""

    pseudopotential: LowerCase = Field(
        "gth-pbe", description="GTH pseudopotential in PySCF's spelling; basis is then a gth- one."
    )
    cutoff_hartree: float = Field(
        ...,
        gt=0,
        description="Plane-wave cut-off of the density's mesh, hartree: 30 will do for silicon, "
        "120 for hydrogen, 600 for oxygen. A label whose mesh is too coarse is refused.",
    )
    k_point_density: float = Field(
        2.0, gt=0, description="K-points per 1/A along each axis, as ASE counts them."
    )


class LevelSettings(Settings):
    """A level of theory that PySCF solves."""

    functional: LowerCase = Field(
        "", description="Exchange-correlation functional in PySCF's spelling."
    )
    basis: Annotated[LowerCase, Field(min_length=1)] = Field(
        ..., description="Orbital basis in PySCF's spelling."
    )
    cart: bool = Field(False, description="Cartesian d and f functions, as Gaussian runs 6-31G(d).")
    dispersion: LowerCase = Field(
        "", description="Dispersion correction such as d3bj; needs pyscf-dispersion."
    )
    nlc: Literal["", "vv10"] = Field("", description="Non-local correlation.")
    solvent: LowerCase = Field(
        "", description="Implicit solvent: c-pcm:78.36, ief-pcm:78.36 or smd:water."
    )
    auxiliary_basis: LowerCase = Field(
        "auto", description="Density-fitting basis; auto is PySCF's choice, empty is no fitting."
    )
    grid_level: int = Field(4, ge=0, le=9, description="PySCF's integration grid.")
    convergence_hartree: float = Field(1e-7, gt=0, description="SCF energy convergence, hartree.")
    project_net_force: bool = Field(
        True, description="Remove the net force and torque that the grid leaves."
    )

    cell: CellSettings | None = Field(
        None,
        description="For insulating crystals: pseudopotential, cutoff_hartree, k_point_density; "
        "auxiliary_basis, grid_level do not apply. null is a level of molecules.",
    )
    function: str = Field(
        "",
        description="Instead of a functional: module:function that gets PySCF's Mole and "
        "returns a mean field. Its source is part of the level's identity.",
    )

    @model_validator(mode="after")
    def _solvable(self) -> LevelSettings:
        if not (self.functional or self.function):
            raise ValueError("a level needs a functional or a function")
        check_solvent(self.solvent)
        check_level(self.to_level())
        return self

    def to_level(self) -> LevelOfTheory:
        """Return the level with its identity."""
        keys = self.model_dump(exclude={"function", "cell"})
        parameters = level_parameters(self.function)
        if self.cell is not None:
            keys |= {"auxiliary_basis": "", "grid_level": 0}
            parameters |= {CELL: self.cell.model_dump()}
        return LevelOfTheory(program="pyscf", **keys, parameters=parameters)


def named_level(value: object) -> object:
    """Return the keys of a level given by name."""
    if not isinstance(value, str):
        return value
    if value not in RECIPES:
        raise ValueError(f"known names are {', '.join(RECIPES)}; give other levels by keys")
    level = RECIPES[value].level.to_dict()
    return {key: level[key] for key in LevelSettings.model_fields if key in level}


def level_from_text(text: str) -> LevelOfTheory:
    """Return a level of theory from a name, or from YAML such as ``{functional: pbe, ...}``.

    Raises
    ------
    SettingsError
        Neither a known name nor the keys of a level.
    """
    try:
        return LevelSettings.model_validate(named_level(yaml.safe_load(text))).to_level()
    except yaml.YAMLError as error:
        raise SettingsError(f"level {text!r} is not valid YAML.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "level"
        raise SettingsError(f"level {text!r}: {key}: {first['msg']}.") from error
    except ValueError as error:
        raise SettingsError(f"level {text!r}: {error}.") from error
