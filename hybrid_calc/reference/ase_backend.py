"""Any ASE calculator as reference: EMT for tests, GFN2-xTB for teaching, ORCA or VASP for work."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Mapping
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError

from hybrid_calc.errors import InputError, MissingPackageError, ReferenceFailed
from hybrid_calc.geometry import charge_of, check_structure, multiplicity_of
from hybrid_calc.reference.checks import MAX_NET_FORCE, checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import PHYSICS, LevelOfTheory

CHARGE_PARAMETERS = {
    "orca": {"charge": "charge", "spin": "mult"},
    "psi4": {"charge": "charge", "spin": "multiplicity"},
    "gaussian": {"charge": "charge", "spin": "mult"},
    "qchem": {"charge": "charge", "spin": "multiplicity"},
    "vasp": {"charge": "charge"},
}
"""What ASE's calculators of these programs call charge and multiplicity, where they are deaf to
``initial_charges`` (and but for VASP to ``initial_magnetic_moments``)."""

NOT_PHYSICS = ("command", "directory", "label", "profile", "nthreads", "num_threads", "verbosity")
"""Parameters of calculators that move no answer."""


class AseReference:
    """An ASE calculator behind the reference contract.

    Charge and spin reach the calculator as ``initial_charges`` and
    ``initial_magnetic_moments`` (their sums are the total charge and the
    number of unpaired electrons), which is where most ASE calculators look,
    and as the parameters of `CHARGE_PARAMETERS` where they do not.

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
        The calculator has no energy or forces, or a charge of its own.
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
        name = type(calculator).__name__.lower()
        fixed = (getattr(calculator, "parameters", None) or {}).get("charge")
        if fixed not in (None, 0):
            raise InputError(
                f"{type(calculator).__name__} was made with charge={fixed}; give the charge of a "
                'structure as atoms.info["charge"] (and 2S+1 as atoms.info["spin"]), so that the '
                "record says it, too."
            )
        self._calculator = calculator
        self._charge_parameters = CHARGE_PARAMETERS.get(name, {})
        self._max_net_force = max_net_force_ev_per_ang
        self._level = level or LevelOfTheory(
            program=f"ase:{name}", parameters=physical(calculator.todict())
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
            self._say_charge_and_spin(atoms)
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

    def _say_charge_and_spin(self, atoms: Atoms) -> None:
        """Set the calculator's own parameters where it is deaf to those of the atoms."""
        said = {"charge": charge_of(atoms), "spin": multiplicity_of(atoms)}
        wanted = {key: said[what] for what, key in self._charge_parameters.items()}
        parameters = self._calculator.parameters if wanted else {}
        if all(parameters.get(key) == value for key, value in wanted.items()):
            return
        if hasattr(self._calculator, "set"):
            self._calculator.set(**wanted)
        else:
            parameters.update(wanted)
        self._calculator.atoms = None  # what it answered before was of another charge
        self._calculator.results = {}


def physical(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a calculator's parameters without those that only say how and where it runs."""
    charges = {key for names in CHARGE_PARAMETERS.values() for key in names.values()}
    return {key: value for key, value in parameters.items() if key not in {*NOT_PHYSICS, *charges}}


def ase_level(physics: LevelOfTheory, name: str, arguments: Mapping[str, Any]) -> LevelOfTheory:
    """Return the level of an ASE calculator whose physics somebody has put into words.

    Physics are compared with a committee's; the calculator's name and
    arguments take the place of PySCF's numerics in the level's identity.
    """
    return LevelOfTheory(
        program=f"ase:{name}",
        **{key: getattr(physics, key) for key in PHYSICS},
        parameters=physical(arguments),
    )


def ase_reference(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    level: LevelOfTheory | None = None,
    max_net_force_ev_per_ang: float = MAX_NET_FORCE,
) -> AseReference:
    """Return a reference from ``module:callable``, which makes an ASE calculator.

    Parameters
    ----------
    name
        ``ase.calculators.orca:ORCA``, ``tblite.ase:TBLite``, a function of yours.
    arguments
        Keyword arguments of the callable.
    level, max_net_force_ev_per_ang
        As in `AseReference`.

    Raises
    ------
    InputError
        There is no such callable, it refuses its arguments, or what it makes
        is no calculator with energy and forces.
    """
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"calculator {name!r} cannot be found: {error}. Write module:callable, of a module "
            "that Python can import from here (PYTHONPATH)."
        ) from error
    try:
        calculator = make(**(arguments or {}))
    except Exception as error:  # calculators raise whatever they meet
        raise InputError(f"{name} could not be made: {type(error).__name__}: {error}") from error
    if not isinstance(calculator, BaseCalculator):
        raise InputError(f"{name} made a {type(calculator).__name__}; an ASE calculator is needed.")
    return AseReference(calculator, level=level, max_net_force_ev_per_ang=max_net_force_ev_per_ang)


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
