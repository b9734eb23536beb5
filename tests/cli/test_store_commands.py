"""``hybrid-calc store``: look into a store, prove it whole, hand it to training."""

from __future__ import annotations

import dataclasses
import json

import ase.io
import h5py
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from hybrid_calc.committee.toy import ToyCommittee
from hybrid_calc.errors import ReferenceNotConverged
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store import block
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.record import Record
from tests.cli.jobs import summary_of
from tests.store.samples import forget_kept

FRAMES = 4


def frames(count=FRAMES):
    """Make labelled records of rattled water."""
    reference, committee = ToyReference(), ToyCommittee()
    for seed in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        yield Record.of(
            atoms,
            level=reference.level,
            label=reference.label(atoms),
            prediction=committee.predict(atoms),
            meta={"regime": "equilibrium H O", "force_error": 0.01 * seed, "good": True},
        )


@pytest.fixture
def path(tmp_path):
    """Four validated frames and a rejected one, in one file."""
    with FrameStore(tmp_path / "frames.h5") as store:
        for record in frames():
            store.append(record)
        error = ReferenceNotConverged("did not converge [dm] for [/H2O]")
        rejected = Record.of(
            molecule("NH3"),
            level=ToyReference().level,
            label=None,
            rejection=f"{type(error).__name__}: {error}",
            prediction=None,
            meta={},
        )
        store.append(rejected)
    return store.path


@pytest.fixture
def damaged(path):
    """The same with one energy overwritten, as a bad disk does, and nothing to fall back to."""
    damage_an_energy(path)
    return forget_kept(path)


