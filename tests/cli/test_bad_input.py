"""Bad settings and structures: one line, exit code 2, no traceback, nothing computed."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import yaml

from hybrid_calc.reference.pyscf_backend import PySCFReference

FILES = {
    "list.yaml": "- task: md\n- structure: here\n",
    "word.yaml": "md\n",
    "broken.yaml": "task: md\nstructure: {molecule: H2O\n",
    "tab.yaml": "task: md\n\tstructure: 1\n",
    "twice.yaml": "task: md\ngate: {budget: 1}\nstructure: {molecule: H2O}\ngate: {budget: 2}\n",
    "code.yaml": "task: !!python/object/apply:os.getcwd []\n",
    "no-task.yaml": "structure: {molecule: H2O}\n",
    "no-structure.yaml": "task: md\n",
    "empty.yaml": "",
    "empty.xyz": "",
    "words.xyz": "this is not a structure\n",
    "none.xyz": "0\n\n",
    "dummy.xyz": "2\n\nX 0 0 0\nH 0 0 1\n",
    "nan.xyz": "2\n\nH 0 0 nan\nH 0 0 1\n",
    "flat.xyz": '2\nLattice="1 0 0 0 1 0 0 0 0" pbc="T T T"\nH 0 0 0\nH 0 0 1\n',
    "half-charge.xyz": "2\ncharge=0.5\nH 0 0 0\nH 0 0 1\n",
    "water.xyz": "3\n\nO 0 0 0.1\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n",
    "turned.xyz": "3\n\nH 0 0.76 -0.48\nO 0 0 0.1\nH 0 -0.76 -0.48\n",
    "box.xyz": (
        '3\nLattice="9 0 0 0 9 0 0 0 9" pbc="T T T"\nO 0 0 0.2\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n'
    ),
    "note.h5": "not a store\n",
    "full": "a file where a folder is needed\n",
}

WATER = {"file": "water.xyz"}
PYSCF = {"committee": {"kind": "ani"}, "reference": {"kind": "pyscf"}}

SETTINGS = {
    "unknown key at the top": ({"taks": "md"}, "taks; did you mean task?"),
    "unknown key in gate": (
        {"gate": {"force_tolerence_ev_per_ang": 1}},
        "gate.force_tolerence_ev_per_ang; did you mean force_tolerance_ev_per_ang?",
    ),
    "unknown key in md.stretch": (
        {"md": {"stretch": {"atoms": [0, 1], "to_length_ang": 2, "spring": 3}}},
        "md.stretch.spring; did you mean spring_ev_per_ang2?",
    ),
    "unknown key in a kind": (
        {"committee": {"kind": "toy", "member": 3}},
        "committee.member; did you mean members?",
    ),
    "unknown key in a level": (
        {"reference": {"kind": "pyscf", "level": {"funktional": "pbe", "basis": "sto-3g"}}},
        "unknown key reference.level.funktional; did you mean functional?",
    ),
    "key of another kind": (
        {"committee": {"kind": "ani", "members": 4}},
        "unknown key committee.members",
    ),
    "unknown kind": ({"committee": {"kind": "nequip"}}, "committee.kind must be one of ani"),
    "no kind": ({"reference": {"threads": 2}}, "reference.kind must be one of pyscf, xtb, ase"),
    "unknown level name": (
        {"reference": {"kind": "pyscf", "level": "ani-2x"}},
        "reference.level: known names are ani-1x",
    ),
    "unknown task": ({"task": "mc"}, "task: Input should be 'md', 'relax' or 'neb'; got 'mc'"),
    "word for a number": ({"md": {"steps": "many"}}, "md.steps"),
    "list for a section": ({"md": [1, 2]}, "md: Input should be a valid dictionary"),
    "number for a section": ({"gate": 3}, "gate: Input should be"),
    "half a step": ({"md": {"steps": 1.5}}, "md.steps"),
    "negative steps": ({"md": {"steps": -5}}, "md.steps: Input should be greater than"),
    "negative tolerance": ({"gate": {"force_tolerance_ev_per_ang": -0.1}}, "force_tolerance"),
    "negative temperature": ({"md": {"temperature_kelvin": -1}}, "md.temperature_kelvin"),
    "infinite temperature": ({"md": {"temperature_kelvin": float("inf")}}, "finite number"),
    "timestep not a number": ({"md": {"timestep_fs": float("nan")}}, "md.timestep_fs"),
    "no threads": ({"threads": 0}, "threads"),
    "audits beyond certainty": ({"gate": {"audit_probability": 1.2}}, "gate.audit_probability"),
    "unknown policy": ({"gate": {"policies": ["hunch"]}}, "gate.policies"),
    "two images": ({"neb": {"images": 2}}, "neb.images"),
    "unknown optimiser": ({"relax": {"optimizer": "SGD"}}, "relax.optimizer"),
    "unknown device": (
        {"committee": {"kind": "mace", "files": "a.model", "device": "tpu"}},
        "committee.device",
    ),
    "stretch of three atoms": (
        {"md": {"stretch": {"atoms": [0, 1, 2], "to_length_ang": 2}}},
        "md.stretch.atoms",
    ),
    "stretch of an atom that is not there": (
        {"md": {"stretch": {"atoms": [0, 3], "to_length_ang": 2}}},
        "from 0 to 2",
    ),
    "stretch of an atom from itself": (
        {"md": {"stretch": {"atoms": [1, 1], "to_length_ang": 2}}},
        "two different atoms",
    ),
    "neither file nor molecule": ({"structure": {"charge": 0}}, "either file or molecule"),
    "both file and molecule": (
        {"structure": {"file": "water.xyz", "molecule": "H2O"}},
        "either file or molecule",
    ),
    "structure file that is not there": ({"structure": {"file": "no.xyz"}}, "no.xyz is not there"),
    "empty structure file": ({"structure": {"file": "empty.xyz"}}, "empty.xyz cannot be read"),
    "structure file of words": ({"structure": {"file": "words.xyz"}}, "words.xyz cannot be read"),
    "structure without atoms": ({"structure": {"file": "none.xyz"}}, "no atoms"),
    "dummy atom": ({"structure": {"file": "dummy.xyz"}}, "dummy atoms"),
    "position not a number": ({"structure": {"file": "nan.xyz"}}, "atoms [0] are not finite"),
    "cell without volume": ({"structure": {"file": "flat.xyz"}}, "no volume"),
    "half a charge in the file": ({"structure": {"file": "half-charge.xyz"}}, "whole number"),
    "half a charge in the settings": (
        {"structure": {**WATER, "charge": 0.5}},
        "structure.charge",
    ),
    "charge of a typing error": ({"structure": {**WATER, "charge": 200}}, "charge"),
    "spin of the wrong parity": (
        {"structure": {**WATER, "multiplicity": 2}},
        "10 electrons cannot have multiplicity 2",
    ),
    "no spin": ({"structure": {**WATER, "multiplicity": 0}}, "structure.multiplicity"),
    "unknown molecule": ({"structure": {"molecule": "CH3CH2OHH"}}, "near: CH3CH2OH"),
    "molecule that YAML takes for a truth value": (
        {"structure": {"molecule": False}},
        "structure.molecule",
    ),
    "band without an end": ({"task": "neb"}, "task neb needs end"),
    "ends with other atoms": ({"task": "neb", "end": {"molecule": "NH3"}}, "different atoms"),
    "ends in another order": (
        {"task": "neb", "end": {"file": "turned.xyz"}},
        "different atoms or another order",
    ),
    "ends in other cells": ({"task": "neb", "end": {"file": "box.xyz"}}, "different cells"),
    "ends of other charge": (
        {"task": "neb", "end": {"file": "water.xyz", "charge": 2}},
        "different charge: 0 and 2",
    ),
    "ends that are one structure": ({"task": "neb", "end": WATER}, "the same structure"),
    "no model files": (
        {"committee": {"kind": "mace", "files": "models/*.model"}, "reference": {"kind": "pyscf"}},
        "no such model file",
    ),
    "pickles nobody vouched for": (
        {"committee": {"kind": "mace", "files": "*.model"}, "reference": {"kind": "pyscf"}},
        "pickle",
    ),
    "pickles that are no networks": (
        {
            "committee": {"kind": "mace", "files": "*.model", "trust": True},
            "reference": {"kind": "pyscf"},
        },
        "cannot be read as a MACE model",
    ),
    "committee and reference of other levels": (
        {"committee": {"kind": "toy"}, "reference": {"kind": "pyscf"}},
        "was trained on toy",
    ),
    "element the committee refuses": (
        {"structure": {"molecule": "CH3Cl"}, "gate": {"outside_domain": "refuse"}, **PYSCF},
        "Cl",
    ),
    "store that is no HDF5 name": ({"store": "frames.db"}, "NAME.h5"),
    "store that is a text file": ({"store": "note.h5"}, "not an HDF5 file"),
    "store that is another HDF5 file": ({"store": "other.h5"}, "not a hybrid_calc store"),
    "store of another level": (
        {"store": "toy.h5", "md": {"steps": 1}, **PYSCF},
        "holds labels of toy",
    ),
}

SETS = {
    "--set without =": ("gate.budget", "--set takes key=value"),
    "--set without a key": ("=3", "--set takes key=value"),
    "--set of an unknown key": ("gate.budgte=3", "did you mean budget?"),
    "--set below a value": ("task.steps=3", "task has no keys below it"),
    "--set of broken YAML": ("gate.policies=[a", "not valid YAML"),
    "--set of a wrong value": ("md.steps=0", "md.steps"),
}


@pytest.fixture
def here(jobs, tmp_path):
    """A folder with files good and bad."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for number in range(2):
        (tmp_path / f"{number}.model").write_bytes(pickle.dumps({"number": number}))
    (tmp_path / "latin.yaml").write_bytes("task: md # \xe4".encode("latin-1"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3)
    return tmp_path


def assert_refused(ended, words):
    assert ended.code == 2, ended.err
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("hybrid-calc: ")
    assert "Traceback" not in ended.err + ended.out
    assert words in ended.err


@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings_and_structures_are_one_line_and_exit_code_2(jobs, here, monkeypatch, case):
    monkeypatch.setattr(PySCFReference, "label", None)  # whoever computes fails
    settings, words = SETTINGS[case]
    if settings.get("store") == "toy.h5":
        jobs.run(here / "before", store="toy.h5", md={"steps": 1})
    assert_refused(jobs.run(here / "out", **{"structure": WATER, **settings}), words)
    assert not (here / "out" / "summary.json").exists()


@pytest.mark.parametrize("case", SETS)
def test_bad_overrides_are_one_line_and_exit_code_2(jobs, here, case):
    override, words = SETS[case]
    assert_refused(jobs.run(here / "out", "--set", override), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.yaml", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("latin.yaml", "not a text file"),
        ("list.yaml", "must hold keys and values"),
        ("word.yaml", "must hold keys and values"),
        ("empty.yaml", "must hold keys and values"),
        ("broken.yaml", "not valid YAML"),
        ("tab.yaml", "not valid YAML"),
        ("twice.yaml", "'gate' is there twice"),
        ("code.yaml", "not valid YAML"),
        ("no-task.yaml", "task is needed"),
        ("no-structure.yaml", "structure is needed"),
    ],
)
def test_bad_settings_files_are_one_line_and_exit_code_2(jobs, here, name, words):
    assert_refused(jobs.call("run", here / name, "--output", here / "out"), words)


