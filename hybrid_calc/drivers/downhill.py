"""What lies downhill from a transition state, labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.optimize import FIRE
from numpy.typing import NDArray

from hybrid_calc.correction.surface import SurfaceLabel, evaluate_surface
from hybrid_calc.drivers.labelling import (
    CONFORMER_ANG,
    LabelBook,
    ReferenceCalculator,
    max_force,
)
from hybrid_calc.drivers.saddle import (
    WALK_FMAX,
    Descent,
    Saddle,
    descend,
    judge_saddle,
    pushed,
)
from hybrid_calc.drivers.shape import bonds_of, displacement_between, distance_between
from hybrid_calc.errors import ReferenceFailed

DOWNHILL = "confirmation: downhill end"

ROUNDS = 3
"""How often both ends are sought anew on a surface that has learned the labels before."""

MAX_FMAX_EV_PER_ANG = 0.2
"""The surface walks to 0.05 eV/A; the reference may find this much there."""

MAX_ERROR_EV = 0.03
"""How far the surface may have been off at an end."""


STEP_ANG = 0.1
"""Longest step of a walk on the reference itself, A."""

MOST_STEPS = 300
"""Steps it may take."""

NEAR_SHARE = 0.3
"""A conformer belongs to an end that is nearer than this share of what lies between the ends."""

CONFORMER_FMAX = 0.005
"""A soft rotor's forces are small beside its saddle, too: between ends with the same bonds walks
on the surface go on to this force, eV/A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownhillEnd:
    """One end of the path downhill.

    Attributes
    ----------
    joins
        ``start`` or ``end`` of the step by its bonds, or ``neither``.
    energy
        The reference's energy above the start, eV.
    error
        What the surface had said minus that, eV.
    fmax
        The reference's largest force there, eV/A.
    away
        How far it is from that end of the step, A: far from it lies another conformer.  Of
        neither, from the nearer one.
    confirmed
        Whether error and force are small.
    """

    joins: str
    energy: float
    error: float
    fmax: float
    away: float
    confirmed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data."""
        return {
            "joins": self.joins,
            "energy_ev": self.energy,
            "surface_error_ev": self.error,
            "fmax_ev_per_ang": self.fmax,
            "away_ang": self.away,
            "confirmed": self.confirmed,
        }


def label_downhill_ends(
    book: LabelBook,
    saddle: SurfaceLabel,
    ends: tuple[SurfaceLabel, SurfaceLabel],
    rounds: list[dict[str, Any]],
    record: Callable[[], None],
) -> list[DownhillEnd]:
    """Walk downhill on the surface, label both ends, and again where it was wrong there.

    Parameters
    ----------
    book
        Labels of the molecule.
    saddle
        The transition state.
    ends
        Start and end of the step.
    rounds
        What was walked to before, JSON-able; added to, and taken up again by a resumed run.
    record
        Called before labels are asked.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels.
    """
    found: list[DownhillEnd] = []
    for index in range(ROUNDS):
        if index == len(rounds):
            rounds.append(_walk(book, saddle, ends))
            record()
        walked = rounds[index]
        found = [
            _judge(book, np.array(positions), said, ends)
            for positions, said in zip(walked["positions"], walked["energies"], strict=True)
        ]
        if all(one.confirmed for one in found):
            break
    return found


def descend_on_reference(
    book: LabelBook,
    saddle: Saddle,
    reason: str,
    arrived: Callable[[SurfaceLabel], bool],
    *,
    most_labels: int = 2 * MOST_STEPS,
) -> list[Descent]:
    """Walk downhill on the reference itself from both sides of a saddle.

    The same saddle gives the same walks, so that one that was killed repeats its steps, whose
    labels are known, and goes on.

    Parameters
    ----------
    book
        Labels of the molecule; asked for every force.
    saddle
        Where to start.
    reason
        For the record.
    arrived
        Tells whether a label ends its walk.
    most_labels
        That both walks may take together, those known before apart.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels, or a walk that does not end.
    """
    spent_before, walks = book.asked, []
    for start in pushed(saddle):
        left = most_labels - (book.asked - spent_before)
        walks.append(walk_downhill(book, start, reason, arrived, most_labels=left))
    return [Descent(walked=np.array([saddle.positions, *walked]), unsure=False) for walked in walks]


def walk_downhill(
    book: LabelBook,
    start: NDArray[np.float64],
    reason: str,
    arrived: Callable[[SurfaceLabel], bool],
    *,
    most_labels: int = MOST_STEPS,
) -> list[NDArray[np.float64]]:
    """Follow the reference's forces; return where it went from the start (N, 3), A, on.

    Labels known before do not count among `most_labels`.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels, or a walk that does not end.
    """
    frame = book.template.copy()
    frame.set_positions(start, apply_constraint=False)
    frame.calc = ReferenceCalculator(book, reason)
    walked: list[NDArray[np.float64]] = []
    asked_before = book.asked
    # It follows the forces: steps by curvature were seen to leap over a shallow minimum.
    for _ in FIRE(frame, logfile=None, maxstep=STEP_ANG).irun(fmax=0.0, steps=MOST_STEPS):
        walked.append(np.array(frame.positions))
        label = book.find(frame.positions)
        if label is not None and arrived(label):
            return walked
        if book.asked - asked_before >= most_labels:
            break
    raise ReferenceFailed(f"a walk downhill did not end in {len(walked)} steps.")


def missing_of(found: list[DownhillEnd]) -> str:
    """Return what the labels leave open; empty where they confirm both ends."""
    if sorted(one.joins for one in found) != ["end", "start"]:
        joined = " and ".join(one.joins for one in found)
        return f"labelled, the paths downhill from the transition state end in {joined}"
    worst = max(found, key=lambda one: abs(one.error))
    if not all(one.confirmed for one in found):
        return (
            f"the surface was {worst.error:+.3f} eV off at an end downhill, where the reference's "
            f"largest force is {worst.fmax:.2f} eV/A"
        )
    return ""


def _walk(
    book: LabelBook, saddle: SurfaceLabel, ends: tuple[SurfaceLabel, SurfaceLabel]
) -> dict[str, Any]:
    surface = book.surface()
    judged = judge_saddle(book.template, surface, saddle.positions, inflation=1.0)
    fmax = walk_fmax(book.template.numbers, ends)
    walks = [descend(book.template, surface, start, fmax=fmax) for start in pushed(judged)]
    positions = np.array([one.positions for one in walks])
    energies, _ = evaluate_surface(surface, positions)
    return {"positions": positions.tolist(), "energies": energies.tolist()}


def _judge(
    book: LabelBook,
    positions: NDArray[np.float64],
    said: float,
    ends: tuple[SurfaceLabel, SurfaceLabel],
) -> DownhillEnd:
    label = book.ask(positions, DOWNHILL)
    error, fmax = said - label.energy, max_force(book.template, label)
    joins = side_of(book.template.numbers, positions, ends)
    near = {"start": ends[:1], "end": ends[1:]}.get(joins, ends)
    return DownhillEnd(
        joins=joins,
        away=min(apart(positions, one.positions) for one in near),
        energy=label.energy - ends[0].energy,
        error=error,
        fmax=fmax,
        confirmed=abs(error) <= MAX_ERROR_EV and fmax <= MAX_FMAX_EV_PER_ANG,
    )


def apart(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return how far two geometries (N, 3) are from each other, A.

    By distances and, since those of mirror images are equal, by superposition.
    """
    return max(distance_between(one, two), displacement_between(one, two))