def damage_an_energy(path):
    with h5py.File(path) as file:
        spot = file["frames/energy"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[spot : spot + 8] = b"\xff" * 8
    path.write_bytes(content)


def test_info_counts_frames_and_names_level_molecule_regime_and_what_was_rejected(jobs, path):
    ended = jobs.call("store", "info", path)
    assert ended.code == 0
    out = " ".join(ended.out.split())
    assert "frames.h5: 4 validated frames, 1 rejected" in out
    assert f"level of theory: {ToyReference().level} ({ToyReference().level.hash})" in out
    assert "molecule: H2O, 4 frames" in out
    assert "4 of 4" in out
    assert "0.03" in out
    assert "did not converge [dm] for [/H2O]" in out


def test_verify_says_that_every_digest_agrees(jobs, path):
    ended = jobs.call("store", "verify", path)
    assert (ended.code, ended.out) == (0, "frames.h5: 5 frames, every digest agrees\n")


def test_verify_names_the_damaged_place_and_exits_with_1(jobs, damaged):
    ended = jobs.call("store", "verify", damaged)
    assert ended.code == 1
    assert "damaged: frames.h5: frame" in ended.out
    assert "digest agrees" not in ended.out


def test_info_reads_no_validated_frame(jobs, path, monkeypatch):
    read = []
    original = block.Block.record
    monkeypatch.setattr(
        block.Block, "record", lambda self, index: read.append(index) or original(self, index)
    )
    assert "4 validated frames, 1 rejected" in jobs.call("store", "info", path).out
    assert len(read) == 1, "the rejected one, whose reason is printed"


def test_info_of_a_store_whose_file_is_broken_says_what_it_fell_back_to(jobs, path):
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    out = " ".join(jobs.call("store", "info", path).out.split())
    assert "4 validated frames" in out
    assert "5 frames are read from the journals kept beside, instead of frames.h5" in out
    ended = jobs.call("store", "verify", path)
    assert ended.code == 1
    assert "5 frames can be read, 0 are lost" in ended.out
    assert "store compact --repair" in ended.out
    assert jobs.call("store", "compact", path).code == 0
    assert jobs.call("store", "verify", path).code == 0


def test_repair_keeps_aside_what_cannot_be_read_and_says_so(jobs, damaged):
    before = damaged.read_bytes()
    ended = jobs.call("store", "compact", damaged, "--repair")
    assert ended.code == 0
    assert "4 frames, 0 shards\ndamaged: frames.h5.aside-1: kept aside" in ended.out
    assert damaged.with_name("frames.h5.aside-1").read_bytes() == before


def test_export_of_a_damaged_store_says_that_something_is_left_out(jobs, damaged, tmp_path):
    ended = jobs.call("store", "export", damaged, tmp_path / "train.xyz")
    assert ended.code == 0
    assert "the store is damaged (1 places), 1 frames are left out" in ended.err
    assert len(ase.io.read(tmp_path / "train.xyz", index=":")) == 3


def test_compact_leaves_a_damaged_store_as_it_is_for_a_rescue(jobs, damaged):
    before = damaged.read_bytes()
    store = FrameStore(damaged)
    store.append(list(frames(6))[5])
    store._journal.close()
    ended = jobs.call("store", "compact", damaged)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "left as it is" in ended.err
    assert damaged.read_bytes() == before


def test_compact_brings_the_journals_of_gone_writers_into_the_file(jobs, tmp_path):
    path = tmp_path / "frames.h5"
    store = FrameStore(path)
    for record in frames():
        store.append(record)
    store._journal.close()  # as if the process had been killed
    assert not path.exists()
    ended = jobs.call("store", "compact", path)
    assert (ended.code, ended.err) == (0, "")
    assert "4 frames" in ended.out
    assert path.exists()
    assert list(path.with_name("frames.h5.journals").glob("*.journal")) == []
    assert len(FrameStore(path)) == FRAMES


def test_a_journal_without_a_file_is_a_store_too(jobs, tmp_path):
    store = FrameStore(tmp_path / "frames.h5")
    for record in frames():
        store.append(record)
    store._journal.close()
    assert "4 validated frames" in jobs.call("store", "info", store.path).out


def test_export_writes_what_mace_run_train_reads(jobs, path, tmp_path):
    target = tmp_path / "train.xyz"
    ended = jobs.call("store", "export", path, target)
    assert ended.code == 0
    assert f"4 validated frames written to {target}" in ended.out
    assert "--energy_key REF_energy --forces_key REF_forces" in ended.out
    exported = ase.io.read(target, index=":")
    assert len(exported) == FRAMES
    reference = ToyReference()
    for atoms in exported:
        label = reference.label(atoms)
        assert atoms.info["REF_energy"] == pytest.approx(label.energy, abs=1e-6)
        assert atoms.arrays["REF_forces"] == pytest.approx(label.forces, abs=1e-6)
        assert atoms.info["config_type"] == "equilibrium"
        assert not isinstance(atoms.calc, SinglePointCalculator) or not atoms.calc.results


def test_what_a_run_stored_can_be_exported_by_the_command_it_prints(jobs, tmp_path):
    output = tmp_path / "run"
    ended = jobs.run(output, md={"steps": 5})
    line = next(x for x in ended.out.splitlines() if "hybrid-calc store export" in x)
    assert jobs.call(*line.split("hybrid-calc ")[1].split()).code == 0
    exported = ase.io.read(output / "train.xyz", index=":")
    assert len(exported) == summary_of(output)["reference_calls"]


def test_info_and_verify_speak_json(jobs, path):
    content = json.loads(jobs.call("store", "info", path, "--json").out)
    assert (content["validated"], content["rejected"]) == (4, 1)
    assert content["molecules"] == {"H2O": 4}
    (regime,) = content["regimes"]
    assert (regime["frames"], regime["within_tolerance"], regime["judged"]) == (4, 4, 4)
    assert regime["largest_force_error"] == pytest.approx(0.03)
    findings = json.loads(jobs.call("store", "verify", path, "--json").out)
    assert findings == {"frames": 5, "lost": 0, "damage": [], "torn_tails": []}


def test_query_lists_what_matches(jobs, path):
    ended = jobs.call("store", "query", path, "--regime", "equilibrium", "--min-error", "0.015")
    assert ended.code == 0
    assert "2 frames match, 2 shown" in ended.out
    found = json.loads(
        jobs.call("store", "query", path, "--element", "O", "--limit", "1", "--json").out
    )
    assert found["matching"] == 4
    assert len(found["frames"]) == 1
    assert found["frames"][0]["force_error"] == 0.0
    assert jobs.call("store", "query", path, "--element", "Xq").code == 2


@pytest.mark.parametrize("name", ["all.xyz", "all.db", "all.zip"])
def test_what_is_exported_can_be_imported_into_a_new_store(jobs, path, tmp_path, name):
    assert jobs.call("store", "export", path, tmp_path / name).code == 0
    count = 5 if name == "all.zip" else 4
    ended = jobs.call("store", "import", tmp_path / "new.h5", tmp_path / name)
    told = ["new.h5: 4 new frames, 0 were there already", "regime equilibrium H O: 4 frames"]
    if name == "all.zip":
        told.append(
            "in quarantine: 1 frames, ReferenceNotConverged: did not converge [dm] for [/H2O]"
        )
    assert (ended.code, ended.out.splitlines()) == (0, told)
    again = jobs.call("store", "import", tmp_path / "new.h5", tmp_path / name)
    assert f"0 new frames, {count} were there already" in again.out
    if name != "all.xyz":
        exact = jobs.call("store", "import", path, tmp_path / name)
        assert "0 new frames" in exact.out


def test_shards_are_a_folder(jobs, path, tmp_path):
    ended = jobs.call("store", "export", path, tmp_path / "shards", "--to", "mace-hdf5")
    assert ended.code == 0
    assert "--atomic_numbers" in ended.out
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["train_0.h5"]


def test_export_weighs_regimes_and_refuses_what_is_no_weight(jobs, path, tmp_path):
    target = tmp_path / "train.xyz"
    assert jobs.call("store", "export", path, target, "--weight", "equilibrium=3").code == 0
    assert {a.info["config_weight"] for a in ase.io.read(target, index=":")} == {3.0}
    ended = jobs.call("store", "export", path, target, "--weight", "equilibrium")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_labels_solved_again_agree_and_a_wrong_one_is_found(jobs, path, tmp_path):
    config = jobs.write()
    ended = jobs.call("store", "verify", path, "--recompute", "2", "--config", config)
    assert ended.code == 0
    assert ended.out.count("labelled again, forces differ by 0 eV/A") == 2
    with FrameStore(path) as store:
        record = next(iter(frames(10)))
        wrong = dataclasses.replace(record.label, forces=record.label.forces + 0.1)
        store.append(dataclasses.replace(record, label=wrong))
    ended = jobs.call("store", "verify", path, "--recompute", "9", "--config", config, "--json")
    assert ended.code == 1
    differences = [one["force_difference"] for one in json.loads(ended.out)["recomputed"]]
    assert len(differences) == 5
    assert max(differences) == pytest.approx(0.1 * 3**0.5)
    assert jobs.call("store", "verify", path, "--recompute", "1").code == 2


def test_split_is_kept_and_exported_by_part(jobs, tmp_path):
    with FrameStore(tmp_path / "runs.h5") as store:
        for number, record in enumerate(frames(12)):
            store.append(record.with_meta(run=f"run-{number}"))
    target = tmp_path / "train.xyz"
    assert jobs.call("store", "export", store.path, target, "--part", "train").code == 2
    ended = jobs.call("store", "split", store.path, "--seed", "1")
    assert ended.code == 0
    counts = {line.split(":")[0]: int(line.split()[1]) for line in ended.out.splitlines()}
    assert sum(counts.values()) == 12
    assert jobs.call("store", "split", store.path, "--seed", "9").out == ended.out
    seen = []
    for part, count in counts.items():
        jobs.call("store", "export", store.path, target, "--part", part)
        found = [atoms.info["frame"] for atoms in ase.io.read(target, index=":")]
        assert len(found) == count
        seen += found
    assert len(set(seen)) == 12


def test_every_command_that_prints_a_result_speaks_json(jobs, path, tmp_path):
    with FrameStore(tmp_path / "runs.h5") as store:
        for number, record in enumerate(frames(12)):
            store.append(record.with_meta(run=f"run-{number}", regime="warm"))

    def told(*words):
        ended = jobs.call("store", *words, "--json")
        assert ended.code == 0
        return json.loads(ended.out)

    assert sum(told("split", store.path).values()) == 12
    target = tmp_path / "train.xyz"
    exported = told("export", store.path, target)
    assert exported == {"frames": 12, "left_out": 0, "target": str(target), "to": "extxyz"}
    assert told("import", tmp_path / "new.h5", target) == {
        "new.h5": {
            "new": 12,
            "there": 0,
            "energy_only": 0,
            "quarantined": 0,
            "why": {},
            "regimes": {"warm": 12},
            "unusable": [],
        }
    }
    assert told("merge", store.path, path) == {"frames.h5": {"new": 1, "there": 4}}
    assert told("compact", store.path)["frames"] == 13
    assert told("info", store.path)["validated"] == 12
    assert told("query", store.path)["matching"] == 12


def test_frames_for_training_are_decorrelated_and_the_most_diverse(jobs, path, tmp_path):
    with FrameStore(tmp_path / "runs.h5") as store:
        for number, record in enumerate(frames(12)):
            store.append(record.with_meta(run="one", step=number, regime="warm"))
    target = tmp_path / "train.xyz"
    assert "3 validated" in jobs.call("store", "export", store.path, target, "--min-steps", 4).out
    assert jobs.call("store", "export", store.path, target, "--farthest", 3).code == 2
    config = jobs.write()
    ended = jobs.call("store", "export", store.path, target, "--farthest", 3, "--config", config)
    assert ended.code == 2
    assert "gives no descriptors" in ended.err


def test_stores_are_merged(jobs, path, tmp_path):
    with FrameStore(tmp_path / "other.h5") as other:
        for record in frames(6):
            other.append(record)
    ended = jobs.call("store", "merge", path, other.path)
    assert (ended.code, ended.out) == (0, "other.h5: 2 new frames, 4 were there already\n")
    assert len(FrameStore(path)) == 7


@pytest.mark.parametrize("command", ["info", "verify", "compact", "export", "query"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.h5", (2, "there is no store")),
        ("frames.db", (2, "NAME.h5")),
        ("text.h5", (1, "not an HDF5 file")),
    ],
)
def test_what_is_no_store_is_one_line(jobs, tmp_path, command, name, expected):
    code, words = expected
    (tmp_path / "frames.db").write_text("words")
    (tmp_path / "text.h5").write_text("a text that somebody named like a store")
    more = [tmp_path / "out.xyz"] if command == "export" else []
    ended = jobs.call("store", command, tmp_path / name, *more)
    assert ended.code == code
    assert ended.err.count("\n") == 1
    assert words in ended.err


def test_export_into_a_folder_that_is_not_there_is_one_line(jobs, path, tmp_path):
    ended = jobs.call("store", "export", path, tmp_path / "no" / "train.xyz")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "train.xyz" in ended.err


def test_a_store_without_a_validated_frame_has_nothing_to_export(jobs, tmp_path):
    with FrameStore(tmp_path / "empty.h5"):
        pass
    ended = jobs.call("store", "export", tmp_path / "empty.h5", tmp_path / "train.xyz")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "no validated frame" in ended.err
