"""Settings: what is accepted, what is refused and how, and that every option is documented."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from ase import Atoms
from pydantic import BaseModel

from hybrid_calc.config.build import (
    build_calculator,
    build_committee,
    build_reference,
    build_structure,
)
from hybrid_calc.config.committee import MaceSettings, ToySettings
from hybrid_calc.config.job import RunSettings, StructureSettings
from hybrid_calc.config.level import LevelSettings
from hybrid_calc.config.load import load_settings
from hybrid_calc.config.reference import PySCFSettings
from hybrid_calc.errors import CommitteeError, LevelMismatchError, SettingsError, StructureError
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL
from hybrid_calc.reference.recipes import RECIPES

CONFIGS = Path(__file__).parents[1] / "configs"
NEEDED = {
    "mace": {"files": "a.model"},
    "bundle": {"file": "a.bundle"},
    "mace-foundation": {"models": ["small", "medium"]},
    "external": {"members": [{"calculator": "a:b"}]},
    "level": {"functional": "pbe", "basis": "sto-3g"},
    "cell": {"cutoff_hartree": 120},
    "own": {"function": "a:b"},
    "ase": {"calculator": "a:b"},
    "stretch": {"atoms": [0, 1], "to_length_ang": 2.0},
    "gate": {"regimes": [{"name": "mine", "parent": "reactive"}]},
}
KINDS = {"ani", "bundle", "external", "mace", "mace-foundation", "toy", "pyscf", "xtb"}
KINDS |= {"ase", "local", "executorlib", "parsl", "own"}
"""Kinds of committee, reference and executor."""

DRIVERS = {"ase", "surface"}
"""Drivers of relaxations and bands."""

SMALLEST = {"task": "md", "structure": {"molecule": "H2O"}}


def load(tmp_path, settings, *overrides):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_settings(path, list(overrides))


def message(tmp_path, *overrides, **settings):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, SMALLEST | settings, *overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{tmp_path / 'job.yaml'}: ")


def test_task_and_structure_are_enough(tmp_path):
    settings = load(tmp_path, SMALLEST)
    assert settings.committee.kind == "ani"
    assert settings.reference.kind == "pyscf"
    assert settings.reference.level.to_level() == ANI_1X_LEVEL


def test_settings_cannot_be_changed(tmp_path):
    settings = load(tmp_path, SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        settings.threads = 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gaet": {}}, "unknown key gaet; did you mean gate?"),
        ({"md": {"step": 1}}, "unknown key md.step; did you mean steps?"),
        (
            {"md": {"stretch": {"atoms": [0, 1], "to_length_ang": 2, "over_step": 1}}},
            "unknown key md.stretch.over_step; did you mean over_steps?",
        ),
        (
            {"neb": {"spring_ev_per_ang": 0.1}},
            "unknown key neb.spring_ev_per_ang; it belongs to driver: ase.",
        ),
        (
            {"relax": {"driver": "ase", "frequencies": "none"}},
            "unknown key relax.frequencies; it belongs to driver: surface.",
        ),
        ({"relax": {"fmax": 0.1}}, "unknown key relax.fmax; did you mean fmax_ev_per_ang?"),
        ({"flags": {"seed": 1}}, "unknown key flags.seed; known are antisymmetry, bonded_ratio"),
        (
            {"committee": {"kind": "mace", "file": "a.model", "files": "b.model"}},
            "unknown key committee.file; did you mean files?",
        ),
        (
            {"reference": {"kind": "pyscf", "thread": 1}},
            "unknown key reference.thread; did you mean threads?",
        ),
        (
            {"reference": {"kind": "pyscf", "level": NEEDED["level"] | {"grid": 3}}},
            "unknown key reference.level.grid; did you mean grid_level?",
        ),
        (
            {"reference": {"kind": "xtb", "threads": 1}},
            "unknown key reference.threads; known are executor, kind.",
        ),
        (
            {"structure": {"molecule": "H2O", "zzz": 1}},
            "unknown key structure.zzz; known are charge, file, fixed, molecule, multiplicity.",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_place(tmp_path, settings, expected):
    assert message(tmp_path, **settings).startswith(expected)


def test_an_unknown_key_is_said_before_what_it_left_out(tmp_path):
    assert message(tmp_path, end={"molecul": "H2O"}).startswith("unknown key end.molecul")
    text = message(tmp_path, committee={"kind": "mace", "fils": "a.model"})
    assert text == "unknown key committee.fils; did you mean files? (and 1 more)"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"committee": {}},
            "committee.kind must be one of ani, bundle, mace, mace-foundation, "
            "external, toy; got {}.",
        ),
        ({"relax": {"driver": "vasp"}}, "relax.driver must be one of surface, ase; got"),
        ({"reference": {"kind": "orca"}}, "reference.kind must be one of pyscf, xtb, ase, toy"),
        ({"committee": "ani"}, "committee: Input should be a valid dictionary"),
    ],
)
def test_a_union_says_its_kinds(tmp_path, settings, expected):
    assert message(tmp_path, **settings).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("md.steps=3", ("md", "steps", 3)),
        ("gate.budget=null", ("gate", "budget", None)),
        ("gate.policies=[audit]", ("gate", "policies", frozenset({"audit"}))),
        ("structure.charge=-1", ("structure", "charge", -1)),
        ("gate.energy_tolerance_ev=1e-3", ("gate", "energy_tolerance_ev", 1e-3)),
        ("structure.molecule='NO'", ("structure", "molecule", "NO")),
        ("md.stretch={atoms: [0, 1], to_length_ang: 2}", ("md", "ensemble", "langevin")),
    ],
)
def test_set_overrides_one_key_and_leaves_the_others(tmp_path, override, expected):
    settings = {"gate": {"factor": 2.5}, "md": None} | SMALLEST
    if not override.startswith("md."):
        del settings["md"]
    loaded = load(tmp_path, settings, override)
    section, key, value = expected
    assert getattr(getattr(loaded, section), key) == value
    assert loaded.gate.factor == 2.5


def test_set_reaches_three_levels_down_and_the_last_one_wins(tmp_path):
    stretch = {"stretch": {"atoms": [0, 1], "to_length_ang": 2}}
    loaded = load(
        tmp_path, SMALLEST | {"md": stretch}, "md.stretch.from_step=4", "md.stretch.from_step=5"
    )
    assert loaded.md.stretch.from_step == 5
    assert loaded.md.stretch.atoms == (0, 1)


def test_set_changes_the_kind_of_a_union(tmp_path):
    loaded = load(tmp_path, SMALLEST, "committee.kind=toy", "committee.members=3")
    assert loaded.committee == ToySettings(members=3)


def test_a_value_of_set_is_checked_like_one_of_the_file(tmp_path):
    assert message(tmp_path, "md.steps=no").startswith("md.steps: Input should be")
    assert message(tmp_path, "md.stepz=1").startswith("unknown key md.stepz; did you mean steps?")


BAD_VALUES = [
    ("task", "fly"),
    ("threads", 0),
    ("threads", "two"),
    ("allow_level_mismatch", "perhaps"),
    ("store", 3),
    ("structure.charge", 0.5),
    ("structure.multiplicity", 0),
    ("structure.molecule", 3),
    ("structure.file", 3),
    ("gate.force_tolerance_ev_per_ang", 0),
    ("gate.energy_tolerance_ev", -1),
    ("gate.factor", 0),
    ("gate.factor_bounds", [1]),
    ("gate.factor_labels", 0),
    ("gate.factor_quantile", 1),
    ("gate.trust", 3),
    ("gate.trust_frames", 0),
    ("gate.trust_radius", 0),
    ("gate.policies", ["luck"]),
    ("gate.hysteresis_steps", 0),
    ("gate.hysteresis_share", 1.1),
    ("gate.second_opinion", "dft"),
    ("gate.second_opinion_for", "none"),
    ("gate.regimes", 3),
    ("gate.regimes.0.name", "Mine"),
    ("gate.regimes.0.parent", 3),
    ("gate.regimes.0.flags", "bond_forming"),
    ("gate.regimes.0.elements", "O"),
    ("gate.regimes.0.charges", "one"),
    ("gate.regimes.0.above_kelvin", -1),
    ("gate.regimes.0.up_to_kelvin", 0),
    ("gate.audit_probability", 0.005),
    ("gate.audit_probability_new", 0),
    ("gate.audits_until_settled", -1),
    ("gate.budget", -1),
    ("gate.audit_reserve", 1),
    ("gate.when_budget_ends", "pay"),
    ("gate.when_reference_fails", "cry"),
    ("gate.outside_domain", "guess"),
    ("gate.calibration", 3),
    ("gate.seed", -1),
    ("flags.close_contact_ratio", 1),
    ("flags.bonded_ratio", 1),
    ("flags.breaking_ratio", 0.9),
    ("flags.forming_bond_order", 0),
    ("flags.persistence_steps", 0),
    ("flags.max_step_displacement_ang", 0),
    ("flags.warm_above_kelvin", 0),
    ("flags.hot_above_kelvin", 0),
    ("flags.temperature_window_fs", 0),
    ("flags.strained_bond", 0),
    ("flags.strained_angle", -0.1),
    ("flags.length_margin_ang", -0.1),
    ("flags.coordination_margin", -1),
    ("flags.site_margin", 0),
    ("flags.antisymmetry", 0),
    ("flags.energy_drift_ev_per_atom", 0),
    ("flags.spin_contamination", 0),
    ("flags.small_gap_ev", -1),
    ("md.steps", 0),
    ("md.timestep_fs", 50),
    ("md.ensemble", "npt"),
    ("md.temperature_kelvin", -1),
    ("md.friction_per_fs", 0),
    ("md.seed", -1),
    ("md.trajectory_interval", 0),
    ("md.checkpoint_interval", 0),
    ("md.stretch.atoms", [0]),
    ("md.stretch.to_length_ang", 0),
    ("md.stretch.from_step", -1),
    ("md.stretch.over_steps", 0),
    ("md.stretch.spring_ev_per_ang2", 0),
    ("structure.fixed", [-1]),
    ("relax.driver", "vasp"),
    ("relax.optimizer", "Newton"),
    ("relax.fmax_ev_per_ang", 0),
    ("relax.steps", 0),
    ("relax.max_step_ang", 0),
    ("relax.max_labels", -1),
    ("relax.max_displacement_ang", 0),
    ("relax.max_std_ev", 0),
    ("relax.kernel", "cubic"),
    ("relax.frequencies", "all"),
    ("relax.ase.optimizer", "Newton"),
    ("relax.ase.fmax_ev_per_ang", 0),
    ("relax.ase.steps", 0),
    ("neb.driver", "vasp"),
    ("neb.images", 2),
    ("neb.fmax_ev_per_ang", 0),
    ("neb.end_fmax_ev_per_ang", 0),
    ("neb.max_labels", 0),
    ("neb.max_confirmation_labels", 0),
    ("neb.max_std_ev", 0),
    ("neb.max_step_ang", 0),
    ("neb.kernel", "cubic"),
    ("neb.seed", -1),
    ("neb.guess", 3),
    ("neb.polish", "lanczos"),
    ("neb.polish_fmax_ev_per_ang", 0),
    ("neb.polish_labels", 0),
    ("neb.label_downhill_ends", "one"),
    ("neb.ase.images", 2),
    ("neb.ase.interpolation", "cubic"),
    ("neb.ase.climb", "high"),
    ("neb.ase.spring_ev_per_ang", 0),
    ("neb.ase.fmax_ev_per_ang", 0),
    ("neb.ase.steps", 0),
    ("neb.ase.relax_ends", "one"),
    ("committee.ani.model", "ani-2x"),
    ("committee.mace.files", 3),
    ("committee.mace.trust", "hm"),
    ("committee.mace.dtype", "float16"),
    ("committee.mace.device", "tpu"),
    ("committee.mace.compile", "hm"),
    ("committee.mace.level", "b3lyp"),
    ("committee.bundle.file", 3),
    ("committee.bundle.dtype", "float16"),
    ("committee.bundle.device", "tpu"),
    ("committee.bundle.compile", "hm"),
    ("committee.mace-foundation.models", "small"),
    ("committee.mace-foundation.family", "medium"),
    ("committee.mace-foundation.trust", "hm"),
    ("committee.mace-foundation.dtype", "float16"),
    ("committee.mace-foundation.device", "tpu"),
    ("committee.external.members", 2),
    ("committee.external.members.0.calculator", 3),
    ("committee.external.members.0.arguments", 3),
    ("committee.external.members.0.python", 3),
    ("committee.external.members.0.command", "program"),
    ("committee.external.members.0.timeout_s", 0),
    ("committee.external.level", "b3lyp"),
    ("committee.toy.members", 1),
    ("committee.toy.perturbation", -1),
    ("committee.toy.seed", -1),
    ("reference.pyscf.threads", 0),
    ("reference.pyscf.max_memory_mb", 1),
    ("reference.pyscf.wall_limit_s", 0),
    ("reference.pyscf.warm_start", "perhaps"),
    ("reference.pyscf.cold_share", 1.5),
    ("reference.pyscf.stability", "often"),
    ("reference.pyscf.when_unstable", "guess"),
    ("reference.pyscf.max_spin_contamination", -1),
    ("reference.pyscf.device", "tpu"),
    ("reference.pyscf.executor", "slurm"),
    ("reference.pyscf.executor.local.workers", 0),
    ("reference.pyscf.executor.local.patience_s", 0),
    ("reference.pyscf.executor.executorlib.backend", "SlurmCluster"),
    ("reference.pyscf.executor.executorlib.arguments", "many"),
    ("reference.pyscf.executor.parsl.provider", "slurm"),
    ("reference.pyscf.executor.parsl.provider_arguments", 5),
    ("reference.pyscf.executor.parsl.run_folder", 5),
    ("reference.pyscf.executor.own.function", 5),
    ("reference.ase.calculator", 5),
    ("reference.ase.arguments", "tight"),
    ("reference.ase.max_net_force_ev_per_ang", 0),
    ("reference.pyscf.level", "ccsd"),
    ("reference.pyscf.level.functional", 5),
    ("reference.pyscf.level.solvent", 5),
    ("reference.pyscf.level.function", 5),
    ("reference.pyscf.level.basis", 3),
    ("reference.pyscf.level.cart", "d"),
    ("reference.pyscf.level.dispersion", 3),
    ("reference.pyscf.level.nlc", "rvv10"),
    ("reference.pyscf.level.auxiliary_basis", 3),
    ("reference.pyscf.level.grid_level", 10),
    ("reference.pyscf.level.convergence_hartree", 0),
    ("reference.pyscf.level.project_net_force", "yes please"),
    ("reference.pyscf.level.cell", 5),
    ("reference.pyscf.level.cell.pseudopotential", 5),
    ("reference.pyscf.level.cell.cutoff_hartree", 0),
    ("reference.pyscf.level.cell.k_point_density", 0),
]


@pytest.mark.parametrize(("place", "value"), BAD_VALUES, ids=lambda part: str(part)[:40])
def test_a_bad_value_is_named_with_its_key_and_what_came(tmp_path, place, value):
    settings: dict[str, Any] = {"task": "md", "structure": {"molecule": "H2O"}}
    inner, *parts = settings, *place.split(".")
    needed = copy.deepcopy(NEEDED)
    for part in parts[:-1]:
        if part in DRIVERS and parts[0] in {"relax", "neb"}:
            inner["driver"] = part
        elif part in KINDS:
            inner.update({"kind": part} | needed.get(part, {}))
        elif part.isdigit():
            inner = inner[int(part)]
        else:
            inner = inner.setdefault(part, {})
            if isinstance(inner, dict):
                inner.update(needed.get(part, {}))
    inner[parts[-1]] = value
    text = message(tmp_path, **settings)
    key = ".".join(part for part in parts if part not in KINDS | DRIVERS)
    assert text.startswith(key)
    got = value[0] if key in {"gate.policies", "structure.fixed"} else value
    whole = key.endswith(("atoms", "factor_bounds", "driver"))  # the section is what came
    assert f"got {got!r}" in text or whole


def settings_classes(model=RunSettings):
    """Return every settings class that a settings file may reach."""
    found = {model}
    for field in model.model_fields.values():
        for inner in classes_in(field.annotation):
            found |= settings_classes(inner)
    return found


def classes_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in classes_in(part)]


def test_every_option_has_a_bad_value_above():
    tried = {place.split(".")[-1] for place, _ in BAD_VALUES}
    options = {name for model in settings_classes() for name in model.model_fields}
    sections = {"structure", "end", "committee", "reference", "gate", "flags", "md", "relax", "neb"}
    assert options - tried - sections == {"kind", "stretch"}


def test_levels_by_name_and_by_keys_are_the_same_level():
    by_name = PySCFSettings(level="ani-1x")
    keys = {"functional": "wB97X", "basis": " 6-31G* ", "cart": True}
    assert PySCFSettings(level=keys).level.to_level().hash == by_name.level.to_level().hash
    assert by_name.level.to_level() == RECIPES["ani-1x"].level


def test_a_level_given_only_by_functional_and_basis_can_converge():
    level = LevelSettings(functional="pbe", basis="def2-svp").to_level()
    assert level.grid_level == 4
    assert level.convergence_hartree == 1e-7
    assert level.program == "pyscf"


def test_numbers_in_the_notation_that_yaml_takes_for_words_are_numbers(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "task: md\nstructure: {molecule: H2O}\nreference:\n  kind: pyscf\n"
        "  level: {functional: pbe, basis: sto-3g, convergence_hartree: 1e-9}\n"
    )
    assert load_settings(path).reference.level.convergence_hartree == 1e-9


def test_a_key_given_twice_is_refused_at_any_depth(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("task: md\nstructure:\n  molecule: H2O\n  molecule: NH3\n")
    with pytest.raises(SettingsError, match="'molecule' is there twice"):
        load_settings(path)


def test_anchors_and_merges_are_plain_yaml(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "task: neb\nstructure: &start {molecule: H2O, charge: 1}\n"
        "end: {<<: *start, molecule: NH3}\n"
    )
    settings = load_settings(path)
    assert settings.end == StructureSettings(molecule="NH3", charge=1)


def test_a_structure_is_found_beside_the_settings_file(tmp_path):
    Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]).write(tmp_path / "h2.xyz")
    atoms = build_structure(StructureSettings(file="h2.xyz"), tmp_path)
    assert atoms.get_chemical_formula() == "H2"


def test_the_last_frame_of_a_file_is_taken_without_its_calculator(tmp_path):
    import ase.io
    from ase.calculators.emt import EMT

    frames = [Atoms("H2", [[0, 0, 0], [0, 0, length]]) for length in (0.7, 0.9)]
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_potential_energy()
    ase.io.write(tmp_path / "h2.traj", frames)
    atoms = build_structure(StructureSettings(file="h2.traj"), tmp_path)
    assert atoms.get_distance(0, 1) == pytest.approx(0.9)
    assert atoms.calc is None


def test_charge_and_multiplicity_of_the_settings_win_over_the_file(tmp_path):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])
    atoms.info = {"charge": 0, "spin": 1}
    atoms.write(tmp_path / "h2.xyz", format="extxyz")
    settings = StructureSettings(file="h2.xyz", charge=1, multiplicity=2)
    assert build_structure(settings, tmp_path).info == {"charge": 1, "spin": 2}


def test_a_structure_nobody_can_compute_is_refused(tmp_path):
    with pytest.raises(StructureError, match="multiplicity 2"):
        build_structure(StructureSettings(molecule="H2O", multiplicity=2), tmp_path)


def test_model_files_are_found_by_pattern_and_list_beside_the_settings_file(tmp_path):
    folder = tmp_path / "run [1]"  # brackets are a pattern only in what the user wrote
    folder.mkdir()
    for name in ("b.model", "a.model"):
        (folder / name).write_bytes(b"x")
    for files in ("*.model", ["a.model", "b.model"], ["?.model"], str(folder / "none.model")):
        with pytest.raises((CommitteeError, ValueError)) as caught:
            build_committee(MaceSettings(files=files), folder)
        if "none" in str(files):
            assert "none.model" in str(caught.value)
        else:
            listed = re.findall(r"run \[1\]/([ab])\.model", str(caught.value))
            assert listed == ["a", "b"]


def test_the_reference_solves_the_level_of_the_settings():
    level = {"functional": "pbe", "basis": "sto-3g", "grid_level": 4}
    reference = build_reference(PySCFSettings(level=level))
    assert reference.level == LevelOfTheory(
        program="pyscf",
        functional="pbe",
        basis="sto-3g",
        grid_level=4,
        auxiliary_basis="auto",
        convergence_hartree=1e-7,
        project_net_force=True,
    )


def test_a_mismatch_of_levels_is_refused_unless_allowed(tmp_path):
    toys = {"committee": {"kind": "toy"}, "reference": {"kind": "pyscf"}}
    with pytest.raises(LevelMismatchError):
        build_calculator(load(tmp_path, SMALLEST | toys), tmp_path, tmp_path / "run")
    allowed = load(tmp_path, SMALLEST | toys, "allow_level_mismatch=true")
    build_calculator(allowed, tmp_path, tmp_path / "run")


def test_every_kind_can_be_built(tmp_path):
    pytest.importorskip("tblite")
    kinds = {"pyscf": "wb97x", "xtb": "ase:tblite", "toy": "toy"}
    for kind, name in kinds.items():
        loaded = load(tmp_path, SMALLEST, f"reference.kind={kind}")
        assert str(build_reference(loaded.reference).level).startswith(name)


# --- configs/every-option.yaml


def every_option():
    """Yield the file's text with its defaults, then with each alternative in their place."""
    text = (CONFIGS / "every-option.yaml").read_text()
    yield text
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        if re.match(r"#\S", line) or (block and line.startswith("#")):
            block.append(line[1:])
        elif block:
            blocks.append("\n".join(block))
            block = []
    plain = yaml.safe_load(text)
    for alternative in blocks:
        (section,) = yaml.safe_load(alternative)
        rest = yaml.safe_dump({k: v for k, v in plain.items() if k != section})
        marked = re.sub(r"(?m)$", "  # example", rest)  # checked already
        yield marked + "\n" + alternative


