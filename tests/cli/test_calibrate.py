"""hybrid-calc calibrate and scope: from runs to a calibration, and to a run that relies on it."""

from __future__ import annotations

import json
import warnings

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from hybrid_calc import GateSettings, HybridCalculator, ToyCommittee, ToyReference, gfn2_xtb
from hybrid_calc.committee.bundle import embedded_calibration, load_committee, read_header
from hybrid_calc.gate.calibration_file import CommitteeCalibration, read_calibration
from hybrid_calc.gate.labelled import SHOWN_BY
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.gate.tolerance import ToleranceWarning
from tests.cli.jobs import decisions_of, summary_of

RUNS, STEPS = 10, 30
PARTS = ("train", "validation", "test", "calibration")
"""All: runs are dealt out by their names, which differ from time to time, and all are needed."""
EVERYTHING = {"trust": False, "force_tolerance_ev_per_ang": 0.25}
"""Nothing is calibrated and trust is off: every geometry is labelled."""
TOYS = {"committee": {"kind": "toy", "perturbation": 0.1}}


def dynamics(seed, steps):
    return {"steps": steps, "seed": seed, "ensemble": "langevin", "temperature_kelvin": 300}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Return a store that several runs filled, strongly damped so that frames differ."""
    path = tmp_path_factory.mktemp("store") / "all.h5"
    for seed in range(RUNS):
        atoms, random = molecule("H2O"), np.random.default_rng(seed)
        thermalize_momenta(atoms, 300, rng=random)
        committee = ToyCommittee(perturbation=0.1)
        gate = GateSettings(**EVERYTHING)
        with HybridCalculator(committee, ToyReference(), gate, str(path)) as calc:
            atoms.calc = calc
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ToleranceWarning)
                Langevin(
                    atoms, 1.0 * units.fs, temperature_K=300, friction=0.1 / units.fs,
                    rng=random, fixcm=False,
                ).run(STEPS)  # fmt: skip
    return path


@pytest.fixture
def store(filled, jobs):
    """Return that store, split by run."""
    ended = jobs.call("store", "split", filled)
    assert ended.code == 0
    return filled


def test_runs_split_calibrate_and_a_run_that_relies_on_it(jobs, store, tmp_path):
    job, file = jobs.write(gate=EVERYTHING, **TOYS), tmp_path / "toy.calibration"
    parts = [word for part in PARTS for word in ("--part", part)]
    ended = jobs.call("calibrate", store, "--committee", job, "--output", file, *parts)
    assert (ended.code, ended.err) == (0, "")
    assert "NOT validated:" in ended.out
    assert "transition states" in ended.out
    calibration = read_calibration(file)
    validated = {e.regime.name for e in calibration.entries if e.threshold is not None}
    assert "equilibrium" in validated

    relying = {**EVERYTHING, "calibration": str(file)}
    output = tmp_path / "relying"
    ended = jobs.run(output, gate=relying, md=dynamics(99, steps=30), **TOYS)
    assert (ended.code, ended.err) == (0, "")
    lines = decisions_of(output)
    standings = {line["regime"].split()[0]: line["standing"] for line in lines}
    assert standings["equilibrium"].startswith("validated by ")
    behind = {e.regime.name: e for e in calibration.entries}
    for line in lines:
        known = line["regime"].split()[0] in validated
        assert line["standing"].partition(" by ")[0] == ("validated" if known else "unvalidated")
        if known:
            entry, said = behind[line["regime"].split()[0]], line["evidence"]["calibration"]
            assert (said["frames"], said["failures"]) == (entry.frames, entry.failures)
            assert said["threshold"] == line["threshold"]
            assert said["missed_share"] == 0.1
        assert known or line["labelled"]  # what is not validated always asks
    assert sum(line["labelled"] for line in lines) < len(lines)

    # the report says which share of its steps lay inside the scope
    scope = summary_of(output)["scope"]
    card = ScopeCard.from_dict(scope["card"])
    inside = [
        card.covers(entry.regime, line["mean_temperature"], line["molecule"])
        for line in lines
        for entry in calibration.entries
        if str(entry.regime) == line["regime"]
    ]
    assert scope["steps"] == len(lines)
    assert scope["steps_inside"] == sum(inside)
    assert "inside the scope" in ended.out

    spoken = jobs.call("scope", output)
    assert (spoken.code, spoken.err) == (0, "")
    assert f"inside the scope: {scope['share_inside']:.0%}".replace("%", " %") in spoken.out
    assert "charged species" in spoken.out
    assert json.loads(jobs.call("scope", output, "--json").out) == scope
    spoken = jobs.call("scope", file)
    assert "elements other than" in spoken.out or "any element" in spoken.out
    data = json.loads(jobs.call("scope", file, "--json").out)
    assert data["card"] == calibration.card.to_dict()


def test_a_calibration_of_another_committee_or_tolerance_is_refused_in_one_line(
    jobs, store, tmp_path
):
    job, file = jobs.write(gate=EVERYTHING, **TOYS), tmp_path / "toy.calibration"
    assert jobs.call("calibrate", store, "--committee", job, "--output", file).code == 0
    relying = {**EVERYTHING, "calibration": str(file)}
    other = {"committee": {"kind": "toy", "perturbation": 0.1, "seed": 7}}
    tolerant = relying | {"force_tolerance_ev_per_ang": 0.3}
    for number, (words, settings) in enumerate(
        (
            ("belongs to committee", {"gate": relying, **other}),
            ("force_tolerance_ev_per_ang", {"gate": tolerant, **TOYS}),
            ("cannot be read", {"gate": relying | {"calibration": "nowhere"}, **TOYS}),
        )
    ):
        ended = jobs.run(tmp_path / f"refused{number}", md={"steps": 2}, **settings)
        assert ended.code == 2
        assert ended.err.count("\n") == 1
        assert words in ended.err


def test_the_settings_files_regimes_and_limits_class_the_frames(jobs, store, tmp_path):
    wet = {"name": "protic", "parent": "warm", "elements": ["H"]}
    gate, file = {**EVERYTHING, "regimes": [wet]}, tmp_path / "toy.calibration"
    job = jobs.write(gate=gate, flags={"warm_above_kelvin": 1.0}, **TOYS)
    parts = [word for part in PARTS for word in ("--part", part)]
    ended = jobs.call("calibrate", store, "--committee", job, "--output", file, *parts)
    assert (ended.code, ended.err) == (0, "")
    names = {entry.regime.name for entry in read_calibration(file).entries}
    assert "protic" in names  # all above one kelvin
    assert not names & {"equilibrium", "warm"}


def test_json_says_what_the_words_say(jobs, store, tmp_path):
    job, file = jobs.write(gate=EVERYTHING, **TOYS), tmp_path / "toy.calibration"
    ended = jobs.call("calibrate", store, "--committee", job, "--output", file, "--json")
    assert ended.code == 0
    data = json.loads(ended.out)
    assert data["scope"] == read_calibration(file).card.to_dict()
    assert data["target"] == str(file)
    # Without --signal a score rests on the spread alone (benchmarks/gate.py says why).
    assert {entry.score.signals for entry in read_calibration(file).entries} == {("force_spread",)}
    assert [row["regime"]["name"] for row in data["regimes"]]


def test_bad_input_is_one_line_with_the_remedy(jobs, store, tmp_path):
    job = jobs.write(gate=EVERYTHING, **TOYS)
    folder = tmp_path / "run0"
    for words, arguments in (
        ("there is no store", ("calibrate", tmp_path / "none.h5", "--committee", job)),
        ("cannot be read", ("calibrate", store, "--committee", tmp_path / "none.yaml")),
        ("cannot be read", ("calibrate", store, "--committee", tmp_path / "none.bundle")),
        ("its parts are", ("calibrate", store, "--committee", job, "--part", "hold")),
        ("between 0 and 1", ("calibrate", store, "--committee", job, "--missed-share", "2")),
        ("a score can use", ("calibrate", store, "--committee", job, "--signal", "luck")),
        ("must be positive", ("calibrate", store, "--committee", job, "--force-tolerance", "-1")),
        ("cannot be read", ("calibrate", store, "--committee", job, "--training", folder)),
        ("neither", ("scope", store)),
        ("there is no", ("scope", tmp_path / "nothing")),
        ("no summary.json", ("scope", tmp_path)),
    ):
        ended = jobs.call(*arguments)
        assert ended.code == 2, arguments
        assert ended.err.count("\n") == 1
        assert words in ended.err, ended.err


def test_a_run_without_calibration_says_that_nothing_is_validated(jobs, tmp_path):
    ended = jobs.run(tmp_path / "run", md={"steps": 3})
    assert "nothing is validated" in ended.out
    assert summary_of(tmp_path / "run")["scope"]["card"] is None
    spoken = jobs.call("scope", tmp_path / "run")
    assert spoken.code == 0
    assert "0 % of steps: nothing is validated" in spoken.out


# bundles


@pytest.fixture(scope="module")
def bundle(mace_model_files, tmp_path_factory):
    from hybrid_calc.committee.bundle import import_files

    path = tmp_path_factory.mktemp("bundle") / "small.bundle"
    import_files(mace_model_files, path, trust=True, name="small")
    return path


@pytest.fixture
def labelled(jobs, bundle, tmp_path):
    """Return a store of water that the bundle's committee was asked about, split."""
    path = tmp_path / "water.h5"
    settings = {
        "store": str(path),
        "committee": {"kind": "bundle", "file": str(bundle)},
        "reference": {"kind": "xtb"},
        "gate": {"trust": False, "force_tolerance_ev_per_ang": 5.0, "energy_tolerance_ev": 5.0},
    }
    for seed in range(4):
        ended = jobs.run(tmp_path / f"run{seed}", md=dynamics(seed, steps=10), **settings)
        assert ended.code == 0, ended.err
    assert jobs.call("store", "split", path).code == 0
    return path


