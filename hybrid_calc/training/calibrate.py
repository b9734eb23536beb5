"""From a store to a calibration: what a committee may be trusted with, and what not.

Frames come from the store's part ``calibration``, which nothing is ever
trained on.  A frame of another part counts only where its record names this
very committee: the committee existed before the frame did.  Frames given as
training frames are left out whatever part they are in.  See
`hybrid_calc.gate.labelled` for how a gate's choice of frames is undone, and
`hybrid_calc.training.regimes` for how frames are classed.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.committee.domain import check_levels
from hybrid_calc.committee.prediction import Committee
from hybrid_calc.errors import InputError
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.regime import classes_of
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.gate.scope_entry import chosen_entries, scope_entries
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.gate.thresholds import FUSED, calibrate_regimes
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.columns import Columns
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.selection import Split, read_split
from hybrid_calc.training.evaluation import Evaluation, TrainingSet, evaluate
from hybrid_calc.training.ranges import fit_novelty, fit_ranges
from hybrid_calc.training.regimes import StoredRegimes

OLDER = "older than the committee, and not of part calibration"
CALIBRATION_PART = "calibration"
FITTING_PARTS = ("validation", "train")
"""Parts on which scores of several signals may be fitted; ``test`` is left to tests."""


class RegimesMissingWarning(UserWarning):
    """Frames were classed by regimes that the settings calibrated for do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPlan:
    """What to calibrate for.

    Attributes
    ----------
    gate
        Whose tolerances say what a bad frame is, and whose regimes frames are classed by.
    limits
        Of the flags of the runs to come.
    missed_share
        Largest share of the bad frames that may pass unasked.
    parts
        Of the store's split to calibrate with.
    signals
        Beside the force spread, that a score may use where they are shown to
        help: ``novelty``, ``second_opinion``.  None by default: over units
        not calibrated on, novelty raised the recall of the worst 5 % at 10 %
        labels by less than the 0.10 that would make it the default
        (benchmarks/gate.py).
    seed
        Of folds and bootstrap.
    label_noise
        How far labels are from the tight solution of their level, at most,
        eV/A; None where nobody measured it.
    allow_level_mismatch
        Calibrate although the committee was trained at another level of theory.
    """

    gate: GateSettings = field(default_factory=GateSettings)
    limits: FlagLimits = field(default_factory=FlagLimits)
    missed_share: float = 0.1
    parts: tuple[str, ...] = (CALIBRATION_PART,)
    signals: tuple[str, ...] = ()
    seed: int = 0
    label_noise: float | None = None
    allow_level_mismatch: bool = False