def leaves(text):
    """Yield settings class, key, value, and whether the line says it is an example."""
    settings = RunSettings.model_validate(yaml.safe_load(text))
    lines = text.splitlines()

    def walk(node, model):
        for key, value in node.value:
            line = lines[key.start_mark.line]
            inner = getattr(model, key.value)
            if isinstance(value, yaml.MappingNode) and isinstance(inner, BaseModel):
                yield from walk(value, inner)
            if isinstance(value, yaml.SequenceNode):
                for one, settings in zip(value.value, inner, strict=False):
                    if isinstance(settings, BaseModel):
                        yield from walk(one, settings)
            yield type(model), key.value, inner, "# example" in line

    yield from walk(yaml.compose(text), settings)


def test_every_option_of_every_settings_class_stands_in_the_file():
    shown = {(model, key) for text in every_option() for model, key, _, _ in leaves(text)}
    options = {(model, key) for model in settings_classes() for key in model.model_fields}
    assert {(m.__name__, k) for m, k in options - shown} == set()


def test_every_value_in_the_file_is_the_default_unless_it_says_example():
    wrong = []
    for text in every_option():
        for model, key, value, example in leaves(text):
            field = model.model_fields[key]
            nested = isinstance(value, list | tuple) and any(
                isinstance(v, BaseModel) for v in value
            )
            if isinstance(value, BaseModel) or nested or example:
                continue
            if field.is_required() or value != field.get_default(call_default_factory=True):
                wrong.append(f"{model.__name__}.{key}: {value!r}")
    assert wrong == []


