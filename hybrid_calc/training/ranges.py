"""What a committee's training frames spanned: lengths, coordination, forces, descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Committee
from hybrid_calc.errors import InputError, PredictionFailed
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coordination import coordination
from hybrid_calc.flags.ranges import TrainingRanges, pair_name
from hybrid_calc.gate.novelty import Novelty

FORCE_QUANTILE = 0.999
"""Share of the training frames whose largest force lies within the range."""
FRAMES_AT_ONCE = 32


def fit_ranges(frames: Sequence[Atoms], bonded_ratio: float = 1.3) -> TrainingRanges:
    """Return the ranges of training frames.

    Parameters
    ----------
    frames
        Geometries; forces in ``arrays["REF_forces"]`` or a calculator, eV/A, where known.
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
    largest = []
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
            largest.append(float(np.linalg.norm(forces, axis=1).max()))
    return TrainingRanges(
        lengths={name: (min(seen), max(seen)) for name, seen in sorted(lengths.items())},
        coordination={name: (min(seen), max(seen)) for name, seen in sorted(counts.items())},
        largest_force=(
            float(np.quantile(largest, FORCE_QUANTILE, method="inverted_cdf")) if largest else None
        ),
        bonded_ratio=bonded_ratio,
        frames=len(frames),
    )


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
