"""The rounds of a barrier search: search a band, refine its climbing image, confirm it.

Every round fits one surface to all labels, works on that surface alone and asks for at most
a few labels.  A round depends on nothing but the labels and a few counters, so a run that
was killed goes on from them.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel, frames_at
from hybrid_calc.drivers.asker import WIDEST, Asker
from hybrid_calc.drivers.bands import Bands, BandThrough
from hybrid_calc.drivers.barrier import SearchLimits
from hybrid_calc.drivers.confirm import SaddleCheck
from hybrid_calc.drivers.labelling import CONFORMER_ANG, NORMAL_95, LabelBook, max_force
from hybrid_calc.drivers.progress import Progress
from hybrid_calc.drivers.saddle import (
    Saddle,
    judge_saddle,
    polish_saddle,
    surface_hessian,
)
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import (
    bonds_of,
    distance_between,
)
from hybrid_calc.drivers.walk import labelled_hessian, next_uphill
from hybrid_calc.errors import ReferenceFailed

FEW_INSIDE = 2
"""With fewer labels between the ends the amplitude is not taken from labels alone."""

BOLDER_AFTER = 4
"""After so many stops of uncertain bands the limits have doubled, and so on."""

PATIENT_CONFIRMATIONS = 1
"""After so many rounds about one saddle its band is led along the ways downhill from it."""

DECISIVE_CONFIRMATIONS = 6
"""After so many the reference itself is followed downhill, and after"""

MOST_RESTLESS = 1
"""so many bands through the climbing image that did not come to rest."""

PROGRESS = 0.7
"""Refining goes on as long as it brings the reference's force down to this part."""

RIDGE = "acquisition: Hessian of a saddle"
CLIMBING = "acquisition: climbing image"


