"""Frames with known truth as arrays: what the committee said, what physics said, how wrong it was.

A table is one trajectory.  What costs time (predictions) is kept in files; what
the gate sees (`Observation`) is made anew from them by the code that a run uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import bench  # noqa: F401 - one thread, before numpy
import gate_truth
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from numpy.typing import NDArray

from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.committee.prediction import CommitteeInfo, Prediction
from hybrid_calc.committee.spread import force_spread
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import classify
from hybrid_calc.gate.signals import observe
from hybrid_calc.geometry import composition_of, molecule_of

STRETCH = 4.0
"""GFN1 and GFN2-xTB are kin: 0.11 eV/A apart (root mean square, 300 K) where GFN2-xTB
is 0.48 eV/A from PBE on acetylacetone (figures ``second_opinion_rms_*``).  A second
opinion as close as that would flatter; its difference is stretched to that distance."""
HOT_ELECTRONS = 3000.0
"""In kelvin."""
FORCE_FLOOR = 0.2
"""Added to the force that a relative spread is divided by, eV/A."""
AT_ONCE = 50
"""Frames predicted in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """F frames of one molecule of N atoms, in their order.

    Attributes
    ----------
    molecule, kind, seed
        What it is a trajectory of, as in `gate_truth`.
    numbers
        Atomic numbers, shape (N,).
    positions, momenta
        Shape (F, N, 3); momenta are None where frames are independent.
    starts
        Geometries whose bonds are the initial ones, shape (S, N, 3): one for a
        trajectory; independent frames are compared with the one they changed least from.
    kelvin
        Temperature of independent frames, None where it is read from momenta.
    energies, forces, descriptors
        Of the members (F, M), (F, M, N, 3), and (F, N, D).
    true_energies, true_forces
        Shape (F,) and (F, N, 3); forces are None where only energies are known.
    second_forces
        Of the second opinion, eV/A, shape (F, N, 3): GFN2-xTB where DFT is the
        truth; where GFN2-xTB is, GFN1-xTB with `STRETCH` times its distance.
    offset
        Mean error of the energy on the molecule's training frames, eV.
    """

    molecule: str
    kind: str
    seed: int
    numbers: NDArray[np.integer]
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64] | None
    starts: NDArray[np.float64]
    kelvin: float | None
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    descriptors: NDArray[np.float64]
    true_energies: NDArray[np.float64]
    true_forces: NDArray[np.float64] | None
    second_forces: NDArray[np.float64]
    offset: float = 0.0

    @property
    def name(self) -> str:
        """Molecule, kind and seed."""
        return f"{self.molecule}-{self.kind}-{self.seed}"

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def atom_errors(self) -> NDArray[np.float64]:
        """Force error of each atom, eV/A, shape (F, N)."""
        if self.true_forces is None:
            raise ValueError(f"{self.name} has energies only")
        return np.asarray(np.linalg.norm(self.forces.mean(1) - self.true_forces, axis=-1))

    @property
    def force_errors(self) -> NDArray[np.float64]:
        """Largest force error of any atom, eV/A, shape (F,); 0 where forces are not known."""
        if self.true_forces is None:
            return np.zeros(len(self))
        return np.asarray(self.atom_errors.max(1))

    @property
    def energy_errors(self) -> NDArray[np.float64]:
        """Size of the error of the energy relative to the molecule's training frames, eV, (F,)."""
        return np.abs(self.energies.mean(1) - self.true_energies - self.offset)

    @property
    def atom_spreads(self) -> NDArray[np.float64]:
        """Force spread of each atom, eV/A, shape (F, N)."""
        deviation = self.forces - self.forces.mean(1, keepdims=True)
        return np.sqrt((deviation**2).sum((1, 3)) / (self.forces.shape[1] - 1))

    @property
    def second_opinions(self) -> NDArray[np.float64]:
        """Return the largest force difference from the second opinion, eV/A, shape (F,)."""
        apart = np.linalg.norm(self.forces.mean(1) - self.second_forces, axis=-1)
        return np.asarray(apart.max(1))

    def frames(self) -> list[Atoms]:
        """Return the geometries, with momenta where there are any."""
        frames = [Atoms(self.numbers, positions) for positions in self.positions]
        if self.momenta is not None:
            for atoms, momenta in zip(frames, self.momenta, strict=True):
                atoms.set_momenta(momenta)
        return frames

    def observations(
        self, info: CommitteeInfo, novelty: Novelty | None, limits: FlagLimits | None = None
    ) -> list[Observation]:
        """Return what the gate would have known of each frame, by the code a run uses."""
        limits = limits or FlagLimits()
        monitors = []
        for start in self.starts:
            monitors.append(Monitor(limits, info))
            monitors[-1].start(Atoms(self.numbers, start))
        found = []
        for place, atoms in enumerate(self.frames()):
            surveys = [monitor.survey(atoms) for monitor in monitors]
            survey = min(surveys, key=lambda one: len(one.report.flags))
            if self.kelvin is not None:
                report = dataclasses.replace(survey.report, mean_temperature=self.kelvin)
                survey = dataclasses.replace(survey, report=report)
            composition = composition_of(atoms)
            regime = classify(composition, survey.report, limits)
            prediction = Prediction(
                energies=self.energies[place],
                forces=self.forces[place],
                descriptors=self.descriptors[place],
            )
            new = None
            if novelty is not None:
                new = novelty.of_atoms(self.numbers, self.descriptors[place])
            molecule = molecule_of(atoms, composition)
            seen = observe(prediction, survey, regime, molecule=molecule, novelty=new)
            more = {"relative_spread": relative_spread(prediction)}
            found.append(dataclasses.replace(seen, signals={**seen.signals, **more}))
        return found


