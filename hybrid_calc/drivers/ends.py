"""What two structures must have in common to be the ends of a band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from hybrid_calc.drivers.shape import frozen_atoms
from hybrid_calc.errors import StructureError
from hybrid_calc.geometry import charge_of, multiplicity_of

SAME_PLACE_ANG = 1e-3
"""Fixed atoms may be apart by this in two structures, A."""


def check_ends(first: Atoms, last: Atoms) -> None:
    """Refuse two ends that no band can join.

    Raises
    ------
    StructureError
        They are not the same atoms in the same order, in the same cell, with the same
        charge and multiplicity, or are one structure.
    """
    if first.numbers.tolist() != last.numbers.tolist():
        raise StructureError(
            f"the two ends have different atoms or another order ({first.symbols} and "
            f"{last.symbols}); give both with the same atoms in the same order."
        )
    if (first.pbc != last.pbc).any() or (first.pbc.any() and (first.cell != last.cell).any()):
        raise StructureError("the two ends have different cells; give both in the same cell.")
    for what, key, value_of in (
        ("charge", "charge", charge_of),
        ("multiplicity", "spin", multiplicity_of),
    ):
        if key in last.info and value_of(first) != value_of(last):
            raise StructureError(
                f"the two ends have different {what}: {value_of(first)} and {value_of(last)}; "
                f"give both the same, structure.{what} and end.{what}."
            )
    if first.positions.shape == last.positions.shape and np.allclose(
        first.positions, last.positions
    ):
        raise StructureError("the two ends are the same structure; give end another one.")


def refuse_other_fixed_atoms(reactant: Atoms, others: Sequence[Atoms]) -> None:
    """Refuse what a band cannot hold fixed.

    Raises
    ------
    StructureError
        A constraint other than fixed atoms, other atoms fixed at the other end, or fixed
        atoms that are elsewhere there.
    """
    for one in (reactant, *others):
        strange = [c for c in one.constraints if not isinstance(c, FixAtoms)]
        if strange:
            raise StructureError(
                f"a band on one surface holds fixed atoms only, not {type(strange[0]).__name__}; "
                "use FixAtoms, or driver: ase."
            )
        if one.constraints and frozen_atoms(one) != frozen_atoms(reactant):
            raise StructureError(
                f"the two ends fix different atoms, {frozen_atoms(reactant)} and "
                f"{frozen_atoms(one)}; fix the same, or fix none in the product."
            )
        fixed = frozen_atoms(reactant)
        moved = np.abs(one.positions[fixed] - reactant.positions[fixed]).max(initial=0.0)
        if moved > SAME_PLACE_ANG:
            raise StructureError(
                f"atoms that are fixed stand {moved:.3f} A apart in the ends or the path; give "
                "them the same positions everywhere."
            )
