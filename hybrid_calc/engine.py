"""The way of one geometry: flags, committee, gate, reference, store, answer.

One engine holds one committee, one reference, one gate and one store, and may
be shared by many calculators (images of a band, replicas); calls are taken
one at a time.
"""

from __future__ import annotations

import datetime
import math
import platform
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.prediction import Committee, Prediction
from hybrid_calc.committee.spread import max_force_error
from hybrid_calc.errors import PredictionFailed, ReferenceFailed
from hybrid_calc.flags.coverage import domain_flags
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor, Survey
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.control import Streak
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.labelled import least_label_probability
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Decision, Source
from hybrid_calc.gate.regime import Regime, classify
from hybrid_calc.gate.signals import observe
from hybrid_calc.geometry import Composition, check_structure, composition_of, geometry_bytes
from hybrid_calc.reference.label import CarefulReference, Label, Reference
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query
from hybrid_calc.store.record import Record

REMEMBERED_GEOMETRIES = 256
"""Answers kept for geometries that drivers ask for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Everything that happened to one geometry.

    Attributes
    ----------
    index
        Geometries of the engine before this one.
    prediction
        What the committee said, None where it could not.
    flags
        What physics said.
    observation
        Everything the gate knew.
    regime
        Kind of geometry.
    decision
        Who was to answer and why.
    source
        Who answered: an audit that found nothing leaves the answer to the committee.
    label
        What the reference said, raw, or None.
    energy
        The answer, eV, on the committee's energy zero.
    forces
        The answer, eV/A, shape (N, 3).
    stress
        The answer, Voigt-6, eV/A^3, or None.
    energy_jump
        Change of the potential energy because the source changed here, eV.
    force_error, energy_error
        Of the committee against the label, eV/A and eV; None without both.
    good
        Whether those were within tolerance; None without both.
    verified
        False where the reference should have answered and could not.
    seconds
        Wall time by stage, s.
    """

    index: int
    prediction: Prediction | None
    flags: FlagReport
    observation: Observation
    regime: Regime
    decision: Decision
    source: Source
    label: Label | None
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None
    energy_jump: float
    force_error: float | None
    energy_error: float | None
    good: bool | None
    verified: bool
    seconds: dict[str, float]

    def __str__(self) -> str:
        lines = [f"geometry {self.index}, {self.regime}: answered by the {self.source}"]
        if self.force_error is not None and self.energy_error is not None:
            lines[0] += (
                f", committee off by {self.force_error:.2f} eV/A and {self.energy_error:+.3f} eV"
            )
        if not self.verified:
            lines[0] += ", UNVERIFIED"
        lines += [f"- {reason.policy}: {reason.detail}" for reason in self.decision.reasons]
        lines += [f"- not asked, {r.policy}: {r.detail}" for r in self.decision.unpaid]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-able line about the step, without the arrays."""
        decision = self.decision
        return {
            "index": self.index,
            "source": self.source.value,
            "regime": str(self.regime),
            "mean_temperature": self.flags.mean_temperature,
            "reasons": [[reason.policy, reason.detail] for reason in decision.reasons],
            "unpaid": [[reason.policy, reason.detail] for reason in decision.unpaid],
            "flags": [str(flag) for flag in self.flags.flags],
            "spread": _number(decision.spread),
            "factor": _number(decision.factor),
            "score": _number(decision.score),
            "threshold": decision.threshold,
            "standing": decision.standing,
            "trusted_neighbours": decision.trust.neighbours,
            "audit_probability": decision.audit_probability,
            "labelled": self.label is not None,
            "energy": self.energy,
            "energy_jump": self.energy_jump,
            "force_error": self.force_error,
            "energy_error": self.energy_error,
            "good": self.good,
            "verified": self.verified,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The energy zeros of the two levels for one composition.

    Attributes
    ----------
    committee, reference
        What is subtracted from each one's energies, eV; None while not known.
    """

    committee: float | None = None
    reference: float | None = None

    @property
    def complete(self) -> bool:
        """Whether both are known."""
        return self.committee is not None and self.reference is not None

    def of_committee(self, prediction: Prediction) -> float:
        """Return the committee's energy on the common zero, eV."""
        return prediction.energy - (self.committee or 0.0)

    def of_reference(self, label: Label) -> float:
        """Return the reference's energy on the common zero, eV."""
        return label.energy - (self.reference or 0.0)