def comments():
    lines = (CONFIGS / "every-option.yaml").read_text().splitlines()
    spoken = [re.sub(r"^[#\s]+", "", line) for line in lines if re.match(r"#?\s*#", line)]
    return " ".join(spoken)


def test_every_option_is_described_in_the_file_as_in_the_settings_class():
    text = comments()
    missing = [
        f"{model.__name__}.{key}: {field.description}"
        for model in settings_classes()
        for key, field in model.model_fields.items()
        if field.description and field.description not in text
    ]
    assert missing == []


def test_every_option_has_a_description():
    bare = {
        f"{model.__name__}.{key}"
        for model in settings_classes()
        for key, field in model.model_fields.items()
        if not field.description and key != "kind"
    }
    assert bare == set()


def test_every_choice_of_every_option_is_named_in_the_file():
    text = (CONFIGS / "every-option.yaml").read_text()
    for model in settings_classes():
        for key, field in model.model_fields.items():
            for choice in choices_in(field.annotation):
                if choice:
                    assert re.search(rf"\b{re.escape(choice)}\b", text), f"{key}: {choice}"


def choices_in(annotation):
    if str(get_origin(annotation)) == "typing.Literal":
        return list(get_args(annotation))
    return [found for part in get_args(annotation) for found in choices_in(part)]
