"""What the worker makes of a level, before and after it is solved."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL
from hybrid_calc.reference.pyscf_fields import build_field, build_molecule
from hybrid_calc.reference.pyscf_worker import solve

pytest.importorskip("pyscf")

LEVEL = LevelOfTheory(
    program="pyscf", functional="pbe", basis="6-31g*", grid_level=1, convergence_hartree=1e-6
)


@pytest.fixture(autouse=True)
def _one_thread():
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield


def request_of(level, *, charge=0, multiplicity=1):
    return {
        "numbers": [8, 1, 1],
        "positions": [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]],
        "charge": charge,
        "multiplicity": multiplicity,
        "level": level.to_dict(),
        "max_memory_mb": 500,
        "warm_start": True,
        "cold_share": 0.0,
        "seed": 0,
        "doubtful": False,
        "stability": "auto",
        "allow_unrestricted": True,
        "max_spin_contamination": 0.3,
        "cell": None,
        "device": "cpu",
    }


def field_of(level, **more):
    request = request_of(level, **more)
    return build_field(build_molecule(request), request["level"])


def test_cartesian_d_shell_has_six_functions_and_a_spherical_one_five():
    spherical = build_molecule(request_of(LEVEL)).nao
    cartesian = build_molecule(request_of(dataclasses.replace(LEVEL, cart=True))).nao
    assert (spherical, cartesian) == (18, 19)  # O 3s2p1d, H 2s


def test_positions_arrive_in_bohr():
    molecule = build_molecule(request_of(LEVEL))
    assert np.linalg.norm(molecule.atom_coord(1) - molecule.atom_coord(2)) == pytest.approx(
        1.52 / 0.529177, abs=1e-4
    )


def test_singlet_is_restricted_and_everything_else_unrestricted():
    assert np.ndim(field_of(LEVEL).get_init_guess()) == 2
    assert np.ndim(field_of(LEVEL, multiplicity=3).get_init_guess()) == 3
    assert np.ndim(field_of(LEVEL, charge=1, multiplicity=2).get_init_guess()) == 3


def test_every_field_of_a_level_reaches_pyscf():
    level = dataclasses.replace(
        ANI_1X_LEVEL, nlc="vv10", dispersion="d3bj", auxiliary_basis="weigend", grid_level=5
    )
    field = field_of(level)
    assert field.xc == "wb97x"
    assert field.nlc == "vv10"
    assert field.disp == "d3bj"
    assert field.grids.level == 5
    assert field.conv_tol == 1e-7
    assert field.with_df.auxbasis == "weigend"


def test_without_an_auxiliary_basis_nothing_is_fitted():
    assert getattr(field_of(LEVEL), "with_df", None) is None
    auto = field_of(dataclasses.replace(LEVEL, auxiliary_basis="auto"))
    assert auto.with_df.auxbasis is None


def test_answer_is_json_in_ase_units():
    answer = json.loads(json.dumps(solve(request_of(dataclasses.replace(LEVEL, basis="sto-3g")))))
    # PBE/STO-3G water lies near -75.2 hartree
    assert answer["energy"] == pytest.approx(-75.2 * 27.2114, abs=10)
    assert np.shape(answer["forces"]) == (3, 3)