UNALIGNED = Alignment()


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """What must be remembered from one geometry of a trajectory to the next.

    Attributes
    ----------
    monitor
        Memory of the flags.
    source
        Who answered last, None at the start.
    difference
        Aligned reference energy minus committee energy where both were last known, eV.
    jump_sum
        Sum of all energy jumps, eV: kinetic plus potential energy minus this
        is what MD conserves.
    parent
        Content hash of the last frame of this trajectory that was stored;
        empty before the first.
    streak
        Whether the committee was uncertain a few steps ago.
    last
        Bytes of the geometry looked at last, with what was seen; a geometry
        asked again at once, after an error say, is not looked at twice.
    """

    monitor: Monitor
    source: Source | None = None
    difference: float = 0.0
    jump_sum: float = 0.0
    parent: str = ""
    streak: Streak = field(default_factory=Streak)
    last: tuple[tuple[bytes, ...], Survey] | None = None

    def survey(self, atoms: Atoms, key: tuple[bytes, ...]) -> Survey:
        """Look at a geometry, once however often it is asked for in a row."""
        if self.last is None or self.last[0] != key:
            self.last = (key, self.monitor.survey(atoms))
        return self.last[1]

    def revisit(self, atoms: Atoms, key: tuple[bytes, ...], step: Step) -> Step:
        """Take in a geometry that the engine answered before; return its step with our jump."""
        if self.last is not None and self.last[0] == key:
            return step
        self.survey(atoms, key)
        difference = None if step.energy_error is None else -step.energy_error
        jump = self.jump_to(step.source, difference)
        return step if jump == step.energy_jump else replace(step, energy_jump=jump)

    def jump_to(self, source: Source, difference: float | None) -> float:
        """Note who answers now and return the energy jump, eV.

        A change to the reference jumps here, where both energies are known;
        a change back jumps by what was last known of their difference.
        """
        before, self.source = self.source, source
        if difference is not None:
            self.difference = difference
        if before is None or before is source:
            return 0.0
        jump = self.difference if source is Source.REFERENCE else -self.difference
        self.jump_sum += jump
        return jump

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "monitor": self.monitor.state(),
            "source": None if self.source is None else self.source.value,
            "difference": self.difference,
            "jump_sum": self.jump_sum,
            "parent": self.parent,
            "streak": self.streak.calm,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.monitor.restore(state["monitor"])
        self.source = None if state["source"] is None else Source(state["source"])
        self.difference, self.jump_sum = state["difference"], state["jump_sum"]
        self.parent = state.get("parent", "")
        self.streak.calm = state.get("streak")


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all geometries of an engine.

    Attributes
    ----------
    geometries
        Different geometries answered.
    labels
        Geometries labelled by the reference, reused ones included.
    reused
        Labels that the store had already.
    failures
        Reference failures.
    unverified
        Geometries whose answer should have been the reference's and is not.
    reasons
        Times each policy asked.
    seconds
        Wall time by stage, s.
    """

    geometries: int = 0
    labels: int = 0
    reused: int = 0
    failures: int = 0
    unverified: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        why = ", ".join(f"{policy} {times}" for policy, times in self.reasons.most_common())
        asked = f"{self.geometries} geometries, {self.labels} labelled by the reference"
        return f"{asked} ({why})" if why else asked


class Engine:
    """Run the stages for one geometry after another.

    Parameters
    ----------
    committee, reference, gate
        Who predicts, who labels, who decides.
    store
        Where labels go; None keeps none, for experiments only.
    limits
        Of the flags.
    on_step
        Called with every new step, in order.

    Attributes
    ----------
    seeds
        Of every random stream of the run, by name; a driver adds its own.
        Stored with every frame.
    pending
        An error raised in another thread than the main one, until the main
        thread raises it again.

    Raises
    ------
    LevelMismatchError
        The store holds labels of another level than the reference's.
    """

    def __init__(
        self,
        *,
        committee: Committee,
        reference: Reference,
        gate: Gate,
        store: FrameStore | None = None,
        limits: FlagLimits | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        if store is not None:
            store.check_level(reference.level)
        self.committee = committee
        self.reference = reference
        self.gate = gate
        self.store = store
        self.limits = limits or FlagLimits()
        self.on_step = on_step
        self.tally = Tally()
        self.run = uuid.uuid4().hex[:12]
        self.seeds: dict[str, int] = {"audits": gate.settings.seed}
        self._alignments: dict[str, Alignment] = {}
        self._steps: OrderedDict[tuple[bytes, ...], Step] = OrderedDict()
        self._ahead: dict[tuple[bytes, ...], Prediction] = {}
        self.pending: BaseException | None = None
        self._lock = threading.RLock()
        self._versions = _versions()
        gate.bind(committee.info.identity)

    def new_trajectory(self) -> Trajectory:
        """Return an empty memory for one more trajectory."""
        return Trajectory(monitor=Monitor(self.limits, self.committee.info))

    def evaluate(self, atoms: Atoms, trajectory: Trajectory, *, wanted: str = "") -> Step:
        """Answer one geometry; the same geometry again gets the same answer.

        Parameters
        ----------
        atoms
            The geometry, with charge and spin in ``info``.
        trajectory
            It belongs to.
        wanted
            Why a driver wants a label whatever the gate says; empty where it does not.

        Raises
        ------
        StructureError, UnknownElementError
            Nobody can compute it, or the user refuses what the committee does not know.
        BudgetExhausted, ReferenceFailed
            The answer would have to come from the reference and cannot.
        StoreError
            The label could not be made durable.
        """
        check_structure(atoms)
        composition = composition_of(atoms)
        key = geometry_bytes(atoms, composition)
        with self._lock:
            known = self._steps.get(key)
            if known is not None and (known.label is not None or not wanted):
                self._steps.move_to_end(key)
                return trajectory.revisit(atoms, key, known)
            step = self._answer(atoms, composition, key, trajectory, wanted)
            self._steps[key] = step
            if len(self._steps) > REMEMBERED_GEOMETRIES:
                self._steps.popitem(last=False)
            if self.on_step is not None:
                self.on_step(step)
            return step

    def prefetch(self, frames: Sequence[Atoms]) -> None:
        """Let the committee predict several geometries in one pass, to be asked for next.

        Nothing is decided or recorded yet.  Geometries answered before, or
        outside the committee's domain, are left out; where a member fails on one
        of them nothing is kept, and each is predicted on its own when it is asked for.

        Parameters
        ----------
        frames
            The images of a band, say.
        """
        with self._lock:
            start = time.perf_counter()
            self._ahead.clear()
            wanted: dict[tuple[bytes, ...], Atoms] = {}
            for atoms in frames:
                check_structure(atoms)
                key = geometry_bytes(atoms)
                if key not in self._steps and not domain_flags(atoms, self.committee.info):
                    wanted[key] = atoms
            try:
                predictions = self.committee.predict_many(list(wanted.values()))
            except PredictionFailed:
                return
            self._ahead.update(zip(wanted, predictions, strict=True))
            spent = time.perf_counter() - start
            self.tally.seconds["committee"] = self.tally.seconds.get("committee", 0.0) + spent

    def close(self) -> None:
        """Release committee and reference and bring the store's file up to date."""
        self.committee.close()
        self.reference.close()
        if self.store is not None:
            self.store.close()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, JSON-able."""
        tally = self.tally
        return {
            "gate": self.gate.state(),
            "zeros": {
                name: [zero.committee, zero.reference] for name, zero in self._alignments.items()
            },
            "tally": {
                "geometries": tally.geometries,
                "labels": tally.labels,
                "reused": tally.reused,
                "failures": tally.failures,
                "unverified": tally.unverified,
                "reasons": dict(tally.reasons),
                "seconds": dict(tally.seconds),
            },
            "run": self.run,
            "committee": self.committee.info.identity,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.gate.restore(state["gate"])
        self._alignments = {
            name: Alignment(committee=committee, reference=reference)
            for name, (committee, reference) in state["zeros"].items()
        }
        counts = dict(state["tally"])
        self.tally = Tally(
            reasons=Counter(counts.pop("reasons")), seconds=dict(counts.pop("seconds")), **counts
        )
        self.run = state["run"]
        if self.store is not None:  # calls made after the state was written were paid for too
            asked = [r.meta["reasons"] for r in self.store.select(Query(run=self.run))]
            audits = sum([policy for policy, _ in reasons] == ["audit"] for reasons in asked)
            budget = self.gate.budget
            budget.spent = max(budget.spent, len(asked))
            budget.audits = max(budget.audits, audits)

    def _answer(
        self,
        atoms: Atoms,
        composition: Composition,
        key: tuple[bytes, ...],
        trajectory: Trajectory,
        wanted: str,
    ) -> Step:
        seconds: dict[str, float] = {}
        with _timed(seconds, "flags"):
            survey = trajectory.survey(atoms, key)
        with _timed(seconds, "committee"):
            prediction, survey = self._predict(atoms, key, survey)
        with _timed(seconds, "gate"):
            regime = classify(composition, survey.report, self.limits)
            wanted = wanted or self._unaligned(composition, prediction)
            novelty = self._novelty(atoms, prediction)
            observation = observe(prediction, survey, regime, novelty=novelty)
            decision = self.gate.decide(observation, wanted=wanted, streak=trajectory.streak)
        label = None
        if decision.source is Source.REFERENCE:
            with _timed(seconds, "reference"):
                label = self._label(atoms, trajectory, prediction, observation, decision)
        with _timed(seconds, "gate"):
            step = self._settle(
                composition,
                trajectory=trajectory,
                prediction=prediction,
                observation=observation,
                decision=decision,
                label=label,
                seconds=seconds,
            )
        if label is not None and self.store is not None:
            with _timed(seconds, "store"):
                record = self._record(atoms, trajectory, step)
                self.store.append(record)
                trajectory.parent = record.identity
        self._count(step)
        return step

    def _predict(
        self, atoms: Atoms, key: tuple[bytes, ...], survey: Survey
    ) -> tuple[Prediction | None, Survey]:
        """Ask the committee where it may be asked; a failure becomes a flag."""
        if any(not flag.trustable for flag in survey.report.flags):
            if self.gate.settings.outside_domain == "refuse":
                refuse_outside(atoms, self.committee.info)
            return None, survey
        ahead = self._ahead.pop(key, None)
        if ahead is not None:
            return ahead, survey
        try:
            return self.committee.predict(atoms), survey
        except PredictionFailed:
            failed = Flag(name="prediction_failed", severity=Severity.HARD, trustable=False)
            report = FlagReport(
                flags=(failed, *survey.report.flags),
                mean_temperature=survey.report.mean_temperature,
            )
            return None, Survey(report=report, fingerprint=survey.fingerprint)

    def _novelty(self, atoms: Atoms, prediction: Prediction | None) -> NDArray[np.float64] | None:
        """Return how far each atom is from the training data, None where nobody knows."""
        calibration = self.gate.usable_calibration
        if calibration is None or prediction is None or prediction.descriptors is None:
            return None
        return calibration.novelty(prediction.descriptors, atoms.numbers)

    def _label(
        self,
        atoms: Atoms,
        trajectory: Trajectory,
        prediction: Prediction | None,
        observation: Observation,
        decision: Decision,
    ) -> Label | None:
        """Return the label, from the store where it is known; None where failure is tolerated."""
        if self.store is not None:
            known = self.store.find_label(atoms, self.reference.level)
            if known is not None:
                self.tally.reused += 1
                return known
        self.gate.budget.spend(audit=decision.is_audit)
        try:
            doubtful = observation.report.of(Severity.REGIME)
            if isinstance(self.reference, CarefulReference) and doubtful:
                return self.reference.label_doubtful(atoms)
            return self.reference.label(atoms)
        except ReferenceFailed as error:
            self.tally.failures += 1
            self._quarantine(
                atoms,
                trajectory=trajectory,
                prediction=prediction,
                observation=observation,
                decision=decision,
                error=error,
            )
            hard = observation.report.of(Severity.HARD)
            tolerated = self.gate.settings.when_reference_fails == "continue"
            if prediction is None or hard or not tolerated or "acquisition" in decision.policies:
                raise
            return None

    def _settle(
        self,
        composition: Composition,
        *,
        trajectory: Trajectory,
        prediction: Prediction | None,
        observation: Observation,
        decision: Decision,
        label: Label | None,
        seconds: dict[str, float],
    ) -> Step:
        """Choose the answer, align its energy, and learn from the label."""
        zero = self._align(composition, prediction, label)
        force_error = energy_error = good = None
        difference = None
        if label is not None and prediction is not None:
            difference = zero.of_reference(label) - zero.of_committee(prediction)
            force_error = max_force_error(prediction.mean_forces, label.forces)
            energy_error = -difference
            good = self.gate.learn(decision, observation, force_error, energy_error)
        if label is not None and not (decision.is_audit and good):
            source = Source.REFERENCE
            energy, forces, stress = zero.of_reference(label), label.forces, label.stress
        elif prediction is not None:
            source = Source.COMMITTEE
            energy, forces = zero.of_committee(prediction), prediction.mean_forces
            stress = prediction.mean_stress
        else:
            raise PredictionFailed(
                "neither committee nor reference has an answer for this geometry; "
                "see the flags of the step before."
            )
        asked_in_vain = label is None and decision.source is Source.REFERENCE
        return Step(
            index=self.tally.geometries,
            prediction=prediction,
            flags=observation.report,
            observation=observation,
            regime=decision.regime,
            decision=decision,
            source=source,
            label=label,
            energy=energy,
            forces=forces,
            stress=stress,
            energy_jump=trajectory.jump_to(source, difference),
            force_error=force_error,
            energy_error=energy_error,
            good=good,
            verified=not (decision.unpaid or asked_in_vain),
            seconds=seconds,
        )

    def _align(
        self, composition: Composition, prediction: Prediction | None, label: Label | None
    ) -> Alignment:
        """Return what to subtract from each level's energies for this composition.

        Whoever answers first keeps its own zero.  The other's is set at the
        first geometry that both know, so that they agree there, and is then
        never changed: a change would be a jump.

        Raises
        ------
        PredictionFailed
            The committee answered before, cannot now, and no label has yet
            told how far apart the two zeros are.
        """
        key = composition.name
        known = self._alignments.get(key, UNALIGNED)
        if known.complete:
            return known
        if label is not None and prediction is not None:
            between = label.energy - prediction.energy
            if known.reference is None:
                known = Alignment(committee=0.0, reference=between)
            else:
                known = Alignment(committee=known.reference - between, reference=known.reference)
        elif label is not None and known.reference is None:
            if known.committee is not None:
                raise PredictionFailed(
                    "the committee answered this molecule before and fails at this geometry, and "
                    "no label tells how far apart the energy zeros of committee and reference "
                    "are. Label one geometry first: keep gate.policies with unseen."
                )
            known = Alignment(reference=0.0)
        elif label is None and prediction is not None and known.committee is None:
            known = Alignment(committee=0.0)
        self._alignments[key] = known
        return known

    def _unaligned(self, composition: Composition, prediction: Prediction | None) -> str:
        """Return why a label is needed before the committee may answer; empty where it may."""
        known = self._alignments.get(composition.name)
        if prediction is None or known is None or known.committee is not None:
            return ""
        return "the energy zeros of committee and reference are not aligned yet"

    def _record(self, atoms: Atoms, trajectory: Trajectory, step: Step) -> Record:
        meta = step.to_dict() | _evidence(step.decision, step.observation)
        meta |= self._provenance(trajectory)
        meta["least_label_probability"] = least_label_probability(
            self.gate.settings, step.decision
        )
        del meta["seconds"]
        return Record.of(
            atoms,
            level=self.reference.level,
            label=step.label,
            prediction=step.prediction,
            meta=meta,
        )

    def _quarantine(
        self,
        atoms: Atoms,
        *,
        trajectory: Trajectory,
        prediction: Prediction | None,
        observation: Observation,
        decision: Decision,
        error: ReferenceFailed,
    ) -> None:
        """Keep what the reference could not answer, apart from every label."""
        if self.store is None:
            return
        meta = {
            "regime": str(decision.regime),
            "reasons": [[reason.policy, reason.detail] for reason in decision.reasons],
            "flags": [str(flag) for flag in observation.report.flags],
            "audit_probability": decision.audit_probability,
            "details": error.details,
        } | _evidence(decision, observation)
        self.store.append(
            Record.of(
                atoms,
                level=self.reference.level,
                label=None,
                rejection=f"{type(error).__name__}: {error}",
                prediction=prediction,
                meta=meta | self._provenance(trajectory),
            )
        )

    def _provenance(self, trajectory: Trajectory) -> dict[str, Any]:
        return {
            "run": self.run,
            "step": self.tally.geometries,
            "parent": trajectory.parent,
            "seeds": dict(self.seeds),
            "committee": self.committee.info.identity,
            "committee_name": self.committee.info.name,
            "versions": self._versions,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _count(self, step: Step) -> None:
        tally = self.tally
        tally.geometries += 1
        tally.labels += step.label is not None
        tally.unverified += not step.verified
        if step.decision.reasons:
            tally.reasons.update(step.decision.policies)
        for stage, spent in step.seconds.items():
            tally.seconds[stage] = tally.seconds.get(stage, 0.0) + spent


def _evidence(decision: Decision, observation: Observation) -> dict[str, Any]:
    """Return what a decision rested on: what the gate saw, and validated frames nearby."""
    trust = decision.trust
    nearest = trust.nearest if math.isfinite(trust.nearest) else None
    evidence = {
        "neighbours": trust.neighbours,
        "nearest": nearest,
        "worst_error": trust.worst_error,
    }
    seen = observation.to_dict()
    signals = seen["signals"]
    if "force_spread" in observation.worst_atoms:
        signals = signals | {"worst_atom": observation.worst_atoms["force_spread"]}
    return {"observation": seen, "signals": signals, "evidence": evidence}


class _timed:  # noqa: N801 - reads as a function; a generator would cost five times as much
    """Add the time spent inside to a stage."""

    __slots__ = ("_seconds", "_stage", "_start")

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        spent = time.perf_counter() - self._start
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + spent


def _number(value: float) -> float | None:
    """Return a finite number, or None, which JSON knows."""
    return value if math.isfinite(value) else None


def _versions() -> dict[str, str]:
    """Return the versions of what makes an answer."""
    versions = {"python": platform.python_version()}
    for package in ("hybrid_calc", "ase", "numpy", "torch", "mace-torch", "torchani", "pyscf"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
