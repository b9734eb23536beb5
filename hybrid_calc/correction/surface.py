"""One surface for one molecule: a prior plus the Gaussian process on its labels.

The prior is the committee's mean, or nothing at all where the committee extrapolates so
badly that the labels alone predict each other better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.correction.gp import (
    FittedProcess,
    ProcessSettings,
    fit_process,
    refuse_senseless,
)
from hybrid_calc.correction.posterior import difference_std, predict_process
from hybrid_calc.errors import StructureError

PredictMany = Callable[[Sequence[Atoms]], list[Prediction]]
"""Any committee's `predict_many`."""

PriorName = Literal["committee", "none"]

PRIOR_CHOICES: tuple[PriorName, ...] = ("committee", "none")

FEW_LABELS = 3
"""Below this number of labels the evidence cannot choose and the committee is the prior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceLabel:
    """One reference answer beside what the committee said there, N atoms.

    Attributes
    ----------
    positions
        Shape (N, 3), A.
    energy, forces
        Of the reference, eV and eV/A, shape (N, 3).
    prior_energy, prior_forces
        Mean of the committee, eV and eV/A, shape (N, 3).
    """

    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]
    prior_energy: float
    prior_forces: NDArray[np.float64]

    def to_dict(self) -> dict[str, object]:
        """Return JSON-able data."""
        return {
            "positions": self.positions.tolist(),
            "energy": self.energy,
            "forces": self.forces.tolist(),
            "prior_energy": self.prior_energy,
            "prior_forces": self.prior_forces.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SurfaceLabel:
        """Rebuild a label from `to_dict`."""
        return cls(
            positions=np.asarray(data["positions"], dtype=float),
            energy=float(data["energy"]),
            forces=np.asarray(data["forces"], dtype=float),
            prior_energy=float(data["prior_energy"]),
            prior_forces=np.asarray(data["prior_forces"], dtype=float),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """A prior and what the labels add to it; frozen while a band or a minimum is sought.

    Attributes
    ----------
    template
        The molecule: numbers, charge, spin. Its positions mean nothing.
    predict_many
        The committee.
    prior
        ``committee`` or ``none``.
    process
        None without labels: the surface is then exactly the prior.
    evidence
        Log predictive likelihood of the labels under each prior that was tried.
    """

    template: Atoms
    predict_many: PredictMany
    prior: PriorName
    process: FittedProcess | None
    evidence: Mapping[str, float]


def refuse_periodic(atoms: Atoms) -> None:
    """Refuse a periodic structure: the descriptor knows molecules only.

    Raises
    ------
    StructureError
        A direction is periodic.
    """
    if atoms.pbc.any():
        raise StructureError(
            f"a corrected surface belongs to one molecule; pbc is {atoms.pbc.tolist()}. "
            "Set atoms.pbc = False, or use driver: ase for periodic cells."
        )


def fit_surface(
    template: Atoms,
    predict_many: PredictMany,
    labels: Sequence[SurfaceLabel],
    settings: ProcessSettings | None = None,
    *,
    prior: PriorName | None = None,
) -> Surface:
    """Condition the surface on the labels and choose its prior by evidence.

    Parameters
    ----------
    template
        The molecule all labels belong to.
    predict_many
        The committee.
    labels
        All of one molecule, level of theory and conformer.
    settings
        Kernel, noise and bounds.
    prior
        Force one; chosen when None.

    Raises
    ------
    StructureError
        The molecule is periodic.
    ReferenceFailed
        A label is beyond sense.
    """
    refuse_periodic(template)
    settings = settings or ProcessSettings()
    if not labels:
        return Surface(
            template=template,
            predict_many=predict_many,
            prior=prior or "committee",
            process=None,
            evidence={},
        )
    choices = (prior,) if prior else PRIOR_CHOICES if len(labels) >= FEW_LABELS else ("committee",)
    fits = {choice: _fit(labels, settings, choice) for choice in choices}
    best = max(choices, key=lambda choice: fits[choice].log_likelihood)
    return Surface(
        template=template,
        predict_many=predict_many,
        prior=best,
        process=fits[best],
        evidence={choice: fit.log_likelihood for choice, fit in fits.items()},
    )


def evaluate_surface(
    surface: Surface, positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return energies (m,), eV, and forces (m, N, 3), eV/A, at positions (m, N, 3), A."""
    energies = np.zeros(len(positions))
    forces = np.zeros(positions.shape)
    if surface.prior == "committee":
        answers = surface.predict_many(frames_at(surface.template, positions))
        energies += [answer.energy for answer in answers]
        forces += [answer.mean_forces for answer in answers]
    if surface.process is not None:
        more_energies, more_forces = predict_process(surface.process, positions)
        energies += more_energies
        forces += more_forces
    return energies, forces


def surface_std(
    surface: Surface, positions: NDArray[np.float64], origin: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the posterior std of energies relative to one geometry, eV, not yet calibrated.

    Infinite without labels.
    """
    if surface.process is None:
        return np.full(len(positions), np.inf)
    return difference_std(surface.process, positions, origin)


def frames_at(template: Atoms, positions: NDArray[np.float64]) -> list[Atoms]:
    """Return copies of the molecule at positions (m, N, 3), without constraints."""
    frames = []
    for one in positions:
        frame = Atoms(numbers=template.numbers, positions=one)
        frame.info = {key: template.info[key] for key in ("charge", "spin") if key in template.info}
        frames.append(frame)
    return frames


class SurfaceCalculator(Calculator):
    """The surface for ASE's optimisers.

    Parameters
    ----------
    surface
        What to evaluate.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces"]

    def __init__(self, surface: Surface) -> None:
        super().__init__()
        self.surface = surface

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill energy and forces; see ASE's Calculator."""
        super().calculate(atoms, properties, system_changes)
        here = np.asarray(self.atoms.positions)[None]  # type: ignore[union-attr]
        energies, forces = evaluate_surface(self.surface, here)
        energy = float(energies[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": forces[0]}


def _fit(
    labels: Sequence[SurfaceLabel], settings: ProcessSettings, prior: PriorName
) -> FittedProcess:
    energies = np.array([label.energy for label in labels])
    forces = np.array([label.forces for label in labels])
    refuse_senseless(energies, forces, limit=settings.max_force_ev_per_ang)
    if prior == "committee":
        energies = energies - [label.prior_energy for label in labels]
        forces = forces - [label.prior_forces for label in labels]
    positions = np.array([label.positions for label in labels])
    return fit_process(positions, energies, forces, settings)