def test_a_folder_without_a_run_cannot_be_resumed(jobs, here):
    assert_refused(jobs.run(here / "out", "--resume"), "no run to resume")
    assert not (here / "out").exists()


def test_a_folder_with_a_run_is_not_run_over(jobs, here):
    assert jobs.run(here / "out", md={"steps": 1}).code == 0
    before = (here / "out" / "decisions.jsonl").read_text()
    assert_refused(jobs.run(here / "out", md={"steps": 1}), "--resume")
    assert (here / "out" / "decisions.jsonl").read_text() == before


def test_a_file_in_the_place_of_the_folder_is_refused(jobs, here):
    assert_refused(jobs.run(here / "full"), "cannot hold a run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "relax"}, "another task"),
        ({"structure": {"molecule": "NH3"}}, "another molecule"),
        ({"committee": {"kind": "toy", "seed": 1}}, "another committee"),
    ],
    ids=["task", "molecule", "committee"],
)
def test_a_run_is_resumed_only_as_what_it_was(jobs, here, change, words):
    assert jobs.run(here / "out", md={"steps": 1}).code == 0
    assert_refused(jobs.run(here / "out", "--resume", **{"md": {"steps": 2}, **change}), words)
    assert jobs.run(here / "out", "--resume", md={"steps": 2}).code == 0


