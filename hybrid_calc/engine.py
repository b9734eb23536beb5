"""The way of one geometry: flags, committee, gate, reference, store, answer.

One engine holds one committee, one reference, one gate and one store, and may
be shared by many calculators (images of a band, replicas); calls are taken
one at a time.
"""

from __future__ import annotations

import datetime
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.answer.alignment import Alignments
from hybrid_calc.answer.recording import labelled_record, package_versions, rejected_record
from hybrid_calc.answer.step import Step
from hybrid_calc.answer.tally import Tally
from hybrid_calc.answer.timing import Laps
from hybrid_calc.answer.trajectory import Trajectory
from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.prediction import Committee, Prediction
from hybrid_calc.committee.spread import max_force_error
from hybrid_calc.errors import InputError, PredictionFailed, ReferenceFailed
from hybrid_calc.flags.conservative import ForceCheck
from hybrid_calc.flags.coverage import domain_flags
from hybrid_calc.flags.electronic import electronic_flags
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.monitor import Monitor, Survey
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.calibration_start import settle_calibration
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.labelled import least_label_probability
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Decision, Source
from hybrid_calc.gate.regime import BOND_FLAGS, Regime, classify
from hybrid_calc.gate.signals import observe
from hybrid_calc.geometry import (
    Composition,
    geometry_key,
    identify,
    molecule_of,
)
from hybrid_calc.reference.label import CarefulReference, Label, Reference, ResumableReference
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query

