"""What a calculator knows about one molecule before a driver asks it anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.correction.surface import PredictMany, SurfaceLabel, frames_at
from hybrid_calc.drivers.labelling import near_path, of_one_conformer, surface_label
from hybrid_calc.drivers.shape import distance_between, frozen_atoms, turn_onto
from hybrid_calc.flags.coverage import domain_flags
from hybrid_calc.geometry import charge_of, composition_of, multiplicity_of
from hybrid_calc.store.query import Query

MIRRORED_ANG = 0.3
"""A label that fits no better than this, and better as its mirror image, is the mirror image, A."""


def committee_for(calculator: HybridHandle, atoms: Atoms) -> PredictMany | None:
    """Return how to ask the calculator's committee, or None where it does not know the molecule."""
    committee = calculator.engine.committee
    return None if domain_flags(atoms, committee.info) else committee.predict_many


def known_labels(
    calculator: HybridHandle,
    atoms: Atoms,
    ends: Sequence[NDArray[np.float64]],
    path: NDArray[np.float64] | None = None,
) -> list[SurfaceLabel]:
    """Return the store's labels of this molecule and level near some geometries.

    A free molecule is turned onto the geometry it is near to; its mirror image is left out.
    The committee is asked anew about each label: what it said when that was stored may have
    been another committee's word.

    Parameters
    ----------
    calculator
        Whose store is looked into.
    atoms
        The molecule with its constraints; the order of its atoms counts.
    ends
        Geometries (N, 3), A, whose conformers matter.
    path
        Images between them, shape (B, N, 3), A.
    """
    stored = _stored(calculator, atoms)
    chosen = [one for end in ends for one in of_one_conformer(atoms, end, stored)]
    if path is not None:
        chosen += near_path(atoms, path, stored)
    unique = list({id(one): one for one in chosen}.values())
    if not frozen_atoms(atoms):
        images = [*ends, *([] if path is None else path)]
        unique = [turned for one in unique if (turned := _turned(one, images)) is not None]
    return _with_committee(atoms, committee_for(calculator, atoms), unique)


def _stored(calculator: HybridHandle, atoms: Atoms) -> list[SurfaceLabel]:
    """Return every label of these atoms, in this order, in this electronic state."""
    engine = calculator.engine
    if engine.store is None:
        return []
    query = Query(
        level=engine.reference.level.hash, formula=composition_of(atoms).formula, labelled=True
    )
    state = charge_of(atoms), multiplicity_of(atoms)
    labels = []
    for record in engine.store.select(query):
        same = np.array_equal(record.numbers, atoms.numbers) and not record.pbc.any()
        if not same or (record.charge, record.multiplicity) != state or record.label is None:
            continue
        answer = record.label
        labels.append(
            surface_label(atoms, None, record.positions, energy=answer.energy, forces=answer.forces)
        )
    return labels


def _turned(label: SurfaceLabel, images: Sequence[NDArray[np.float64]]) -> SurfaceLabel | None:
    """Return a label turned onto the image it is nearest to, None for a mirror image of it."""
    nearest = min(images, key=lambda image: distance_between(label.positions, image))
    fit = turn_onto(label.positions, nearest)
    if fit.rmsd > MIRRORED_ANG and turn_onto(-label.positions, nearest).rmsd < fit.rmsd:
        return None
    return SurfaceLabel(
        positions=fit.positions,
        energy=label.energy,
        forces=label.forces @ fit.rotation,
        prior_energy=0.0,
        prior_forces=np.zeros_like(label.forces),
    )


def _with_committee(
    atoms: Atoms, predict_many: PredictMany | None, labels: Sequence[SurfaceLabel]
) -> list[SurfaceLabel]:
    """Return the labels with what the committee says at each, asked in one pass."""
    if predict_many is None or not labels:
        return list(labels)
    said = predict_many(frames_at(atoms, np.array([one.positions for one in labels])))
    return [
        SurfaceLabel(
            positions=one.positions,
            energy=one.energy,
            forces=one.forces,
            prior_energy=answer.energy,
            prior_forces=answer.mean_forces,
        )
        for one, answer in zip(labels, said, strict=True)
    ]
