"""Any ASE calculator as reference: EMT for tests, GFN2-xTB for teaching, ORCA or VASP for work."""

from __future__ import annotations

import contextlib
import time

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError

from hybrid_calc.errors import InputError, MissingPackageError, ReferenceFailed
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.checks import MAX_NET_FORCE, checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory


class AseReference:
    """An ASE calculator behind the reference contract.

    Charge and spin reach the calculator as ``initial_charges`` and
    ``initial_magnetic_moments`` (their sums are the total charge and the
    number of unpaired electrons), which is where ASE calculators look.

    Parameters
    ----------
    calculator
        Computes energy and forces.
    level
        Its level of theory; made from its name and parameters by default.
    max_net_force_ev_per_ang
        Net force on an isolated molecule beyond which a label is rejected.
        Raise it for a calculator with an external field.

    Raises
    ------
    InputError
        The calculator has no energy or forces.
    """

    def __init__(
        self,
        calculator: BaseCalculator,
        *,
        level: LevelOfTheory | None = None,
        max_net_force_ev_per_ang: float = MAX_NET_FORCE,
    ) -> None:
        missing = {"energy", "forces"} - set(calculator.implemented_properties)
        if missing:
            raise InputError(
                f"{type(calculator).__name__} does not compute {', '.join(sorted(missing))}; "
                "a reference must compute energy and forces."
            )
        self._calculator = calculator
        self._max_net_force = max_net_force_ev_per_ang
        self._level = level or LevelOfTheory(
            program=f"ase:{type(calculator).__name__.lower()}",
            parameters=dict(calculator.todict()),
        )

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory of every label."""
        return self._level

    def label(self, atoms: Atoms) -> Label:
        """Solve one geometry; see `hybrid_calc.reference.label.Reference`."""
        check_structure(atoms)
        copy = _with_charge_and_spin(atoms)
        calc = self._calculator
        if isinstance(calc, Calculator):  # else a label may depend on the geometry before,
            calc.reset()  # whose density is the next guess
        start = time.perf_counter()
        try:
            forces = np.array(calc.get_property("forces", copy), dtype=np.float64)
            energy = float(calc.get_property("energy", copy))
            stress = None
            if atoms.pbc.any() and "stress" in calc.implemented_properties:
                with contextlib.suppress(PropertyNotImplementedError):  # none for slabs, say
                    stress = np.array(calc.get_property("stress", copy), dtype=np.float64)
        except Exception as error:
            raise ReferenceFailed(
                f"{self._level.program} failed: {type(error).__name__}: {error}"
            ) from error
        return checked_label(
            atoms,
            energy=energy,
            forces=forces,
            stress=stress,
            level=self._level,
            wall_seconds=time.perf_counter() - start,
            versions={"ase": ase.__version__},
            max_net_force_ev_per_ang=self._max_net_force,
        )

    def close(self) -> None:
        """Do nothing; the calculator belongs to the caller."""


def gfn2_xtb() -> AseReference:
    """Return GFN2-xTB through tblite: a cheap stand-in for DFT in experiments.

    Raises
    ------
    MissingPackageError
        tblite is not installed.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise MissingPackageError(
            'GFN2-xTB needs tblite: pip install "hybrid_calc[xtb]".'
        ) from error
    return AseReference(
        TBLite(method="GFN2-xTB", verbosity=0, cache_api=False),
        level=LevelOfTheory(program="ase:tblite", parameters={"method": "GFN2-xTB"}),
    )


def _with_charge_and_spin(atoms: Atoms) -> Atoms:
    copy: Atoms = atoms.copy()
    copy.set_constraint()
    charge, unpaired = charge_of(atoms), multiplicity_of(atoms) - 1
    if charge:
        copy.set_initial_charges([charge / len(atoms)] * len(atoms))
    if unpaired and "spin" in atoms.info:
        copy.set_initial_magnetic_moments([unpaired / len(atoms)] * len(atoms))
    return copy
