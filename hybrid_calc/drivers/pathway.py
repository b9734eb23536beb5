"""One pathway from reactant to product: its minima, its steps, and how they are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.inflation import Forecast
from hybrid_calc.correction.surface import SurfaceLabel
from hybrid_calc.drivers.band import band_through
from hybrid_calc.drivers.barrier import ElementaryStep
from hybrid_calc.drivers.labelling import LabelBook, near_path
from hybrid_calc.drivers.means import SADDLE_EV_PER_ANG2, Means
from hybrid_calc.drivers.saddle import modes_at
from hybrid_calc.drivers.step import INTERMEDIATE, Step, Stop
from hybrid_calc.drivers.walk import curvature_along
from hybrid_calc.drivers.way import way_over
from hybrid_calc.errors import ReferenceFailed, RunInterrupted

MOST_INHERITED = 80
"""Labels of the search so far that a new step is given; its cost grows with the cube of them."""


SOFTEST = "confirmation: softest mode of an intermediate"


class _LedBackError(RunInterrupted):
    """A relaxation has taken on the bonds of a minimum that is known."""


class Pathway:
    """A way over minima and saddles, searched step by step.

    Parameters
    ----------
    means
        Of the search.
    ends
        Reactant and product.
    state
        Of one that was begun before.
    beside
        A saddle, shape (N, 3), A, along whose ridge a lower one is sought: from a place
        beside it a walk goes uphill along the reaction and downhill otherwise.  Without it
        the way is searched from end to end.

    Attributes
    ----------
    stops
        Its minima, both ends included.
    steps
        Between them; empty before `set_out`.
    missing
        Why it was given up, in words; empty so far.
    """

    def __init__(
        self,
        means: Means,
        ends: tuple[Stop, Stop],
        state: Mapping[str, Any] | None = None,
        *,
        beside: NDArray[np.float64] | None = None,
    ) -> None:
        self.means = means
        self.stops = list(ends)
        self.steps: list[Step] = []
        self.missing = ""
        self._trials: list[Stop] = []
        self._left: list[LabelBook] = []
        self._spent: list[LabelBook] = []
        self._begun: list[Mapping[str, Any]] = []
        self.beside = beside
        if state is not None:
            between, self._trials = (
                [means.stop(**one) for one in state[name]] for name in ("between", "trials")
            )
            self._spent, self._left = (
                [means.book(one) for one in state[name]] for name in ("spent", "left")
            )
            self.stops[1:1] = between
            self.missing = state["missing"]
            self.beside = None if state["beside"] is None else np.array(state["beside"])
            self._begun = list(state["steps"])

    def to_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        steps: list[Mapping[str, Any]] = [step.to_dict() for step in self.steps]
        return {
            "between": [stop.to_dict() for stop in self.stops[1:-1]],
            "steps": steps or self._begun,
            "spent": [book.to_dict() for book in self._spent],
            "trials": [trial.to_dict() for trial in self._trials],
            "left": [book.to_dict() for book in self._left],
            "missing": self.missing,
            "beside": None if self.beside is None else self.beside.tolist(),
        }

    def set_out(self, path: Sequence[Atoms] = (), labels: Sequence[SurfaceLabel] = ()) -> None:
        """Begin with one step from end to end, or where a run was stopped.

        Parameters
        ----------
        path
            Geometries that the first band is led through.
        labels
            Of other pathways.
        """
        if not self._begun:
            path = path if self.beside is None else [self.means.frame(self.beside)]
            self.steps = [self._step(self.stops[0], self.stops[-1], path, labels)]
            if self.beside is not None:
                self.steps[0].along_ridge(self.beside)
            return
        for stop in self.stops[1:-1]:
            self.means.relax(stop)
        for pair, state in zip(pairwise(self.stops), self._begun, strict=True):
            between = [self.means.frame(one) for one in state["path"]]
            self.steps.append(self._step(*pair, between))
            self.steps[-1].restore(state)

    def settle(self) -> None:
        """Conclude again what was concluded of one that is not taken up again."""
        for step in self.steps:
            step.settle()

    @property
    def unfinished(self) -> Step | None:
        """The first step that is not finished."""
        return next((step for step in self.steps if not step.finished), None)

    @property
    def confirmed(self) -> bool:
        """Whether everything holds that is checked, for every step."""
        return not self.missing and all(step.confirmed for step in self.steps)

    @property
    def height(self) -> float:
        """Energy of its highest saddle or intermediate so far, eV; minus infinity without one.

        A saddle that is being confirmed counts: a pathway over it is no lower.
        """
        confirming = [step.progress.phase == "confirm" for step in self.steps]
        tops = [
            step.search.saddle_label() if at_saddle else step.finish.label
            for step, at_saddle in zip(self.steps, confirming, strict=True)
        ]
        energies = [stop.minimum.atoms.get_potential_energy() for stop in self.stops[1:-1]]
        energies += [top.energy for top in tops if top is not None]
        return max(energies, default=-np.inf)

    @property
    def led_over(self) -> float:
        """Energy of its highest saddle, eV, confirmed or not; infinity where a step has none."""
        labels = [step.finish.label or step.search.saddle_label() for step in self.steps]
        known = [one.energy for one in labels if one is not None]
        shelves = sum(step.progress.shelf is not None for step in self.steps)
        return max(known) if known and len(known) + shelves >= len(labels) else np.inf

    @property
    def left_labels(self) -> list[SurfaceLabel]:
        """Labels of minima that are not on the way."""
        return [label for book in self._left for label in book.labels]

    @property
    def top(self) -> SurfaceLabel | None:
        """Its highest confirmed saddle; None without one."""
        labels = [step.finish.label for step in self.steps if step.finish.label is not None]
        return max(labels, key=lambda one: one.energy, default=None)

    @property
    def hard(self) -> bool:
        """Whether it was so hard to find that another one may well be lower."""
        return len(self.steps) > 1 or any(step.search.hard for step in self.steps)

    @property
    def books(self) -> list[LabelBook]:
        """Labels of its steps, those that it was not led over in the end first."""
        return [*self._spent, *(step.book for step in self.steps)]

    @property
    def minima_calls(self) -> int:
        """Reference calls for minima between the ends and beside the way."""
        between = sum(stop.minimum.reference_calls for stop in self.stops[1:-1])
        return between + sum(book.asked for book in self._left)

    @property
    def minima_forecasts(self) -> list[Forecast]:
        """What surfaces had said about the labels of these."""
        between = [one for stop in self.stops[1:-1] for one in stop.minimum.forecasts]
        return between + [one for book in self._left for one in book.forecasts]

    def results(self) -> tuple[ElementaryStep, ...]:
        """Return its steps as they stand."""
        between = [f"intermediate {index + 1}" for index in range(len(self.stops) - 2)]
        names = pairwise(["reactant", *between, "product"])
        return tuple(step.result(pair) for step, pair in zip(self.steps, names, strict=True))

    def advance(self, step: Step) -> None:
        """Take one round of a step, or follow what the last one found.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            No more labels.
        """
        if step.progress.done:
            self.missing = "; ".join(step.conclude())
            return
        if not self._trials and step.progress.elsewhere is None:
            step.search.round()
            if self._left_ridge(step):
                return
            self._trials = self._leads(step)
            if not self._trials and step.progress.elsewhere is None:
                impatient = step.search.patience()
                if impatient and not step.search.off_shelf():
                    self.missing = "; ".join([*impatient, step.progress.doubt])
                return
        self.means.record()
        self._follow(step)
        if self._left_ridge(step):
            return
        if len(self.steps) > self.means.limits.max_steps:
            self.missing = f"the way has more than {self.means.limits.max_steps} steps"

    def _left_ridge(self, step: Step) -> bool:
        """Give up where a walk along a ridge has come to nothing; tell whether it has."""
        left = self.beside is not None and len(self.steps) == 1 and step.progress.phase == "search"
        if left:
            self.missing = "no other way was found along the ridge"
        return left

    def _step(
        self,
        start: Stop,
        end: Stop,
        between: Sequence[Atoms] = (),
        labels: Sequence[SurfaceLabel] = (),
    ) -> Step:
        """Return a new step; of labels known before it those near its first band."""
        means, book = self.means, self.means.book()
        ends = [stop.minimum.atoms for stop in (start, end)]
        band = band_through([ends[0], *between, ends[1]], means.settings.images)
        book.know(near_path(means.template, band, means.known))
        book.know(near_path(means.template, band, labels, most=MOST_INHERITED))
        return Step(
            start, end, book, means.settings, means.limits, path=between, record=means.record
        )

    def _step_over(
        self, pair: tuple[Stop, Stop], saddle: SurfaceLabel | None, labels: Sequence[SurfaceLabel]
    ) -> Step:
        """Return a new step, which has its saddle already where that was found."""
        if saddle is None:
            return self._step(*pair, labels=labels)
        step = self._step(*pair, [self.means.frame(saddle.positions)], labels)
        step.at_saddle(saddle)
        return step

    def _leads(self, step: Step) -> list[Stop]:
        """Return where minima that the way leads over may lie, to be relaxed."""
        known = {stop.bonds for stop in self.stops}
        if step.progress.elsewhere is None:
            label = step.search.third_structure(known)
            places = [] if label is None else [label.positions.tolist()]
        else:
            ends = step.progress.elsewhere
            places = [one for one in ends if self.means.bonds(np.array(one)) not in known]
        step.progress.tried += places
        return [self.means.stop(INTERMEDIATE, one) for one in places]

    def _follow(self, step: Step) -> None:
        """Relax what may lie on the way, and lead the way over it."""
        for trial in self._trials:
            # What the reference refuses is no lead.
            with suppress(ReferenceFailed, _LedBackError):
                self._relax(trial)
        elsewhere, saddle = step.progress.elsewhere, step.search.saddle_label()
        places = elsewhere or [trial.atoms.positions for trial in self._trials]
        sides = [self._side(step, np.array(one)) for one in places]
        found = [trial for trial in self._trials if trial.found is not None]
        labels = [label for trial in found for label in trial.minimum.labels]
        self._trials = []
        stops = way_over(self.stops, step.start, [one for one in sides if one is not None])
        self._leave([trial for trial in found if trial not in stops])
        if stops == self.stops:
            step.turn_back(labels, joined={step.start, step.end} == set(sides))
            return
        kept = {(step.start, step.end): step for step in self.steps}
        pairs = list(pairwise(stops))
        old = [one for pair, one in kept.items() if pair not in pairs]
        labels += [label for one in old for label in one.book.labels]
        self._spent += [one.book for one in old]
        self._leave([stop for stop in self.stops if stop not in stops])
        self.stops, self.steps = stops, []
        for pair in pairs:
            over = saddle if elsewhere is not None and set(pair) == set(sides) else None
            self.steps.append(kept.get(pair) or self._step_over(pair, over, labels))

    def _relax(self, trial: Stop) -> None:
        """Relax what may be a minimum of its own; one that was cut short is no result."""
        bonds = self.means.bonds(trial.atoms.positions)
        labels = [label for step in self.steps for label in step.book.labels]

        def check(frame: Atoms) -> None:
            trial.leads_to = self._stop_with(self.means.bonds(frame.positions))
            if trial.leads_to is not None:
                raise _LedBackError(f"it leads back to the {trial.leads_to.name}")

        same = [label for label in labels if self.means.bonds(label.positions) == bonds]
        self.means.relax(trial, same, check)

    def _side(self, step: Step, positions: NDArray[np.float64]) -> Stop | None:
        """Return the minimum that a place (N, 3), A, belongs to, None where it was not found."""
        for trial in self._trials:
            if np.array_equal(trial.atoms.positions, positions):
                if trial.leads_to is not None or trial.found is None:
                    return trial.leads_to
                known = self._stop_with(trial.bonds)
                return known or (trial if self._is_minimum(step, trial) else None)
        return self._stop_with(self.means.bonds(positions))

    def _is_minimum(self, step: Step, trial: Stop) -> bool:
        """Tell whether it was found and is no saddle that symmetry kept it on.

        Where the surface says that it is one a label along that mode decides: from a few labels
        of a walk downhill it was seen to be wrong.
        """
        if not trial.minimum.confirmed or trial.state is None:
            return False
        book, here = self.means.book(trial.state["book"]), trial.minimum.atoms.positions
        labels = [label for step in self.steps for label in step.book.labels]
        book.know(near_path(self.means.template, here[None], labels))
        curvatures, modes = modes_at(self.means.template, book.surface(), here)
        if curvatures[0] > SADDLE_EV_PER_ANG2:
            return True
        label = book.find(here)
        if label is None:
            return False
        reach = self.means.limits.probe_ang
        with suppress(ReferenceFailed):
            found = curvature_along(step.book, label, modes[0], SOFTEST, step=reach)
            return found > SADDLE_EV_PER_ANG2
        return False  # what the reference refuses is no lead

    def _leave(self, stops: Sequence[Stop]) -> None:
        """Remember what relaxations cost whose minima are not on the way."""
        states = [stop.state for stop in stops if stop.state is not None]
        self._left += [self.means.book(state["book"]) for state in states]

    def _stop_with(self, bonds: frozenset[tuple[int, int]]) -> Stop | None:
        return next((stop for stop in self.stops if stop.bonds == bonds), None)
