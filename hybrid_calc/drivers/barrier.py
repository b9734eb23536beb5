"""What a barrier search is told, what it remembers and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
        How often without bringing its force down, before a band is asked again.
    margin_ev
        An image may not, within its 95 % interval, rise above the barrier by more, eV.
    collapse_ang
        A climbing image whose atoms all lie nearer to an end's, and whose distances all
        differ by less, has collapsed, A.
    collapse_ev
        So has one whose energy differs by less from the higher end's, eV.
    probe_ang
        Displacement of the largest-moving atom in a label that decides about a mode, A.
    max_breaks, max_collapses, max_detours, max_stalls, max_failures
        How often the symmetry of a path is broken, a band may fall onto an end, a saddle
        may lead elsewhere, a round may bring nothing new and the reference may fail
        before giving up.
    break_ang
        How far the middle of a band is pushed to break its symmetry, A.
    """

    max_energy_error_ev: float = 0.03
    max_barrier_change_ev: float = 0.005
    first_amplitude_ev: float = 1.0
    refine_ev_per_ang: float = 3.0
    refine_ang: float = 0.3
    max_refinements: int = 5
    margin_ev: float = 0.1
    collapse_ang: float = 0.15
    collapse_ev: float = 0.01
    probe_ang: float = 0.1
    max_breaks: int = 4
    max_collapses: int = 5
    max_detours: int = 3
    max_stalls: int = 3
    max_failures: int = 12
    break_ang: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class NEBResult:
    """A barrier, what it rests on, and what is missing.

    Attributes
    ----------
    confirmed
        True only when everything the driver checks holds.
    missing
        What is missing, in words; empty when confirmed.
    barrier, reverse_barrier
        Reference energy of the transition state above reactant and product, eV; NaN
        where no climbing image was labelled.
    interval
        95 % interval of ``barrier``, eV.
    reaction_energy
        Product minus reactant, eV.
    transition_state
        Positions of the labelled climbing image, shape (N, 3), A, or None.
    transition_fmax
        The reference's largest force there, eV/A.
    curvatures
        The two lowest of the surface there, eV/A^2.
    path
        Positions of the last band, shape (B, N, 3), A.
    path_energies, path_half_widths
        Relative to the reactant, eV, shape (B,); half-widths of 95 %.
    labelled_images
        Images of the last band that carry a label.
    end_calls, interior_labels, confirmation_labels
        Reference calls: both ends, between them, and those that only confirm.
    forecasts
        What the surface had said about each label before it was asked.
    labels
        Every label of this molecule.
    reactant, product
        The relaxed ends.
    prior
        What the last surface was built on.
    polish
        What refining the transition state on the reference came to, where it was wanted.
    downhill
        Labelled ends of the paths downhill, where they were wanted.
    """

    confirmed: bool
    missing: str
    barrier: float
    reverse_barrier: float
    interval: tuple[float, float]
    reaction_energy: float
    transition_state: NDArray[np.float64] | None
    transition_fmax: float
    curvatures: tuple[float, ...]
    path: NDArray[np.float64]
    path_energies: NDArray[np.float64]
    path_half_widths: NDArray[np.float64]
    labelled_images: tuple[int, ...]
    end_calls: int
    interior_labels: int
    confirmation_labels: int
    forecasts: tuple[Forecast, ...]
    labels: tuple[SurfaceLabel, ...]
    reactant: Atoms
    product: Atoms
    prior: str
    polish: Polish | None = None
    downhill: tuple[DownhillEnd, ...] = ()


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a round needs beside the labels; plain data.

    Attributes
    ----------
    ends
        State of the relaxations of reactant and product, once begun.
    phase
        ``search`` a band, ``refine`` its climbing image, ``confirm`` it.
    last
        Reason of the last label between the ends.
    refinements
        Labels spent on refining this climbing image since they last made progress.
    force
        The reference's force there at that time, eV/A.
    confirmations
        Rounds spent on confirming this climbing image.
    setbacks
        How often that raised the reference's force, less how often it lowered it.
    breaks, collapses, detours, failures, stalls
        How often the symmetry was broken, a band fell onto an end, a saddle led
        elsewhere, the reference failed, and a round found nothing new to ask.
    unsure
        How often a band was stopped because it was uncertain.
    push
        Mode along which bands are displaced, (N, 3), or None.
    saddle
        Positions of the climbing image that was labelled last, (N, 3), or None.
    band
        Positions of the band that was relaxed last, (B, N, 3), or None.
    curvatures
        The two lowest of the surface at the climbing image, eV/A^2; empty before they
        were judged.
    doubt
        What was missing at the end of the last round.
    done
        Whether everything was confirmed.
    """

    ends: dict[str, Any] | None = None
    phase: str = "search"
    last: str = ""
    refinements: int = 0
    force: float = 0.0
    confirmations: int = 0
    setbacks: int = 0
    breaks: int = 0
    collapses: int = 0
    detours: int = 0
    failures: int = 0
    stalls: int = 0
    unsure: int = 0
    push: list[list[float]] | None = None
    saddle: list[list[float]] | None = None
    band: list[list[list[float]]] | None = None
    curvatures: list[float] = field(default_factory=list)
    doubt: str = "no band was relaxed yet"
    done: bool = False
