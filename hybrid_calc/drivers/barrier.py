"""What a barrier search is told and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.inflation import Forecast
from hybrid_calc.correction.surface import SurfaceLabel
from hybrid_calc.drivers.downhill import DownhillEnd
from hybrid_calc.drivers.polish import Polish


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLimits:
    """What a barrier search holds itself to beside the user's `NebSettings`.

    Attributes
    ----------
    max_energy_error_ev
        Largest error of the surface at the climbing image, before its label, eV.
    max_barrier_change_ev
        Largest change of the barrier by the refit with that label, eV.
    first_amplitude_ev
        Smallest amplitude of the residual before there are labels between the ends, eV.
    refine_ev_per_ang
        A climbing image with a smaller reference force is refined without its band, eV/A.
    refine_ang
        How far one refinement may move it, A.
    max_refinements
        How often without bringing its force down, before it walks on the reference itself.
    max_walk
        Labels of such a walk, before a band is asked again.
    margin_ev
        An image may not, within its 95 % interval, rise above the barrier by more, eV.
    collapse_ang
        A climbing image whose atoms all lie nearer to an end's, and whose distances all
        differ by less, has collapsed, A.
    collapse_ev
        So has one whose energy differs by less from the higher end's, eV; no way that rises
        by less above a minimum between the user's ends has a barrier.
    probe_ang
        Displacement of the largest-moving atom in a label that decides about a mode, A.
    max_breaks, max_collapses, max_detours, max_stalls, max_failures
        How often the symmetry of a path is broken, a band may fall onto an end, a saddle
        may lead elsewhere, a round may bring nothing new and the reference may fail
        before giving up.
    hard_band_labels
        After so many labels a band is taken to lead over a minimum between its ends, which
        is sought where labels had bonds of neither; and after so many more once again.  What
        its saddle joins is asked of the reference, as for every step of a longer way.
    max_steps
        Elementary steps that a way may have.
    max_pathways
        Pathways that are sought where a band is hard.
    ridge_ang
        How far from a saddle a walk along its ridge begins, A.
    lower_ev
        Another one is sought where the surface sees a band lower by more, and given up where
        a saddle of it turns out not to be, eV.
    break_ang
        How far the middle of a band is pushed to break its symmetry, or to seek another
        pathway where none was confirmed, A.
    """

    max_energy_error_ev: float = 0.03
    max_barrier_change_ev: float = 0.005
    first_amplitude_ev: float = 1.0
    refine_ev_per_ang: float = 3.0
    refine_ang: float = 0.3
    max_refinements: int = 5
    max_walk: int = 30
    margin_ev: float = 0.1
    collapse_ang: float = 0.15
    collapse_ev: float = 0.01
    probe_ang: float = 0.1
    max_breaks: int = 4
    max_collapses: int = 5
    max_detours: int = 3
    max_stalls: int = 3
    max_failures: int = 12
    hard_band_labels: int = 12
    max_steps: int = 4
    max_pathways: int = 4
    ridge_ang: float = 0.4
    lower_ev: float = 0.05
    break_ang: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ElementaryStep:
    """One saddle and the two minima it joins.

    Attributes
    ----------
    start, end
        The relaxed minima, with the reference's energy and forces.
    names
        What they are called: reactant, product, intermediate 1 and so on.
    barrier
        Reference energy of the transition state above `start`, eV; NaN where no climbing
        image was labelled.  Of a barrierless step the highest label on the way.
    half_width
        Of its 95 % interval, eV.
    transition_state
        Positions of the labelled climbing image, shape (N, 3), A, or None.
    transition_fmax
        The reference's largest force there, eV/A.
    curvatures
        The two lowest of the surface there, eV/A^2.
    confirmed
        Whether everything the driver checks holds for this step.
    barrierless
        Whether the reference, followed step by step, leads from the higher minimum down to
        the other without rising by more than ``SearchLimits.collapse_ev``: that one is a
        shelf rather than a minimum, and there is no transition state.
    labels
        Reference calls between its ends, confirmation included.
    path
        Positions of the last band, shape (B, N, 3), A.
    path_energies, path_half_widths
        Relative to `start`, eV, shape (B,); half-widths of 95 %.
    labelled_images
        Images of the last band that carry a label.
    prior
        What the last surface was built on.
    polish
        What refining the transition state on the reference came to, where it was wanted.
    downhill
        Labelled ends of the paths downhill, where they were wanted.
    """

    start: Atoms
    end: Atoms
    names: tuple[str, str]
    barrier: float
    half_width: float
    transition_state: NDArray[np.float64] | None
    transition_fmax: float
    curvatures: tuple[float, ...]
    confirmed: bool
    barrierless: bool
    labels: int
    path: NDArray[np.float64]
    path_energies: NDArray[np.float64]
    path_half_widths: NDArray[np.float64]
    labelled_images: tuple[int, ...]
    prior: str
    polish: Polish | None
    downhill: tuple[DownhillEnd, ...]

    @property
    def reaction_energy(self) -> float:
        """End minus start, eV."""
        return float(self.end.get_potential_energy() - self.start.get_potential_energy())


@dataclass(frozen=True, slots=True, kw_only=True)
class PathwayFound:
    """A pathway that was sought.

    Attributes
    ----------
    barrier
        Its highest saddle or intermediate so far above the reactant, eV; of one that was given
        up a saddle that was about to be confirmed counts, too. Minus infinity without one.
    steps
        Elementary steps it was led over.
    confirmed
        Whether everything the driver checks holds for it.
    missing
        Why it was given up, in words; empty when confirmed.
    """

    barrier: float
    steps: int
    confirmed: bool
    missing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NEBResult:
    """A barrier, what it rests on, and what is missing.

    Attributes
    ----------
    confirmed
        True only when everything the driver checks holds, for every step.
    missing
        What is missing, in words; empty when confirmed.
    steps
        From reactant to product; more than one where minima were found between them.
    pathways
        All that were sought, in that order; the lowest confirmed one has these steps.
    end_calls, interior_labels, confirmation_labels
        Reference calls: all minima, between them, and those that only confirm.
    forecasts
        What the surfaces had said about each label before it was asked.
    labels
        Every label of this molecule.
    """

    confirmed: bool
    missing: str
    steps: tuple[ElementaryStep, ...]
    pathways: tuple[PathwayFound, ...]
    end_calls: int
    interior_labels: int
    confirmation_labels: int
    forecasts: tuple[Forecast, ...]
    labels: tuple[SurfaceLabel, ...]

    @property
    def reactant(self) -> Atoms:
        """The relaxed reactant."""
        return self.steps[0].start

    @property
    def product(self) -> Atoms:
        """The relaxed product."""
        return self.steps[-1].end

    @property
    def highest(self) -> ElementaryStep:
        """The step over the highest labelled saddle; the first one where there is none."""
        return self.steps[self._highest]

    @property
    def barrier(self) -> float:
        """Reference energy of the highest transition state above the reactant, eV, or NaN."""
        return float(self._starts[self._highest] + self.highest.barrier)

    @property
    def reverse_barrier(self) -> float:
        """The same above the product, eV."""
        return self.barrier - self.reaction_energy

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``barrier``, eV."""
        return self.barrier - self.highest.half_width, self.barrier + self.highest.half_width

    @property
    def reverse_interval(self) -> tuple[float, float]:
        """95 % interval of ``reverse_barrier``, eV: both ends are labels, so it is as wide."""
        low, high = self.interval
        return low - self.reaction_energy, high - self.reaction_energy

    @property
    def reaction_energy(self) -> float:
        """Product minus reactant, eV."""
        return float(sum(step.reaction_energy for step in self.steps))

    @property
    def transition_state(self) -> NDArray[np.float64] | None:
        """Positions of the highest transition state, shape (N, 3), A, or None."""
        return self.highest.transition_state

    @property
    def path(self) -> NDArray[np.float64]:
        """Positions of all bands in a row, every minimum once, shape (B, N, 3), A."""
        rest = [step.path[1:] for step in self.steps[1:]]
        return np.concatenate([self.steps[0].path, *rest])

    @property
    def path_energies(self) -> NDArray[np.float64]:
        """Of its images above the reactant, eV, shape (B,)."""
        pairs = list(zip(self._starts, self.steps, strict=True))
        rest = [start + step.path_energies[1:] for start, step in pairs[1:]]
        return np.concatenate([self.steps[0].path_energies, *rest])

    @property
    def path_half_widths(self) -> NDArray[np.float64]:
        """95 % half-widths of these, each from the start of its step, eV, shape (B,)."""
        rest = [step.path_half_widths[1:] for step in self.steps[1:]]
        return np.concatenate([self.steps[0].path_half_widths, *rest])

    @property
    def labelled_images(self) -> tuple[int, ...]:
        """Images of ``path`` that carry a label."""
        images, before = set(), 0
        for step in self.steps:
            images |= {before + index for index in step.labelled_images}
            before += len(step.path) - 1
        return tuple(sorted(images))

    @property
    def _highest(self) -> int:
        heights = self._starts + [step.barrier for step in self.steps]
        return int(np.argmax(np.where(np.isnan(heights), -np.inf, heights)))

    @property
    def _starts(self) -> NDArray[np.float64]:
        """Energies of the steps' starts above the reactant, eV."""
        return np.cumsum([0.0, *(step.reaction_energy for step in self.steps[:-1])])
