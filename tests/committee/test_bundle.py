"""Committees as one file: the same numbers, no code, nothing changed unseen."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hybrid_calc.committee.bundle import export_files, import_files, load_committee, read_header
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.errors import BundleError, CommitteeError, UntrustedFileError
from hybrid_calc.reference.pyscf_backend import ANI_1X_LEVEL
from tests.committee.mace_networks import random_mace


@pytest.fixture(scope="module")
def bundle(mace_model_files, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "small.bundle"
    import_files(mace_model_files, path, trust=True, name="small", level=ANI_1X_LEVEL)
    return path


def test_a_bundle_answers_to_the_last_digits_as_the_files_do(bundle, mace_model_files):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=0)
    files = MaceCommittee.from_files(mace_model_files, trust=True).predict(atoms)
    ours = load_committee(bundle).predict(atoms)
    np.testing.assert_allclose(ours.energies, files.energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.forces, files.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.descriptors, files.descriptors, rtol=0, atol=1e-9)


def test_a_bundle_has_the_identity_of_its_files(bundle, mace_model_files):
    files = MaceCommittee.from_files(mace_model_files, trust=True)
    assert load_committee(bundle).info.identity == files.info.identity


def test_the_header_says_where_it_comes_from_without_torch(bundle, mace_model_files):
    header = read_header(bundle)
    assert header.members == len(mace_model_files)
    assert header.level == ANI_1X_LEVEL
    assert sorted(header.sources) == sorted(path.name for path in mace_model_files)
    assert all(len(digest) == 64 for digest in header.sources.values())
    code = (
        "import sys; from pathlib import Path;"
        "from hybrid_calc.committee.bundle import read_header;"
        f"read_header(Path({str(bundle)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_nobody_vouches_for_are_not_loaded(mace_model_files, tmp_path):
    with pytest.raises(UntrustedFileError, match="SHA-256"):
        import_files(mace_model_files, tmp_path / "x.bundle", trust=False, name="x")
    assert not (tmp_path / "x.bundle").exists()


def test_an_exported_file_is_a_mace_model_again(bundle, tmp_path):
    files = export_files(bundle, tmp_path / "out")
    again = MaceCommittee.from_files(files, trust=True)
    assert again.info.identity == load_committee(bundle).info.identity


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def changed_copy(bundle, tmp_path, *, tensors=None, metadata=None):
    path = tmp_path / "changed.bundle"
    save_file(tensors or load_file(bundle), path, metadata=metadata or metadata_of(bundle))
    return path


def test_a_changed_weight_is_refused(bundle, tmp_path):
    tensors = load_file(bundle)
    key = next(name for name in tensors if "conv_tp_weights" in name)
    tensors[key] = tensors[key] * 1.0000001
    with pytest.raises(BundleError, match="not what was written"):
        load_committee(changed_copy(bundle, tmp_path, tensors=tensors))


@pytest.mark.parametrize("key", ["level", "training_digest", "architecture", "scope"])
def test_a_changed_header_is_refused(bundle, tmp_path, key):
    metadata = metadata_of(bundle)
    header = json.loads(metadata["header"])
    header[key] = {
        "level": None,
        "training_digest": "another set",
        "architecture": {**header["architecture"], "r_max": 9.0},
        "scope": {"everything": "validated"},
    }[key]
    metadata["header"] = json.dumps(header, sort_keys=True)
    with pytest.raises(BundleError):
        load_committee(changed_copy(bundle, tmp_path, metadata=metadata))


@pytest.mark.parametrize(
    ("key", "value"),
    [("interaction_cls", "Popen"), ("class", "Module"), ("gate", "eval"), ("readout_cls", "os")],
)
def test_a_class_that_is_not_on_the_list_is_never_built(bundle, tmp_path, key, value):
    from hybrid_calc.committee import bundle as module

    metadata = metadata_of(bundle)
    header = json.loads(metadata["header"])
    header["architecture"][key] = value
    metadata["header"] = json.dumps(header, sort_keys=True)
    tensors = {name: torch.from_numpy(array) for name, array in load_file(bundle).items()}
    metadata["digest"] = module._digest(metadata["header"], tensors)  # a forger can do that too
    with pytest.raises(BundleError, match=value):
        load_committee(changed_copy(bundle, tmp_path, metadata=metadata))


def test_a_pickle_named_bundle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    path = tmp_path / "evil.bundle"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BundleError, match="cannot be read"):
        load_committee(path)
    assert not (tmp_path / "evil").exists()


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.bundle"
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(BundleError, match="not a hybrid_calc committee"):
        read_header(path)


def test_another_schema_is_refused_by_its_number(bundle, tmp_path):
    path = changed_copy(bundle, tmp_path, metadata=metadata_of(bundle) | {"schema": "99"})
    with pytest.raises(BundleError, match="schema 99"):
        read_header(path)


def test_one_file_makes_no_bundle(mace_model_files, tmp_path):
    with pytest.raises(CommitteeError, match="at least"):
        import_files(mace_model_files[:1], tmp_path / "x.bundle", trust=True, name="x")


def test_loading_leaves_torch_as_it_was(bundle):
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state()
    load_committee(bundle, dtype="float32")
    after = torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_files_whose_elements_add_up_to_a_radical_are_imported_too(tmp_path):
    numbers = [1, 6, 7, 8]  # the probe's six atoms, H C N O H C, have an odd number of electrons
    files = []
    for seed in range(2):
        network = random_mace(
            seed,
            atomic_numbers=numbers,
            num_elements=len(numbers),
            atomic_energies=np.array([-13.6, -1029.0, -1485.0, -2042.0]),
        )
        files.append(tmp_path / f"{seed}.model")
        torch.save(network, files[-1])
    import_files(files, tmp_path / "four.bundle", trust=True, name="four")
    committee = load_committee(tmp_path / "four.bundle")
    assert committee.info.domain.multiplicities == {1}
    assert committee.predict(molecule("CH3CONH2")).energies.shape == (2,)