def calibrate(
    store: FrameStore,
    committee: Committee,
    plan: CalibrationPlan,
    *,
    training: Sequence[Atoms] | None = None,
    training_name: str = "",
) -> CommitteeCalibration:
    """Return what a store's frames say about a committee.

    Parameters
    ----------
    store
        Split into parts.
    committee
        To be calibrated.
    plan
        What for.
    training
        Frames that the committee was trained on, with their forces where
        known; those of part ``train`` that are older than the committee by default.
    training_name
        Where they come from, in words.

    Raises
    ------
    InputError
        The store was never split, has no such part, or holds several levels;
        a signal is not known.
    LevelMismatchError
        Its level is not the committee's.
    """
    unknown = [name for name in plan.signals if name not in FUSED]
    if unknown:
        raise InputError(f"a score can use {', '.join(FUSED)}; not {', '.join(unknown)}.")
    level, split = _level(store, committee, plan), _split(store, plan.parts)
    columns = store.columns()
    parts = np.array(split.part_of(columns), dtype=object)
    labelled = columns.numbers["labelled"].astype(bool)
    own = _own(columns, committee)
    if training is None:
        old = np.flatnonzero(labelled & (parts == "train") & ~own & ("train" not in plan.parts))
        training = [record_atoms for _, record_atoms in _training_frames(store, old)]
        training_name = f"part train of {store.path.name}" if training else ""
    known = TrainingSet(training)
    ranges = fit_ranges(training) if training else None
    novelty = fit_novelty(training, committee) if training else None

    def judge(mask: NDArray[np.bool_]) -> Evaluation:
        return evaluate(
            store,
            np.flatnonzero(mask),
            committee,
            training=known,
            novelty=novelty,
            segment_steps=split.segment_steps,
            regimes=StoredRegimes(plan.gate.regimes, plan.limits, ranges),
        )

    chosen = labelled & np.isin(parts, plan.parts)
    safe = own | (parts == CALIBRATION_PART)
    found = judge(chosen & safe)
    found.left_out[OLDER] = int((chosen & ~safe).sum())
    fitting = np.isin(parts, [name for name in FITTING_PARTS if name not in plan.parts])
    there = judge(labelled & fitting & (own | (parts == "validation"))).frames
    _warn_of_strangers(found.strangers)
    tolerances = {
        "force_tolerance": plan.gate.force_tolerance_ev_per_ang,
        "energy_tolerance": plan.gate.energy_tolerance_ev,
    }
    info = committee.info
    return CommitteeCalibration(
        card=ScopeCard(
            committee=info.identity,
            committee_name=info.name,
            level=str(level),
            entries=scope_entries(found.frames, **tolerances),
            chosen=chosen_entries(found.chosen),
            left_out=dict(+found.left_out),
            label_noise=plan.label_noise,
            **tolerances,
        ),
        level_hash=level.hash,
        missed_share=plan.missed_share,
        entries=calibrate_regimes(
            found.frames,
            there if len(there) else None,
            missed_share=plan.missed_share,
            random=np.random.default_rng(plan.seed),
            signals=plan.signals,
            **tolerances,
        ),
        ranges=ranges,
        novelty_model=novelty,
        classes=classes_of(plan.gate.regimes, plan.limits),
        training=f"{training_name}, {len(training)} frames" if training else "",
        provenance={
            "store": store.path.name,
            "parts": list(plan.parts),
            "split_seed": split.seed,
            "seed": plan.seed,
            "frames": len(found.frames),
            "frames_fitted_on": len(there),
            "version": metadata.version("hybrid_calc"),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def _level(store: FrameStore, committee: Committee, plan: CalibrationPlan) -> LevelOfTheory:
    levels = store.levels
    if len(levels) != 1:
        raise InputError(
            f"{store.path.name} holds labels of {len(levels)} levels of theory; a calibration "
            "needs those of exactly one."
        )
    if not plan.allow_level_mismatch:
        check_levels(committee.info, levels[0])
    return levels[0]


def _split(store: FrameStore, parts: Sequence[str]) -> Split:
    split = read_split(store.path)
    if split is None:
        raise InputError(
            f"{store.path.name} was never split, so nothing tells frames to calibrate with from "
            f"frames to train on; run: hybrid-calc store split {store.path}."
        )
    unknown = [part for part in parts if part not in split.parts]
    if unknown or not parts:
        raise InputError(
            f"{store.path.name} has no part {', '.join(unknown) or '(none given)'}; its parts are "
            f"{', '.join(split.parts)}."
        )
    return split


def _warn_of_strangers(strangers: Mapping[str, int]) -> None:
    if strangers:
        names = ", ".join(f"{name} ({frames} frames)" for name, frames in strangers.items())
        warnings.warn(
            f"runs of this store had regimes of their own, {names}, that the settings calibrated "
            "for do not have; their frames count for other regimes. Give the runs' settings file: "
            "hybrid-calc calibrate STORE --committee SETTINGS.yaml.",
            RegimesMissingWarning,
            stacklevel=3,
        )


def _own(columns: Columns, committee: Committee) -> NDArray[np.bool_]:
    """Return which frames were labelled while this very committee answered."""
    mark = f"({committee.info.identity})"
    named = np.array([word.endswith(mark) for word in columns.tables["committee"]], dtype=bool)
    return named[columns.places["committee"]] if len(named) else np.zeros(len(columns), dtype=bool)


def _training_frames(store: FrameStore, places: NDArray[np.int64]) -> list[tuple[int, Atoms]]:
    """Return geometries with their labels' forces and content hashes."""
    frames = []
    for place, record in store.at(places):
        atoms = record.atoms()
        atoms.info["frame"] = record.identity
        if record.label is not None:
            atoms.arrays["REF_forces"] = record.label.forces
        frames.append((place, atoms))
    return frames
