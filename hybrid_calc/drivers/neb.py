"""A barrier confirmed by the reference: one surface per band, labels where they decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.correction.surface import PredictMany, SurfaceLabel, refuse_periodic
from hybrid_calc.drivers.band import band_through
from hybrid_calc.drivers.barrier import NEBResult, SearchLimits
from hybrid_calc.drivers.ends import check_ends, refuse_other_fixed_atoms
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.labelling import NO_MORE_LABELS, Answer, AskReference, LabelBook, near_path
from hybrid_calc.drivers.polish import require_sella
from hybrid_calc.drivers.receipts import Receipts
from hybrid_calc.drivers.relax import HybridRelax, SaveState
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of, distance_between
from hybrid_calc.drivers.step import INTERMEDIATE, Step, Stop
from hybrid_calc.drivers.way import way_over
from hybrid_calc.errors import BudgetExhausted, HybridCalcError, ReferenceFailed, RunInterrupted

MOST_INHERITED = 80
"""Labels of the search so far that a new step is given; its cost grows with the cube of them."""

SAME_END_ANG = 0.05
"""A frame of a user's path whose distances differ by less from an end's is that end, A."""


class _LedBackError(RunInterrupted):
    """A relaxation has taken on the bonds of a minimum that is known."""


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
        Called with the state after every label and after every round.
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
        self._predict_many = predict_many
        self._label = label
        self._receipts = Receipts(label, self._keep)
        self._save = save
        self._remembered: dict[str, Any] | None = None
        self._stops = [
            Stop(name="reactant", atoms=self.reactant),
            Stop(name="product", atoms=self.product),
        ]
        self._steps: list[Step] = []
        self._begun: list[Mapping[str, Any]] = []
        self._trials: list[Stop] = []
        self._left: list[LabelBook] = []
        self._spent: list[LabelBook] = []
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
        """Return all that a resumed run needs, JSON-able.

        As it was between two rounds, with the answers that the round since then has had.
        """
        return (self._remembered or self._now()) | {"receipts": self._receipts.to_list()}

    def _now(self) -> dict[str, Any]:
        steps: list[Mapping[str, Any]] = [step.to_dict() for step in self._steps]
        return {
            "schema": 3,
            "stops": [stop.to_dict() for stop in self._stops],
            "steps": steps or self._begun,
            "spent": [book.to_dict() for book in self._spent],
            "trials": [trial.to_dict() for trial in self._trials],
            "left": [book.to_dict() for book in self._left],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self._stops, self._trials = (
            [self._stop(**one) for one in state[name]] for name in ("stops", "trials")
        )
        self._spent, self._left = (
            [self._book(one) for one in state[name]] for name in ("spent", "left")
        )
        self._begun = list(state["steps"])
        self._receipts.restore(state["receipts"])

    def run(self) -> NEBResult:
        """Search.

        A spent budget, a failing reference or exhausted patience ends the run with the
        best so far, not confirmed.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            An end could not be labelled even once.
        """
        for stop in self._stops:
            self._relax(stop)
        self._set_out()
        self._remembered = self._now()
        ends = [(stop.name, stop.minimum) for stop in self._stops]
        missing = [f"{name}: {found.missing}" for name, found in ends if not found.confirmed]
        try:
            while not missing and (step := self._unfinished()) is not None:
                missing = self._advance(step)
                self._record()
        except NO_MORE_LABELS as error:
            missing.append(f"the reference gave no more labels: {error}")
        if missing and (step := self._unfinished()) is not None and step.progress.doubt:
            missing.append(step.progress.doubt)
        return self._result("; ".join(missing))

    def _relax(self, stop: Stop) -> None:
        """Relax, as far as labels go; a trial that was cut short is no result.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            There was not one label, or not enough for a trial.
        """
        ended: list[HybridCalcError] = []

        def save(state: Mapping[str, Any]) -> None:
            stop.state = dict(state)
            self._remember()

        def label(frame: Atoms, reason: str) -> Answer:
            if stop in self._trials:
                stop.leads_to = self._stop_with(self._bonds(frame.positions))
                if stop.leads_to is not None:
                    raise _LedBackError(f"it leads back to the {stop.leads_to.name}")
            try:
                return self._label(frame, f"{stop.name}: {reason}")
            except (BudgetExhausted, RunInterrupted) as error:
                ended.append(error)
                raise

        driver = HybridRelax(
            stop.atoms,
            self._predict_many,
            label,
            self.settings.ends,
            known=[*self.known, *self._with_bonds_of(stop)],
            save=save,
        )
        if stop.state is not None:
            driver.restore(stop.state)
        stop.found = driver.run()
        stop.state = driver.state()  # without a label of its own nothing was saved
        if ended and stop in self._trials:
            raise ended[0]

    def _set_out(self) -> None:
        """Begin with one step from end to end, or where a run was stopped."""
        if not self._begun:
            self._steps = [self._step(self._stops[0], self._stops[1], self.path)]
            return
        for pair, state in zip(pairwise(self._stops), self._begun, strict=True):
            between = [self._frame(one) for one in state["path"]]
            self._steps.append(self._step(*pair, between))
            self._steps[-1].restore(state)

    def _step(
        self,
        start: Stop,
        end: Stop,
        between: Sequence[Atoms] = (),
        labels: Sequence[SurfaceLabel] = (),
    ) -> Step:
        """Return a new step; of labels known before it those near its first band."""
        book = self._book()
        ends = [stop.minimum.atoms for stop in (start, end)]
        band = band_through([ends[0], *between, ends[1]], self.settings.images)
        book.know(near_path(self.reactant, band, self.known))
        book.know(near_path(self.reactant, band, labels, most=MOST_INHERITED))
        return Step(start, end, book, self.settings, self.limits, path=between, record=self._record)

    def _step_over(
        self, pair: tuple[Stop, Stop], saddle: SurfaceLabel | None, labels: Sequence[SurfaceLabel]
    ) -> Step:
        """Return a new step of a way, which has its saddle already where that was found."""
        if saddle is None:
            return self._step(*pair, labels=labels)
        step = self._step(*pair, [self._frame(saddle.positions)], labels)
        step.at_saddle(saddle)
        return step

    def _unfinished(self) -> Step | None:
        return next((step for step in self._steps if not step.finished), None)

    def _advance(self, step: Step) -> list[str]:
        """Take one round of a step or follow what the last one found; return what ends the run."""
        if step.progress.done:
            return step.conclude()
        if not self._trials and step.progress.elsewhere is None:
            step.search.round()
            self._trials = self._leads(step)
            if not self._trials and step.progress.elsewhere is None:
                return step.search.patience()
        self._record()
        self._follow(step)
        if len(self._steps) > self.limits.max_steps:
            return [f"the way has more than {self.limits.max_steps} steps"]
        return []

    def _leads(self, step: Step) -> list[Stop]:
        """Return where minima that the way leads over may lie, to be relaxed."""
        known = {stop.bonds for stop in self._stops}
        if step.progress.elsewhere is None:
            label = step.search.third_structure(known)
            places = [] if label is None else [label.positions.tolist()]
        else:
            ends = step.progress.elsewhere
            places = [one for one in ends if self._bonds(np.array(one)) not in known]
        step.progress.tried += places
        return [self._stop(INTERMEDIATE, one) for one in places]

    def _follow(self, step: Step) -> None:
        """Relax what may lie on the way, and lead the way over it."""
        for trial in self._trials:
            # What the reference refuses is no lead.
            with suppress(ReferenceFailed, _LedBackError):
                self._relax(trial)
        elsewhere, saddle = step.progress.elsewhere, step.search.saddle_label()
        places = elsewhere or [trial.atoms.positions for trial in self._trials]
        sides = [self._side(np.array(one)) for one in places]
        found = [trial for trial in self._trials if trial.found is not None]
        labels = [label for trial in found for label in trial.minimum.labels]
        self._trials = []
        stops = way_over(self._stops, step.start, [one for one in sides if one is not None])
        self._leave([trial for trial in found if trial not in stops])
        if stops == self._stops:
            step.turn_back(labels, joined={step.start, step.end} == set(sides))
            return
        kept = {(step.start, step.end): step for step in self._steps}
        pairs = list(pairwise(stops))
        old = [one for pair, one in kept.items() if pair not in pairs]
        labels += [label for one in old for label in one.book.labels]
        self._spent += [one.book for one in old]
        self._leave([stop for stop in self._stops if stop not in stops])
        self._stops, self._steps = stops, []
        for pair in pairs:
            over = saddle if elsewhere is not None and set(pair) == set(sides) else None
            self._steps.append(kept.get(pair) or self._step_over(pair, over, labels))

    def _side(self, positions: NDArray[np.float64]) -> Stop | None:
        """Return the minimum that a place (N, 3), A, belongs to, None where it was not found."""
        for trial in self._trials:
            if np.array_equal(trial.atoms.positions, positions):
                if trial.leads_to is not None or trial.found is None:
                    return trial.leads_to
                known = self._stop_with(trial.bonds)
                return known or (trial if trial.found.confirmed else None)
        return self._stop_with(self._bonds(positions))

    def _with_bonds_of(self, stop: Stop) -> list[SurfaceLabel]:
        """Return the labels of the search that have the bonds a relaxation starts with."""
        labels = [label for step in self._steps for label in step.book.labels]
        bonds = self._bonds(stop.atoms.positions)
        return [label for label in labels if self._bonds(label.positions) == bonds]

    def _leave(self, stops: Sequence[Stop]) -> None:
        """Remember what relaxations cost whose minima are not on the way."""
        self._left += [self._book(stop.state["book"]) for stop in stops if stop.state is not None]

    def _stop_with(self, bonds: frozenset[tuple[int, int]]) -> Stop | None:
        return next((stop for stop in self._stops if stop.bonds == bonds), None)

    def _book(self, state: Mapping[str, Any] | None = None) -> LabelBook:
        book = LabelBook(
            self.reactant, self._predict_many, self._receipts, settings=self.settings.process
        )
        if state is not None:
            book.restore(state)
        return book

    def _frame(self, positions: ArrayLike) -> Atoms:
        frame: Atoms = self.reactant.copy()
        frame.set_positions(positions, apply_constraint=False)
        return frame

    def _stop(
        self,
        name: str,
        start: ArrayLike,
        state: dict[str, Any] | None = None,
    ) -> Stop:
        return Stop(name=name, atoms=self._frame(start), state=state)

    def _bonds(self, positions: NDArray[np.float64]) -> frozenset[tuple[int, int]]:
        return bonds_of(self.reactant.numbers, positions)

    def _record(self) -> None:
        """Remember where the search is between two rounds."""
        self._receipts.forget([step.book for step in self._steps])
        self._remember()

    def _remember(self) -> None:
        self._remembered = self._now()
        self._keep()

    def _keep(self) -> None:
        if self._save is not None:
            self._save(self.state())

    def _result(self, missing: str) -> NEBResult:
        between = [f"intermediate {index + 1}" for index in range(len(self._stops) - 2)]
        names = pairwise(["reactant", *between, "product"])
        steps = [step.result(pair) for step, pair in zip(self._steps, names, strict=True)]
        minima = [stop.minimum for stop in self._stops]
        books = [*self._spent, *(step.book for step in self._steps)]
        reasons = [reason for book in books for reason in book.reasons]
        labels = {one.positions.tobytes(): one for book in books for one in book.labels}
        return NEBResult(
            confirmed=not missing and all(step.confirmed for step in steps),
            missing=missing,
            steps=tuple(steps),
            end_calls=sum(one.reference_calls for one in minima)
            + sum(book.asked for book in self._left),
            interior_labels=sum(reason.startswith("acquisition") for reason in reasons),
            confirmation_labels=sum(reason.startswith("confirmation") for reason in reasons),
            forecasts=(
                *(forecast for one in minima for forecast in one.forecasts),
                *(forecast for book in [*self._left, *books] for forecast in book.forecasts),
            ),
            labels=tuple(labels.values()),
        )


def _is_an_end(frame: Atoms, ends: Sequence[Atoms]) -> bool:
    """Tell whether a frame of a user's path repeats an end."""
    return any(distance_between(frame.positions, end.positions) < SAME_END_ANG for end in ends)
