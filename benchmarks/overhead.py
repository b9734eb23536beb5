"""What a step costs outside committee and reference: flags, gate, records, bookkeeping.

Four stacked MACE members, with the small network of benchmarks/committee.py (16
scalars an atom, fewer than published models have) and with the production one;
and ANI-1x, the fastest committee there is here, so that the share cannot hide
behind a slow one.  Once as a run without calibration is, and once with training
ranges, novelty on the descriptors and a calibrated threshold.  Trust is earned,
as in a long run; without a calibration it is looked up at every step, with one
nothing hinges on it in a calm one.  Every step writes its line of decisions.jsonl.
Atoms shake around the start by 0.02 A, with the momenta of 300 K.  Everything is
measured in turn, several times, and the median told (the production network
once): what else the machine does for some seconds moves a single share by a fifth.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bench
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.md.velocitydistribution import thermalize_momenta
from committee import network, structure

from hybrid_calc import AniCommittee, Gate, GateSettings, HybridCalculator, ToyReference
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.drivers.folder import RunFolder
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.evidence import Validated
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.settings import PRESETS
from hybrid_calc.geometry import molecule_of
from hybrid_calc.training.ranges import fit_ranges

ROUNDS = 7
EVIDENCE = 50
"""Validated frames that trust is looked up in."""
SHAKE = 0.02
"""Of every coordinate, A."""
SIZES = (9, 21, 60)
SETTINGS = GateSettings(
    force_tolerance_ev_per_ang=1e6, policies=PRESETS["all"] - {"audit"}, trust_radius=1e6
)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration of the usual size: ranges, novelty, a threshold on the spread."""

    identity: str
    ranges: TrainingRanges
    clouds: Novelty
    everywhere: RegimeCalibration

    def regime(self, regime):  # noqa: ARG002 - of the protocol
        return self.everywhere

    def novelty(self, descriptors, numbers):
        return self.clouds.of_atoms(numbers, descriptors)


def main() -> None:
    options = bench.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    rounds, steps = (1, 100) if options.quick else (ROUNDS, 150)
    measured = [in_turn(steps) for _ in range(rounds)]
    figures = {name: float(np.median([one[name] for one in measured])) for name in measured[0]}
    mace = MaceCommittee([network("production", seed) for seed in range(4)])
    for size in SIZES[: 1 if options.quick else None]:
        outside, inside = one_system(shaken(structure(size)), mace, 60, Gate(SETTINGS))
        figures[f"overhead_share_production_{size}_atoms"] = outside / inside
    targets = {name: ("<=", 0.05) for name in figures if name.startswith("overhead_share")}
    bench.report(figures, targets, options.json)


def in_turn(steps: int) -> dict[str, float]:
    """Return every figure of the small committees once."""
    figures: dict[str, float] = {}
    mace = MaceCommittee([network("small", seed) for seed in range(4)])
    for size in SIZES:
        atoms = structure(size)
        outside, inside = one_system(atoms, mace, steps, Gate(SETTINGS))
        figures[f"overhead_share_{size}_atoms"] = outside / inside
        figures[f"overhead_ms_{size}_atoms"] = outside * 1e3
        figures[f"committee_ms_{size}_atoms"] = inside * 1e3
        gate = Gate(SETTINGS, calibration_of(atoms, mace))
        outside, inside = one_system(atoms, mace, steps, gate)
        figures[f"overhead_share_calibrated_{size}_atoms"] = outside / inside
        figures[f"overhead_ms_calibrated_{size}_atoms"] = outside * 1e3
    ani = AniCommittee()
    for size, atoms in zip(SIZES, (molecule("CH3CH2OH"), cluster(7), cluster(20)), strict=True):
        outside, inside = one_system(atoms, ani, steps, Gate(SETTINGS))
        figures[f"ani_overhead_over_committee_{size}_atoms"] = outside / inside
        if size == SIZES[0]:
            figures["overhead_over_lennard_jones_9_atoms"] = outside / lennard_jones(atoms)
    return figures


def one_system(atoms: Atoms, committee, steps: int, gate: Gate) -> tuple[float, float]:
    """Return mean seconds of a step outside the committee, and inside it.

    Means, because some work (lines of the decision log) is done every few steps.
    """
    calculator = HybridCalculator(committee, ToyReference(), gate, allow_level_mismatch=True)
    engine, trajectory = calculator.engine, calculator.trajectory
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    calculator.start(atoms)
    known = trajectory.monitor.survey(atoms).surroundings.fingerprint
    step = engine.evaluate(shaken(atoms), trajectory, wanted="the energy zeros")
    for _ in range(EVIDENCE):
        engine.gate.evidence.add(
            step.regime,
            Validated(fingerprint=known, spread=1e6, error=0.1, good=True),
        )
    outside, inside = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run", resume=False)
        engine.on_step = folder.log
        for trial in [shaken(atoms, seed) for seed in range(1, steps + 1)]:
            start = time.perf_counter()
            answered = engine.evaluate(trial, trajectory)
            whole = time.perf_counter() - start
            if answered.label is None:
                inside.append(answered.seconds["committee"])
                outside.append(whole - answered.seconds["committee"])
        folder.close()
    if len(outside) < 0.9 * steps:
        raise SystemExit("the reference answered where only the committee was to be timed")
    return float(np.mean(outside)), float(np.mean(inside))


def shaken(atoms: Atoms, seed: int = 0) -> Atoms:
    trial = atoms.copy()
    trial.positions += np.random.default_rng(seed).normal(0, SHAKE, (len(atoms), 3))
    return trial


def calibration_of(atoms: Atoms, committee) -> Calibrated:
    """Return a calibration fitted to shaken frames of the structure itself."""
    frames = [shaken(atoms, seed) for seed in range(1000, 1100)]
    predictions = [committee.predict(frame) for frame in frames]
    clouds = Novelty.fit(
        [atoms.numbers] * len(frames), [prediction.descriptors for prediction in predictions]
    )
    threshold = RegimeCalibration(
        score=lambda observation: observation.spread,
        unit="eV/A",
        threshold=1e6,
        missed_share=0.1,
        validated=True,
        error_factor=1.0,
        frames=100,
        failures=10,
        molecules=frozenset({molecule_of(atoms)}),
        novelty_limit=1e6,
    )
    ranges = fit_ranges(frames)
    wide = {name: (0.5 * low, 2 * high) for name, (low, high) in ranges.lengths.items()}
    return Calibrated(
        identity=committee.info.identity,
        ranges=TrainingRanges(
            lengths=wide, coordination=ranges.coordination, largest_force=1e6, frames=len(frames)
        ),
        clouds=clouds,
        everywhere=threshold,
    )


def lennard_jones(atoms: Atoms) -> float:
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


def cluster(count: int) -> Atoms:
    """Return water molecules on a grid, 3.1 A apart."""
    water, result = molecule("H2O"), Atoms()
    side = int(np.ceil(count ** (1 / 3)))
    for index in range(count):
        copy = water.copy()
        copy.translate(3.1 * np.array([index % side, index // side % side, index // side**2]))
        result += copy
    return result


if __name__ == "__main__":
    main()
