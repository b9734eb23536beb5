"""Which calibration a calculator made in Python relies on: named, given, or inside the bundle."""

from __future__ import annotations

import dataclasses

import pytest
from ase.build import molecule

from hybrid_calc import Gate, GateSettings, ToyCommittee, ToyReference
from hybrid_calc.errors import CalibrationError, InputError
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning
from tests.gate.populations import TOLERANCES
from tests.gate.test_calibration_file import made
from tests.scripted import hybrid

SETTINGS = {
    "force_tolerance_ev_per_ang": TOLERANCES["force_tolerance"],
    "energy_tolerance_ev": TOLERANCES["energy_tolerance"],
}


class Bundled(ToyCommittee):
    """A toy that brings a calibration along, as a bundle does."""

    calibration: bytes | None = None


def calibration_of(committee, **card):
    """Return a calibration of water made for a committee and the toy reference."""
    plain = made()
    changes = {"committee": committee.info.identity} | card
    return dataclasses.replace(
        plain,
        card=dataclasses.replace(plain.card, **changes),
        level_hash=ToyReference().level.hash,
        ranges=None,
        novelty_model=None,
    )


def standing(calc):
    """Return what the second geometry of water rests on; the first one sets the energy zero."""
    atoms = molecule("H2O")
    atoms.calc = calc
    atoms.get_forces()
    atoms.positions[0, 0] += 0.001
    atoms.get_forces()
    return calc.last_step.decision.standing


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.calibration"
    calibration_of(ToyCommittee()).write(path)
    return path


def test_a_file_named_in_python_is_used_as_one_named_in_yaml(file):
    assert standing(hybrid(GateSettings(**SETTINGS))) == "unvalidated"
    assert standing(hybrid(GateSettings(calibration=file, **SETTINGS))) == "validated"
    assert standing(hybrid(Gate(GateSettings(calibration=file, **SETTINGS)))) == "validated"


def test_a_relative_path_starts_from_the_working_directory(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    settings = GateSettings(calibration="toy.calibration", **SETTINGS)
    assert Gate(settings).calibration.identity == ToyCommittee().info.identity


@pytest.mark.parametrize(
    ("changes", "committee", "words"),
    [
        ({"force_tolerance_ev_per_ang": 0.3}, {}, "Set gate.force_tolerance_ev_per_ang: 0.2"),
        ({}, {"seed": 7}, "belongs to committee toy .* Calibrate again"),
        ({"calibration": "nowhere"}, {}, "nowhere cannot be read"),
    ],
)
def test_a_named_file_that_does_not_fit_is_refused(file, changes, committee, words):
    settings = GateSettings(**{"calibration": file, **SETTINGS, **changes})
    with pytest.raises(CalibrationError, match=words):
        hybrid(settings, committee=ToyCommittee(**committee))


def test_two_calibrations_are_one_too_many(file):
    with pytest.raises(InputError, match="give one of them"):
        Gate(GateSettings(calibration=file), calibration_of(ToyCommittee()))


def test_what_the_bundle_brings_along_is_used_where_none_is_named(file):
    committee = Bundled()
    assert standing(hybrid(GateSettings(**SETTINGS), committee=committee)) == "unvalidated"
    committee.calibration = calibration_of(committee).to_bytes()
    assert standing(hybrid(GateSettings(**SETTINGS), committee=committee)) == "validated"
    assert standing(hybrid(Gate(GateSettings(**SETTINGS)), committee=committee)) == "validated"
    named = hybrid(GateSettings(calibration=file, **SETTINGS), committee=committee)
    assert named.engine.gate.calibration.provenance == made().provenance


def test_what_the_bundle_brings_along_is_set_aside_with_a_word_where_it_does_not_fit():
    committee = Bundled()
    committee.calibration = calibration_of(committee, force_tolerance=0.3).to_bytes()
    with pytest.warns(CalibrationMismatchWarning, match="not used: .* = 0.3"):
        calc = hybrid(GateSettings(**SETTINGS), committee=committee)
    assert standing(calc) == "unvalidated"
    committee.calibration = b"something else"
    with pytest.raises(CalibrationError, match=r"in the bundle of .* is no calibration"):
        hybrid(GateSettings(**SETTINGS), committee=committee)
