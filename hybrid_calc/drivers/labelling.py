"""The labels of one molecule: asked once, forecast before, remembered, JSON-able."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray
from scipy.stats import norm

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.correction.gp import ProcessSettings, refuse_senseless
from hybrid_calc.correction.inflation import REPEATABLE_EV, Forecast, interval_factor
from hybrid_calc.correction.surface import (
    PredictMany,
    PriorName,
    Surface,
    SurfaceLabel,
    evaluate_surface,
    fit_surface,
    frames_at,
    surface_std,
)
from hybrid_calc.drivers.shape import distance_between, frozen_atoms
from hybrid_calc.errors import (
    BudgetExhausted,
    InputError,
    PredictionFailed,
    ReferenceCrashed,
    ReferenceFailed,
    RunInterrupted,
)

NO_MORE_LABELS = (BudgetExhausted, ReferenceFailed, RunInterrupted)
"""What ends a driver with the best so far, not confirmed."""


class Answer(Protocol):
    """What a search needs of a label."""

    @property
    def energy(self) -> float:
        """Total energy, eV."""
        ...

    @property
    def forces(self) -> NDArray[np.float64]:
        """Shape (N, 3), eV/A."""
        ...


AskReference = Callable[[Atoms, str], Answer]
"""One reference call and the reason for it; raises one of `NO_MORE_LABELS`."""

NORMAL_95 = float(norm.ppf(0.975))
"""Half-width of a normal distribution's 95 % interval in standard deviations."""

SAME_GEOMETRY = 1e-6
"""Geometries whose coordinates differ by less are one label, A."""


CONFORMER_ANG = 0.5
"""Geometries whose distances all differ by less are taken for one conformer, A."""

MOST_KNOWN = 30
"""Labels from before that one surface is given; its cost grows with the cube of them."""


