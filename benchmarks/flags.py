"""How often each physics flag cries wolf in ordinary dynamics, and what it finds.

ANI-1x drives MD at 300 K from the relaxed structure; every flag raised there is
a false alarm; the training ranges come from another dynamics of the same
molecule, once from as many frames as a committee is trained on and once from a
tenth.  Dynamics at 1,200 K and 300 K frames with one bond stretched by a half
show what the flags find.  Crystals of six metals at 300 K (EMT, 108 atoms) show how
often a site of a perfect crystal is called a defect.  Every so often a step at
300 K is labelled (wB97X/6-31G(d), stability examined) for the flags of a label.
The fingerprint distances are between independent frames of one
trajectory: the trust radius should cover most of them, and not a bond that is
being broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import bench
import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from committee_only import CommitteeOnly

from hybrid_calc import AniCommittee, FlagLimits, PySCFReference
from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coverage import (
    fingerprint,
    fingerprint_columns,
    fingerprint_distance,
)
from hybrid_calc.flags.electronic import electronic_flags
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.flags.ranges import large_force
from hybrid_calc.geometry import multiplicity_of
from hybrid_calc.training.ranges import fit_ranges

MOLECULES = ("CH3CH2OH", "H2O2", "C6H6", "CH3CONH2", "C2H6NH", "HCOOH", "CH3CHO")
FLAGS = (
    "close_contact",
    "bond_breaking",
    "bond_forming",
    "fragments",
    "strained_bond",
    "strained_angle",
    "bond_length",
    "coordination",
    "step_displacement",
    "mean_temperature",
    "large_force",
)
OF_LABELS = ("spin_contamination", "small_gap", "restricted_unstable", "unstable_state")
LABELLED_EVERY = 200
"""Steps of the dynamics whose state is solved."""
TRAINING = 500
"""Frames, ten steps apart, of another dynamics of the same molecule that ranges are taken from."""
METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt")
"""Crystals whose sites are watched."""
FEW = 50
"""Of them, where the ranges come from a small set; those that depend on ranges are in `RANGED`."""
RANGED = ("bond_length", "coordination", "large_force")
HOT_KELVIN = 1200.0
BONDED_RATIO = 1.3
"""Distance over the sum of covalent radii up to which atoms of the start are bonded."""
BROKEN_STRETCH = 1.5
"""Length over length of a bond that is broken by hand."""


def main() -> None:
    options = bench.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    committee = AniCommittee()
    names = MOLECULES[:2] if options.quick else MOLECULES
    steps = 500 if options.quick else 4000
    alarms: Counter[str] = Counter()
    few: Counter[str] = Counter()
    worst: dict[str, float] = {}
    found: dict[str, list[set[str]]] = {"hot": [], "broken": []}
    conserved = 0
    distances: list[float] = []
    stretched: list[float] = []
    states = States()
    for name in names:
        atoms = _relaxed(name, committee)
        start = atoms.copy()
        training = _training_frames(start, committee, FEW if options.quick else TRAINING)
        ranges = fit_ranges(training)
        monitor = Monitor(FlagLimits(), committee.info, ranges)
        monitor.start(atoms)
        scarce_ranges = fit_ranges(training[:FEW])
        scarce = Monitor(FlagLimits(), committee.info, scarce_ranges)
        scarce.start(atoms)
        prints, ordinary, mine = [], [], Counter()
        for step, _ in enumerate(_ordinary_steps(atoms, steps)):
            survey = monitor.survey(atoms)
            mine.update(_names(survey, atoms, ranges))
            few.update(_names(scarce.survey(atoms), atoms, scarce_ranges))
            if step % LABELLED_EVERY == 0:
                states.look(atoms)
            if step % 50 == 0:
                prints.append(survey.surroundings.fingerprint)
                ordinary.append(atoms.copy())
        alarms += mine
        worst = {flag: max(worst.get(flag, 0.0), mine[flag] / steps) for flag in FLAGS}
        found["hot"] += _hot(start, committee, ranges, steps // 4)
        found["broken"] += _broken(start, ordinary, committee, ranges)
        distances += _between(np.array(prints))
        stretched += _stretch(atoms, prints)
        conserved += _drift_alarms(atoms, monitor, steps // 4)
    frames = len(names) * steps
    figures = {f"false_alarm_share_{flag}": alarms[flag] / frames for flag in FLAGS}
    figures |= states.close()
    figures["false_alarm_share_energy_drift"] = conserved / (len(names) * (steps // 4))
    figures |= _site_figures(METALS[:1] if options.quick else METALS, steps)
    figures |= {f"false_alarm_share_{f}_{FEW}_frames": few[f] / frames for f in RANGED}
    figures |= {f"worst_molecule_alarm_share_{flag}": share for flag, share in worst.items()}
    figures |= _found_shares(found)
    figures |= {
        "fingerprint_distance_300K_median": float(np.median(distances)),
        "fingerprint_distance_300K_99": float(np.quantile(distances, 0.99)),
        "fingerprint_distance_bond_stretched_1p25_min": min(stretched),
        "frames": float(frames),
        "molecules": float(len(names)),
    }
    figures["flag_false_alarm_share"] = max(  # of the worst flag
        value for name, value in figures.items() if name.startswith("false_alarm")
    )
    targets = {name: ("<=", 0.01) for name in figures if "false_alarm" in name}
    bench.report(figures, targets, options.json)


def _ordinary_steps(atoms: Atoms, steps: int) -> Iterator[None]:
    """Move the atoms through dynamics at 300 K that has settled."""
    dynamics = _langevin(atoms, seed=0)
    dynamics.run(200)
    for _ in range(steps):
        dynamics.run(1)
        yield


class States:
    """Solve a step now and then and count the flags of its label."""

    def __init__(self) -> None:
        self._reference = PySCFReference(stability="always")
        self._alarms: Counter[str] = Counter()
        self._solved = 0

    def look(self, atoms: Atoms) -> None:
        checks = self._reference.label(atoms).checks
        flags = electronic_flags(checks, multiplicity_of(atoms), FlagLimits())
        self._alarms.update(flag.name for flag in flags)
        self._solved += 1

    def close(self) -> dict[str, float]:
        """Return in which share of them each flag was up, and how many they are."""
        self._reference.close()
        shares = {f"false_alarm_share_{flag}": self._alarms[flag] for flag in OF_LABELS}
        figures = {name: number / self._solved for name, number in shares.items()}
        return figures | {"frames_solved": float(self._solved)}


def _relaxed(name, committee):
    atoms = molecule(name)
    atoms.calc = CommitteeOnly(committee)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    return atoms


def _site_figures(metals, steps) -> dict[str, float]:
    """Return how often the site flag is raised in perfect crystals, on average and at worst."""
    shares = [_site_alarms(metal, steps) for metal in metals]
    return {
        "false_alarm_share_site_coordination": float(np.mean(shares)),
        "worst_crystal_alarm_share_site_coordination": max(shares),
    }


def _site_alarms(metal: str, steps: int) -> float:
    """Return the share of steps of a perfect crystal at 300 K in which a site is flagged."""
    atoms = bulk(metal, cubic=True) * (3, 3, 3)
    monitor = Monitor(FlagLimits(), CommitteeInfo(name="EMT", identity="", size=1))
    monitor.start(atoms)
    atoms.calc = EMT()
    dynamics = _langevin(atoms, seed=0, timestep_fs=3.0)
    dynamics.run(200)
    alarms = 0
    for _ in range(steps):
        dynamics.run(1)
        alarms += "site_coordination" in monitor.survey(atoms).report.names
    return alarms / steps


def _found_shares(found: dict[str, list[set[str]]]) -> dict[str, float]:
    """Return which share of the frames that are not ordinary any flag, and each flag, finds."""
    shares = {}
    for kind, seen in found.items():
        shares[f"found_share_{kind}"] = float(np.mean([bool(names) for names in seen]))
        for flag in FLAGS:
            shares[f"found_share_{kind}_{flag}"] = float(np.mean([flag in s for s in seen]))
    return shares


def _names(survey, atoms, ranges) -> set[str]:
    """Return the flags of a geometry, those of the committee's forces among them."""
    force = np.linalg.norm(atoms.get_forces(), axis=1)
    report = survey.report.plus(large_force(float(force.max()), int(force.argmax()), ranges))
    return set(report.names)


