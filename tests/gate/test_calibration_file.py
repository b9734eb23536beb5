"""A calibration as a file: to the bit and back, refused where changed or for something else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from hybrid_calc.errors import CalibrationError
from hybrid_calc.flags.coverage import Surroundings
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.calibrated import Calibration
from hybrid_calc.gate.calibration_file import (
    CommitteeCalibration,
    _digest,
    read_calibration,
)
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import RegimeRule, classes_of
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.gate.scope_entry import scope_entries
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.gate.thresholds import calibrate_regimes
from tests.gate.populations import CALM, TOLERANCES, frames_of

CLASSES = classes_of([], FlagLimits())
FITS = {"committee": "c0ffee", "level_hash": "1e7e1", "classes": CLASSES, **TOLERANCES}
NOWHERE = Surroundings.of(np.zeros((3, 1)))
PROTON = RegimeRule(name="proton", parent="reactive", flags=["bond_forming"], elements=["O", "H"])


def made(**more) -> CommitteeCalibration:
    spreads = np.linspace(0.2, 2, 20)
    frames = frames_of(np.full(20, 1.0), signals={"force_spread": spreads})
    random = np.random.default_rng(0)
    descriptors = list(random.normal(size=(30, 3, 8)))
    plain = {
        "card": ScopeCard(
            committee="c0ffee", committee_name="toy", level="toy",
            entries=scope_entries(frames, **TOLERANCES), **TOLERANCES,
        ),
        "level_hash": "1e7e1",
        "missed_share": 0.1,
        "entries": calibrate_regimes(frames, None, missed_share=0.1, random=random, **TOLERANCES),
        "ranges": TrainingRanges(lengths={"H-O": (0.9, 1.1)}, largest_force=4.0, frames=30),
        "novelty_model": Novelty.fit([np.array([8, 1, 1])] * 30, descriptors),
        "training": "train.xyz, 30 frames",
        "provenance": {"store": "run.h5"},
        "classes": CLASSES,
    }  # fmt: skip
    return CommitteeCalibration(**plain | more)


def test_what_classed_its_frames_is_compared_to_the_letter_of_the_rules(tmp_path):
    plain = classes_of([PROTON], FlagLimits())
    made(classes=plain).write(tmp_path / "toy.calibration")
    read_calibration(tmp_path / "toy.calibration").check(**FITS | {"classes": plain})
    made(classes=None).check(**FITS)  # as earlier versions wrote it: nobody knows


@pytest.fixture
def path(tmp_path):
    made().write(tmp_path / "toy.calibration")
    return tmp_path / "toy.calibration"


def test_a_file_carries_everything(path):
    before, after = made(), read_calibration(path)
    for name in ("card", "level_hash", "missed_share", "entries", "ranges", "training"):
        assert getattr(after, name) == getattr(before, name), name
    asked = np.random.default_rng(3).normal(size=(3, 8)), np.array([8, 1, 1])
    assert np.array_equal(after.novelty(*asked), before.novelty(*asked))
    assert not path.with_name(path.name + ".tmp").exists()


def test_it_is_what_the_gate_asks_for(path):
    calibration = read_calibration(path)
    assert isinstance(calibration, Calibration)
    assert calibration.identity == "c0ffee"
    known = calibration.regime(CALM)
    assert known.validated
    assert known.threshold == pytest.approx(np.linspace(0.2, 2, 20)[1])  # k = floor(0.1 x 21)
    gate = Gate(GateSettings(trust=False, policies=["uncertain", "unseen"]), calibration)
    gate.bind("c0ffee")
    for spread, asked in ((0.25, False), (0.3, True)):
        signals = {"force_spread": spread, "novelty": 0.5}
        here = Observation(
            regime=CALM, surroundings=Surroundings.of(np.zeros((3, 1))), signals=signals
        )
        decision = gate.decide(here)
        assert decision.standing == "validated by 20 frames, 20 bad: at most 10 % of bad ones pass"
        assert bool(decision.reasons) == asked


def test_under_another_committee_nothing_is_validated(path):
    gate = Gate(GateSettings(trust=False), read_calibration(path))
    with pytest.warns(UserWarning, match="not used"):
        gate.bind("another")
    signals = {"force_spread": 0.01}
    here = Observation(regime=CALM, surroundings=NOWHERE, signals=signals)
    decision = gate.decide(here)
    assert decision.standing == "unvalidated"
    assert "unseen" in decision.policies


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"committee": "beef"}, "belongs to committee toy"),
        ({"level_hash": "0"}, "another level"),
        ({"force_tolerance": 0.3}, "gate.force_tolerance_ev_per_ang = 0.2"),
        ({"energy_tolerance": 0.2}, "gate.energy_tolerance_ev = 0.1"),
        ({"force_tolerance": float("nan")}, "force_tolerance"),
        ({"classes": classes_of([], FlagLimits(hot_above_kelvin=1500))}, "hot_above_kelvin = 700"),
        ({"classes": classes_of([PROTON], FlagLimits())}, "gate.regimes = "),
    ],
)
def test_it_is_refused_for_anything_else(change, words):
    made().check(**FITS)
    with pytest.raises(CalibrationError, match=words):
        made().check(**FITS | change)


def contents(blob: bytes) -> list[object]:
    """Return what is in a file, or that it is refused."""
    try:
        found = CommitteeCalibration.from_bytes(blob, "changed")
    except CalibrationError:
        return ["refused"]
    arrays = {name: array.tobytes() for name, array in found.novelty_model.arrays().items()}
    return [found.card, found.entries, found.ranges, found.training, found.provenance, arrays]


def test_no_changed_byte_changes_what_is_said(path):
    blob = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in random.integers(8, len(blob), 60).tolist():
        changed = bytearray(blob)
        changed[place] ^= 1 << random.integers(8)
        found = contents(bytes(changed))
        refused += found == ["refused"]
        assert found in (["refused"], contents(blob))  # a flip in padding says the same
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"no calibration", b"\x00" * 64])
def test_something_else_is_no_calibration(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CalibrationError, match="hybrid-calc calibrate"):
        read_calibration(tmp_path / "x")
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_calibration(tmp_path / "y")


def test_another_schema_is_refused_by_its_number(path):
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"]["schema"] = "9"
    text = json.dumps(header).encode()
    changed = len(text).to_bytes(8, "little") + text + blob[8 + size :]
    with pytest.raises(CalibrationError, match="schema 9"):
        CommitteeCalibration.from_bytes(changed, "later")


def test_schema_1_takes_the_molecules_from_its_card(path):
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    metadata = json.loads(blob[8 : 8 + size])["__metadata__"]
    header = json.loads(metadata["header"])
    for entry in header["entries"]:
        assert entry.pop("molecules") == ["H2O"]
    text = json.dumps(header)
    arrays = made().novelty_model.arrays()
    old = save(arrays, metadata | {"schema": "1", "header": text, "digest": _digest(text, arrays)})
    assert CommitteeCalibration.from_bytes(old, "old").entries == made().entries
    assert made().regime(CALM).molecules == {"H2O"}


def test_a_folder_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(CalibrationError, match="cannot be written"):
        made().write(tmp_path / "nowhere" / "toy.calibration")


def test_without_training_frames_there_is_no_novelty(tmp_path):
    made(novelty_model=None, ranges=None).write(tmp_path / "bare")
    bare = read_calibration(tmp_path / "bare")
    assert bare.novelty(np.zeros((3, 8)), np.array([8, 1, 1])) is None
    assert bare.ranges is None
