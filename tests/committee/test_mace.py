"""The stacked committee against MACE itself, and against what only it promises."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.stress import full_3x3_to_voigt_6_stress

from hybrid_calc.committee import evaluate as evaluation
from hybrid_calc.committee import graph, mace
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.errors import (
    CommitteeError,
    PredictionFailed,
    StructureError,
    UnknownElementError,
    UntrustedFileError,
)
from hybrid_calc.reference.level import LevelOfTheory
from tests.committee.mace_networks import (
    DENSITY,
    DENSITY_RESIDUAL,
    PLAIN,
    RESIDUAL,
    crowded_cell,
    ethanol,
    random_mace,
    random_members,
    stock,
)
from tests.contracts.committee import CommitteeContract

ARCHITECTURES = {
    "plain MACE": {"kind": "MACE"},
    "one interaction": {"kind": "MACE", "num_interactions": 1},
    "scaled and shifted": {},
    "max_L 1": {"hidden_irreps": "4x0e+4x1o"},
    "max_L 1, one interaction": {"hidden_irreps": "4x0e+4x1o", "num_interactions": 1},
    "three interactions, correlation 2": {
        "hidden_irreps": "4x0e+4x1o",
        "num_interactions": 3,
        "correlation": 2,
    },
    "correlation 1, max_ell 3": {"correlation": 1, "max_ell": 3},
    "first block without residual": {"blocks": (PLAIN, RESIDUAL)},
    "density": {"blocks": (DENSITY, DENSITY_RESIDUAL)},
    "density, cut-off apart": {"blocks": (DENSITY, DENSITY_RESIDUAL), "apply_cutoff": False},
    "Agnesi distances and screened repulsion": {
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
}


@pytest.fixture(scope="module")
def members():
    return random_members()


@pytest.fixture(scope="module")
def committee(members):
    return MaceCommittee(members)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def both(request):
    members = random_members(**ARCHITECTURES[request.param])
    return members, MaceCommittee(members)


@pytest.mark.parametrize("atoms", [ethanol(), crowded_cell()], ids=["molecule", "cell"])
def test_every_member_answers_as_in_mace_itself(both, atoms):
    members, committee = both
    energies, forces, stress, descriptors = stock(members, atoms)
    answer = committee.predict(atoms)
    size = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(answer.energies, energies, rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(answer.forces, forces, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(answer.descriptors, descriptors, rtol=1e-10, atol=1e-12)
    if atoms.pbc.any():
        voigt = [full_3x3_to_voigt_6_stress(one) for one in stress]
        np.testing.assert_allclose(answer.stress, voigt, rtol=0, atol=1e-12 * size)
    else:
        assert answer.stress is None


def test_float32_answers_as_mace_in_float32_but_keeps_the_energies_digits(members):
    atoms = ethanol()
    committee = MaceCommittee(members, dtype="float32")
    exact, forces, _, _ = stock(members, atoms)
    answer = committee.predict(atoms)
    assert answer.forces.dtype == np.float64
    np.testing.assert_allclose(answer.forces, forces, rtol=0, atol=2e-6)
    np.testing.assert_allclose(answer.energies, exact, rtol=0, atol=2e-6)  # of 4000 eV


@pytest.mark.parametrize("head", ["pt_head", "Default"])
def test_the_head_asked_for_answers(head):
    several = {
        "heads": ["pt_head", "Default"],
        "atomic_energies": np.array([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]),
        "atomic_inter_scale": [1.0, 1.4],
        "atomic_inter_shift": [0.1, 0.2],
    }
    members, atoms = random_members(2, **several), ethanol()
    energies, forces, _, _ = stock(members, atoms, head=head)
    answer = MaceCommittee(members, head=head).predict(atoms)
    np.testing.assert_allclose(answer.energies, energies, rtol=0, atol=1e-10)
    np.testing.assert_allclose(answer.forces, forces, rtol=0, atol=1e-12)
    with pytest.raises(CommitteeError, match="heads pt_head, Default"):
        MaceCommittee(members, head="other")


@pytest.mark.parametrize("atoms", [ethanol(), crowded_cell()], ids=["molecule", "cell"])
@pytest.mark.parametrize("together", [True, False], ids=["members together", "one by one"])
def test_blocks_and_passes_change_nothing(committee, atoms, together, monkeypatch):
    whole = committee.predict(atoms)
    monkeypatch.setattr(graph, "BLOCK_BYTES", 1)
    monkeypatch.setattr(graph, "STACK_BYTES", 1e9 if together else 0)
    seen = []
    plain = evaluation._evaluate
    monkeypatch.setattr(
        evaluation, "_evaluate", lambda s, g: seen.append(len(g.receivers)) or plain(s, g)
    )
    pieces = committee.predict(atoms)
    assert seen == [len(atoms)] * (1 if together else committee.info.size)
    np.testing.assert_allclose(pieces.energies, whole.energies, rtol=0, atol=1e-11)
    np.testing.assert_allclose(pieces.forces, whole.forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pieces.descriptors, whole.descriptors, rtol=0, atol=1e-12)
    if whole.stress is not None:
        np.testing.assert_allclose(pieces.stress, whole.stress, rtol=0, atol=1e-12)


def test_an_atom_alone_has_its_energy_and_no_force(committee, members):
    answer = committee.predict(Atoms("O", info={"spin": 1}))
    expected = [float(m.atomic_energies_fn.atomic_energies.flatten()[2]) for m in members]
    shifts = [float(m.scale_shift.shift) for m in members]
    lonely = committee.predict(Atoms("OO", [[0, 0, 0], [0, 0, 50]], info={"spin": 1}))
    np.testing.assert_allclose(lonely.energies, 2 * answer.energies, rtol=1e-14)
    assert not answer.forces.any()
    assert not lonely.forces.any()
    # what is left beside the isolated atom and the shift is the network of no neighbours
    stock_energies, *_ = stock(members, Atoms("O"))
    np.testing.assert_allclose(answer.energies, stock_energies, rtol=1e-14)
    assert np.abs(answer.energies - expected - shifts).max() < 50


def test_a_pair_fades_out_at_the_cutoff(committee):
    near, far = (
        committee.predict(Atoms("OO", [[0, 0, 0], [0, 0, 4.0 + offset]], info={"spin": 1}))
        for offset in (-1e-3, 1e-3)
    )
    assert 0 < np.abs(near.forces).max() < 1e-4
    assert not far.forces.any()
    np.testing.assert_allclose(near.energies, far.energies, rtol=0, atol=1e-7)


def test_an_atom_that_crosses_the_cell_changes_nothing(committee):
    atoms = crowded_cell()
    before = committee.predict(atoms)
    atoms.positions[1] += 2 * atoms.cell[0] - atoms.cell[2]
    after = committee.predict(atoms)
    np.testing.assert_allclose(after.forces, before.forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.stress, before.stress, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_a_slab_and_a_wire_are_the_cell_with_room(committee, pbc):
    atoms = crowded_cell()
    atoms.pbc = pbc
    roomy = atoms.copy()
    roomy.set_cell([v if p else 40 * v for v, p in zip(atoms.cell, pbc, strict=True)])
    roomy.pbc = True
    open_, closed = committee.predict(atoms), committee.predict(roomy)
    np.testing.assert_allclose(open_.energies, closed.energies, rtol=0, atol=1e-10)
    np.testing.assert_allclose(open_.forces, closed.forces, rtol=0, atol=1e-12)


def test_a_trajectory_reuses_its_list_and_answers_as_if_it_did_not(members):
    committee = MaceCommittee(members)
    random = np.random.default_rng(7)
    atoms = crowded_cell()
    committee.predict(atoms)
    built = committee._builder.neighbours.builds
    for _ in range(40):
        atoms.positions += random.normal(scale=0.02, size=atoms.positions.shape)
        fresh = MaceCommittee.__new__(MaceCommittee)
        fresh.__dict__.update(committee.__dict__)
        fresh._builder = _without_lists(committee._builder)
        assert np.array_equal(committee.predict(atoms).forces, fresh.predict(atoms).forces)
    assert 1 <= committee._builder.neighbours.builds - built < 20


def _without_lists(builder):
    other = graph.GraphBuilder.__new__(graph.GraphBuilder)
    other.__dict__.update(builder.__dict__)
    other.neighbours = type(builder.neighbours)(builder.cutoff)
    return other


def test_many_frames_of_all_kinds_go_in_one_pass(committee, monkeypatch):
    frames = [ethanol(), crowded_cell(), molecule("CH4"), Atoms("O", info={"spin": 1})]
    single = [committee.predict(atoms) for atoms in frames]
    passes = []
    plain = mace.evaluate
    monkeypatch.setattr(mace, "evaluate", lambda s, g: passes.append(g.frames) or plain(s, g))
    for answer, expected in zip(committee.predict_many(frames), single, strict=True):
        np.testing.assert_allclose(answer.energies, expected.energies, rtol=0, atol=1e-11)
        np.testing.assert_allclose(answer.forces, expected.forces, rtol=0, atol=1e-12)
        np.testing.assert_allclose(answer.descriptors, expected.descriptors, rtol=0, atol=1e-12)
        assert (answer.stress is None) == (expected.stress is None)
        if expected.stress is not None:
            np.testing.assert_allclose(answer.stress, expected.stress, rtol=0, atol=1e-12)
    assert passes == [4]
    monkeypatch.setattr(mace, "MAX_ATOMS_AT_ONCE", 10)
    assert len(committee.predict_many(frames)) == 4
    assert passes == [4, 1, 3]


def test_threads_get_the_answers_one_thread_gets(committee):
    frames = [ethanol(seed) for seed in range(6)]
    expected = [committee.predict(atoms) for atoms in frames]
    found = {}

    def work(number):
        for _ in range(3):
            found[number] = committee.predict(frames[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in enumerate(expected):
        assert np.array_equal(found[number].forces, answer.forces)


def test_torch_is_left_as_it_was(committee):
    members = random_members(2)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    environment, enabled = os.environ.get(variable), torch.is_grad_enabled()
    MaceCommittee(members)
    committee.predict(ethanol())
    with torch.no_grad():
        committee.predict(ethanol())
    with torch.inference_mode():
        committee.predict(ethanol())
    for bad, error in ((Atoms("Xe"), UnknownElementError), (Atoms(), StructureError)):
        with pytest.raises(error):
            committee.predict(bad)
    with pytest.raises(PredictionFailed):
        committee.predict(Atoms("OHH", [[0, 0, 0], [0, 0, 0], [0, 0, 1]]))
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == dtype
    assert os.environ.get(variable) == environment
    assert torch.is_grad_enabled() == enabled
    assert all(p.requires_grad for p in members[0].readouts.parameters() if p.numel())


def test_outside_the_domain_is_refused_unless_widened(members, committee):
    charged = Atoms("OH", [[0, 0, 0], [0, 0, 1]], info={"charge": -1})
    triplet = Atoms("O", info={"spin": 3})
    for atoms in (charged, triplet):
        with pytest.raises(UnknownElementError):
            committee.predict(atoms)
    wide = MaceCommittee(members, charges=None, multiplicities=frozenset({1, 3}))
    assert wide.predict(charged).energies.shape == (3,)
    assert wide.predict(triplet).energies.shape == (3,)


def test_identity_is_of_the_weights_alone(members, committee):
    assert MaceCommittee(members[::-1], dtype="float32").info.identity == committee.info.identity
    assert MaceCommittee(members[:2]).info.identity != committee.info.identity
    other = [*members[:2], random_mace(9)]
    assert MaceCommittee(other).info.identity != committee.info.identity


def test_one_network_is_no_committee(members):
    with pytest.raises(CommitteeError, match=r"at least two members; got 1.*foundation"):
        MaceCommittee(members[:1])


def test_the_same_network_twice_is_no_committee(members):
    with pytest.raises(CommitteeError, match="members 0 and 1 have identical weights"):
        MaceCommittee([members[0], random_mace(0)])


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"r_max": 4.5}, "r_max: member 0 has 4.0; member 1 has 4.5"),
        ({"atomic_numbers": [1, 7, 8]}, r"elements: member 0 has \[1, 6, 8\]; .*\[1, 7, 8\]"),
        ({"hidden_irreps": "6x0e"}, "irreps: member 0 has .*4x0e.*6x0e"),
        ({"kind": "MACE"}, "class: member 0 has ScaleShiftMACE; member 1 has MACE"),
    ],
)
def test_members_that_differ_in_kind_are_named(members, difference, message):
    with pytest.raises(CommitteeError, match=message) as raised:
        MaceCommittee([members[0], random_mace(1, **difference)])
    assert "MembersCommittee" in str(raised.value)


def test_networks_that_cannot_be_read_are_refused(members):
    with pytest.raises(CommitteeError, match=r"class Linear.*MembersCommittee"):
        MaceCommittee([members[0], torch.nn.Linear(2, 2)])
    with pytest.raises(CommitteeError, match="correlation above 3"):
        MaceCommittee(random_members(2, correlation=4, max_ell=1, num_interactions=1, kind="MACE"))


def test_a_stack_that_differs_from_mace_is_refused(members, monkeypatch):
    read = mace.mace_weights.read_member
    wrong = random_mace(5)
    monkeypatch.setattr(mace.mace_weights, "read_member", lambda model, head: read(wrong, head))
    with pytest.raises(CommitteeError, match="other numbers stacked than in MACE itself"):
        MaceCommittee(members)


def test_unknown_precision_or_device_is_refused(members):
    with pytest.raises(CommitteeError, match="float64 or float32"):
        MaceCommittee(members, dtype="float16")
    if not torch.cuda.is_available():
        with pytest.raises(CommitteeError, match="'cuda' was asked for"):
            MaceCommittee(members, device="cuda")


class Trap:
    """A pickle that notes its own loading."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_nobody_vouched_for_is_not_opened(tmp_path):
    sprung = tmp_path / "sprung"
    for number in range(2):
        torch.save(Trap(sprung), tmp_path / f"trap_{number}.model")
    with pytest.raises(UntrustedFileError, match=r"SHA-256 [0-9a-f]{64}") as raised:
        MaceCommittee.from_files(tmp_path / "trap_*.model", trust=False)
    assert "trust=True" in str(raised.value)
    assert not sprung.exists()