def _hot(start, committee, ranges, steps) -> list[set[str]]:
    """Return the flags of dynamics far above room temperature but the temperature itself."""
    atoms = start.copy()
    atoms.calc = CommitteeOnly(committee)
    monitor = Monitor(FlagLimits(), committee.info, ranges)
    monitor.start(start)
    dynamics = _langevin(atoms, seed=2, kelvin=HOT_KELVIN)
    dynamics.run(200)
    seen = []
    for _ in range(steps):
        dynamics.run(1)
        seen.append(_names(monitor.survey(atoms), atoms, ranges) - {"mean_temperature"})
    return seen


def _broken(start, ordinary, committee, ranges) -> list[set[str]]:
    """Return the flags of ordinary frames with one bond, each in turn, stretched."""
    pairs = pairs_of(start.numbers)
    lengths = pair_distances(start, pairs)
    seen = []
    for bond in np.flatnonzero(lengths < BONDED_RATIO * pairs.radii_sum).tolist():
        first, second = int(pairs.first[bond]), int(pairs.second[bond])
        for frame in ordinary[::10]:
            atoms = Atoms(frame.numbers, frame.positions)
            length = BROKEN_STRETCH * lengths[bond]
            atoms.set_distance(first, second, length, fix=0)
            atoms.calc = CommitteeOnly(committee)
            monitor = Monitor(FlagLimits(), committee.info, ranges)
            monitor.start(start)
            seen.append(_names(monitor.survey(atoms), atoms, ranges))
    return seen


