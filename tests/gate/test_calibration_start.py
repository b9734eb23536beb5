"""Which calibration a calculator made in Python relies on: named, given, or inside the bundle."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from ase.build import molecule

from hybrid_calc import Gate, GateSettings, ToyCommittee, ToyReference
from hybrid_calc.errors import CalibrationError, InputError
from hybrid_calc.gate.calibrated import CalibrationMismatchWarning
from hybrid_calc.gate.regime import RegimeRule
from hybrid_calc.gate.score import Score
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
        classes=None,
    )


def opinionated(committee, *names):
    """Return the same, with regimes whose scores read a second opinion beside the spread."""
    calibration = calibration_of(committee)
    (entry,) = calibration.entries
    score = Score(signals=("force_spread", "second_opinion"), weights=(1.0, 1.0), bias=0.0)
    return dataclasses.replace(
        calibration,
        entries=tuple(
            dataclasses.replace(
                entry,
                regime=dataclasses.replace(entry.regime, name=name),
                score=score,
                fitted=True,
                threshold=0.5,
            )
            for name in names
        ),
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
    assert standing(hybrid(GateSettings(calibration=file, **SETTINGS))).startswith("validated by")
    assert standing(hybrid(Gate(GateSettings(calibration=file, **SETTINGS)))).startswith(
        "validated by"
    )


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
    assert standing(hybrid(GateSettings(**SETTINGS), committee=committee)).startswith(
        "validated by"
    )
    assert standing(hybrid(Gate(GateSettings(**SETTINGS)), committee=committee)).startswith(
        "validated by"
    )
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


# signals that a score needs

OPINION = {"second_opinion": "gfn2-xtb"}
EVERYWHERE = {**OPINION, "second_opinion_for": "all"}
RULES = [
    RegimeRule(name="warmish", parent="warm"),
    RegimeRule(name="stretched", parent="equilibrium", flags=["step_displacement"]),
]


@pytest.mark.parametrize(
    ("name", "settings", "fits"),
    [
        ("equilibrium", {}, False),
        ("equilibrium", OPINION, False),
        ("equilibrium", EVERYWHERE, True),
        ("warm", OPINION, False),
        ("warmish", OPINION, False),
        ("warmish", EVERYWHERE, True),
        ("stretched", OPINION, True),  # there a flag is always up
        ("hot", OPINION, True),  # and here that of the temperature
        ("reactive", OPINION, True),
        ("reactive", {}, False),
        ("unheard-of", {}, True),  # no rule of this run leads there
    ],
)
def test_a_calibration_that_needs_a_second_opinion_is_refused_where_it_is_not_had(
    name, settings, fits
):
    settings = GateSettings(**SETTINGS, **settings, regimes=RULES)
    start = partial(hybrid, Gate(settings, opinionated(ToyCommittee(), name)))
    if fits:
        start().close()
        return
    with pytest.raises(CalibrationError, match=f"judges {name} H O by second_opinion") as refused:
        start()
    assert "Set gate.second_opinion: gfn2-xtb and gate.second_opinion_for: all" in str(
        refused.value
    )


def test_one_inside_a_bundle_is_set_aside_with_the_same_words():
    committee = Bundled()
    committee.calibration = opinionated(committee, "equilibrium").to_bytes()
    with pytest.warns(CalibrationMismatchWarning, match=r"not used: .*second_opinion_for: all"):
        calc = hybrid(GateSettings(**SETTINGS), committee=committee)
    assert standing(calc) == "unvalidated"


def test_a_score_without_novelty_model_is_refused():
    calibration = opinionated(ToyCommittee(), "equilibrium")
    (entry,) = calibration.entries
    score = dataclasses.replace(entry.score, signals=("force_spread", "novelty"))
    entries = (dataclasses.replace(entry, score=score),)
    gate = Gate(GateSettings(**SETTINGS), dataclasses.replace(calibration, entries=entries))
    with pytest.raises(CalibrationError, match=r"by novelty as well.*Calibrate again without it"):
        hybrid(gate)


def test_an_opinion_that_could_not_be_had_is_named_in_the_reason():
    gate = Gate(GateSettings(**SETTINGS, **EVERYWHERE), opinionated(ToyCommittee(), "equilibrium"))
    calc = hybrid(gate)
    calc.engine.second_opinion = ToyReference(fails=lambda atoms: True)
    standing(calc)
    details = {r.policy: r.detail for r in calc.last_step.decision.reasons}
    assert details["uncertain"] == "P(bad) 1 against 0.5: second_opinion unknown"
