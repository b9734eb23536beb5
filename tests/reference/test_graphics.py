"""The path of a graphics processor.

None is here: what gpu4pyscf is given and what is taken back is tested with
PySCF's own copy of the mean field in the place of the twin on the device.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.config.level import level_from_text
from hybrid_calc.errors import InputError, MissingPackageError
from hybrid_calc.reference import graphics
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.reference.recipes import ANI_1X_LEVEL
from hybrid_calc.reference.warm_start import WarmStarts
from tests.reference.test_recipes import BENT, request_of, solve

pytest.importorskip("pyscf")


@pytest.fixture(autouse=True)
def _one_thread():
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield


@pytest.fixture
def twins(monkeypatch):
    """Have mean fields copied where they would go to the device; return what was copied."""
    from pyscf.df.df_jk import _DFHF

    copies = []

    def copied(field):
        assert not isinstance(field, graphics.OnDevice)
        copies.append(field.copy())
        return copies[-1]

    monkeypatch.setattr(graphics, "missing_device", lambda: "")
    monkeypatch.setattr(_DFHF, "to_gpu", copied)
    return copies


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 1), (1, 2)])
def test_the_answer_is_that_of_the_processor(twins, charge, multiplicity):
    kind = {"charge": charge, "multiplicity": multiplicity}
    there = solve(request_of(ANI_1X_LEVEL, BENT, device="cuda", **kind))
    here = solve(request_of(ANI_1X_LEVEL, BENT, **kind))
    assert len(twins) == 1
    assert there["energy"] == pytest.approx(here["energy"], abs=1e-4)
    np.testing.assert_allclose(there["forces"], here["forces"], atol=1e-3)
    assert there["checks"]["s_squared"] == pytest.approx(here["checks"]["s_squared"], abs=1e-4)


def test_warm_starts_reach_the_device(twins):
    starts = WarmStarts()
    request = request_of(ANI_1X_LEVEL, BENT, device="cuda") | {"warm_start": True}
    cold = solve(request, starts)
    moved = BENT.copy()
    moved.positions[1, 0] += 0.01
    warm = solve(request_of(ANI_1X_LEVEL, moved, device="cuda") | {"warm_start": True}, starts)
    assert (cold["rung"], warm["rung"]) == ("diis", "warm")
    assert warm["checks"]["cycles"] < cold["checks"]["cycles"]


def test_the_state_below_an_unstable_one_is_found_from_there(twins):
    stretched = Atoms("H2", positions=[[0, 0, 0], [0, 0, 2.0]])
    level = replace(ANI_1X_LEVEL, basis="sto-3g")
    asked = {"stability": "always"}
    there = solve(request_of(level, stretched, device="cuda") | asked)
    here = solve(request_of(level, stretched) | asked)
    assert there["rung"] == here["rung"] == "unrestricted"
    assert there["energy"] == pytest.approx(here["energy"], abs=1e-3)


def test_without_a_device_the_package_is_named():
    if not graphics.missing_device():
        pytest.skip("a device is here")
    with (
        closing(PySCFReference(device="cuda")) as reference,
        pytest.raises(MissingPackageError, match="gpu4pyscf"),
    ):
        reference.label(BENT)


def test_cells_stay_on_the_processor():
    with pytest.raises(InputError, match="set device='cpu'"):
        PySCFReference(
            level_from_text("{functional: pbe, basis: gth-szv, cell: {cutoff_hartree: 120}}"),
            device="cuda",
        )
