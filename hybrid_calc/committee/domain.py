"""Whether a committee may be asked about a structure at all."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.errors import LevelMismatchError, StructureError, UnknownElementError
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.level import LevelOfTheory


def symbols(numbers: frozenset[int]) -> str:
    """Return element symbols in the order of the periodic table, ``H, C, O``."""
    return ", ".join(chemical_symbols[number] for number in sorted(numbers))


def unknown_elements(atoms: Atoms, info: CommitteeInfo) -> frozenset[int]:
    """Return the elements of the structure that the committee was not trained on."""
    if info.domain.elements is None:
        return frozenset()
    return frozenset(np.unique(atoms.numbers).tolist()) - info.domain.elements


def refuse_outside(atoms: Atoms, info: CommitteeInfo) -> None:
    """Refuse a structure outside the committee's domain.

    Raises
    ------
    StructureError
        Not computable by anybody, or periodic where the committee is not.
    UnknownElementError
        Element, charge or multiplicity outside the domain.
    """
    check_structure(atoms)
    strangers = unknown_elements(atoms, info)
    if strangers:
        raise UnknownElementError(
            f"committee {info.name!r} knows {symbols(info.domain.elements or frozenset())}; "
            f"the structure also has {symbols(strangers)}. Choose a committee trained on "
            f"{symbols(strangers)}, or set gate.outside_domain: reference."
        )
    charge, multiplicity = charge_of(atoms), multiplicity_of(atoms)
    domain = info.domain
    if domain.charges is not None and charge not in domain.charges:
        raise UnknownElementError(
            f"committee {info.name!r} was trained on total charges {sorted(domain.charges)}; "
            f"the structure has {charge}. Choose another committee, or set "
            "gate.outside_domain: reference."
        )
    if domain.multiplicities is not None and multiplicity not in domain.multiplicities:
        raise UnknownElementError(
            f"committee {info.name!r} was trained on multiplicities "
            f"{sorted(domain.multiplicities)}; the structure has {multiplicity}. Choose another "
            "committee, or set gate.outside_domain: reference."
        )
    if atoms.pbc.any() and not domain.periodic:
        raise StructureError(
            f"committee {info.name!r} answers molecules only; set atoms.pbc = False "
            "or choose a committee for periodic cells."
        )


def check_levels(info: CommitteeInfo, level: LevelOfTheory) -> None:
    """Refuse a reference that solves other physics than the committee learned.

    A committee whose level nobody knows passes: energies are aligned all the
    same, and the labels judge it.

    Raises
    ------
    LevelMismatchError
        Both levels are known and differ in physics.
    """
    if info.level is None or info.level.same_physics(level):
        return
    raise LevelMismatchError(
        f"committee {info.name!r} was trained on {info.level}; the reference solves {level}. "
        "Every difference between the two would count as an error of the committee. Choose a "
        "matching pair, or set allow_level_mismatch: true: energies are then aligned once."
    )
