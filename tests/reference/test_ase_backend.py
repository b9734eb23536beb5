"""Any ASE calculator as reference."""

from __future__ import annotations

import numpy as np
from ase.build import molecule

from hybrid_calc.reference.ase_backend import gfn2_xtb


def test_a_label_does_not_depend_on_the_geometry_labelled_before():
    water = molecule("H2O")
    other = molecule("H2O")
    other.rattle(0.1, seed=1)
    first = gfn2_xtb().label(water)
    used = gfn2_xtb()
    used.label(other)
    second = used.label(water)
    assert second.energy == first.energy
    assert np.array_equal(second.forces, first.forces)
