"""Levels of theory by name: what each is for, and what was measured.

A recipe is a level, the committee it matches, and the evidence.  Its
``-strict`` variant has a finer grid and a tighter SCF for the same physics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid_calc.reference.level import LevelOfTheory

STRICT = "-strict"
STRICT_GRID = 5
STRICT_CONVERGENCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A level of theory with a name.

    Attributes
    ----------
    name
        What settings call it.
    level
        What is solved.
    matches
        The committee whose training data are of this physics; empty for none.
    evidence
        What the match and the numerics were checked against.
    label_noise_ev_per_ang
        Largest force deviation from the tight solution that was measured, eV/A; None
        where none was.
    """

    name: str
    level: LevelOfTheory
    matches: str = ""
    evidence: str
    label_noise_ev_per_ang: float | None = None


def _dft(functional: str, basis: str, *, cart: bool = False, dispersion: str = "") -> LevelOfTheory:
    return LevelOfTheory(
        program="pyscf",
        functional=functional,
        basis=basis,
        cart=cart,
        dispersion=dispersion,
        auxiliary_basis="auto",
        grid_level=4,
        convergence_hartree=1e-7,
        project_net_force=True,
    )


_LOOSE = (
    Recipe(
        name="ani-1x",
        level=_dft("wb97x", "6-31g*", cart=True),
        matches="ANI-1x",
        evidence="ANI-1x's training data have Cartesian d functions: ethanol's energy is 5 meV "
        "from ANI-1x's with these, 66 meV with spherical ones (benchmarks/recipes.py --matches). "
        "Against the tight solution, on 10 steps at 300 K (benchmarks/reference.py): forces within "
        "0.2 (water), 1.5 (malonaldehyde) and 0.8 meV/A (toluene), relative energies within "
        "0.03 meV.",
        label_noise_ev_per_ang=0.0015,
    ),
    Recipe(
        name="mace-off",
        level=_dft("wb97m-d3bj", "def2-tzvppd", dispersion="d3bj"),
        matches="MACE-OFF (SPICE)",
        evidence="SPICE was computed by Psi4 at wB97M-D3BJ/def2-TZVPPD; wB97M-V, "
        "with non-local correlation in the dispersion's place, is another level: 3.0 eV above for "
        "ethanol in def2-SVP (benchmarks/recipes.py --matches). Formaldehyde: 0.2 meV/A from the "
        "tight solution (strict 0.1; benchmarks/recipes.py).",
        label_noise_ev_per_ang=0.0002,
    ),
    Recipe(
        name="rmd17",
        level=_dft("pbe", "def2-svp"),
        matches="models of revised MD17",
        evidence="The data set's paper states PBE/def2-SVP (ORCA); not compared with its numbers. "
        "Formaldehyde: 0.3 meV/A from the tight solution (strict 0.1; benchmarks/recipes.py).",
        label_noise_ev_per_ang=0.0003,
    ),
    Recipe(
        name="pbe-d3",
        level=_dft("pbe", "def2-svp", dispersion="d3bj"),
        matches="models of the acetylacetone data set",
        evidence="Becke-Johnson damping, by measurement: four of its test frames at 300 and "
        "600 K against ORCA differ in relative energy by 0.2 meV and in forces by 1.3 meV/A "
        "(rms); zero damping by 9.4 meV and 7.0 meV/A, none by 10.3 meV and 5.1 meV/A "
        "(benchmarks/damping.py; grid 3). Formaldehyde: 0.3 meV/A from the tight solution (strict "
        "0.1; benchmarks/recipes.py).",
        label_noise_ev_per_ang=0.0003,
    ),
    Recipe(
        name="balanced",
        level=_dft("wb97m-d3bj", "def2-svp", dispersion="d3bj"),
        evidence="The functional of mace-off in a smaller basis; matches no published committee. "
        "Formaldehyde: 0.25 meV/A from the tight solution (strict 0.1; benchmarks/recipes.py).",
        label_noise_ev_per_ang=0.0003,
    ),
    Recipe(
        name="fast",
        level=_dft("b97m-d3bj", "def2-svp", dispersion="d3bj"),
        evidence="No exact exchange: the cheapest of the list. Too low for barriers, as "
        "semi-local functionals are. Formaldehyde: 0.4 meV/A from the tight solution (strict 0.1; "
        "benchmarks/recipes.py).",
        label_noise_ev_per_ang=0.0005,
    ),
)


def _strict(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        name=recipe.name + STRICT,
        level=replace(recipe.level, grid_level=STRICT_GRID, convergence_hartree=STRICT_CONVERGENCE),
        label_noise_ev_per_ang=None,
        evidence=f"Grid {STRICT_GRID} and {STRICT_CONVERGENCE:g} hartree. {recipe.evidence}",
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for each in _LOOSE for recipe in (each, _strict(each))
}

ANI_1X_LEVEL = RECIPES["ani-1x"].level
"""wB97X/6-31G(d) with Cartesian d functions, the level ANI-1x was trained on."""
