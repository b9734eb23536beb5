"""The compiled committee: the answers of the plain one, or none at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from hybrid_calc.committee import compiled
from hybrid_calc.committee.bundle import import_files
from hybrid_calc.committee.graph import Room
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.config.build import build_committee
from hybrid_calc.config.committee import BundleSettings, MaceSettings
from hybrid_calc.errors import CommitteeError, PredictionFailed
from tests.committee.mace_networks import crowded_cell, ethanol, random_members, stock

SMALLEST = {"num_interactions": 1, "kind": "MACE", "max_ell": 1, "correlation": 2}


@pytest.fixture(scope="module")
def members():
    return random_members(2, **SMALLEST)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Give the compiler an empty cache for this module, in the place it takes by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield Path(default_cache_dir())


@pytest.fixture(scope="module")
def pair(members, cache):
    """Return the plain committee and the compiled one, which has seen water."""
    both = MaceCommittee(members), MaceCommittee(members, compile=True)
    both[1].predict(molecule("H2O"))
    return both


@pytest.fixture
def quick(monkeypatch):
    """Record as ever, and run the recorded operations one by one instead of compiling them."""
    seen = []
    monkeypatch.setattr(
        compiled, "compile_module", lambda module, inputs: seen.append(module) or module
    )
    return seen


def assert_same(found, expected):
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.descriptors, expected.descriptors, rtol=0, atol=1e-11)
    assert (found.stress is None) == (expected.stress is None)
    if expected.stress is not None:
        np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=1e-11)


def test_a_trajectory_is_compiled_once_and_answered_as_without(pair, members):
    plain, fast = pair
    atoms = molecule("H2O")
    random = np.random.default_rng(0)
    for _ in range(10):
        atoms.positions += random.normal(scale=0.05, size=(3, 3))
        assert_same(fast.predict(atoms), plain.predict(atoms))
    _, forces, _, _ = stock(members, atoms)
    np.testing.assert_allclose(fast.predict(atoms).forces, forces, rtol=0, atol=1e-11)
    assert fast._compiled.programs == 1


def test_atoms_in_another_order_and_beyond_the_cutoff_share_the_program(pair):
    plain, fast = pair
    turned = molecule("H2O")[[2, 0, 1]]
    apart = Atoms("OHH", [[0, 0, 0], [0, 0, 9], [0, 9, 0]])
    for atoms in (turned, apart):
        assert_same(fast.predict(atoms), plain.predict(atoms))
    assert fast._compiled.programs == 1


def test_threads_share_a_compiled_committee(pair):
    plain, fast = pair
    frames = [molecule("H2O") for _ in range(4)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    found = {}

    def work(number):
        found[number] = fast.predict(frames[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, atoms in enumerate(frames):
        assert_same(found[number], plain.predict(atoms))


def test_what_was_compiled_is_kept_for_the_next_run(pair, members, cache):
    files = set(cache.rglob("*.so"))
    assert files
    torch._dynamo.utils.counters.clear()
    again = MaceCommittee(members, compile=True)
    again.predict(molecule("H2O"))
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"] == 1
    assert set(cache.rglob("*.so")) == files


def test_the_process_is_left_as_it_was(pair, members):
    before = dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()
    random, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    options = torch._inductor.config.get_config_copy()
    MaceCommittee(members, compile=True).predict(molecule("H2O"))
    assert (dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() == enabled
    assert torch._inductor.config.get_config_copy() == options


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("output", [0, 1, 2], ids=["energies", "forces", "descriptors"])
def test_a_wrong_program_is_refused_at_once_and_ever_after(members, monkeypatch, dtype, output):
    def faulty(module, inputs):
        def run(*tensors):
            answers = list(module(*tensors))
            answers[output] = answers[output] + 3e-4 * torch.rand_like(answers[output])
            return answers

        return run

    monkeypatch.setattr(compiled, "compile_module", faulty)
    committee = MaceCommittee(members, dtype=dtype, compile=True)
    with pytest.raises(CommitteeError, match=r"other numbers than.*\n?.*compile: false"):
        committee.predict(ethanol())
    with pytest.raises(CommitteeError, match="other numbers than"):
        committee.predict(molecule("H2O"))
    assert committee._compiled.programs == 0


def test_a_program_right_at_one_geometry_only_is_refused(members, monkeypatch):
    def frozen(module, inputs):
        known = []

        def run(*tensors):
            known.append(module(*tensors))
            return known[0]

        return run

    monkeypatch.setattr(compiled, "compile_module", frozen)
    with pytest.raises(CommitteeError, match="other numbers than"):
        MaceCommittee(members, compile=True).predict(ethanol())


def test_not_a_number_is_refused(members, monkeypatch):
    monkeypatch.setattr(
        compiled, "compile_module", lambda m, _: lambda *t: [x * np.nan for x in m(*t)]
    )
    with pytest.raises(CommitteeError, match="other numbers than"):
        MaceCommittee(members, compile=True).predict(ethanol())


def test_a_compiler_that_fails_is_named(members, monkeypatch):
    def missing(module, inputs):
        raise RuntimeError("no g++ here\nand more")

    monkeypatch.setattr(compiled, "compile_module", missing)
    committee = MaceCommittee(members, compile=True)
    for _ in range(2):
        with pytest.raises(CommitteeError, match=r"RuntimeError: no g\+\+ here\).*compile: false"):
            committee.predict(ethanol())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_irreps": "4x0e+4x1o"},
        {"blocks": ["RealAgnosticDensityInteractionBlock"] * 2, "apply_cutoff": False},
        {"distance_transform": "Agnesi", "pair_repulsion": True},
    ],
    ids=["plain", "max_L 1", "density, cut-off apart", "Agnesi and repulsion"],
)
def test_padding_changes_nothing(settings, quick):
    members = random_members(2, **settings)
    plain, padded = MaceCommittee(members), MaceCommittee(members, compile=True)
    for atoms in (ethanol(), crowded_cell(), Atoms("O", info={"spin": 1})):
        assert_same(padded.predict(atoms), plain.predict(atoms))


def test_a_new_composition_is_a_new_program_and_many_frames_go_one_by_one(members, quick):
    plain, padded = MaceCommittee(members), MaceCommittee(members, compile=True)
    frames = [ethanol(), molecule("H2O"), crowded_cell(), ethanol(3)]
    for found, atoms in zip(padded.predict_many(frames), frames, strict=True):
        assert_same(found, plain.predict(atoms))
    assert len(quick) == 3


def test_pairs_that_come_and_go_need_few_programs(members, quick):
    """A chain that is pressed together and drawn out passes every number of pairs."""
    plain, padded = MaceCommittee(members), MaceCommittee(members, compile=True)
    counts = set()
    for spacing in [*np.linspace(3.0, 0.9, 40), *np.linspace(0.9, 3.0, 40)]:
        atoms = Atoms("H12", [[spacing * n, 0, 0.2 * (n % 2)] for n in range(12)])
        counts.add(padded._builder.needs(atoms).pairs)
        assert_same(padded.predict(atoms), plain.predict(atoms))
    assert len(counts) > 3
    assert len(quick) <= 3


def test_room_leaves_a_tenth_and_wastes_less_than_two_thirds():
    for count in range(1, 2000):
        room = compiled._roomy(count)
        assert 1.1 * count <= room <= max(4, 1.1 * 1.5 * (count + 1))
    assert not Room(pairs=3, slots=2) <= Room(pairs=4, slots=1)


def test_a_geometry_without_an_answer_is_not_blamed_on_the_compiler(members, quick):
    committee = MaceCommittee(members, compile=True)
    with pytest.raises(PredictionFailed):
        committee.predict(Atoms("OHH", [[0, 0, 0], [0, 0, 0], [0, 0, 1]]))
    assert not quick
    committee.predict(molecule("H2O"))
    assert committee._compiled.programs == 1


def test_a_system_too_large_is_refused_not_run_some_other_way(members, quick, monkeypatch):
    monkeypatch.setattr("hybrid_calc.committee.graph.STACK_BYTES", 1000)
    with pytest.raises(CommitteeError, match=r"9 atoms are too many.*compile: false"):
        MaceCommittee(members, compile=True).predict(ethanol())


def test_settings_ask_for_it(mace_model_files, tmp_path):
    files = [str(path) for path in mace_model_files]
    bundle = tmp_path / "small.bundle"
    import_files(files, bundle, trust=True, name="small")
    for asked in (True, False):
        for settings in (
            MaceSettings(files=files, trust=True, compile=asked),
            BundleSettings(file=bundle, compile=asked),
        ):
            committee = build_committee(settings, tmp_path)
            assert (committee._compiled is not None) == asked
