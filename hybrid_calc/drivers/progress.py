"""What a barrier search remembers between two rounds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a round needs beside the labels; plain data.

    Attributes
    ----------
    phase
        ``search`` a band, ``refine`` its climbing image on the surface, ``walk`` with it on
        the reference where that brings nothing, ``confirm`` it; ``ridge`` begins such a walk
        beside another saddle.
    last
        Reason of the last label between the ends.
    refinements
        Labels spent on refining this climbing image since they last made progress.
    force
        The reference's force there at that time, eV/A.
    confirmations, restless
        Rounds spent on confirming this climbing image, and bands through it that did not come
        to rest.
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
    off_shelf
        Whether a way down without a barrier was sought; that is done once.
    shelf
        How far the reference rises above the higher end before it goes down to the other,
        eV, where there is no saddle; else None.
    walk, hessian
        Positions of a walk on the reference, (w, N, 3), and the Hessian at the first of
        them, eV/A^2, (3N, 3N).
    elsewhere
        Where downhill from the climbing image lie minima that are not these ends, with
        labels that say so: both sides' positions, (2, N, 3), or None.
    tried
        Geometries from which a minimum between the ends was sought, (t, N, 3).
    doubt
        What was missing at the end of the last round.
    done
        Whether everything was confirmed.
    """

    phase: str = "search"
    last: str = ""
    refinements: int = 0
    force: float = 0.0
    confirmations: int = 0
    restless: int = 0
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
    off_shelf: bool = False
    shelf: float | None = None
    walk: list[list[list[float]]] = field(default_factory=list)
    hessian: list[list[float]] = field(default_factory=list)
    elsewhere: list[list[list[float]]] | None = None
    tried: list[list[list[float]]] = field(default_factory=list)
    doubt: str = "no band was relaxed yet"
    done: bool = False
