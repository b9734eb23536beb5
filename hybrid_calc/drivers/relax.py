"""A minimum confirmed by the reference, in as few reference calls as one surface allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from hybrid_calc.calculator import HybridHandle
from hybrid_calc.correction.inflation import Forecast
from hybrid_calc.correction.surface import (
    PredictMany,
    Surface,
    SurfaceCalculator,
    SurfaceLabel,
    refuse_periodic,
    surface_std,
)
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.labelling import (
    NO_MORE_LABELS,
    AskReference,
    LabelBook,
    ReferenceCalculator,
    max_force,
    of_one_conformer,
    refuse_other_state,
)
from hybrid_calc.drivers.saddle import CLEARLY_NEGATIVE, PUSH_ANG, modes_at, surface_hessian
from hybrid_calc.drivers.settings import RelaxSettings
from hybrid_calc.drivers.shape import distance_between, frozen_atoms, has_clash, part_clashes
from hybrid_calc.drivers.vibrations import Vibrations, reference_hessian, vibrations_of
from hybrid_calc.drivers.walk import curvature_along
from hybrid_calc.errors import ReferenceFailed

MAX_FAILURES = 2
"""Refused proposals before the plain optimiser takes over."""

SURFACE_SHARE = 0.04
"""The surface is relaxed to this share of the target."""

SURFACE_STEPS = 200
"""Steps per relaxation on the surface."""

PROBE_ANG = 0.1
"""Displacement of the largest-moving atom in a label that decides about a mode, A."""

AT_SADDLE_ANG = 0.05
"""A geometry is at a saddle where its distances all differ by less, A."""

SCHEMA = 3
"""Of the state to resume from."""

SURFACE_SADDLE_INVCM = 150.0
"""From here on an imaginary mode of a surface is a saddle's; softer ones may have the wrong sign
where few labels made the surface."""

SaveState = Callable[[Mapping[str, Any]], None]
"""Called with the driver's JSON-able state after every label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxResult:
    """The best geometry and whether the reference confirms it.

    Attributes
    ----------
    atoms
        With the reference's energy and forces on a single-point calculator.
    fmax
        The reference's largest force there after constraints, eV/A.
    confirmed
        True only when ``fmax`` is under the target, and the Hessian, where it was wanted, shows
        no saddle: no mode above 50i of the reference, none above 150i of the surface.
    missing
        What is missing to be confirmed, in words; empty when confirmed.
    method
        ``surface``, or ``reference`` when the plain optimiser finished the work.
    reference_calls
        Calls paid for, the confirming one included.
    prior
        What the last surface was built on, ``committee`` or ``none``.
    labels
        Every label, those known before first.
    forecasts
        What the surface had said about them.
    vibrations
        At the minimum, where they were wanted.
    """

    atoms: Atoms
    fmax: float
    confirmed: bool
    missing: str
    method: str
    reference_calls: int
    prior: str
    labels: tuple[SurfaceLabel, ...]
    forecasts: tuple[Forecast, ...]
    vibrations: Vibrations | None = None