def same_bonds(numbers: NDArray[np.int_], ends: tuple[SurfaceLabel, SurfaceLabel]) -> bool:
    """Tell whether two minima are conformers of each other, or mirror images."""
    one, two = (bonds_of(numbers, end.positions) for end in ends)
    return one == two


def walk_fmax(numbers: NDArray[np.int_], ends: tuple[SurfaceLabel, SurfaceLabel]) -> float:
    """Return the force at which a walk on the surface between these minima ends, eV/A."""
    return CONFORMER_FMAX if same_bonds(numbers, ends) else WALK_FMAX


def side_of(
    numbers: NDArray[np.int_],
    positions: NDArray[np.float64],
    ends: tuple[SurfaceLabel, SurfaceLabel],
) -> str:
    """Return the end, ``start`` or ``end``, that a geometry (N, 3), A, belongs to, or ``neither``.

    The one with the same bonds.  Two conformers have the same: then the nearer one, and only
    where it is near, which between ends that are near each other is nearer still.
    """
    bonds = bonds_of(numbers, positions)
    places = [end.positions for end in ends]
    fitting = [
        (apart(positions, place), name)
        for name, place in zip(("start", "end"), places, strict=True)
        if bonds_of(numbers, place) == bonds
    ]
    reach = min(CONFORMER_ANG, NEAR_SHARE * apart(*places))
    if len(fitting) == 2 and min(fitting)[0] > reach:
        return "neither"
    return min(fitting)[1] if fitting else "neither"