def test_a_band_is_resumed_only_with_its_number_of_images(jobs, here):
    settings = {"task": "neb", "structure": WATER, "end": {"file": "bent.xyz"}}
    (here / "bent.xyz").write_text(FILES["water.xyz"].replace("0.76 -0.48", "0.56 -0.68"))
    jobs.run(here / "out", neb={"driver": "ase", "images": 3, "steps": 1}, **settings)
    ended = jobs.run(
        here / "out", "--resume", neb={"driver": "ase", "images": 4, "steps": 1}, **settings
    )
    assert_refused(ended, "has 3 images; neb.images is 4")


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}', "{"])
def test_a_state_that_cannot_be_used_is_said(jobs, here, text):
    jobs.run(here / "out", md={"steps": 1})
    (here / "out" / "state.json").write_text(text)
    assert_refused(jobs.run(here / "out", "--resume", md={"steps": 2}), "state.json")


def test_a_damaged_decision_log_is_said(jobs, here):
    jobs.run(here / "out", md={"steps": 1})
    (here / "out" / "decisions.jsonl").unlink()
    assert_refused(jobs.run(here / "out", "--resume", md={"steps": 2}), "decisions.jsonl")


def test_a_process_of_its_own_says_the_same_line(jobs, here):
    process = jobs.spawn("run", jobs.write(md={"step": 3}), "--output", here / "out")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"hybrid-calc: {here / 'job.yaml'}: unknown key md.step; did you mean steps?\n"


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ({"functional": "b3lypp", "basis": "sto-3g"}, "b3lypp"),
        ({"functional": "pbe", "basis": "sto-33g"}, "sto-33g"),
    ],
)
def test_a_functional_or_basis_that_pyscf_does_not_know_is_one_line_and_exit_code_1(
    jobs, here, level, words
):
    ended = jobs.run(
        here / "out",
        reference={"kind": "pyscf", "level": level},
        allow_level_mismatch=True,
        structure={"molecule": "H2"},
    )
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert words in ended.err.lower()


def test_settings_files_of_these_tests_would_run_without_their_mistake(jobs, here):
    assert jobs.run(here / "out", structure=WATER, md={"steps": 1}).code == 0
    assert yaml.safe_load((here / "job.yaml").read_text())["structure"] == WATER