def _langevin(atoms, seed, kelvin=300.0, timestep_fs=0.5):
    random = np.random.default_rng(seed)
    thermalize_momenta(atoms, kelvin, rng=random)
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=kelvin,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=random,
    )


def _training_frames(start, committee, count):
    """Return frames of another dynamics of the same molecule, ten steps apart, with forces."""
    atoms = start.copy()
    atoms.calc = CommitteeOnly(committee)
    dynamics = _langevin(atoms, seed=1)
    dynamics.run(200)
    frames = []
    for _ in range(count):
        dynamics.run(10)
        frame = atoms.copy()
        frame.arrays["REF_forces"] = atoms.get_forces()
        frames.append(frame)
    return frames


def _drift_alarms(atoms, monitor, steps):
    """Return how often the drift of constant-energy dynamics is flagged."""
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    start, alarms = atoms.get_total_energy(), 0
    for _ in range(steps):
        dynamics.run(1)
        monitor.drift_ev = atoms.get_total_energy() - start
        alarms += "energy_drift" in monitor.survey(atoms).report.names
    return alarms


def _between(prints: np.ndarray) -> list[float]:
    """Return the distance of each frame to the nearest of the three before it."""
    return [
        float(np.sort(fingerprint_distance(prints[i], prints[max(0, i - 8) : i], slice(None)))[2])
        for i in range(8, len(prints))
    ]


def _stretch(atoms, prints) -> list[float]:
    """Return how far a structure with one X-H bond stretched by 1.25 is from every frame."""
    result = []
    pairs = pairs_of(atoms.numbers)
    lengths = pair_distances(atoms, pairs)
    bonded = np.flatnonzero(lengths < BONDED_RATIO * pairs.radii_sum)
    for pair in bonded:
        i, j = int(pairs.first[pair]), int(pairs.second[pair])
        if 1 not in (atoms.numbers[i], atoms.numbers[j]):
            continue
        heavy, light = (i, j) if atoms.numbers[j] == 1 else (j, i)
        pulled = atoms.copy()
        pulled.set_distance(heavy, light, 1.25 * lengths[pair], fix=0)
        mark = fingerprint(pair_distances(pulled, pairs), pairs, fingerprint_columns(pairs))
        result.append(float(fingerprint_distance(mark, np.array(prints), slice(None)).min()))
    return result


if __name__ == "__main__":
    main()
