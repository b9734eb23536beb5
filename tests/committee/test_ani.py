"""The ANI committees against torchani in float64, and against what physics demands."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.units import Hartree

from hybrid_calc.committee import aev, ani
from hybrid_calc.committee.ani import AniCommittee
from hybrid_calc.errors import (
    CommitteeError,
    MissingPackageError,
    PredictionFailed,
    StructureError,
    UnknownElementError,
)

ENERGY_TOLERANCE = 2e-5
"""eV: float32 networks, DESIGN.md."""
FORCE_TOLERANCE = 2e-5
"""eV/A: float32 networks and AEV, DESIGN.md."""


@pytest.fixture(scope="module")
def committee():
    return AniCommittee()


def load_stock(model):
    kind = {"ani-1x": "ANI1x", "ani-1ccx": "ANI1ccx"}[model]
    return getattr(ani._import_torchani().models, kind)(periodic_table_index=True).double()


@pytest.fixture(scope="module")
def stock():
    return load_stock("ani-1x")


def rattled(name, seed=0):
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def alkane(carbons):
    """A zigzag chain with tetrahedral angles, rattled; 3 n + 2 atoms."""
    atoms = Atoms()
    for i in range(carbons):
        side = (-1) ** i
        steps = np.array([[0, 0, 0], [0, 0.63 * side, 0.89], [0, 0.63 * side, -0.89]])
        atoms += Atoms("CH2", steps + np.array([1.27 * i, 0.44 * side, 0]))
    for end, way in ((0, -1), (3 * (carbons - 1), 1)):
        side = np.sign(atoms.positions[end, 1])
        atoms += Atoms("H", [atoms.positions[end] + [0.89 * way, -0.63 * side, 0]])
    atoms.rattle(0.03, seed=3)
    return atoms


def torchani_members(stock, atoms):
    """Energies (M,) eV and forces (M, N, 3) eV/A, one member after another, float64."""
    numbers = torch.tensor(atoms.numbers)[None]
    positions = torch.tensor(atoms.positions, dtype=torch.float64)[None].requires_grad_()
    energies, forces = [], []
    for member in range(len(stock)):
        energy = stock[member]((numbers, positions)).energies.sum()
        energies.append(energy.item() * Hartree)
        forces.append(-torch.autograd.grad(energy, positions)[0][0].numpy() * Hartree)
    return np.array(energies), np.array(forces)


def assert_same(got, want, *, energy=ENERGY_TOLERANCE, force=FORCE_TOLERANCE):
    np.testing.assert_allclose(got.energies, want.energies, rtol=0, atol=energy)
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=force)
    np.testing.assert_allclose(got.descriptors, want.descriptors, rtol=0, atol=1e-5)


MOLECULES = [
    rattled("CH3CH2OH"),
    rattled("CH3CONH2", 1),
    rattled("C5H5N", 2),
    rattled("CH3NO2", 3),
    alkane(20),
]


@pytest.mark.parametrize("atoms", MOLECULES, ids=lambda atoms: atoms.get_chemical_formula())
def test_every_member_is_torchanis(committee, stock, atoms):
    energies, forces = torchani_members(stock, atoms)
    got = committee.predict(atoms)
    np.testing.assert_allclose(got.energies, energies, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=FORCE_TOLERANCE)


def test_ani_1ccx_is_torchanis_and_another_committee(committee):
    other = AniCommittee("ani-1ccx")
    energies, forces = torchani_members(load_stock("ani-1ccx"), MOLECULES[0])
    got = other.predict(MOLECULES[0])
    np.testing.assert_allclose(got.energies, energies, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=FORCE_TOLERANCE)
    assert other.info.identity != committee.info.identity
    assert not other.info.level.same_physics(committee.info.level)


def test_forces_are_minus_the_slope_of_the_energies(committee):
    # CELU's curvature jumps at 0, so members have kinks in their forces: a short
    # step, and a tolerance that float64 torchani needs as well.
    atoms, step = rattled("CH3CONH2", 5), 1e-3
    forces = committee.predict(atoms).forces
    for seed in range(6):
        way = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        way /= np.linalg.norm(way)
        slope = np.zeros(8)
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * way
            slope += sign / (2 * step) * committee.predict(moved).energies
        np.testing.assert_allclose(-(forces * way).sum(axis=(1, 2)), slope, rtol=0, atol=4e-3)


def test_network_gradient_is_autograds():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / 4

    widths = (20, 12, 9, 7, 1)
    network = ani.ElementNetworks(
        weights=tuple(draw(3, a, b) for a, b in itertools.pairwise(widths)),
        biases=tuple(draw(3, 1, b) for b in widths[1:]),
    )
    inputs = (4 * draw(5, 20)).requires_grad_()
    output, gradient, last = ani.network_gradient(network, inputs)
    assert (last < 0).any(), "the exponential branch of CELU is not visited"
    assert (last > 0).any()
    for member in range(3):
        hidden = inputs
        for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
            hidden = hidden @ weight[member] + bias[member]
            if layer < 3:
                # torch.celu's own backward has a float32 alpha, 1.5e-8 off in float64.
                bent = 0.1 * torch.expm1(hidden.clamp(max=0) / 0.1)
                hidden = torch.where(hidden > 0, hidden, bent)
        want = torch.autograd.grad(hidden.sum(), inputs)[0]
        torch.testing.assert_close(output[member], hidden[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[member], want, rtol=1e-12, atol=1e-12)


def test_cut_aev_has_the_columns_of_torchanis_that_are_not_zero(committee, stock):
    atoms = rattled("CH3CH2OH")
    near = aev.find_neighbours([atoms.positions], committee._constants)
    local = np.searchsorted([1, 6, 8], atoms.numbers)
    parts = [f(committee._constants, near, local, 3) for f in (aev.radial_terms, aev.angular_terms)]
    columns = aev.aev_columns((0, 1, 3), 4, committee._constants)
    numbers, positions = torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions)[None]
    full = stock.aev_computer(stock.species_converter((numbers, positions))).aevs[0]
    got = torch.cat([part.values for part in parts], dim=1).double()
    torch.testing.assert_close(got, full[:, columns], rtol=1e-6, atol=1e-6)
    rest = np.setdiff1d(np.arange(full.shape[1]), columns)
    assert not full[:, rest].any()


def test_a_thousand_angstrom_away_nothing_changes(committee):
    atoms = rattled("CH3CH2OH")
    moved = atoms.copy()
    moved.positions += [1000.0, -1000.0, 1000.0]
    assert_same(committee.predict(moved), committee.predict(atoms))


def test_rotation_turns_forces_and_nothing_else(committee):
    atoms = rattled("CH3CH2OH")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn
    here, there = committee.predict(atoms), committee.predict(turned)
    np.testing.assert_allclose(there.energies, here.energies, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(there.forces, here.forces @ turn, rtol=0, atol=FORCE_TOLERANCE)
    np.testing.assert_allclose(there.descriptors, here.descriptors, rtol=0, atol=1e-5)


def test_permutation_permutes(committee):
    atoms = rattled("CH3CONH2")
    order = np.random.default_rng(1).permutation(len(atoms))
    here, there = committee.predict(atoms), committee.predict(atoms[order])
    np.testing.assert_allclose(there.energies, here.energies, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(there.forces, here.forces[:, order], rtol=0, atol=FORCE_TOLERANCE)
    np.testing.assert_allclose(there.descriptors, here.descriptors[order], rtol=0, atol=1e-5)


def test_no_net_force(committee):
    forces = committee.predict(rattled("CH3CH2OH")).forces
    np.testing.assert_allclose(forces.sum(axis=1), 0, atol=1e-9)


def test_one_atom_alone(committee, stock):
    atom = Atoms("C", [[3.0, 2.0, 1.0]])
    got = committee.predict(atom)
    np.testing.assert_allclose(
        got.energies, torchani_members(stock, atom)[0], rtol=0, atol=ENERGY_TOLERANCE
    )
    assert not got.forces.any()
    assert got.descriptors.shape == (1, 768)


def test_a_hydrogen_atom_is_a_doublet_so_refused_but_its_network_works(committee, stock):
    atom = Atoms("H")
    with pytest.raises(UnknownElementError, match="multiplicities"):
        committee.predict(atom)
    got = committee._answer([atom])[0]
    want = torchani_members(stock, atom)[0]
    np.testing.assert_allclose(got.energies, want, rtol=0, atol=ENERGY_TOLERANCE)
    assert not got.forces.any()


def test_far_apart_molecules_add_up(committee):
    left, right = rattled("H2O"), rattled("CH3OH")
    right.positions += [900.0, 0.0, 0.0]
    both, one, two = (committee.predict(atoms) for atoms in (left + right, left, right))
    np.testing.assert_allclose(
        both.energies, one.energies + two.energies, rtol=0, atol=ENERGY_TOLERANCE
    )
    np.testing.assert_allclose(
        both.forces, np.concatenate([one.forces, two.forces], axis=1), rtol=0, atol=FORCE_TOLERANCE
    )


def test_two_atoms_far_apart_feel_nothing(committee):
    assert not committee.predict(Atoms("H2", [[0, 0, 0], [0, 0, 60.0]])).forces.any()


def test_a_pair_without_triples(committee, stock):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    energies, forces = torchani_members(stock, atoms)
    got = committee.predict(atoms)
    np.testing.assert_allclose(got.energies, energies, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=FORCE_TOLERANCE)


@pytest.mark.parametrize(("per_pass", "per_block"), [(256, 1024), (1, 1024), (40, 7)])
def test_many_frames_are_the_frames_one_by_one(committee, monkeypatch, per_pass, per_block):
    frames = [*MOLECULES, rattled("H2O"), Atoms("O"), rattled("CH3CH2OH", 9)]
    want = [committee.predict(atoms) for atoms in frames]
    monkeypatch.setattr(ani, "ATOMS_PER_PASS", per_pass)
    monkeypatch.setattr(aev, "TRIPLES_PER_BLOCK", per_block)
    got = committee.predict_many(frames)
    assert len(got) == len(frames)
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


def test_no_frames_give_no_answers(committee):
    assert committee.predict_many([]) == []


def test_the_same_question_gets_the_same_bits(committee):
    one, two = (committee.predict(MOLECULES[0]) for _ in range(2))
    assert np.array_equal(one.energies, two.energies)
    assert np.array_equal(one.forces, two.forces)


def test_threads_share_one_committee():
    committee = AniCommittee()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(committee.predict, MOLECULES * 4))
    for answer, atoms in zip(answers, MOLECULES * 4, strict=True):
        assert np.array_equal(answer.forces, committee.predict(atoms).forces)


def with_info(**info):
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def not_finite():
    atoms = molecule("H2O")
    atoms.positions[1, 2] = np.nan
    return atoms


@pytest.mark.parametrize(
    ("atoms", "error", "words"),
    [
        (molecule("CH3Cl"), UnknownElementError, "also has Cl"),
        (molecule("SiH4"), UnknownElementError, "also has Si"),
        (molecule("HF"), UnknownElementError, "also has F"),
        (not_finite(), StructureError, "atoms \\[1\\] are not finite"),
        (with_info(charge=1, spin=2), UnknownElementError, "charges"),
        (with_info(charge=2), UnknownElementError, "charges"),
        (with_info(spin=3), UnknownElementError, "multiplicities"),
        (molecule("CH3"), UnknownElementError, "multiplicities"),
        (Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]], pbc=True), StructureError, "no volume"),
        (Atoms("C", cell=[5, 5, 5], pbc=True), StructureError, "molecules only"),
        (Atoms("C", cell=[5, 5, 5], pbc=(True, False, False)), StructureError, "molecules only"),
        (Atoms("XH", [[0, 0, 0], [0, 0, 1]]), StructureError, "dummy"),
        (Atoms(), StructureError, "no atoms"),
        (Atoms("H2"), PredictionFailed, "not finite"),
    ],
)
def test_refusals(committee, atoms, error, words):
    with pytest.raises(error, match=words):
        committee.predict(atoms)
    with pytest.raises(error, match=words):
        committee.predict_many([molecule("H2O"), atoms])


def test_unknown_model_is_refused():
    with pytest.raises(CommitteeError, match="ani-1x, ani-1ccx"):
        AniCommittee("ani-2x")


@pytest.mark.parametrize("missing", ["torchani", "pkg_resources"])
def test_a_missing_package_names_the_command(monkeypatch, missing):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchani"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    command = 'pip install "torchani==2.0" "setuptools<81"'
    with pytest.raises(MissingPackageError, match=re.escape(command)):
        AniCommittee()


def test_info_says_who_answers(committee):
    info = committee.info
    assert (info.name, info.size, info.cutoff) == ("ANI-1x", 8, 5.2)
    assert info.domain.elements == {1, 6, 7, 8}
    assert (info.domain.charges, info.domain.multiplicities) == ({0}, {1})
    assert str(info.level) == "wb97x/6-31g* (Cartesian d)"
    assert re.fullmatch("[0-9a-f]{16}", info.identity)


def test_descriptors_tell_environments_apart(committee):
    descriptors = committee.predict(molecule("CH3CH2OH")).descriptors
    carbons = descriptors[molecule("CH3CH2OH").numbers == 6]
    assert descriptors.shape == (9, 768)
    assert np.linalg.norm(carbons[0] - carbons[1]) > 0.05


def state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
        list(warnings.filters),
    )


def test_globals_stay_as_they_were(committee):
    before = state()
    AniCommittee().predict(MOLECULES[0])
    assert state() == before
    with pytest.raises(UnknownElementError):
        committee.predict(molecule("HF"))
    assert state() == before
    with pytest.raises(PredictionFailed):
        committee.predict(Atoms("H2"))
    assert state() == before


def test_another_default_dtype_changes_nothing(committee):
    want = committee.predict(MOLECULES[0])
    torch.set_default_dtype(torch.float64)
    try:
        other = AniCommittee()
        got = other.predict(MOLECULES[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.info.identity == committee.info.identity
    assert np.array_equal(got.energies, want.energies)
    assert np.array_equal(got.forces, want.forces)


def test_a_fresh_process_neither_warns_nor_prints():
    code = "from hybrid_calc.committee.ani import AniCommittee; AniCommittee()"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