REMEMBERED_GEOMETRIES = 256
"""Answers kept for geometries that drivers ask for again."""


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
    second_opinion
        A cheap method asked beside the committee; its answers go nowhere but
        into the gate.
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
    CalibrationError
        The gate's calibration was made for another committee, level or
        tolerance, or needs signals that the run does not have.
    """

    def __init__(
        self,
        *,
        committee: Committee,
        reference: Reference,
        gate: Gate,
        store: FrameStore | None = None,
        limits: FlagLimits | None = None,
        second_opinion: Reference | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        if store is not None:
            store.check_level(reference.level)
        self.committee = committee
        self.reference = reference
        self.gate = gate
        self.store = store
        self.limits = limits or FlagLimits()
        self.second_opinion = second_opinion
        self.on_step = on_step
        self._forces = ForceCheck(committee, self.limits.antisymmetry)
        self.tally = Tally()
        self.run = uuid.uuid4().hex[:12]
        self.seeds: dict[str, int] = {"audits": gate.settings.seed}
        self._zeros = Alignments()
        self._steps: OrderedDict[tuple[bytes, ...], Step] = OrderedDict()
        self._ahead: dict[tuple[bytes, ...], Prediction] = {}
        self.pending: BaseException | None = None
        self._lock = threading.RLock()
        self._versions = package_versions()
        self._late: set[str] = set()
        settle_calibration(
            gate, committee, reference.level, self.limits, second_opinion=second_opinion is not None
        )
        gate.bind(committee.info.identity)

    def new_trajectory(self) -> Trajectory:
        """Return an empty memory for one more trajectory."""
        calibration = self.gate.usable_calibration
        ranges = None if calibration is None else calibration.ranges
        return Trajectory(monitor=Monitor(self.limits, self.committee.info, ranges))

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
        key, composition = identify(atoms)
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
                key, _ = identify(atoms)
                if key not in self._steps and not domain_flags(atoms, self.committee.info):
                    wanted[key] = atoms
            try:
                predictions = self.committee.predict_many(list(wanted.values()))
            except PredictionFailed:
                return
            self._ahead.update(zip(wanted, predictions, strict=True))
            spent = time.perf_counter() - start
            self.tally.spend("committee", spent)

    def close(self) -> None:
        """Release committee and reference and bring the store's file up to date."""
        self.committee.close()
        self.reference.close()
        if self.second_opinion is not None:
            self.second_opinion.close()
        if self.store is not None:
            self.store.close()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, JSON-able."""
        return {
            "gate": self.gate.state(),
            "zeros": self._zeros.state(),
            "tally": self.tally.state(),
            "run": self.run,
            "committee": self.committee.info.identity,
            "forces": self._forces.state(),
            "reference": self.reference.state()
            if isinstance(self.reference, ResumableReference)
            else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.gate.restore(state["gate"])
        self._zeros.restore(state["zeros"])
        self.tally = Tally.of(state["tally"])
        self.run = state["run"]
        if "forces" in state:  # not kept by earlier versions
            self._forces.restore(state["forces"])
        if isinstance(self.reference, ResumableReference):
            self.reference.restore(state.get("reference", {}))
        if self.store is not None:  # calls made after the state was written were paid for too
            made = list(self.store.select(Query(run=self.run)))
            late = [r for r in made if r.meta["step"] >= self.tally.geometries]
            self._late = {geometry_key(r.atoms()) for r in late if r.label is not None}
            asked = [r.meta["reasons"] for r in made]
            audits = sum([policy for policy, _ in reasons] == ["audit"] for reasons in asked)
            budget = self.gate.budget
            budget.spent = max(budget.spent, len(asked))
            budget.audits = max(budget.audits, audits)

    def _recall(self, atoms: Atoms, observation: Observation) -> None:
        """Let the reference know what it labelled after the state was written."""
        if isinstance(self.reference, ResumableReference):
            doubtful = bool(observation.report.of(Severity.REGIME))
            self.reference.recall(atoms, doubtful=doubtful)

    def _answer(
        self,
        atoms: Atoms,
        composition: Composition,
        key: tuple[bytes, ...],
        trajectory: Trajectory,
        wanted: str,
    ) -> Step:
        laps = Laps()
        survey = trajectory.survey(atoms, key)
        laps.end("flags")
        prediction, survey = self._predict(atoms, key, survey)
        if self._forces.watching and prediction is not None:
            report = self._forces.look(atoms, survey.report)
            survey = replace(survey, report=report)
        laps.end("committee")
        rules = self.gate.settings.regimes
        regime = classify(composition, survey.report, self.limits, rules)
        wanted = wanted or self._zeros.missing(composition, prediction)
        molecule = molecule_of(atoms, composition)
        observation = self._observe(atoms, molecule, prediction, survey, regime)
        decision = self.gate.decide(observation, wanted=wanted, streak=trajectory.streak)
        laps.end("gate")
        label = None
        if decision.source is Source.REFERENCE:
            label = self._label(atoms, trajectory, prediction, observation, decision)
            laps.end("reference")
        step = self._settle(
            composition,
            trajectory=trajectory,
            prediction=prediction,
            observation=observation,
            decision=decision,
            label=label,
            seconds=laps.seconds,
        )
        laps.end("gate")
        if label is not None and self.store is not None:
            least = least_label_probability(self.gate.settings, decision)
            more = self._provenance(trajectory) | {"least_label_probability": least}
            recent, level = trajectory.monitor.recent(), self.reference.level
            record = labelled_record(atoms, step, level=level, more=more, recent=recent)
            self.store.append(record)
            trajectory.parent = record.identity
            laps.end("store")
        self.tally.add(step)
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
            return None, replace(survey, report=report)

    def _observe(
        self,
        atoms: Atoms,
        molecule: str,
        prediction: Prediction | None,
        survey: Survey,
        regime: Regime,
    ) -> Observation:
        """Return what the gate may know, with what the calibration says about the descriptors."""
        if prediction is None:
            return observe(prediction, survey, regime, molecule=molecule)
        asked = survey.report.flags or self.gate.settings.second_opinion_for == "all"
        other = self._other_forces(atoms) if asked else None
        calibration = self.gate.usable_calibration
        if calibration is None:
            return observe(prediction, survey, regime, molecule=molecule, second_opinion=other)
        novelty = None
        if prediction.descriptors is not None:
            novelty = calibration.novelty(prediction.descriptors, atoms.numbers)
        return observe(
            prediction,
            survey,
            regime,
            molecule=molecule,
            novelty=novelty,
            ranges=calibration.ranges,
            second_opinion=other,
        )

    def _other_forces(self, atoms: Atoms) -> NDArray[np.float64] | None:
        """Return the second opinion's forces, eV/A, None where there is none to be had."""
        if self.second_opinion is None:
            return None
        try:
            return self.second_opinion.label(atoms).forces
        except (ReferenceFailed, InputError):
            return None

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
                if self._late and geometry_key(atoms) in self._late:
                    self._recall(atoms, observation)
                return known
        self.gate.budget.spend(audit=decision.is_audit)
        try:
            doubtful = not BOND_FLAGS.isdisjoint(observation.report.names)
            if isinstance(self.reference, CarefulReference) and doubtful:
                return self.reference.label_doubtful(atoms)
            return self.reference.label(atoms)
        except ReferenceFailed as error:
            self.tally.failures += 1
            if self.store is not None:
                self.store.append(
                    rejected_record(
                        atoms,
                        prediction=prediction,
                        observation=observation,
                        decision=decision,
                        error=error,
                        level=self.reference.level,
                        more=self._provenance(trajectory),
                    )
                )
            hard = observation.report.of(Severity.HARD) or "outside" in decision.policies
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
        zero = self._zeros.align(composition, prediction, label)
        force_error = energy_error = good = None
        difference = None
        if label is not None and prediction is not None:
            difference = zero.of_reference(label) - zero.of_committee(prediction)
            force_error = max_force_error(prediction.mean_forces, label.forces)
            energy_error = -difference
            good = self.gate.learn(
                decision, observation, force_error, energy_error, streak=trajectory.streak
            )
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
        report = observation.report
        if label is not None:
            electronic = electronic_flags(label.checks, composition.multiplicity, self.limits)
            report = report.plus(electronic)
        asked_in_vain = label is None and decision.source is Source.REFERENCE
        return Step(
            index=self.tally.geometries,
            prediction=prediction,
            flags=report,
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
