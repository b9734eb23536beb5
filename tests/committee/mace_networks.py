"""MACE networks with random weights, for tests that compare arithmetic and train nothing."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from hybrid_calc.committee.mace_files import import_mace, untouched

with untouched(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_mace()  # before e3nn, which cannot be imported by itself with today's torch
    from e3nn import o3
    from mace import modules
    from mace.calculators import MACECalculator

RESIDUAL = "RealAgnosticResidualInteractionBlock"
PLAIN = "RealAgnosticInteractionBlock"
DENSITY = "RealAgnosticDensityInteractionBlock"
DENSITY_RESIDUAL = "RealAgnosticDensityResidualInteractionBlock"


def random_mace(seed, *, kind="ScaleShiftMACE", blocks=(RESIDUAL, RESIDUAL), **other):
    """Return a small float64 network of H, C and O; every constant depends on the seed."""
    arguments = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": "4x0e",
        "MLP_irreps": o3.Irreps("6x0e"),
        "atomic_energies": np.array([-13.6, -1029.0, -2042.0]) - seed,
        "avg_num_neighbors": 6.5 + seed,
        "atomic_numbers": [1, 6, 8],
        "correlation": 3,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [16, 16],
        "interaction_cls_first": modules.interaction_classes[blocks[0]],
        "interaction_cls": modules.interaction_classes[blocks[1]],
    }
    if kind == "ScaleShiftMACE":
        arguments |= {"atomic_inter_scale": 1.2 + 0.1 * seed, "atomic_inter_shift": 0.3 * seed}
    arguments |= other
    arguments["hidden_irreps"] = o3.Irreps(arguments["hidden_irreps"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            return getattr(modules, kind)(**arguments)
    finally:
        torch.set_default_dtype(before)


def random_members(count=3, **settings):
    return [random_mace(seed, **settings) for seed in range(count)]


def stock(members, atoms, dtype="float64", **settings):
    """Return MACE's own energies (M,), forces (M, N, 3), stress (M, 3, 3) and descriptors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator = MACECalculator(models=members, default_dtype=dtype, **settings)
        calculator.calculate(atoms)
        descriptors = calculator.get_descriptors(atoms)
    results = calculator.results
    return (
        np.array([member["energy"] for member in _each(members, atoms, dtype, settings)]),
        results["forces_comm"],
        results["stress_comm"],
        np.mean(descriptors, axis=0),
    )


def _each(members, atoms, dtype, settings):
    for member in members:
        calculator = MACECalculator(models=[member], default_dtype=dtype, **settings)
        calculator.calculate(atoms)
        yield calculator.results


def ethanol(seed=0):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=seed)
    return atoms


def crowded_cell():
    """Return a skewed cell smaller than the cut-off, with several images of every atom."""
    atoms = Atoms(
        "OHHC",
        positions=[[0.1, 0.0, 0.0], [0.9, 0.5, 0.1], [-0.6, 0.7, 0.2], [1.2, 2.0, 1.9]],
        cell=[[2.9, 0.0, 0.0], [0.4, 3.3, 0.0], [0.3, -0.5, 3.6]],
        pbc=True,
    )
    atoms.rattle(0.05, seed=1)
    return atoms
