"""A barrier confirmed by the reference: one surface per band, labels where they decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.correction.surface import (
    PredictMany,
    SurfaceLabel,
    evaluate_surface,
    refuse_periodic,
)
from hybrid_calc.drivers.band import idpp_band
from hybrid_calc.drivers.barrier import NEBResult, Progress, SearchLimits
from hybrid_calc.drivers.ends import check_ends, refuse_other_fixed_atoms
from hybrid_calc.drivers.finish import Finish
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.labelling import (
    NO_MORE_LABELS,
    AskReference,
    LabelBook,
    max_force,
    near_path,
)
from hybrid_calc.drivers.polish import require_sella
from hybrid_calc.drivers.relax import HybridRelax, RelaxResult, SaveState
from hybrid_calc.drivers.search import BarrierSearch
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import distance_between, turn_onto
from hybrid_calc.errors import ReferenceFailed
from hybrid_calc.reference.label import Label

SAME_END_ANG = 0.05
"""A frame of a user's path whose distances differ by less from an end's is that end, A."""

SAME_IMAGE_ANG = 1e-3
"""An image whose distances differ by less from a label's carries that label, A."""


class HybridNEB:
    """Find a barrier on committee plus corrections until the reference confirms it.

    Parameters
    ----------
    reactant, product
        The ends, atoms in the same order; not changed.  Constraints, charge and
        multiplicity of the reactant hold for both.
    predict_many
        The committee; None where this molecule is outside its domain.
    label
        The reference.
    settings
        Targets.
    limits
        What the search holds itself to beside them.
    path
        Geometries between the ends, or one guess of the transition state; interpolated
        where empty.
    known
        Labels of this molecule from before, all at the same level.
    save
        Called with the state after every label of an end and after every round.
    """

    def __init__(
        self,
        reactant: Atoms,
        product: Atoms,
        predict_many: PredictMany | None,
        label: AskReference,
        settings: NebSettings | None = None,
        *,
        limits: SearchLimits | None = None,
        path: Sequence[Atoms] = (),
        known: Sequence[SurfaceLabel] = (),
        save: SaveState | None = None,
    ) -> None:
        refuse_periodic(reactant)
        check_ends(reactant, product)
        refuse_other_fixed_atoms(reactant, [product, *path])
        self.settings = settings or NebSettings()
        self.limits = limits or SearchLimits()
        self.reactant = reactant.copy()
        self.product = product.copy()
        self.product.set_constraint(self.reactant.constraints)
        self.product.info = dict(self.reactant.info)
        self.path = [one for one in path if not _is_an_end(one, (reactant, product))]
        self.known = list(known)
        self.book = LabelBook(reactant, predict_many, label, settings=self.settings.process)
        self.progress = Progress()
        self._label = label
        self._save = save
        self._begun: dict[str, Any] = {}
        self._finish = Finish(self.book, self.settings, self._begun, self._record)
        if self.settings.polish == "sella":
            require_sella()

    @classmethod
    def from_calculator(
        cls,
        reactant: Atoms,
        product: Atoms,
        calculator: HybridHandle,
        settings: NebSettings | None = None,
        *,
        path: Sequence[Atoms] = (),
        save: SaveState | None = None,
    ) -> HybridNEB:
        """Return a driver that asks a calculator's committee and reference.

        Labels that its store has of this molecule and level are used and cost nothing.
        """
        predict_many = committee_for(calculator, reactant)
        driver = cls(
            reactant, product, predict_many, calculator.label, settings, path=path, save=save
        )
        driver.known = driver.known_to(calculator)
        return driver

    def known_to(self, calculator: HybridHandle) -> list[SurfaceLabel]:
        """Return the labels near the ends and the first band that a calculator's store has."""
        ends = [self.reactant.positions, self.product.positions]
        band = band_through([self.reactant, *self.path, self.product], self.settings.images)
        return known_labels(calculator, self.reactant, ends, band)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        return {
            "schema": 1,
            "book": self.book.to_dict(),
            "progress": asdict(self.progress),
            "begun": dict(self._begun),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.book.restore(state["book"])
        self.progress = Progress(**state["progress"])
        self._begun.update(state["begun"])

    def run(self) -> NEBResult:
        """Search.

        A spent budget, a failing reference or exhausted patience ends the run with the
        best so far, not confirmed.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            An end could not be labelled even once.
        """
        ends = {
            "reactant": self._relax_end("reactant", self.reactant),
            "product": self._relax_end("product", self.product),
        }
        search = self._search_between(ends["reactant"], ends["product"])
        missing = [f"{name}: {one.missing}" for name, one in ends.items() if not one.confirmed]
        try:
            while not missing and not self.progress.done:
                search.round()
                self._record()
                missing = search.patience()
            if self.progress.done:
                label = search.saddle_label()
                if label is None:
                    raise ReferenceFailed("a confirmed transition state has no label.")
                missing = self._finish.run(label, search.ends)
        except NO_MORE_LABELS as error:
            missing.append(f"the reference gave no more labels: {error}")
        if missing and self.progress.doubt:
            missing.append(self.progress.doubt)
        return self._result("; ".join(missing), ends, search)

    def _relax_end(self, name: str, atoms: Atoms) -> RelaxResult:
        def save(state: Mapping[str, Any]) -> None:
            self.progress.ends = {**(self.progress.ends or {}), name: dict(state)}
            self._record()

        def label(frame: Atoms, reason: str) -> Label:
            return self._label(frame, f"{name}: {reason}")

        driver = HybridRelax(
            atoms,
            self.book.predict_many,
            label,
            self.settings.ends,
            known=self.known,
            save=save,
        )
        if self.progress.ends and name in self.progress.ends:
            driver.restore(self.progress.ends[name])
        return driver.run()

    def _search_between(self, reactant: RelaxResult, product: RelaxResult) -> BarrierSearch:
        stops = (reactant.atoms, product.atoms)

        def through(between: Sequence[Atoms]) -> NDArray[np.float64]:
            return band_through([stops[0], *between, stops[1]], self.settings.images)

        first, last = (_label_of(one) for one in (reactant, product))
        start = through(self.path)
        if not self.book.labels:
            self.book.know([*near_path(self.reactant, start, self.known)])
            self.book.know([*reactant.labels, *product.labels])
        return BarrierSearch(
            self.reactant,
            self.book,
            self.settings,
            self.progress,
            limits=self.limits,
            ends=(first, last),
            through=through,
            start=start,
        )

    def _record(self) -> None:
        if self._save is not None:
            self._save(self.state())

    def _result(
        self, missing: str, ends: Mapping[str, RelaxResult], search: BarrierSearch
    ) -> NEBResult:
        low, high = (end.energy for end in search.ends)
        label = self._finish.label or search.saddle_label()
        barrier = float("nan") if label is None else label.energy - low
        surface = self.book.surface()
        path = search.last_positions
        energies, _ = evaluate_surface(surface, path)
        wide = self.book.half_widths(surface, path, path[0])
        half = float("nan")
        if label is not None:
            half = float(self.book.half_widths(surface, label.positions[None], path[0])[0])
        reasons = self.book.reasons
        relaxed = list(ends.values())
        return NEBResult(
            confirmed=self.progress.done and not missing,
            missing=missing,
            barrier=barrier,
            reverse_barrier=barrier - (high - low),
            interval=(barrier - half, barrier + half),
            reaction_energy=high - low,
            transition_state=None if label is None else label.positions,
            transition_fmax=float("nan") if label is None else max_force(self.reactant, label),
            curvatures=tuple(self._finish.curvatures or self.progress.curvatures),
            path=path,
            path_energies=energies - low,
            path_half_widths=wide,
            labelled_images=_labelled(path, self.book.labels),
            end_calls=sum(one.reference_calls for one in relaxed),
            interior_labels=sum(reason.startswith("acquisition") for reason in reasons),
            confirmation_labels=sum(reason.startswith("confirmation") for reason in reasons),
            forecasts=(*(f for one in relaxed for f in one.forecasts), *self.book.forecasts),
            labels=tuple(self.book.labels),
            reactant=ends["reactant"].atoms,
            product=ends["product"].atoms,
            prior=surface.prior,
            polish=self._finish.polish,
            downhill=self._finish.downhill,
        )


def band_through(stops: Sequence[Atoms], count: int) -> NDArray[np.float64]:
    """Interpolate a band of count images through all stops; shape (count, N, 3), A.

    Of more stops than images an even choice is passed through.
    """
    chosen = np.linspace(0, len(stops) - 1, min(count, len(stops))).round().astype(int)
    stops = [stops[index] for index in chosen]
    marks = np.linspace(0, count - 1, len(stops)).round().astype(int)
    here, parts = stops[0].copy(), [stops[0].positions[None]]
    for stop, images in zip(stops[1:], np.diff(marks), strict=True):
        if images == 1:  # nothing between to interpolate
            free = not here.constraints
            leg = stop.positions[None]
            leg = turn_onto(stop.positions, here.positions).positions[None] if free else leg
        else:
            leg = idpp_band(here, stop, int(images) + 1)[1:]
        parts.append(leg)
        here.set_positions(leg[-1], apply_constraint=False)
    return np.concatenate(parts)


def _is_an_end(frame: Atoms, ends: Sequence[Atoms]) -> bool:
    """Tell whether a frame of a user's path repeats an end."""
    return any(distance_between(frame.positions, end.positions) < SAME_END_ANG for end in ends)


def _label_of(end: RelaxResult) -> SurfaceLabel:
    """Return the label of a relaxed end."""
    return min(end.labels, key=lambda one: float(np.abs(one.positions - end.atoms.positions).max()))


def _labelled(positions: NDArray[np.float64], labels: Sequence[SurfaceLabel]) -> tuple[int, ...]:
    """Return the images that carry a label, whatever their orientation."""
    return tuple(
        index
        for index, image in enumerate(positions)
        if any(distance_between(image, one.positions) < SAME_IMAGE_ANG for one in labels)
    )
