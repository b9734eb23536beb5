"""What a committee says about frames of a store that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hybrid_calc.committee.prediction import Committee, Prediction
from hybrid_calc.committee.spread import max_force_error
from hybrid_calc.errors import InputError, PredictionFailed
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.signals import committee_signals
from hybrid_calc.geometry import composition_of, molecule_of
from hybrid_calc.store.block import batch_by
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.record import Record
from hybrid_calc.store.selection import trajectories
from hybrid_calc.training.regimes import StoredRegimes

FRAMES_AT_ONCE = 32
SAME_GEOMETRY = 1e-4
"""Largest difference of any coordinate between a frame and its copy in a training file, A."""
SECOND_OPINION = "second_opinion"
REGIMES_UNKNOWN = frozenset({"", "unknown", "imported"})


class TrainingSet:
    """Frames that a committee was trained on, to be recognised by their content.

    Parameters
    ----------
    frames
        Geometries; identities of store frames in ``info["frame"]`` count too.
    """

    def __init__(self, frames: Sequence[Atoms]) -> None:
        self._identities = {str(atoms.info["frame"]) for atoms in frames if "frame" in atoms.info}
        places: dict[bytes, list[NDArray[np.float64]]] = {}
        for atoms in frames:
            key = atoms.numbers.astype(np.int64).tobytes()
            places.setdefault(key, []).append(atoms.positions.ravel())
        self._trees = {key: cKDTree(np.array(rows)) for key, rows in places.items()}

    def __contains__(self, record: Record) -> bool:
        tree = self._trees.get(record.numbers.astype(np.int64).tobytes())
        if tree is not None:
            near = tree.query(
                record.positions.ravel(), p=np.inf, distance_upper_bound=SAME_GEOMETRY
            )
            if np.isfinite(near[0]):
                return True
        return bool(self._identities) and record.identity in self._identities


@dataclass(slots=True)
class _Rows:
    """Columns of the frames as they come in."""

    regimes: list[Regime] = field(default_factory=list)
    molecules: list[str] = field(default_factory=list)
    signals: list[dict[str, float]] = field(default_factory=list)
    numbers: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self, record: Record, regime: Regime, signals: dict[str, float], *numbers: float
    ) -> None:
        self.regimes.append(regime)
        self.molecules.append(molecule_of(record.atoms()))
        self.signals.append(signals)
        self.numbers.append(numbers)

    def table(self) -> LabelledFrames:
        names = sorted({name for row in self.signals for name in row})
        columns = np.array(self.numbers, dtype=np.float64).reshape(-1, 7).T
        return LabelledFrames(
            regimes=self.regimes,
            molecules=self.molecules,
            signals={
                name: np.array([row.get(name, np.nan) for row in self.signals]) for name in names
            }
            or {"force_spread": np.zeros(0)},
            force_errors=columns[0],
            energy_errors=columns[1],
            temperatures=columns[2],
            weights=columns[3],
            heaviest=columns[4],
            trajectories=columns[5].astype(np.int64),
            steps=columns[6].astype(np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A committee judged by frames of a store.

    Attributes
    ----------
    frames
        That describe the geometries their runs came to.
    chosen
        That a driver wanted: a search chose them, they describe themselves only.
    left_out
        Number of others, by the reason.
    strangers
        Frames by regimes that the settings of their runs had and the rules
        given have not; they count for what those rules say.
    """

    frames: LabelledFrames
    chosen: LabelledFrames
    left_out: Counter[str]
    strangers: Counter[str]


def evaluate(
    store: FrameStore,
    places: NDArray[np.int64],
    committee: Committee,
    *,
    training: TrainingSet | None = None,
    novelty: Novelty | None = None,
    segment_steps: int = 0,
    regimes: StoredRegimes | None = None,
) -> Evaluation:
    """Return what a committee says about frames of a store.

    Energies are compared relative to the first labelled frame of the same
    run and composition, which says nothing about them and is left out.

    Parameters
    ----------
    store, places
        Labelled frames, by their places.
    committee
        Whose answers are judged; those it gave when a frame was labelled are
        used where they are stored.
    training
        Frames to leave out.
    novelty
        Of the committee's training frames, for that signal.
    segment_steps
        Steps after which a run counts as another trajectory, as in the store's split.
    regimes
        Class the frames anew; by default by the built-in regimes, without training ranges.
    """
    regimes = regimes or StoredRegimes()
    columns = store.columns()
    names = trajectories(columns, segment_steps)
    number_of = {name: number for number, name in enumerate(sorted(set(names)))}
    zeros = _zeros(store, places, committee)
    rows, chosen, left_out = _Rows(), _Rows(), Counter[str]()
    for place, record, prediction in _answers(store, places, committee, novelty, left_out):
        zero = zeros.get(_family(record))
        why = _unfit(record, training)
        regime = regimes.of(record)
        if not why and isinstance(regime, str):
            why = regime
        if not why and zero is None:
            why = "no frame that sets the energy zero of its run"
        elif not why and zero is not None and zero[0] == record.identity:
            why = "sets the energy zero of its run"
        if why or zero is None or record.label is None or isinstance(regime, str):
            left_out[why] += 1
            continue
        wanted = "acquisition" in _policies(record.meta)
        temperature = record.meta.get("mean_temperature")
        (chosen if wanted else rows).add(
            record,
            regime,
            _signals(record, prediction, committee, novelty),
            max_force_error(prediction.mean_forces, record.label.forces),
            abs(prediction.energy - record.label.energy - zero[1]),
            np.nan if temperature is None else float(temperature),
            *((1.0, 1.0) if wanted else _weights(record.meta)),
            number_of[names[place]],
            int(columns.numbers["step"][place]),
        )
    return Evaluation(
        frames=rows.table(),
        chosen=chosen.table(),
        left_out=left_out,
        strangers=regimes.strangers,
    )


