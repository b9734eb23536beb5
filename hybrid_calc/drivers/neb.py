"""A barrier confirmed by the reference: one surface per band, labels where they decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.correction.surface import PredictMany, SurfaceLabel, refuse_periodic
from hybrid_calc.drivers.band import band_through
from hybrid_calc.drivers.barrier import NEBResult, PathwayFound, SearchLimits
from hybrid_calc.drivers.ends import check_ends, refuse_other_fixed_atoms
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.labelling import NO_MORE_LABELS, AskReference, refuse_other_state
from hybrid_calc.drivers.means import Means
from hybrid_calc.drivers.pathway import Pathway
from hybrid_calc.drivers.polish import require_sella
from hybrid_calc.drivers.receipts import Receipts
from hybrid_calc.drivers.relax import SaveState
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import distance_between, frozen_atoms
from hybrid_calc.drivers.step import Stop
from hybrid_calc.errors import ReferenceFailed

SCHEMA = 7
"""Of the state to resume from."""

ASIDE = 3
"""Bands led beside the first one that are looked at when another pathway is sought."""

SAME_END_ANG = 0.05
"""A frame of a user's path whose distances differ by less from an end's is that end, A."""


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
        self._ends = (
            Stop(name="reactant", atoms=self.reactant),
            Stop(name="product", atoms=self.product),
        )
        self._pathways: list[Pathway] = []
        self._begun: list[Mapping[str, Any]] = []
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

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        InputError
            Another version wrote it, or it began from other ends.
        """
        refuse_other_state(state, SCHEMA, self._starts)
        for stop, done in zip(self._ends, state["ends"], strict=True):
            stop.state = done
        self._begun = list(state["pathways"])
        self._receipts.restore(state["receipts"])

    def run(self) -> NEBResult:
        """Search.

        Of a hard band more than one pathway is sought; the lowest one is the result.  A spent
        budget, a failing reference or exhausted patience ends the run with the best so far,
        not confirmed.

        Raises
        ------
        ReferenceFailed, BudgetExhausted, RunInterrupted
            An end could not be labelled even once.
        """
        means = self._means()
        for stop in self._ends:
            means.relax(stop)
        unfound = [stop for stop in self._ends if not stop.minimum.confirmed]
        missing = "; ".join(f"{stop.name}: {stop.minimum.missing}" for stop in unfound)
        self._pathways = [Pathway(means, self._ends, state) for state in self._begun]
        for pathway in self._pathways:
            pathway.set_out()
        if not self._pathways:
            self._pathways = [Pathway(means, self._ends)]
            self._pathways[0].set_out(self.path)
        self._remembered = self._now()
        try:
            for pathway in self._pathways:
                if pathway.missing or pathway is not self._pathways[-1]:
                    pathway.settle()
            while not missing:
                self._search(self._pathways[-1])
                another = self._another(means)
                if another is None:
                    break
                self._pathways.append(another)
                self._record()
        except NO_MORE_LABELS as error:
            missing = f"the reference gave no more labels: {error}"
            doubts = [step.progress.doubt for step in [self._pathways[-1].unfinished] if step]
            missing = "; ".join([missing, *doubts])
        return self._result(missing)

    def _search(self, pathway: Pathway) -> None:
        """Go along a pathway until it is confirmed, given up or hardly lower than one known.

        Raises
        ------
        BudgetExhausted, RunInterrupted
            No more labels.
        """
        lowest = self._lowest(self._pathways[: self._pathways.index(pathway)])
        while not pathway.missing and (step := pathway.unfinished) is not None:
            try:
                pathway.advance(step)
            except ReferenceFailed as error:
                pathway.missing = f"the reference gave no label: {error}"
            if not pathway.missing and pathway.height > lowest - self.limits.lower_ev:
                below = f"{self.limits.lower_ev:g} eV"
                pathway.missing = f"it is not lower than another one by {below}"
            self._record()

    def _another(self, means: Means) -> Pathway | None:
        """Return a pathway that is worth searching after those so far, if there is one.

        A band that was hard may well have gone the wrong way; not one that the user led.
        First where the surface sees a lower band, then along the ridge of the lowest pathway's
        highest saddle, and of those that were given up.
        """
        tried = self._pathways
        full = len(tried) == self.limits.max_pathways
        if full or self.path or not any(one.hard for one in tried):
            return None
        labels = [label for one in tried for book in one.books for label in book.labels]
        lowest = self._lowest(tried)
        led = [self._aside(means, len(tried) + number) for number in range(ASIDE)]
        bands = [[], *([one] for one in led)] if np.isfinite(lowest) else [led[:1]]
        begun = [Pathway(means, self._ends) for _ in bands]
        for pathway, path in zip(begun, bands, strict=True):
            pathway.set_out(path, labels)
        heights = [one.steps[0].search.top_on_surface() for one in begun]
        best = int(np.argmin(heights))
        if heights[best] < lowest - self.limits.lower_ev:
            return begun[best]
        walked = [one.beside.tobytes() for one in tried if one.beside is not None]
        tops = [one.top for one in tried if one.top is not None and one.top.energy <= lowest]
        tops = [one for one in tops if one.positions.tobytes() not in walked]
        if not tops:
            return None
        top = max(tops, key=lambda one: one.energy)
        pathway = Pathway(means, self._ends, beside=top.positions)
        pathway.set_out(labels=labels)
        return pathway

    def _aside(self, means: Means, number: int) -> Atoms:
        """Return a geometry beside the middle of the first band, to lead another one through."""
        band = band_through([stop.minimum.atoms for stop in self._ends], self.settings.images)
        rng = np.random.default_rng([self.settings.seed, number])
        push = rng.normal(size=band[0].shape)
        push *= self.limits.break_ang / np.linalg.norm(push, axis=1).max()
        push[frozen_atoms(self.reactant)] = 0.0
        return means.frame(band[len(band) // 2] + push)

    @staticmethod
    def _lowest(pathways: Sequence[Pathway]) -> float:
        """Return the height of the lowest pathway that is confirmed, eV; infinity without one."""
        return min((one.height for one in pathways if one.confirmed), default=float("inf"))

    def _unsettled(self, best: Pathway) -> str:
        """Say which pathway with a confirmed saddle was given up and may be lower than the best."""
        below = best.height - self.limits.lower_ev
        for one in self._pathways:
            if not one.confirmed and one.top is not None and one.height < below:
                height = one.height - self._ends[0].minimum.atoms.get_potential_energy()
                return (
                    f"another pathway, over {height:.3f} eV so far, may be lower and was given up: "
                    f"{one.missing}"
                )
        return ""

    def _means(self) -> Means:
        return Means(
            template=self.reactant,
            predict_many=self._predict_many,
            label=self._label,
            receipts=self._receipts,
            settings=self.settings,
            limits=self.limits,
            known=self.known,
            record=self._record,
            remember=self._remember,
        )

    @property
    def _starts(self) -> list[NDArray[np.float64]]:
        """Geometries (N, 3), A, that the user gave as ends."""
        return [self.reactant.positions, self.product.positions]

    def _now(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "starts": [one.tolist() for one in self._starts],
            "ends": [stop.state for stop in self._ends],
            "pathways": [one.to_dict() for one in self._pathways] or self._begun,
        }

    def _record(self) -> None:
        """Remember where the search is between two rounds."""
        self._receipts.forget([book for one in self._pathways for book in one.books])
        self._remember()

    def _remember(self) -> None:
        self._remembered = self._now()
        self._keep()

    def _keep(self) -> None:
        if self._save is not None:
            self._save(self.state())

    def _result(self, missing: str) -> NEBResult:
        confirmed = [one for one in self._pathways if one.confirmed]
        begun = min(self._pathways, key=lambda one: one.led_over)  # without any the first one
        best = min(confirmed, key=lambda one: one.height, default=begun)
        books = [book for one in self._pathways for book in one.books]
        reasons = [reason for book in books for reason in book.reasons]
        every = [label for book in books for label in book.labels]
        every += [label for one in self._pathways for label in one.left_labels]
        labels = {one.positions.tobytes(): one for one in every}
        ends = [stop.minimum for stop in self._ends]
        missing = missing or best.missing or self._unsettled(best)
        return NEBResult(
            confirmed=not missing and best.confirmed,
            missing=missing,
            steps=best.results(),
            pathways=tuple(
                PathwayFound(
                    barrier=one.height - ends[0].atoms.get_potential_energy(),
                    steps=len(one.steps),
                    confirmed=one.confirmed,
                    missing=one.missing,
                )
                for one in self._pathways
            ),
            end_calls=sum(one.reference_calls for one in ends)
            + sum(one.minima_calls for one in self._pathways),
            interior_labels=sum(reason.startswith("acquisition") for reason in reasons),
            confirmation_labels=sum(reason.startswith("confirmation") for reason in reasons),
            forecasts=(
                *(forecast for one in ends for forecast in one.forecasts),
                *(forecast for one in self._pathways for forecast in one.minima_forecasts),
                *(forecast for book in books for forecast in book.forecasts),
            ),
            labels=tuple(labels.values()),
        )


def _is_an_end(frame: Atoms, ends: Sequence[Atoms]) -> bool:
    """Tell whether a frame of a user's path repeats an end."""
    return any(distance_between(frame.positions, end.positions) < SAME_END_ANG for end in ends)
