"""What a step costs outside committee and reference: flags, gate, records, bookkeeping.

MD with ANI-1x, the fastest committee there is here, so that the share cannot
hide behind a slow one; trust is earned and looked up at every step, as in a
long run, and every step writes its line of decisions.jsonl.
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
from ase.calculators.lj import LennardJones
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from hybrid_calc import AniCommittee, GateSettings, HybridCalculator, ToyReference
from hybrid_calc.drivers.folder import RunFolder
from hybrid_calc.gate.evidence import Validated
from hybrid_calc.gate.settings import PRESETS

EVIDENCE = 50
"""Validated frames that trust is looked up in."""


def main() -> None:
    options = bench.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    committee = AniCommittee()
    steps = 150 if options.quick else 600
    figures: dict[str, float] = {}
    for atoms in (molecule("CH3CH2OH"), water_cluster(7), water_cluster(20)):
        overhead, own = one_system(atoms, committee, steps)
        figures[f"overhead_share_{len(atoms)}_atoms"] = overhead / own
        if len(atoms) == 9:
            figures["overhead_ms_9_atoms"] = overhead * 1e3
            figures["committee_ms_9_atoms"] = own * 1e3
            figures["overhead_over_lennard_jones_9_atoms"] = overhead / lennard_jones_seconds(atoms)
    targets = {name: ("<=", 0.10) for name in figures if name.startswith("overhead_share")}
    bench.report(figures, targets, options.json)


def one_system(atoms: Atoms, committee: AniCommittee, steps: int) -> tuple[float, float]:
    """Return mean seconds of a step outside the committee, and inside it.

    Means, because some work (lines of the decision log) is done every few steps.
    """
    settings = GateSettings(
        force_tolerance_ev_per_ang=100.0,
        policies=PRESETS["all"] - {"audit"},
        trust_radius=1e6,
    )
    calculator = HybridCalculator(committee, ToyReference(), settings, allow_level_mismatch=True)
    atoms.calc = calculator
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.run(2)
    engine, step = calculator.engine, calculator.last_step
    survey = calculator.trajectory.monitor.survey(atoms)
    for _ in range(EVIDENCE):
        engine.gate.evidence.add(
            step.regime,
            Validated(fingerprint=survey.fingerprint, spread=0.1, error=0.1, good=True),
        )
    outside, inside = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run", resume=False)
        engine.on_step = folder.log
        for _ in range(steps):
            dynamics.run(1)
            trial = dynamics.atoms.copy()
            trial.positions += 1e-6
            start = time.perf_counter()
            answered = engine.evaluate(trial, calculator.trajectory)
            whole = time.perf_counter() - start
            if answered.label is None:
                inside.append(answered.seconds["committee"])
                outside.append(whole - answered.seconds["committee"])
        folder.close()
    return float(np.mean(outside)), float(np.mean(inside))


def lennard_jones_seconds(atoms: Atoms) -> float:
    """Return median seconds of one call of ASE's Lennard-Jones on the same atoms."""
    trial = atoms.copy()
    trial.calc = LennardJones(sigma=1.0, epsilon=0.01)
    seconds = []
    for _ in range(100):
        trial.positions += 1e-6
        start = time.perf_counter()
        trial.get_forces()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def water_cluster(count: int) -> Atoms:
    """Return water molecules on a grid, 3.1 A apart."""
    water, cluster = molecule("H2O"), Atoms()
    side = int(np.ceil(count ** (1 / 3)))
    for index in range(count):
        copy = water.copy()
        copy.translate(3.1 * np.array([index % side, index // side % side, index // side**2]))
        cluster += copy
    return cluster


if __name__ == "__main__":
    main()