def relative_spread(prediction: Prediction) -> float:
    """Return the spread over |F| + 0.2 eV/A, worst atom: the rule of MACE's own active learning."""
    forces = np.linalg.norm(prediction.mean_forces, axis=1)
    return float((force_spread(prediction.forces) / (forces + FORCE_FLOOR)).max())


def predicted(
    file: Path, committee: MaceCommittee, frames: Sequence[Atoms]
) -> dict[str, NDArray[Any]]:
    """Return the committee's answers, from the file where this committee left them."""
    if file.exists():
        kept = dict(np.load(file))
        if str(kept.pop("identity")) == committee.info.identity:
            return kept
    answers: list[Prediction] = []
    for place in range(0, len(frames), AT_ONCE):
        answers += committee.predict_many(frames[place : place + AT_ONCE])
    found = {
        "energies": np.array([answer.energies for answer in answers]),
        "forces": np.array([answer.forces for answer in answers], dtype=np.float32),
        "descriptors": np.array([answer.descriptors for answer in answers], dtype=np.float32),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, identity=committee.info.identity, **found)
    return found


def second_opinion(file: Path, method: str, frames: Sequence[Atoms]) -> NDArray[np.float64]:
    """Return the forces of a tight-binding method, from the file where they were left.

    A frame that does not converge, as a bond pulled fast, is asked with hot electrons.
    """
    from tblite.ase import TBLite

    if file.exists():
        return np.asarray(np.load(file))
    usual = TBLite(method=method, verbosity=0)
    hot = TBLite(method=method, verbosity=0, electronic_temperature=HOT_ELECTRONS)
    found = []
    for atoms in frames:
        calculator = usual
        calculator.reset()
        try:
            calculator.calculate(atoms, ["forces"])
        except CalculationFailed:
            calculator = hot
            calculator.reset()
            calculator.calculate(atoms, ["forces"])
        found.append(np.array(calculator.results["forces"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.array(found))
    return np.array(found)


def gfn2_tables(
    cache: Path, data: Path, committee: MaceCommittee, seeds: range, shorter: int = 1
) -> tuple[list[Table], list[Table]]:
    """Return the training trajectories (every tenth frame) and all others, as tables."""
    training = [
        gfn2_table(cache, data, committee, job, every=gate_truth.TRAINING_EVERY)
        for job in gate_truth.jobs(range(0), shorter)
    ]
    offsets = {
        table.molecule: float(np.mean(table.energies.mean(1) - table.true_energies))
        for table in training
    }
    others = [
        gfn2_table(cache, data, committee, job, offset=offsets[job.molecule])
        for job in gate_truth.jobs(seeds, shorter)
        if job.kind != "training"
    ]
    return training, others


def gfn2_table(
    cache: Path,
    data: Path,
    committee: MaceCommittee,
    job: gate_truth.Job,
    *,
    every: int = 1,
    offset: float = 0.0,
) -> Table:
    """Return one GFN2-xTB trajectory with the committee's answers."""
    truth = np.load(gate_truth.trajectory(cache / "gfn2", data, job))
    part = slice(None, None, every)
    numbers, positions = truth["numbers"], truth["positions"][part]
    frames = [Atoms(numbers, place) for place in positions]
    answers = predicted(cache / "predictions" / f"{job.name}.npz", committee, frames)
    second = second_opinion(cache / "second" / f"{job.name}.npy", "GFN1-xTB", frames)
    return Table(
        molecule=job.molecule,
        kind=job.kind,
        seed=job.seed,
        numbers=numbers,
        positions=positions,
        momenta=truth["momenta"][part] if every == 1 else None,
        starts=truth["start"][None],
        kelvin=None if every == 1 else 300.0,
        energies=answers["energies"],
        forces=answers["forces"].astype(float),
        descriptors=answers["descriptors"],
        true_energies=truth["energies"][part],
        true_forces=truth["forces"][part],
        second_forces=truth["forces"][part] + STRETCH * (second - truth["forces"][part]),
        offset=offset,
    )


ACETYLACETONE = {
    "training": ("train_300K", 300.0, True),
    "300K": ("test_MD_300K", 300.0, True),
    "600K": ("test_MD_600K", 600.0, True),
    "dihedral": ("test_dihedral", None, False),
    "reaction": ("test_H_transfer", None, False),
}
"""File, temperature and whether it has forces."""


def acetylacetone_tables(
    cache: Path, data: Path, committee: MaceCommittee, every: int = 1
) -> list[Table]:
    """Return the training frames and the tests of acetylacetone; frames are independent."""
    tables: list[Table] = []
    trained: list[Atoms] = []
    for kind, (file, kelvin, has_forces) in ACETYLACETONE.items():
        frames = ase.io.read(data / "acetylacetone" / f"{file}.xyz", f"::{every}")
        frames = [_as_trained(atoms, tables) for atoms in frames]
        plain = [Atoms(atoms.numbers, atoms.positions) for atoms in frames]
        if kind == "training":
            order = np.argsort([atoms.get_potential_energy() for atoms in frames])
            trained = [plain[place] for place in order]
        answers = predicted(cache / "predictions" / f"acac-{kind}.npz", committee, plain)
        energies = np.array([atoms.get_potential_energy() for atoms in frames])
        offset = float(np.mean(answers["energies"].mean(1) - energies))
        tables.append(
            Table(
                molecule="acetylacetone",
                kind=kind,
                seed=0,
                numbers=frames[0].numbers,
                positions=np.array([atoms.positions for atoms in plain]),
                momenta=None,
                starts=_starts(plain[:1] if kind == "reaction" else trained),
                kelvin=kelvin,
                energies=answers["energies"],
                forces=answers["forces"].astype(float),
                descriptors=answers["descriptors"],
                true_energies=energies,
                true_forces=np.array([a.get_forces() for a in frames]) if has_forces else None,
                second_forces=second_opinion(
                    cache / "second" / f"acac-{kind}.npy", "GFN2-xTB", plain
                ),
                offset=tables[0].offset if tables else offset,
            )
        )
    return tables


def _starts(frames: Sequence[Atoms]) -> NDArray[np.float64]:
    """Return the first frame of every set of bonds, most bound first, shape (S, N, 3)."""
    found: dict[bytes, NDArray[np.float64]] = {}
    pairs = pairs_of(frames[0].numbers)
    for atoms in frames:
        # A proton is on the atom that it is nearest to.
        relative = pair_distances(atoms, pairs) / pairs.radii_sum
        near = [
            int(np.argmin(np.where((pairs.first == i) | (pairs.second == i), relative, np.inf)))
            for i in np.flatnonzero(atoms.numbers == 1)
        ]
        found.setdefault(np.array(near).tobytes(), atoms.positions)
    return np.array(list(found.values()))


def _as_trained(atoms: Atoms, tables: Sequence[Table]) -> Atoms:
    """Refuse a file whose atoms are in another order than the training frames'."""
    if tables and not np.array_equal(atoms.numbers, tables[0].numbers):
        raise ValueError("the atoms of this file are ordered otherwise than those trained on")
    return atoms
