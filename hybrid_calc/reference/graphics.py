"""SCF and gradient on a graphics processor, by gpu4pyscf, behind the same recipe.

The mean field stays PySCF's own: the ladder, the checks, the stability analysis
and the warm starts look at it as ever.  Only what costs time is done by its
twin on the device: each SCF, whose orbitals come back, and the gradient.
Runs inside the PySCF worker.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy as np

RESULTS = ("mo_coeff", "mo_occ", "mo_energy", "e_tot", "converged", "cycles")
"""Of an SCF, brought back to the host."""

COMMAND = "pip install gpu4pyscf-cuda12x (and a CUDA device)"


def missing_device() -> str:
    """Return what has to be installed for the device; empty where it is there."""
    try:
        importlib.import_module("gpu4pyscf")
        count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
        return "" if count > 0 else COMMAND
    except Exception:  # cupy has its own errors for a driver that is missing
        return COMMAND


class OnDevice:
    """Mixed into a mean field's class: its SCF is done by its twin on the device."""

    __name_mixin__ = "OnDevice"
    _keys: ClassVar[set[str]] = {"twin"}
    twin: Any = None

    def kernel(self, dm0: Any = None) -> float:
        """Solve, and bring orbitals, energies and what became of the SCF back; hartree."""
        from pyscf import lib

        twin = lib.view(self, lib.drop_class(self.__class__, OnDevice)).to_gpu()
        twin.kernel(dm0=dm0)
        for name in RESULTS:
            setattr(self, name, _on_host(getattr(twin, name)))
        self.twin = twin
        return float(twin.e_tot)


def on_device(field: Any) -> Any:
    """Return the mean field with its SCF done by its twin on the device."""
    from pyscf import lib

    return lib.set_class(field, (OnDevice, field.__class__))


def forces_of(field: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the forces of a mean field that `on_device` solved, hartree/bohr, shape (N, 3)."""
    gradient = field.twin.nuc_grad_method()
    gradient.grid_response = False  # net force and torque are projected out instead
    return -np.asarray(_on_host(gradient.kernel()))


def _on_host(value: Any) -> Any:
    return value.get() if hasattr(value, "get") else value
