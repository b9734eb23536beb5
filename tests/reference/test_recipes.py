"""Every recipe solved by real PySCF: its forces are the slope of its energy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.reference.checks import project_rigid, rigid_modes
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_worker import solve
from hybrid_calc.reference.recipes import RECIPES, STRICT

pytest.importorskip("pyscf")

BENT = Atoms("OH2", positions=[[0, 0, 0.12], [0.1, 0.76, -0.47], [0, -0.80, -0.43]])
STEP_ANG = 0.0025


@pytest.fixture(autouse=True)
def _one_thread():
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield


def request_of(level, atoms, *, charge=0, multiplicity=1, device="cpu"):
    """Return what the worker is asked."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "charge": charge,
        "multiplicity": multiplicity,
        "level": level.to_dict(),
        "max_memory_mb": 2000,
        "warm_start": False,
        "cold_share": 0.0,
        "seed": 0,
        "doubtful": False,
        "stability": "never",
        "allow_unrestricted": True,
        "max_spin_contamination": 0.3,
        "cell": None,
        "device": device,
    }


def answer(level, atoms, **more):
    got = solve(request_of(level, atoms, **more))
    assert "energy" in got, got
    return got


def slope_error(level, atoms=BENT, **more):
    """Return force along an internal direction plus the energy's slope, eV/A."""
    flat = np.random.default_rng(3).normal(size=3 * len(atoms))
    modes = rigid_modes(atoms.positions)
    flat -= modes.T @ (modes @ flat)
    along = (flat / np.linalg.norm(flat)).reshape(-1, 3)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * STEP_ANG * along
        ends.append(answer(level, moved, **more)["energy"])
    forces = project_rigid(atoms.positions, np.array(answer(level, atoms, **more)["forces"]))
    assert abs((forces * along).sum()) > 0.1  # there is a slope
    return (ends[0] - ends[1]) / (2 * STEP_ANG) + (forces * along).sum()


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.endswith(STRICT)])
def test_forces_of_every_recipe_are_the_slope_of_its_energy(name):
    level = RECIPES[name].level
    if level.dispersion:
        pytest.importorskip("pyscf.dispersion", reason="pip install hybrid_calc[dispersion]")
    assert abs(slope_error(level)) < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RECIPES if n.endswith(STRICT)])
def test_forces_of_every_strict_recipe_are_the_slope_of_its_energy(name):
    if RECIPES[name].level.dispersion:
        pytest.importorskip("pyscf.dispersion", reason="pip install hybrid_calc[dispersion]")
    assert abs(slope_error(RECIPES[name].level)) < 0.001


def test_forces_of_a_radical_are_the_slope_of_its_energy():
    assert abs(slope_error(RECIPES["ani-1x"].level, charge=1, multiplicity=2)) < 0.003


@pytest.mark.parametrize("solvent", ["c-pcm:78.36", "ief-pcm:10", "smd:water"])
def test_forces_in_solvent_are_the_slope_of_the_energy(solvent):
    level = replace(RECIPES["rmd17"].level, basis="6-31g*", solvent=solvent, grid_level=4)
    vacuum = replace(level, solvent="")
    assert answer(level, BENT)["energy"] < answer(vacuum, BENT)["energy"] - 0.05
    assert abs(slope_error(level)) < 0.003


@pytest.mark.parametrize("name", ["mace-off", "balanced", "fast"])
def test_dispersion_takes_the_place_of_nonlocal_correlation(name):
    pytest.importorskip("pyscf.dispersion", reason="pip install hybrid_calc[dispersion]")
    from hybrid_calc.reference.pyscf_fields import build_field, build_molecule

    level = replace(RECIPES[name].level, basis="sto-3g").to_dict()
    request = {"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.9]], "charge": 0}
    request |= {"multiplicity": 1, "level": level, "max_memory_mb": 500}
    field = build_field(build_molecule(request), level)
    field.kernel()
    assert not field.do_nlc()
    assert field.scf_summary["dispersion"] < 0


def test_dispersion_of_pbe_d3_is_that_of_its_damping():
    # Energies of the two dampings differ by 10 meV on 15 atoms (benchmarks/damping.py)
    assert RECIPES["pbe-d3"].level.dispersion == "d3bj"


def test_own_function_is_solved_with_its_own_settings(tmp_path, monkeypatch):
    (tmp_path / "my_level.py").write_text(
        "from pyscf import dft\n"
        "def make(molecule):\n"
        "    field = dft.RKS(molecule, xc='pbe')\n"
        "    field.grids.level = 3\n"
        "    field.conv_tol = 1e-9\n"
        "    return field\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = LevelOfTheory(
        program="pyscf", basis="6-31g*", parameters={"function": "my_level:make", "source": "x"}
    )
    same = LevelOfTheory(
        program="pyscf",
        functional="pbe",
        basis="6-31g*",
        grid_level=3,
        convergence_hartree=1e-9,
    )
    assert answer(own, BENT)["energy"] == pytest.approx(answer(same, BENT)["energy"], abs=1e-5)
    assert abs(slope_error(own)) < 0.004
