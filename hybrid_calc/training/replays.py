"""Frames of a store as a gate would have met them, to be replayed under other settings."""

from __future__ import annotations

from collections.abc import Iterable

from hybrid_calc.committee.spread import max_force_error
from hybrid_calc.flags.coverage import fingerprint_of
from hybrid_calc.gate.observation import Observation, Outcome
from hybrid_calc.gate.replay import ReplayFrame
from hybrid_calc.geometry import molecule_of
from hybrid_calc.store.record import Record


def replay_frames(records: Iterable[Record]) -> list[ReplayFrame]:
    """Return the labelled frames of a store for `hybrid_calc.gate.replay.replay`.

    Left out are rejected frames, frames the committee could not answer, and
    frames that do not say what the gate saw (imported ones, and those written
    before it was recorded).  A gated store holds what a gate chose to label:
    what a replay says about such frames does not hold for all frames.

    Parameters
    ----------
    records
        In the order in which they were written; a `FrameStore` is one.
    """
    frames = []
    roots: dict[str, str] = {}  # of each frame, the first stored one of its trajectory
    for record in records:
        identity = record.identity
        roots[identity] = roots.get(record.meta.get("parent", ""), identity)
        seen = record.meta.get("observation")
        if record.label is None or record.prediction is None or seen is None:
            continue
        atoms = record.atoms()
        named = {**seen, "molecule": molecule_of(atoms)}  # earlier versions did not name it
        observation = Observation.from_dict(named, fingerprint_of(atoms))
        outcome = Outcome(
            force_error=max_force_error(record.prediction.mean_forces, record.label.forces),
            energy_error=record.meta.get("energy_error") or 0.0,
        )
        frames.append(
            ReplayFrame(
                observation=observation,
                outcome=outcome,
                trajectory=roots[identity],
                step=record.meta.get("step", 0),
            )
        )
    return frames