class HybridRelax:
    """Relax on committee plus corrections until the reference itself is content.

    Parameters
    ----------
    atoms
        Where to start, with its constraints; not changed.
    predict_many
        The committee; None where this molecule is outside its domain.
    label
        The reference.
    settings
        Targets and limits.
    known
        Labels of this molecule from before; those of this conformer are used.
    save
        Called with the state after every label.
    saddle_below
        A label from before with a lower curvature is a saddle, eV/A^2; a relaxation does not end
        on it. Where the surface sees one, a label along that mode decides.
    """

    def __init__(
        self,
        atoms: Atoms,
        predict_many: PredictMany | None,
        label: AskReference,
        settings: RelaxSettings | None = None,
        *,
        known: Sequence[SurfaceLabel] = (),
        save: SaveState | None = None,
        saddle_below: float = -CLEARLY_NEGATIVE,
    ) -> None:
        refuse_periodic(atoms)
        self.settings = settings or RelaxSettings()
        self.atoms = atoms.copy()
        near = of_one_conformer(self.atoms, self.atoms.positions, known)
        self.book = LabelBook(atoms, predict_many, label, near, self.settings.process)
        self._save = save
        self._label = label
        self._failures = 0
        self._fallback: list[list[float]] | None = None
        self._method = "surface"
        self._prior = "committee"
        self._saddle_below = saddle_below
        self._saddles: list[list[list[float]]] | None = None

    @classmethod
    def from_calculator(
        cls,
        atoms: Atoms,
        calculator: HybridHandle,
        settings: RelaxSettings | None = None,
        *,
        save: SaveState | None = None,
    ) -> HybridRelax:
        """Return a driver that asks a calculator's committee and reference.

        Labels that its store has of this molecule and level are used and cost nothing.
        """
        known = known_labels(calculator, atoms, [atoms.positions])
        predict_many = committee_for(calculator, atoms)
        return cls(atoms, predict_many, calculator.label, settings, known=known, save=save)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        return {
            "schema": SCHEMA,
            "starts": [self.atoms.positions.tolist()],
            "book": self.book.to_dict(),
            "failures": self._failures,
            "method": self._method,
            "prior": self._prior,
            "fallback": self._fallback,
            "saddles": self._saddles,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        InputError
            Another version wrote it, or it began from another geometry.
        """
        refuse_other_state(state, SCHEMA, [self.atoms.positions])
        self.book.restore(state["book"])
        self._failures = int(state["failures"])
        self._method = str(state["method"])
        self._prior = str(state["prior"])
        self._fallback = state["fallback"]
        self._saddles = state["saddles"]

    def run(self) -> RelaxResult:
        """Relax.

        A spent budget or a failing reference ends the run with the best geometry
        so far, not confirmed, unless there is no label at all.

        Raises
        ------
        ReferenceFailed
            Not even the starting geometry could be labelled.
        BudgetExhausted, RunInterrupted
            There was no first label.
        """
        missing, vibrations = "", None
        try:
            if self._saddles is None:
                self._saddles = self._known_saddles()
            if self._method == "surface" and not self._relax_on_surfaces():
                self._method = "reference"
            if self._method == "reference":
                self._relax_on_reference()
            vibrations = self._vibrations()
        except NO_MORE_LABELS as error:
            if not self.book.labels:
                raise
            missing = f"the reference gave no more labels: {error}"
        return self._result(missing, vibrations)

    def _vibrations(self) -> Vibrations | None:
        """Return the vibrations at the confirmed minimum, where they are wanted."""
        best = self._confirmed()
        if best is None or self.settings.frequencies == "none":
            return None
        if self.settings.frequencies == "surface":
            return self._on_surface(best.positions)
        hessian = reference_hessian(self.atoms, best.positions, self._label)
        return vibrations_of(self.atoms, best.positions, hessian)

    def _saddle(self, vibrations: Vibrations) -> bool:
        """Tell whether frequencies show a saddle; a surface's soft ones may have the wrong sign."""
        if self.settings.frequencies == "surface":
            return bool(vibrations.frequencies.min(initial=0.0) < -SURFACE_SADDLE_INVCM)
        return vibrations.imaginary > 0

    def _on_surface(self, positions: NDArray[np.float64]) -> Vibrations:
        hessian = surface_hessian(self.book.surface(), positions)
        return vibrations_of(self.atoms, positions, hessian)

    def softest_mode(self) -> float | None:
        """Return the lowest frequency at the confirmed minimum, from the surface, 1/cm.

        It costs no label.  Where it is low or imaginary (negative), small
        forces are no sign of a minimum: a methyl group on top of its barrier
        has them, too, and the surface cannot tell so small a curvature's sign.
        None before a label confirmed anything, and for a single atom.
        """
        best = self._confirmed()
        if best is None:
            return None
        frequencies = self._on_surface(best.positions).frequencies
        return float(frequencies[0]) if len(frequencies) else None

    def _relax_on_surfaces(self) -> bool:
        """Propose, label, refit; tell whether a label confirmed a minimum."""
        if self._failures and not self.book.usable():  # killed on the way to a sensible label
            self._relax_on_reference(until_usable=True)
            self._record()
        while not self._confirmed() and self.book.asked < self.settings.max_labels:
            surface = self.book.surface()
            self._prior = surface.prior
            positions = self._propose(surface)
            if self.book.find(positions) is not None:
                return False
            if not self._ask(positions, surface):
                return False
        return self._confirmed() is not None

    def _ask(self, positions: NDArray[np.float64], surface: Surface) -> bool:
        """Label a proposal; where the reference refuses, retreat to what it knows.

        Without any sensible label plain steps on the reference lead to one.
        """
        try:
            self.book.ask(positions, "acquisition", surface)
        except ReferenceFailed:
            self._failures += 1
            if self._failures > MAX_FAILURES:
                return False
            if self.book.usable():
                self._try_retreat(0.5 * (positions + self._start()), surface)
            else:
                self._record()
                self._relax_on_reference(until_usable=True)
        self._record()
        return True

    def _try_retreat(self, positions: NDArray[np.float64], surface: Surface) -> None:
        try:
            self.book.ask(positions, "acquisition", surface)
        except ReferenceFailed:
            self._failures += 1

    def _propose(self, surface: Surface) -> NDArray[np.float64]:
        """Relax on the surface from the best label, no further than it can be trusted."""
        start = self._start()
        frame = self.atoms.copy()
        frame.set_positions(start, apply_constraint=False)
        frame.calc = SurfaceCalculator(surface)
        target = SURFACE_SHARE * self.settings.fmax_ev_per_ang
        optimiser = self._optimiser(frame)
        last = start
        for _ in optimiser.irun(fmax=target, steps=SURFACE_STEPS):
            if surface.process is None:
                # Without a label nothing bounds the committee, which may fall into a hole.
                if has_clash(frame.numbers, frame.positions):
                    return last
                last = np.array(frame.positions)
                continue
            moved = np.linalg.norm(frame.positions - start, axis=1).max()
            unsure = surface_std(surface, frame.positions[None], start)[0]
            if moved > self.settings.max_displacement_ang or unsure > self.settings.max_std_ev:
                break
        return np.array(frame.positions)

    def _relax_on_reference(self, *, until_usable: bool = False) -> None:
        """Run the plain optimiser on the reference from the best label.

        A resumed run takes the same steps again; their labels are known.
        """
        if self._fallback is None:
            self._fallback = self._start().tolist()
        frame = self.atoms.copy()
        frame.set_positions(np.array(self._fallback), apply_constraint=False)
        frame.calc = ReferenceCalculator(self.book, "fallback")
        optimiser = self._optimiser(frame)
        for _ in optimiser.irun(fmax=self.settings.fmax_ev_per_ang, steps=self.settings.steps):
            self._record()
            if until_usable and self.book.usable():
                self._fallback = None
                return

    def _optimiser(self, frame: Atoms) -> Optimizer:
        kind: type[Optimizer] = getattr(ase.optimize, self.settings.optimizer)
        return kind(frame, logfile=None, maxstep=self.settings.max_step_ang)

    def _start(self) -> NDArray[np.float64]:
        """Return the positions of the lowest usable label, or of the start without clashes.

        From a saddle that was known before it is pushed off.
        """
        usable = [one for one in self.book.usable() if not self._at_saddle(one.positions)]
        best = min(usable, key=lambda one: one.energy, default=None)
        if best is not None:
            return best.positions
        numbers, positions = self.atoms.numbers, np.array(self.atoms.positions)
        if self._at_saddle(positions):
            _, modes = modes_at(self.atoms, self.book.surface(), positions)
            away = modes[0] / np.linalg.norm(modes[0], axis=1).max()
            return np.asarray(positions + PUSH_ANG * away)
        return part_clashes(numbers, positions, frozen_atoms(self.atoms))

    def _known_saddles(self) -> list[list[list[float]]]:
        """Return where labels from before show a saddle, which no relaxation may end on.

        Those that fulfil the target of the forces; where the surface sees a mode that leads down
        one label along it decides.
        """
        target = self.settings.fmax_ev_per_ang
        still = [one for one in self.book.usable() if max_force(self.atoms, one) <= target]
        if not still:
            return []
        surface = self.book.surface()
        return [one.positions.tolist() for one in still if self._is_saddle(one, surface)]

    def _is_saddle(self, label: SurfaceLabel, surface: Surface) -> bool:
        curvatures, modes = modes_at(self.atoms, surface, label.positions)
        if not (curvatures[:1] < self._saddle_below).any():
            return False
        try:
            found = curvature_along(
                self.book, label, modes[0], "acquisition", step=PROBE_ANG, surface=surface
            )
        except ReferenceFailed:
            return True  # who cannot be asked is not believed
        return found < self._saddle_below

    def _at_saddle(self, positions: NDArray[np.float64]) -> bool:
        """Tell whether a geometry is one of these."""
        return any(
            distance_between(np.array(one), positions) < AT_SADDLE_ANG
            for one in self._saddles or ()
        )

    def _best(self) -> SurfaceLabel | None:
        return min(self.book.labels, key=lambda one: one.energy, default=None)

    def _confirmed(self) -> SurfaceLabel | None:
        """Return the lowest label whose own forces are under the target, saddles left out."""
        target = self.settings.fmax_ev_per_ang
        good = [
            one
            for one in self.book.labels
            if max_force(self.atoms, one) <= target and not self._at_saddle(one.positions)
        ]
        return min(good, key=lambda one: one.energy, default=None)

    def _record(self) -> None:
        if self._save is not None:
            self._save(self.state())

    def _result(self, missing: str, vibrations: Vibrations | None) -> RelaxResult:
        confirmed = self._confirmed()
        best = confirmed or self._best()
        if best is None:
            raise ReferenceFailed("a relaxation ended without a label; check the reference.")
        fmax = max_force(self.atoms, best)
        if not confirmed and not missing and self._at_saddle(best.positions):
            missing = "it ends at a saddle known from before; start farther from it."
        elif not confirmed and not missing:
            missing = (
                f"the reference's largest force is {fmax:.3f} eV/A after {self.book.asked} calls, "
                f"over the target {self.settings.fmax_ev_per_ang:g}; raise relax.steps."
            )
        if vibrations is not None and self._saddle(vibrations):
            missing = (
                f"{vibrations.imaginary} imaginary frequencies: a saddle, not a minimum. "
                "Displace the structure along that mode and relax again."
            )
        atoms = self.atoms.copy()
        atoms.set_positions(best.positions, apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, energy=best.energy, forces=best.forces)
        return RelaxResult(
            atoms=atoms,
            fmax=fmax,
            confirmed=confirmed is not None and not missing,
            missing=missing,
            method=self._method,
            reference_calls=self.book.asked,
            prior=self._prior,
            labels=tuple(self.book.labels),
            forecasts=tuple(self.book.forecasts),
            vibrations=vibrations,
        )