def test_a_calibration_travels_inside_its_bundle(jobs, bundle, labelled, tmp_path):
    before = load_committee(bundle).info.identity
    tolerances = ("--force-tolerance", 5.0, "--energy-tolerance", 5.0)
    training = tmp_path / "train.xyz"
    _write_training(training)
    ended = jobs.call(
        "calibrate", labelled, "--committee", bundle, "--training", training, *tolerances
    )
    assert (ended.code, ended.err) == (0, "")
    assert load_committee(bundle).info.identity == before
    calibration = CommitteeCalibration.from_bytes(embedded_calibration(bundle), "inside")
    assert calibration.identity == before
    assert calibration.training == "train.xyz, 30 frames"
    assert calibration.novelty_model is not None
    assert read_header(bundle).scope == calibration.card.to_dict()
    spoken = jobs.call("scope", bundle)
    assert "NOT validated:" in spoken.out

    gate = {"trust": False, "force_tolerance_ev_per_ang": 5.0, "energy_tolerance_ev": 5.0}
    chosen = {"kind": "bundle", "file": str(bundle)}
    ended = jobs.run(
        tmp_path / "relying", committee=chosen, reference={"kind": "xtb"}, gate=gate,
        md=dynamics(50, steps=3),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert summary_of(tmp_path / "relying")["scope"]["card"] == calibration.card.to_dict()

    # and in Python: the same bundle, and the same calibration as a file that is named
    calibration.write(tmp_path / "water.calibration")
    plain = load_committee(bundle)
    plain.calibration = None
    for committee, more in (
        (load_committee(bundle), {}),
        (plain, {"calibration": tmp_path / "water.calibration"}),
    ):
        with HybridCalculator(committee, gfn2_xtb(), GateSettings(**gate, **more)) as calc:
            start = molecule("H2O")
            start.calc = calc
            start.get_forces()
            assert calc.engine.gate.usable_calibration.card == calibration.card
            said = calc.last_step
            assert said.observation.signal("novelty") < np.inf
            (line,) = [one for one in decisions_of(tmp_path / "relying") if one["index"] == 0]
            assert (str(said.regime), said.decision.standing) == (line["regime"], line["standing"])

    # another tolerance: set aside, said, and nothing is validated
    with pytest.warns(UserWarning, match="not used"):
        jobs.run(
            tmp_path / "other", committee=chosen, reference={"kind": "xtb"},
            gate=gate | {"force_tolerance_ev_per_ang": 1.0}, md=dynamics(50, steps=3),
        )  # fmt: skip
    assert summary_of(tmp_path / "other")["scope"]["card"] is None


def _write_training(path):
    frames = []
    for seed in range(30):
        atoms = molecule("H2O")
        atoms.rattle(0.03, seed=seed)
        atoms.arrays["REF_forces"] = np.full((3, 3), 0.1)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")


# the real thing


def test_ani_against_gfn2_from_runs_to_words(jobs, tmp_path):
    path, file = tmp_path / "methanol.h5", tmp_path / "ani.calibration"
    settings = {
        "structure": {"molecule": "CH3OH"},
        "committee": {"kind": "ani"},
        "reference": {"kind": "xtb"},
        "allow_level_mismatch": True,
    }
    # GFN2-xTB is another surface than ANI-1x: its forces are off by up to 2 eV/A
    gate = {"trust": False, "force_tolerance_ev_per_ang": 1.2, "energy_tolerance_ev": 0.4}
    for seed in range(4):
        ended = jobs.run(
            tmp_path / f"run{seed}", store=str(path), gate=gate, md=dynamics(seed, steps=20),
            **settings,
        )  # fmt: skip
        assert ended.code == 0, ended.err
    assert jobs.call("store", "split", path).code == 0
    job = jobs.write(gate=gate, **settings)
    parts = [word for part in PARTS for word in ("--part", part)]
    ended = jobs.call("calibrate", path, "--committee", job, "--output", file, *parts)
    assert (ended.code, ended.err) == (0, "")
    calibration = read_calibration(file)
    assert isinstance(calibration.card, ScopeCard)
    for entry in calibration.card.entries:  # few frames show no molecule
        assert entry.molecules == (("CH4O",) if entry.frames >= SHOWN_BY else ())
    assert "transition states" in ended.out
    ended = jobs.run(
        tmp_path / "relying", gate={**gate, "calibration": str(file)},
        md=dynamics(77, steps=20), **settings,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    lines = decisions_of(tmp_path / "relying")
    known = {
        str(entry.regime): "validated" if entry.threshold is not None else "unvalidated"
        for entry in calibration.entries
    }
    for line in lines:
        standing = line["standing"].partition(" by ")[0]
        assert standing == known.get(line["regime"], "unvalidated")
    words = jobs.call("scope", tmp_path / "relying").out
    assert "scope of ANI-1x" in words
