"""Export to extended XYZ, as ASE and ``mace_run_train`` read it."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest

from hybrid_calc.errors import InputError
from hybrid_calc.store.export import export_extxyz, training_frame
from hybrid_calc.store.frames import FrameStore
from tests.store.samples import bare, crystal, odd, rejected, sample, water


@pytest.fixture
def target(tmp_path):
    return tmp_path / "train.xyz"


def test_ase_reads_energy_forces_and_regime_under_the_keys_of_mace(target):
    records = [sample(1), crystal(2)]
    assert export_extxyz(records, target) == 2
    frames = ase.io.read(target, index=":")
    for frame, record in zip(frames, records, strict=True):
        assert frame.info["REF_energy"] == pytest.approx(record.label.energy, abs=1e-10)
        np.testing.assert_allclose(frame.arrays["REF_forces"], record.label.forces, atol=1e-8)
        np.testing.assert_allclose(frame.positions, record.positions, atol=1e-8)
        np.testing.assert_array_equal(frame.numbers, record.numbers)
        assert frame.info["config_type"] == "intact"
        assert frame.calc is None, "a calculator would hide the REF_ keys"


def test_mace_reads_what_was_exported(target):
    mace_data = pytest.importorskip("mace.data")
    records = [sample(1), sample(2)]
    export_extxyz(records, target)
    _, configurations = mace_data.load_from_xyz(
        file_path=str(target),
        config_type_weights={"Default": 1.0},
        key_specification=mace_data.KeySpecification(
            info_keys={
                "energy": "REF_energy",
                "stress": "REF_stress",
                "total_charge": "total_charge",
                "total_spin": "total_spin",
                "head": "head",
            },
            arrays_keys={"forces": "REF_forces"},
        ),
    )
    for configuration, record in zip(configurations, records, strict=True):
        assert configuration.properties["energy"] == pytest.approx(record.label.energy)
        np.testing.assert_allclose(
            configuration.properties["forces"], record.label.forces, atol=1e-8
        )
        assert configuration.config_type == "intact"


def test_cell_periodicity_and_stress_are_there_for_crystals_only(target):
    export_extxyz([sample(1), crystal(2)], target)
    molecule, solid = ase.io.read(target, index=":")
    assert not molecule.pbc.any()
    assert "REF_stress" not in molecule.info
    assert solid.pbc.all()
    np.testing.assert_allclose(solid.cell, crystal(2).cell, atol=1e-8)
    np.testing.assert_allclose(solid.info["REF_stress"], crystal(2).label.stress, atol=1e-8)


def test_charge_and_multiplicity_are_there(target):
    atoms = water(1)
    atoms.info |= {"charge": -1, "spin": 2}
    export_extxyz([sample(1, atoms), sample(2)], target)
    ion, neutral = ase.io.read(target, index=":")
    assert (ion.info["total_charge"], ion.info["total_spin"]) == (-1, 2)
    assert (neutral.info["total_charge"], neutral.info["total_spin"]) == (0, 1)


def test_frame_says_which_frame_and_level_it_is():
    frame = training_frame(sample(1))
    assert frame.info["frame"] == sample(1).identity
    assert frame.info["level"] == sample(1).level.hash


def test_rejected_frame_is_never_exported(target):
    assert export_extxyz([rejected(1), sample(2), rejected(3)], target) == 1
    (frame,) = ase.io.read(target, index=":")
    assert frame.info["REF_energy"] == pytest.approx(sample(2).label.energy)
    with pytest.raises(InputError, match="was rejected: ReferenceNotConverged"):
        training_frame(rejected(1))


@pytest.mark.parametrize("records", [[], [rejected(1)]], ids=["empty", "rejected"])
def test_nothing_to_export_is_an_error_and_writes_no_file(target, records):
    with pytest.raises(InputError, match="no validated frame"):
        export_extxyz(records, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"regime": "stretched O-H (1.9)"}, "stretched"),
        ({"regime": "intact"}, "intact"),
        ({"regime": ""}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_config_type_is_one_word(meta, expected):
    assert training_frame(sample(1, meta=meta)).info["config_type"] == expected


def test_frame_without_a_prediction_is_exported(target):
    assert export_extxyz([bare(1), odd(2)], target) == 2


def test_store_is_exported_from_journal_and_file_alike(tmp_path, target):
    store = FrameStore(tmp_path / "run.h5")
    store.append(sample(1))
    store.compact()
    store.append(sample(2))
    store.append(rejected(3))
    assert export_extxyz(store, target) == 2
