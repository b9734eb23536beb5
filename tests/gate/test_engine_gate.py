"""What the engine tells the gate, and what of the gate shows in steps, records and summaries."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hybrid_calc import FrameStore, Gate, ToyCommittee, ToyReference
from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning, RegimeCalibration
from hybrid_calc.gate.policy import Source
from hybrid_calc.report.scope import ScopeLog
from hybrid_calc.report.summary import ErrorLog, summarise
from hybrid_calc.training.replays import replay_frames
from tests.scripted import always, hybrid, pair, settings


class Described(ToyCommittee):
    """A toy whose descriptors are the distance of the two atoms."""

    def predict(self, atoms):
        said = super().predict(atoms)
        length = atoms.get_distance(0, 1)
        return Prediction(
            energies=said.energies, forces=said.forces, descriptors=np.full((2, 1), length)
        )


class Known:
    """A calibration whose novelty is the descriptor and whose score is the spread."""

    def __init__(self, identity, **more):
        self.identity, self.ranges, self.asked = identity, None, []
        self.entry = RegimeCalibration(
            **{
                "score": lambda seen: seen.spread,
                "unit": "eV/A",
                "threshold": 1e6,
                "missed_share": 0.1,
                "validated": True,
                "error_factor": 2.0,
                "frames": 100,
                "failures": 12,
                "novelty_limit": 1.0,
                **more,
            }
        )

    def regime(self, regime):
        return self.entry

    def novelty(self, descriptors, numbers):
        self.asked.append((descriptors.tolist(), numbers.tolist()))
        return descriptors[:, 0]


def calibrated(committee=None, *, ranges=None, **more):
    committee = committee or Described()
    calibration = Known(committee.info.identity, **more)
    calibration.ranges = ranges
    calc = hybrid(Gate(settings("uncertain", "unseen"), calibration), committee=committee)
    return calc, calibration


def step_of(calc, atoms):
    atoms.calc = calc
    atoms.get_forces()
    return calc.last_step


def test_the_calibration_judges_the_descriptors_of_every_prediction():
    calc, calibration = calibrated()
    near = step_of(calc, pair(0.8))
    assert calibration.asked == [([[0.8], [0.8]], [1, 1])]
    assert near.observation.signal("novelty") == 0.8
    assert near.observation.worst_atoms["novelty"] == 0
    assert near.decision.validated
    assert near.source is Source.COMMITTEE
    far = step_of(calc, pair(1.01))
    assert far.decision.policies == ("unseen",)
    assert "novelty 1.01 against 1" in far.decision.reasons[0].detail


def test_without_descriptors_novelty_is_unknown_and_not_covered():
    calc, calibration = calibrated(ToyCommittee())
    assert step_of(calc, pair(0.8)).decision.policies == ("unseen",)
    assert calibration.asked == []


def test_a_calibration_of_another_committee_is_named_and_not_used():
    calibration = Known("another")
    with pytest.warns(CalibrationMismatchWarning):
        calc = hybrid(Gate(settings("unseen"), calibration), committee=Described())
    assert not step_of(calc, pair(0.8)).decision.validated
    assert calibration.asked == []


def test_training_ranges_reach_the_flags():
    ranges = TrainingRanges(lengths={"H-H": (0.7, 0.76)}, largest_force=1e-6, frames=9)
    calc, _ = calibrated(ranges=ranges)
    step = step_of(calc, pair(0.8))
    assert step.flags.names == ("bond_length", "large_force")
    assert step.regime.name == "high-energy"  # the force says nothing about that


def test_a_label_that_doubts_itself_is_flagged_in_the_record(tmp_path):
    class Doubtful(ToyReference):
        def label(self, atoms):
            import dataclasses

            said = super().label(atoms)
            return dataclasses.replace(said, checks={"s_squared": 0.96, "gap_ev": 6.5})

    with FrameStore(tmp_path / "run.h5") as store:
        calc = hybrid(always(), reference=Doubtful(), store=store)
        step = step_of(calc, pair(0.74))
        assert step.flags.names == ("spin_contamination",)
        assert step.observation.report.flags == ()  # too late to decide about it
        (record,) = store
        assert record.meta["flags"] == ["spin_contamination: 0.96 against 0.1"]


def test_what_the_regime_rests_on_shows_in_the_step():
    calc = hybrid(settings("unseen", force_tolerance_ev_per_ang=1e6, energy_tolerance_ev=1e6))
    said = [step_of(calc, pair(0.74 + 1e-3 * n)).to_dict() for n in range(4)]
    assert [line["standing"] for line in said] == [
        *["unvalidated"] * 3,
        "unvalidated, trusted by 3 frames of this run",
    ]
    assert [line["evidence"]["neighbours"] for line in said] == [0, 1, 2, 3]
    assert all(line["score"] == line["factor"] * line["spread"] for line in said)


def test_molecule_and_periodicity_reach_gate_step_and_record(tmp_path):
    calc, _ = calibrated(molecules=frozenset({"H2"}), novelty_limit=None)
    calc.engine.store = FrameStore(tmp_path / "run.h5")
    step = step_of(calc, pair(0.8))
    assert step.decision.validated
    assert step.to_dict()["molecule"] == "H2"
    cell = pair(0.8)
    cell.set_cell([9, 9, 9])
    cell.pbc = (True, False, False)
    step = step_of(calc, cell)
    assert step.decision.policies == ("unseen",)
    assert step.to_dict()["molecule"] == "H2 (periodic)"
    (record,) = calc.engine.store
    assert record.meta["observation"]["molecule"] == record.meta["molecule"] == "H2 (periodic)"
    (frame,) = replay_frames([record])
    assert frame.observation.molecule == "H2 (periodic)"
    del record.meta["observation"]["molecule"]  # as earlier versions wrote it
    (frame,) = replay_frames([record])
    assert frame.observation.molecule == "H2 (periodic)"
    calc.close()


def test_the_calibration_behind_a_calm_step_shows_in_step_and_record(tmp_path):
    calc, calibration = calibrated(error_factor=math.inf, novelty_limit=None)
    calc.engine.store = FrameStore(tmp_path / "run.h5")
    behind = {
        "frames": 100,
        "failures": 12,
        "threshold": 1e6,
        "unit": "eV/A",
        "missed_share": 0.1,
        "error_factor": None,
    }
    step = step_of(calc, pair(0.8))
    assert step.to_dict()["evidence"] == {"calibration": behind}
    assert step.to_dict()["standing"] == (
        "validated by 100 frames, 12 bad: at most 10 % of bad ones pass"
    )
    assert step.decision.calibration.evidence is calibration.entry.evidence  # made once
    calc.label(pair(0.9), "to have a record")
    (record,) = calc.engine.store
    assert record.meta["evidence"]["calibration"] == behind
    assert record.meta["evidence"]["neighbours"] == 0
    calc.close()


def test_hysteresis_survives_a_restart():
    def fresh():
        return hybrid(
            settings("uncertain", force_tolerance_ev_per_ang=0.09, factor_labels=99),
            committee=ToyCommittee(perturbation=0.05),
        )

    # 3 x spread is 0.10 eV/A at 0.72 A and 0.05 at 0.9 A
    lengths = [0.72, *[0.9 + 0.001 * n for n in range(8)]]
    frames = [pair(length, momentum=0.1) for length in lengths]
    whole = fresh()
    want = [step_of(whole, atoms.copy()).source for atoms in frames]
    assert want.count(Source.REFERENCE) == 5  # the one that objected, and four calm ones
    first, second = fresh(), fresh()
    got = [step_of(first, atoms.copy()).source for atoms in frames[:3]]
    engine, path = json.loads(json.dumps([first.engine.state(), first.trajectory.state()]))
    second.engine.restore(engine)
    second.trajectory.restore(path)
    assert got + [step_of(second, atoms.copy()).source for atoms in frames[3:]] == want


def test_the_summary_says_what_audits_found():
    calc = hybrid(settings("audit", audit_probability=1.0, force_tolerance_ev_per_ang=1e6,
                           energy_tolerance_ev=1e6))  # fmt: skip
    for number in range(10):
        step_of(calc, pair(0.74 + 0.001 * number))
    figures = summarise(calc.engine, ErrorLog(), ScopeLog())
    assert figures["missed_failures"] == (
        "missed failures: 0.0 % (0.0 to 0.0 %, 95 %), from 10 audits"  # every step was audited
    )
    assert figures["missed_share"] == 0.0
    assert figures["unflagged_share"] == 1.0
    assert (figures["audits"], figures["audits_bad"]) == (10, 0)