class BarrierSearch:
    """Rounds on one molecule whose ends are labelled minima.

    Parameters
    ----------
    template
        The molecule with its constraints.
    book
        Its labels, those of both ends among them.
    settings
        Targets of the user.
    limits
        What the search holds itself to beside them.
    progress
        Counters, changed by every round.
    ends
        Labels of reactant and product.
    inner
        Whether they are minima between the user's ends.
    through
        Interpolates bands between them.
    start
        Band of the first round, shape (B, N, 3), A.
    """

    def __init__(
        self,
        template: Atoms,
        book: LabelBook,
        settings: NebSettings,
        progress: Progress,
        *,
        limits: SearchLimits,
        ends: tuple[SurfaceLabel, SurfaceLabel],
        inner: tuple[bool, bool],
        through: BandThrough,
        start: NDArray[np.float64],
    ) -> None:
        self.template = template
        self.book = book
        self.settings = settings
        self.progress = progress
        self.limits = limits
        self.ends = ends
        self.inner = inner
        self.start = start
        self._asker = Asker(book, progress)
        self._bands = Bands(
            book, progress, settings, limits, ends=ends, through=through, start=start
        )
        self._check = SaddleCheck(book, progress, settings, limits, ends=ends, ask=self._asker.ask)

    @property
    def last_positions(self) -> NDArray[np.float64]:
        """Band that was relaxed last, shape (B, N, 3), A."""
        return self._bands.last_positions

    def round(self) -> None:
        """Fit, work on the frozen surface, ask.

        Where the reference gives no label that counts as a failure, of which there may be a few.

        Raises
        ------
        BudgetExhausted, RunInterrupted
            No more labels.
        """
        try:
            self._round()
        except ReferenceFailed as error:
            self.progress.failures += 1
            self.progress.phase = "search"  # the same round would ask the same again
            self.progress.doubt = f"the reference gave no label: {error}"

    def _round(self) -> None:
        inside = sum(reason != "known" for reason in self.book.reasons)
        # Labels at the ends say little about the middle: assume the worst until told.
        floor = self.limits.first_amplitude_ev if inside < FEW_INSIDE else 0.0
        surface = self.book.surface(min_amplitude_ev=floor)
        label = self.saddle_label()
        if self.progress.phase == "refine" and label is not None:
            self._refine(surface, label)
        elif self.progress.phase == "ridge":
            self._along_ridge()
        elif self.progress.phase == "walk":
            self._walk(surface)
        elif self.progress.phase == "confirm" and label is not None:
            self._confirm(surface, label)
        else:
            self._search(surface)

    def judged(self, surface: Surface, label: SurfaceLabel, here: NDArray[np.float64]) -> Saddle:
        """Count the negative modes at a stationary point; see `SaddleCheck.judged`."""
        return self._check.judged(surface, label, here)

    def top_on_surface(self) -> float:
        """Return the highest energy of the first band, relaxed on the surface, eV."""
        return self._bands.top(self.book.surface())

    def saddle_label(self) -> SurfaceLabel | None:
        """Return the label of the climbing image, if one was labelled."""
        known = self.progress.saddle
        return None if known is None else self.book.find(np.array(known))

    def third_structure(self, known: Container[frozenset[tuple[int, int]]]) -> SurfaceLabel | None:
        """Return where a hard band may pass over a minimum of its own, or None.

        The lowest label whose bonds are not known, far from those tried before.
        """
        progress = self.progress
        patience = self.limits.hard_band_labels * (1 + len(progress.tried))
        searching = progress.phase in ("search", "refine")  # a walk is after one saddle
        if progress.done or not searching or self.book.asked < patience:
            return None
        tried = [np.array(one) for one in progress.tried]
        strange = [
            label
            for label in self.book.usable()
            if bonds_of(self.template.numbers, label.positions) not in known
            and all(distance_between(label.positions, one) > CONFORMER_ANG for one in tried)
        ]
        return min(strange, key=lambda one: one.energy, default=None)

    def patience(self) -> list[str]:
        """Return why the search should end, if it should."""
        progress, settings, most = self.progress, self.settings, self.limits
        # A climbing image at hand is still confirmed.
        spent = self.book.asked >= settings.max_labels and progress.phase != "confirm"
        confirming = self.book.asked_for("confirmation")
        limits = [
            (spent, f"{self.book.asked} labels were not enough"),
            (
                confirming >= settings.max_confirmation_labels,
                f"{confirming} labels were not enough to confirm it",
            ),
            (progress.breaks > most.max_breaks, "every broken symmetry led to another one"),
            (progress.collapses > most.max_collapses, "the band keeps collapsing"),
            (progress.detours > most.max_detours, "the path leads elsewhere"),
            (progress.stalls > most.max_stalls, "the surface learns nothing new"),
            (progress.failures > most.max_failures, "the reference keeps failing"),
        ]
        return [] if progress.done else [text for over, text in limits if over]

    # -- the phases ----------------------------------------------------------------

    def _search(self, surface: Surface) -> None:
        """Relax a band and label its climbing image, or the one it is least sure of."""
        most = self._boldness() * self.settings.max_std_ev
        band = self._bands.relax(surface, self._bands.displaced(), most)
        high = self._bands.may_rise(band, surface)
        if band.unsure is not None:
            self.progress.unsure += 1
            self.progress.doubt = "the surface is too uncertain along the band"
            self._ask_or_learn(band.positions, band.unsure, surface)
        elif band.top in (0, len(band.energies) - 1):
            self._collapsed(surface, "the band has no barrier between its ends")
        elif self.progress.last == CLIMBING and high is not None:
            self._ask_or_learn(band.positions, high, surface)
        else:
            here, _ = polish_saddle(self.template, surface, band.positions[band.top])
            self._try(here, surface)

    def _boldness(self) -> float:
        """Return how far limits are stretched.

        Else a hard path is learned image by image, and its top never asked.
        """
        return 1.0 + self.progress.unsure / BOLDER_AFTER

    def _refine(self, surface: Surface, label: SurfaceLabel) -> None:
        """Walk to the saddle from the climbing image labelled last, on a better surface."""
        self.progress.refinements += 1
        if self.progress.refinements > self.limits.max_refinements:
            self.progress.phase = "walk"
            self.progress.walk = [label.positions.tolist()]
            self.progress.hessian = surface_hessian(surface, label.positions).tolist()
            return
        limit = self.limits.refine_ang * 0.5**self.progress.setbacks
        here, _ = polish_saddle(self.template, surface, label.positions, max_displacement=limit)
        self._try(here, surface)

    def _along_ridge(self) -> None:
        """Begin a walk beside a saddle, along the softest mode of the ridge that it lies on.

        Surfaces were seen to know too little about directions that no band has taken.
        """
        saddle = self.book.ask(np.array(self.progress.walk[0]), RIDGE)
        hessian, modes = labelled_hessian(self.book, saddle, RIDGE, central=False)
        # The first mode leads down from the ridge.
        aside = modes[1] / np.linalg.norm(modes[1], axis=1).max()
        start = saddle.positions + self.limits.ridge_ang * aside
        self.progress.walk, self.progress.hessian = [start.tolist()], hessian.tolist()
        self.progress.phase = "walk"

    def _walk(self, surface: Surface) -> None:
        """Take one step to the saddle on the reference itself."""
        labels = [self.book.ask(np.array(one), CLIMBING) for one in self.progress.walk]
        here = next_uphill(self.template, labels, np.array(self.progress.hessian))
        if self._bands.beside_an_end(here, surface):
            self._collapsed(surface, "the climbing image fell onto an end")
            return
        label = self._asker.ask(here, CLIMBING, surface)
        if label is None:
            self.progress.phase = "search"
            return
        self.progress.walk.append(here.tolist())
        force = max_force(self.template, label)
        self.progress.doubt = f"the reference's force at the climbing image is {force:.3f} eV/A"
        if force <= self.settings.fmax_ev_per_ang:
            self.progress.saddle, self.progress.force = here.tolist(), force
            self.progress.setbacks = self.progress.refinements = 0
            self.progress.confirmations = self.progress.restless = 0
            self.progress.phase = "confirm"
        elif len(labels) >= self.limits.max_walk:
            self.progress.phase = "search"

    @property
    def hard(self) -> bool:
        """Whether no surface is believed about what the saddle joins.

        Where ways fork and minima are shallow one was seen to lead to the wrong end.
        """
        between = sum(reason.startswith("acquisition") for reason in self.book.reasons)
        return any(self.inner) or between > self.limits.hard_band_labels

    def _confirm(self, surface: Surface, label: SurfaceLabel) -> None:
        """Check on the refitted surface that the labelled saddle is the barrier's top."""
        here, found = polish_saddle(self.template, surface, label.positions)
        change = self._bands.relative(surface, here) - self._bands.relative(
            surface, label.positions
        )
        if not found or abs(change) > self.limits.max_barrier_change_ev:
            self.progress.doubt = f"the refit moved the barrier by {change:.3f} eV"
            self.progress.phase = "refine"
            return
        self.progress.confirmations += 1
        decisive = self.progress.confirmations > DECISIVE_CONFIRMATIONS
        if self.hard or decisive or self.progress.restless > MOST_RESTLESS:
            self._descend(surface, label, here)
            return
        start = self._bands.through(frames_at(self.template, here[None]))
        if self.progress.confirmations > PATIENT_CONFIRMATIONS:
            # So uncertain a path may lead elsewhere: ask what the saddle joins first.
            inflation = self.book.factor() / NORMAL_95
            saddle = judge_saddle(self.template, surface, here, inflation=inflation)
            if saddle.verdict in ("first order", "undecided"):
                ways = self._check.ways_on_surface(saddle)
                if ways is None:
                    return
                start = self._bands.over(here, ways)
        band = self._bands.relax(surface, start, self.settings.max_std_ev)
        self.progress.doubt = "the band through the climbing image is not confirmed"
        high = self._bands.may_rise(band, surface)
        beyond = float(band.energies[band.top]) - label.energy
        if band.unsure is not None:
            self._ask_or_learn(band.positions, band.unsure, surface)
        elif abs(beyond) > self.limits.max_energy_error_ev:
            self.progress.doubt = f"the band's top is {beyond:.3f} eV from the climbing image"
            self.progress.refinements = 0
            top, _ = polish_saddle(self.template, surface, band.positions[band.top])
            self._try(top, surface)
        elif high is not None:
            self._ask_or_learn(band.positions, high, surface)
        elif not band.converged:
            self.progress.doubt = "the band through the climbing image does not come to rest"
            self.progress.restless += 1
            self._asker.learn(surface, self._bands.last_positions)
        else:
            self._judge(surface, label, here)

    # -- labels -------------------------------------------------------------------------

    def _try(self, here: NDArray[np.float64], surface: Surface) -> None:
        """Label a climbing image and decide what to do next."""
        if self._bands.beside_an_end(here, surface):
            self._collapsed(surface, "the climbing image fell onto an end")
            return
        refused = self.book.refused(here)
        if refused or self.book.find(here) is not None:
            if refused:
                self.progress.doubt = "the reference gave no label at the climbing image"
            self._stalled(surface)
            return
        predicted = self._bands.relative(surface, here)
        label = self._asker.ask(here, CLIMBING, surface)
        if label is None:
            self.progress.phase = "search"
            return
        before = self.saddle_label() if self.progress.phase == "refine" else None
        error = abs(predicted - label.energy + self.ends[0].energy)
        force = max_force(self.template, label)
        if before is not None and force > max_force(self.template, before):
            # Keep the better one and trust the surface less far from it.
            self.progress.setbacks += 1
            self.progress.doubt = "refining the climbing image raised the reference's force"
            return
        self.progress.setbacks = max(0, self.progress.setbacks - 1)
        self.progress.saddle = label.positions.tolist()
        self.progress.confirmations = self.progress.restless = 0
        doubts = []
        if force > self.settings.fmax_ev_per_ang:
            doubts.append(f"the reference's force at the climbing image is {force:.3f} eV/A")
        if error > self.limits.max_energy_error_ev:
            doubts.append(f"the surface was {error:.3f} eV off at the climbing image")
        self.progress.doubt = "; ".join(doubts) or "the climbing image is not confirmed yet"
        if self.progress.phase == "search":
            self.progress.setbacks = 0
        if self.progress.phase == "search" or force < PROGRESS * self.progress.force:
            self.progress.refinements = 0
            self.progress.force = force
        near = force < self._boldness() * self.limits.refine_ev_per_ang
        self.progress.phase = "confirm" if not doubts else "refine" if near else "search"

    def _judge(self, surface: Surface, label: SurfaceLabel, here: NDArray[np.float64]) -> None:
        """Ask for exactly one negative mode, and for the ends it leads to."""
        saddle = self._first_order(surface, label, here)
        if saddle is not None and self._check.ways_on_surface(saddle) is not None:
            self.progress.done, self.progress.doubt = True, ""

    def _descend(self, surface: Surface, label: SurfaceLabel, here: NDArray[np.float64]) -> None:
        """Let the reference itself decide what the climbing image joins."""
        saddle = self._first_order(surface, label, here)
        if saddle is None:
            return
        ways = self._check.ways_on_reference(saddle, label)
        if ways is not None:
            self.progress.band = self._bands.over(here, ways).tolist()
            self.progress.done, self.progress.doubt = True, ""

    def _first_order(
        self, surface: Surface, label: SurfaceLabel, here: NDArray[np.float64]
    ) -> Saddle | None:
        """Return the saddle if exactly one of its modes is negative; else say where to go on."""
        saddle = self.judged(surface, label, here)
        if saddle.verdict == "first order":
            return saddle
        if saddle.verdict == "no saddle":
            self.progress.doubt = "the climbing image has no clearly negative mode"
            self._stalled(surface)
            return None
        self.progress.breaks += 1
        self.progress.push = saddle.modes[1].tolist()
        self.progress.last, self.progress.phase = "", "search"
        self.progress.doubt = "the climbing image has two negative modes"
        return None

    # -- what is not asked again ---------------------------------------------------------

    def _ask_or_learn(self, band: NDArray[np.float64], image: int, surface: Surface) -> None:
        """Label an image of a band; of one that was refused the least known other one."""
        if self.book.refused(band[image]):
            self.progress.doubt = "the reference gave no label where the band is least certain"
            self.progress.stalls += not self._asker.learn(surface, band)
        else:
            self._asker.ask(band[image], WIDEST, surface)

    def _collapsed(self, surface: Surface, doubt: str) -> None:
        self.progress.doubt, self.progress.phase = doubt, "search"
        if not self.off_shelf():
            self.progress.collapses += 1
            self._asker.learn(surface, self._bands.last_positions)

    def off_shelf(self) -> bool:
        """Go down from a shallow minimum between the user's ends; return whether that led on.

        Where a band collapses, and before a step is given up whose bands never did; once.

        Raises
        ------
        BudgetExhausted, RunInterrupted
            No more labels.
        """
        high = int(np.argmax([end.energy for end in self.ends]))
        if not self.inner[high] or self.progress.off_shelf:
            return False
        self.progress.off_shelf = True
        found = self._check.off_shelf(self.last_positions[-2 if high else 1], high)
        if found is None:
            return self.progress.elsewhere is not None
        between = found.way.spread(self.settings.images - 2)
        between = between[::-1] if high else between
        self.progress.band = self._bands.through(frames_at(self.template, between)).tolist()
        self.progress.shelf = found.rise
        self.progress.done, self.progress.doubt = True, ""
        return True

    def _stalled(self, surface: Surface) -> None:
        self.progress.stalls += 1
        self.progress.phase = "search"
        self._asker.learn(surface, self._bands.last_positions)