def _answers(
    store: FrameStore,
    places: NDArray[np.int64],
    committee: Committee,
    novelty: Novelty | None,
    left_out: Counter[str],
) -> Iterator[tuple[int, Record, Prediction]]:
    """Yield every frame with the committee's answer, stored or new."""
    for batch in batch_by(store.at(places), FRAMES_AT_ONCE):
        stored = [
            None if novelty is not None else _stored_answer(record, committee)
            for _, record in batch
        ]
        missing = [record for (_, record), answer in zip(batch, stored, strict=True) if not answer]
        new = iter(_predict(missing, committee))
        for (place, record), answer in zip(batch, stored, strict=True):
            prediction = answer or next(new)
            if prediction is None:
                left_out["the committee cannot answer"] += 1
            else:
                yield place, record, prediction


def _stored_answer(record: Record, committee: Committee) -> Prediction | None:
    """Return what this very committee said when the frame was labelled."""
    return record.prediction if record.meta.get("committee") == committee.info.identity else None


def _predict(records: Sequence[Record], committee: Committee) -> list[Prediction | None]:
    """Return the committee's answers; one by one where a frame among them fails."""
    if not records:
        return []
    frames = [record.atoms() for record in records]
    try:
        return list(committee.predict_many(frames))
    except (PredictionFailed, InputError):
        if len(records) == 1:
            return [None]
        return [answer for record in records for answer in _predict([record], committee)]


def _zeros(
    store: FrameStore, places: NDArray[np.int64], committee: Committee
) -> dict[tuple[str, str], tuple[str, float]]:
    """Return, by run and composition, the frame that sets the energy zero, and the zero, eV."""
    columns = store.columns()
    runs = set(columns.places["run"][places].tolist())
    labelled = columns.numbers["labelled"].astype(bool)
    kin = np.flatnonzero(labelled & np.isin(columns.places["run"], list(runs)))
    steps = columns.numbers["step"][kin]
    keys = zip(
        columns.places["run"][kin].tolist(),
        columns.places["formula"][kin].tolist(),
        columns.numbers["charge"][kin].tolist(),
        columns.numbers["multiplicity"][kin].tolist(),
        strict=True,
    )
    families: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for key, step, place in zip(keys, steps.tolist(), kin.tolist(), strict=True):
        families.setdefault(key, []).append((step, place))
    zeros: dict[tuple[str, str], tuple[str, float]] = {}
    for members in families.values():
        for _, place in sorted(members):
            (_, record), *_ = store.at(np.array([place]))
            answer = _stored_answer(record, committee) or _predict([record], committee)[0]
            if answer is not None and record.label is not None:
                zeros[_family(record)] = (record.identity, answer.energy - record.label.energy)
                break
    return zeros


def _family(record: Record) -> tuple[str, str]:
    return str(record.meta.get("run") or ""), composition_of(record.atoms()).name


def _unfit(record: Record, training: TrainingSet | None) -> str:
    """Return why a frame cannot be calibrated with, empty where it can."""
    meta = record.meta
    if record.label is None:
        return "rejected by the reference"
    if training is not None and record in training:
        return "the committee was trained on it"
    if str(meta.get("regime") or "").partition(" ")[0] in REGIMES_UNKNOWN:
        return "its regime is not known"
    if "acquisition" not in _policies(meta) and min(_probabilities(meta)) <= 0:
        return "other geometries of its run could not be labelled at all (audits off, or budget)"
    return ""


def _policies(meta: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(policy for policy, _ in meta.get("reasons") or ()))


def _probabilities(meta: Any) -> tuple[float, float]:
    """Return with what probability a frame was labelled, and any of its regime at least.

    Frames that no gate asked for (imported ones) are taken to have been
    labelled whatever they were.
    """
    policies = _policies(meta)
    if not policies:
        return 1.0, 1.0
    audit = float(meta.get("audit_probability") or 0.0)
    least = float(meta.get("least_label_probability", audit))
    return audit if policies == ("audit",) else 1.0, least


def _weights(meta: Any) -> tuple[float, float]:
    chance, least = _probabilities(meta)
    return 1 / chance, 1 / min(chance, least)


def _signals(
    record: Record, prediction: Prediction, committee: Committee, novelty: Novelty | None
) -> dict[str, float]:
    signals, _ = committee_signals(prediction)
    seen = (record.meta.get("observation") or {}).get("signals") or {}
    if SECOND_OPINION in seen and _stored_answer(record, committee) is not None:
        signals[SECOND_OPINION] = float(seen[SECOND_OPINION])  # on this committee's forces
    if novelty is not None and prediction.descriptors is not None:
        values = novelty.of_atoms(record.numbers.astype(np.int64), prediction.descriptors)
        signals["novelty"] = float(values.max())
    return signals