class LabelBook:
    """Every label of one molecule and what the surface had said about it.

    Parameters
    ----------
    template
        The molecule; charge, spin and cell of every label.
    predict_many
        The committee; None where it cannot be asked about this molecule, whose surface
        then rests on the labels alone.
    label
        The reference.
    known
        Labels from before, which cost nothing.
    settings
        How the residual is modelled.
    """

    def __init__(
        self,
        template: Atoms,
        predict_many: PredictMany | None,
        label: AskReference,
        known: Sequence[SurfaceLabel] = (),
        settings: ProcessSettings | None = None,
    ) -> None:
        self.template = template.copy()
        self.predict_many = predict_many
        self.settings = settings or ProcessSettings()
        self.labels: list[SurfaceLabel] = []
        self.reasons: list[str] = []
        self.refusals: list[NDArray[np.float64]] = []
        self.know(known)
        self.forecasts: list[Forecast] = []
        self._label = label

    @property
    def asked(self) -> int:
        """Reference calls paid for."""
        return sum(reason != "known" for reason in self.reasons)

    def asked_for(self, purpose: str) -> int:
        """Return how many calls were paid for whose reason begins so."""
        return sum(reason.startswith(purpose) for reason in self.reasons)

    def refused(self, positions: NDArray[np.float64]) -> bool:
        """Tell whether the reference gave no label at a geometry, or one beyond sense."""
        label = self.find(positions)
        if label is not None:
            return not self._makes_sense(label)
        return any(np.abs(one - positions).max() < SAME_GEOMETRY for one in self.refusals)

    def find(self, positions: NDArray[np.float64]) -> SurfaceLabel | None:
        """Return the label at a geometry, if there is one."""
        for one in self.labels:
            if np.abs(one.positions - positions).max() < SAME_GEOMETRY:
                return one
        return None

    def know(self, labels: Sequence[SurfaceLabel]) -> None:
        """Take in labels that cost nothing, each geometry once."""
        for one in labels:
            if self.find(one.positions) is None:
                self.labels.append(one)
                self.reasons.append("known")

    def surface(self, *, min_amplitude_ev: float = 0.0) -> Surface:
        """Fit the surface to all labels, taking the residual to vary by no less than that."""
        floor = max(min_amplitude_ev, self.settings.min_amplitude_ev)
        settings = replace(self.settings, min_amplitude_ev=floor)
        prior: PriorName | None = "none" if self.predict_many is None else None
        predict = self.predict_many or no_committee
        return fit_surface(self.template, predict, self.usable(), settings, prior=prior)

    def usable(self) -> list[SurfaceLabel]:
        """Return the labels that are not beyond sense."""
        return [one for one in self.labels if self._makes_sense(one)]

    def ask(
        self,
        positions: NDArray[np.float64],
        reason: str,
        surface: Surface | None = None,
        *,
        strict: bool = True,
    ) -> SurfaceLabel:
        """Return the label at a geometry, paying for it only if it is new.

        Every answer is kept; one beyond sense never enters a surface.  What was refused is not
        asked again.

        Parameters
        ----------
        positions
            Shape (N, 3), A.
        reason
            Why, for the record.
        surface
            What to forecast the label with; no forecast where None.
        strict
            Refuse an answer beyond sense.

        Raises
        ------
        ReferenceFailed
            No label, or, if strict, one beyond sense.
        BudgetExhausted
            No call is left.
        """
        found = self.find(positions)
        new = self._pay(positions, reason) if found is None else found
        if found is None:
            if surface is not None and surface.process is not None and self._makes_sense(new):
                self.forecasts.append(self._forecast(surface, new))
            self.labels.append(new)
            self.reasons.append(reason)
        if strict:
            limit = self.settings.max_force_ev_per_ang
            refuse_senseless(np.array([new.energy]), new.forces[None], limit=limit)
        return new

    def factor(self) -> float:
        """Half-width of the 95 % interval in units of the posterior std."""
        return interval_factor([one.z_score for one in self.forecasts])

    def half_widths(
        self, surface: Surface, positions: NDArray[np.float64], origin: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return 95 % half-widths of energies relative to one geometry, eV, shape (m,).

        The noise of both labels is as wide as it was declared; only the posterior's share
        is inflated.
        """
        std = surface_std(surface, positions, origin)
        noise = NORMAL_95 * np.sqrt(2.0) * self.settings.energy_noise_ev
        return np.asarray(np.hypot(self.factor() * std, noise))

    def to_dict(self) -> dict[str, object]:
        """Return labels, reasons and forecasts as JSON-able data."""
        return {
            "labels": [one.to_dict() for one in self.labels],
            "reasons": list(self.reasons),
            "forecasts": [one.to_dict() for one in self.forecasts],
            "refusals": [one.tolist() for one in self.refusals],
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go back to what `to_dict` returned."""
        self.labels = [SurfaceLabel.from_dict(one) for one in data["labels"]]
        self.reasons = [str(one) for one in data["reasons"]]
        self.forecasts = [Forecast.from_dict(one) for one in data["forecasts"]]
        self.refusals = [np.array(one) for one in data["refusals"]]

    def _pay(self, positions: NDArray[np.float64], reason: str) -> SurfaceLabel:
        if self.refused(positions):
            raise ReferenceFailed("the reference refused this geometry before.")
        frame = self.template.copy()
        frame.set_constraint()
        frame.positions = np.array(positions)
        try:
            answer = self._label(frame, reason)
        except ReferenceCrashed:
            raise  # not the geometry's fault
        except ReferenceFailed:
            self.refusals.append(frame.positions)
            raise
        return surface_label(
            self.template,
            self.predict_many,
            frame.positions,
            energy=answer.energy,
            forces=answer.forces,
        )

    def _makes_sense(self, label: SurfaceLabel) -> bool:
        largest = float(np.linalg.norm(label.forces, axis=1).max())
        return np.isfinite(label.energy) and largest <= self.settings.max_force_ev_per_ang

    def _forecast(self, surface: Surface, new: SurfaceLabel) -> Forecast:
        """Compare a new label with what was predicted, relative to the nearest known one."""
        known = self.usable()
        distances = [np.abs(one.positions - new.positions).max() for one in known]
        origin = known[int(np.argmin(distances))]
        energies, _ = evaluate_surface(surface, np.stack([new.positions, origin.positions]))
        std = float(surface_std(surface, new.positions[None], origin.positions)[0])
        std = float(np.hypot(std, np.sqrt(2.0) * REPEATABLE_EV))
        return Forecast(
            predicted=float(energies[0] - energies[1]),
            observed=new.energy - origin.energy,
            std=std,
            half_width=self.factor() * std,
        )


class ReferenceCalculator(Calculator):
    """The reference for ASE's optimisers, through the book.

    Parameters
    ----------
    book
        Who is asked.
    reason
        Why, for the record.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces"]

    def __init__(self, book: LabelBook, reason: str) -> None:
        super().__init__()
        self.book = book
        self.reason = reason

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill energy and forces; see ASE's Calculator."""
        super().calculate(atoms, properties, system_changes)
        here = np.array(self.atoms.positions)  # type: ignore[union-attr]
        label = self.book.ask(here, self.reason, strict=False)
        self.results = {
            "energy": label.energy,
            "free_energy": label.energy,
            "forces": label.forces.copy(),
        }


def refuse_other_state(
    state: Mapping[str, Any], schema: int, starts: Sequence[NDArray[np.float64]]
) -> None:
    """Refuse the state of a driver of another version, or that began elsewhere.

    Parameters
    ----------
    state
        To go on from.
    schema
        That this version writes.
    starts
        Geometries (N, 3), A, that this driver was given.

    Raises
    ------
    InputError
        It is not a state of this driver.
    """
    if state.get("schema") != schema:
        raise InputError(
            f"the run was begun by another version (state {state.get('schema')}, wanted {schema}); "
            "start it anew in another folder, with store naming the old folder's run.h5: its "
            "labels then cost nothing again."
        )
    begun = [np.array(one) for one in state["starts"]]
    same = len(begun) == len(starts) and all(
        one.shape == two.shape and np.allclose(one, two, rtol=0.0, atol=SAME_GEOMETRY)
        for one, two in zip(begun, starts, strict=False)
    )
    if not same:
        raise InputError(
            "the run to resume began from another geometry; resume it with the structures it was "
            "started with, or give another --output."
        )


def no_committee(frames: Sequence[Atoms]) -> list[Prediction]:
    """Refuse to predict: the committee's domain does not hold this molecule.

    Raises
    ------
    PredictionFailed
        Always.
    """
    raise PredictionFailed(
        f"no committee answers for {frames[0].symbols if frames else 'nothing'}; "
        "a surface without one rests on labels alone."
    )


def surface_label(
    template: Atoms,
    predict_many: PredictMany | None,
    positions: NDArray[np.float64],
    *,
    energy: float,
    forces: NDArray[np.float64],
) -> SurfaceLabel:
    """Return a reference's answer (eV, eV/A, shape (N, 3)) beside what the committee says there.

    Without a committee what it says is zero.
    """
    here = np.array(positions)
    prior_energy, prior_forces = 0.0, np.zeros(here.shape)
    if predict_many is not None:
        said = predict_many(frames_at(template, here[None]))[0]
        prior_energy, prior_forces = said.energy, said.mean_forces
    return SurfaceLabel(
        positions=here,
        energy=energy,
        forces=np.array(forces),
        prior_energy=prior_energy,
        prior_forces=prior_forces,
    )


def of_one_conformer(
    template: Atoms, positions: NDArray[np.float64], labels: Sequence[SurfaceLabel]
) -> list[SurfaceLabel]:
    """Return the labels near a geometry (N, 3), nearest last.

    Several conformers never share a surface.  Where something is constrained only labels
    that hold the same frozen atoms at the same places are of use.
    """
    return near_path(template, positions[None], labels)


def near_path(
    template: Atoms,
    path: NDArray[np.float64],
    labels: Sequence[SurfaceLabel],
    *,
    most: int = MOST_KNOWN,
) -> list[SurfaceLabel]:
    """Return the labels, or the nearest ones, near any image of a path (B, N, 3), nearest last."""
    frozen = frozen_atoms(template)
    near = []
    for label in labels:
        away = min(distance_between(label.positions, image) for image in path)
        moved = np.abs(label.positions[frozen] - path[0][frozen]).max(initial=0.0)
        if away < CONFORMER_ANG and moved < SAME_GEOMETRY:
            near.append((away, label))
    near.sort(key=lambda pair: -pair[0])
    return [label for _, label in near[-most:]]


def constrained_forces(
    template: Atoms, positions: NDArray[np.float64], forces: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return forces after the molecule's constraints, eV/A, shape (N, 3)."""
    frame = template.copy()
    frame.positions = positions
    left = np.array(forces)
    for constraint in frame.constraints:
        constraint.adjust_forces(frame, left)
    return left


def max_force(template: Atoms, label: SurfaceLabel) -> float:
    """Return the reference's largest force on an atom after constraints, eV/A."""
    left = constrained_forces(template, label.positions, label.forces)
    return float(np.linalg.norm(left, axis=1).max())
