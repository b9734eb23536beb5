"""What a committee's training frames spanned: lengths, coordination, forces, descriptors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.stats import t as student

from hybrid_calc.committee.prediction import Committee
from hybrid_calc.errors import InputError, PredictionFailed
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coordination import coordination
from hybrid_calc.flags.ranges import TrainingRanges, pair_name
from hybrid_calc.gate.calibration import correlation_length
from hybrid_calc.gate.novelty import Novelty

FORCE_QUANTILE = 0.999
"""Share of frames like the training frames whose largest force lies within the range."""
LEAST_FRAMES = 5
"""Decorrelated frames without which nothing is said about the largest force."""
LEAST_FORCE = 1e-3
"""Forces below are as good as none, eV/A."""
FRAMES_AT_ONCE = 32


def fit_ranges(frames: Sequence[Atoms], bonded_ratio: float = 1.3) -> TrainingRanges:
    """Return the ranges of training frames.

    Parameters
    ----------
    frames
        Geometries, those of a trajectory in their order; forces in
        ``arrays["REF_forces"]`` or a calculator, eV/A, where known.
    bonded_ratio
        Distance over the sum of covalent radii up to which a pair is bonded.

    Raises
    ------
    InputError
        There is no frame, or a number that is not finite.
    """
    if not frames:
        raise InputError("training ranges need at least one frame.")
    lengths: dict[str, list[float]] = {}
    counts: dict[str, list[float]] = {}
    largest: dict[bytes, list[float]] = {}
    for atoms in frames:
        pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, pairs)
        if not np.isfinite(distances).all():
            raise InputError("a training frame has positions that are not finite.")
        symbols = [chemical_symbols[number] for number in atoms.numbers]
        for bond in np.flatnonzero(distances < bonded_ratio * pairs.radii_sum).tolist():
            name = pair_name(symbols[pairs.first[bond]], symbols[pairs.second[bond]])
            lengths.setdefault(name, []).append(float(distances[bond]))
        neighbours = coordination(distances, pairs).tolist()
        for symbol, count in zip(symbols, neighbours, strict=True):
            counts.setdefault(symbol, []).append(count)
        forces = _forces(atoms)
        if forces is not None:
            size = float(np.linalg.norm(forces, axis=1).max())
            largest.setdefault(atoms.numbers.tobytes(), []).append(size)
    return TrainingRanges(
        lengths={name: (min(seen), max(seen)) for name, seen in sorted(lengths.items())},
        coordination={name: (min(seen), max(seen)) for name, seen in sorted(counts.items())},
        largest_force=force_limit([np.array(sizes) for sizes in largest.values()]),
        bonded_ratio=bonded_ratio,
        frames=len(frames),
    )


def force_limit(largest: Sequence[NDArray[np.float64]]) -> float | None:
    """Return the force that one frame in a thousand exceeds, eV/A; None where nobody can tell.

    With a thousand decorrelated frames that is their 99.9 % quantile.  Fewer
    have not shown it: the largest of n is exceeded by one in n + 1 of the frames
    to come.  It is then the prediction limit of a log-normal law (Hahn and
    Meeker, Statistical Intervals, section 4.8),
    exp(mean + t_{n-1} std sqrt(1 + 1/n)) with t the 99.9 % quantile of
    Student's law, which one frame to come in a thousand exceeds however few
    the n are, and not less than the largest that was seen.

    Parameters
    ----------
    largest
        By composition, the largest force on any atom of each frame, eV/A, in
        the order of the frames.  Neighbours in a trajectory are alike: n is the
        number of frames over the longest correlation length of a composition.

    Raises
    ------
    InputError
        A force is not finite.
    """
    if not largest:
        return None
    sizes = np.concatenate(largest)
    if not np.isfinite(sizes).all():
        raise InputError("a training frame has forces that are not finite.")
    logs = [np.log(np.maximum(rows, LEAST_FORCE)) for rows in largest]
    longest = max(
        (correlation_length(rows) for rows in logs if len(rows) >= LEAST_FRAMES), default=1.0
    )
    count = len(sizes) / longest
    if count < LEAST_FRAMES:
        return None
    seen = float(np.quantile(sizes, FORCE_QUANTILE, method="inverted_cdf"))
    if count >= 1 / (1 - FORCE_QUANTILE):
        return seen
    pooled = np.concatenate(logs)
    width = float(student.ppf(FORCE_QUANTILE, count - 1)) * math.sqrt(1 + 1 / count)
    return max(seen, math.exp(float(pooled.mean()) + width * float(pooled.std(ddof=1))))


def fit_novelty(frames: Sequence[Atoms], committee: Committee) -> Novelty | None:
    """Return the clouds of training frames' descriptors; None where the committee gives none.

    Frames that the committee cannot answer are left out.
    """
    numbers, descriptors = [], []
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        batch = list(frames[start : start + FRAMES_AT_ONCE])
        for atoms, found in zip(batch, _descriptors(batch, committee), strict=True):
            if found is not None:
                numbers.append(atoms.numbers)
                descriptors.append(found)
    return Novelty.fit(numbers, descriptors) if numbers else None


def _descriptors(frames: list[Atoms], committee: Committee) -> list[NDArray[np.float64] | None]:
    try:
        return [answer.descriptors for answer in committee.predict_many(frames)]
    except (PredictionFailed, InputError):
        if len(frames) == 1:
            return [None]
        return [found for atoms in frames for found in _descriptors([atoms], committee)]


def _forces(atoms: Atoms) -> NDArray[np.float64] | None:
    """Return the forces a frame carries, eV/A, shape (N, 3), or None."""
    for name in ("REF_forces", "forces"):
        if name in atoms.arrays:
            return np.asarray(atoms.arrays[name], dtype=np.float64)
    if atoms.calc is None:
        return None
    try:
        return np.asarray(atoms.get_forces(apply_constraint=False))
    except PropertyNotImplementedError:
        return None