def test_files_that_are_missing_or_unreadable_are_named(tmp_path):
    with pytest.raises(CommitteeError, match=r"no such model file: .*none_\*\.model"):
        MaceCommittee.from_files(tmp_path / "none_*.model", trust=True)
    with pytest.raises(CommitteeError, match=r"no such model file: .*gone.model"):
        MaceCommittee.from_files([tmp_path / "gone.model"], trust=True)
    with pytest.raises(CommitteeError, match="no such model file"):
        MaceCommittee.from_files([], trust=True)
    (tmp_path / "text.model").write_text("not a network")
    with pytest.raises(CommitteeError, match=r"text.model cannot be read as a MACE model"):
        MaceCommittee.from_files([tmp_path / "text.model"] * 2, trust=True)
    torch.save({"weights": 1}, tmp_path / "dict.model")
    with pytest.raises(CommitteeError, match="holds a dict, not a network"):
        MaceCommittee.from_files([tmp_path / "dict.model"] * 2, trust=True)


def test_trained_files_load_and_agree_with_mace(mace_model_files):
    pattern = mace_model_files[0].parent / "member_?.model"
    level = LevelOfTheory(program="toy", parameters={"potential": "morse"})
    dtype = torch.get_default_dtype()
    committee = MaceCommittee.from_files(pattern, trust=True, level=level, name="small")
    assert torch.get_default_dtype() == dtype
    assert committee.info.name == "small"
    assert committee.info.level == level
    assert committee.info.size == 3
    assert [len(digest) for digest in committee.file_digests.values()] == [64] * 3
    assert "member_0.model" in committee.info.source
    atoms = ethanol()
    models = [torch.load(path, weights_only=False) for path in mace_model_files]
    energies, forces, _, _ = stock(models, atoms)
    answer = committee.predict(atoms)
    np.testing.assert_allclose(answer.energies, energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(answer.forces, forces, rtol=0, atol=1e-9)


class TestMaceContract(CommitteeContract):
    @staticmethod
    def make():
        return MaceCommittee(random_members())

    @staticmethod
    def molecules():
        return [ethanol(1)[[2, 8, 5]], ethanol(2), molecule("CH3COOH")]

    @staticmethod
    def crystal():
        return crowded_cell()
