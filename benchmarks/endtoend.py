"""The same MD three ways in one run: PySCF alone, hybrid_calc, and the committee alone.

Ethanol (water with --quick) near 300 K from one start with one thermostat
seed.  Hybrid frames, at least 50 of them, are then labelled by the reference, so
that the force error of what the dynamics really felt is known.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import bench
import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from committee_only import CommitteeOnly

from hybrid_calc import AniCommittee, GateSettings, HybridCalculator, PySCFReference, Reference


class ReferenceOnly(Calculator):
    """The reference at every step, with nothing around it."""

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, list(properties), list(system_changes))
        label = self.reference.label(self.atoms)
        self.results = {
            "energy": label.energy,
            "free_energy": label.energy,
            "forces": label.forces,
        }


def main() -> None:
    options = bench.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    name, steps, relabelled = ("H2O", 12, 6) if options.quick else ("CH3CH2OH", 200, 60)
    tolerance = 1.0
    reference, committee = PySCFReference(), AniCommittee()
    reference.label(molecule("H2"))  # the worker's start is nobody's step
    start = molecule(name)
    thermalize_momenta(start, 300, rng=np.random.default_rng(1))
    Stationary(start)
    ZeroRotation(start)

    committee_seconds, _ = drive(start, CommitteeOnly(committee), steps)
    dft_seconds, _ = drive(start, ReferenceOnly(reference), steps)
    with tempfile.TemporaryDirectory() as folder:
        settings = GateSettings(force_tolerance_ev_per_ang=tolerance, seed=1)
        hybrid = HybridCalculator(committee, reference, settings, str(Path(folder) / "run.h5"))
        hybrid_seconds, felt = drive(start, hybrid, steps)
        tally = hybrid.engine.tally
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(felt), size=min(relabelled, len(felt)), replace=False)
    errors = [felt[i][1] - reference.label(felt[i][0]).forces for i in sorted(chosen)]
    reference.close()
    figures = {
        "wall_ratio_dft_over_hybrid": dft_seconds / hybrid_seconds,
        "wall_ratio_hybrid_over_committee": hybrid_seconds / committee_seconds,
        "dft_seconds_per_step": dft_seconds / steps,
        "reference_calls_per_1000_steps": 1000 * tally.labels / steps,
        "force_rmse_ev_per_ang": float(np.sqrt(np.mean(np.square(errors)))),
        "max_atom_force_error_ev_per_ang": float(
            max(np.linalg.norm(error, axis=1).max() for error in errors)
        ),
        "relabelled_frames": float(len(errors)),
        "steps": float(steps),
        "force_tolerance_ev_per_ang": tolerance,
    }
    bench.report(figures, {}, options.json, molecule=name)


def drive(
    start: Atoms, calculator: Calculator, steps: int
) -> tuple[float, list[tuple[Atoms, np.ndarray]]]:
    """Return wall seconds of the dynamics, and every frame with the forces it felt."""
    atoms = start.copy()
    atoms.calc = calculator
    dynamics = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(2),
    )
    felt = []
    begin = time.perf_counter()
    for _ in range(steps):
        dynamics.run(1)
        felt.append((atoms.copy(), atoms.get_forces()))
    return time.perf_counter() - begin, felt


if __name__ == "__main__":
    main()
