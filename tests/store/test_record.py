"""A record: what is in it, what it is called, what it refuses to be."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.geometry import geometry_key
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.record import ARRAYS, Record
from tests.store.samples import KINDS, crystal, odd, rejected, sample, water


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bytes_come_back_to_the_bit(kind):
    record = KINDS[kind](1)
    again = Record.from_bytes(record.to_bytes())
    assert again.to_bytes() == record.to_bytes()
    assert again.header() == record.header()
    assert again.identity == record.identity
    assert geometry_key(again.atoms()) == geometry_key(record.atoms())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bytes_and_geometry_are_those_of_safetensors_and_ase(kind):
    record = KINDS[kind](1)
    metadata = {"header": json.dumps(record.header(), sort_keys=True)}
    assert record.to_bytes() == safetensors.numpy.save(record.arrays(), metadata=metadata)
    assert record.geometry == geometry_key(record.atoms())


def test_signs_of_zero_and_smallest_numbers_survive():
    again = Record.from_bytes(odd(1).to_bytes())
    assert again.positions.tobytes() == np.array([[-0.0, 5e-324, 1e300]]).tobytes()
    assert np.signbit(again.label.forces).all()
    assert again.label.checks["limit"] == float("inf")
    assert again.meta["regime"] == "H\N{SUBSCRIPT TWO}\0O"


def test_charge_and_spin_of_the_structure_come_back():
    atoms = water(1)
    atoms.info |= {"charge": -1, "spin": 4}
    again = Record.from_bytes(sample(1, atoms).to_bytes()).atoms()
    assert (again.info["charge"], again.info["spin"]) == (-1, 4)


def test_record_does_not_follow_the_structure_it_was_made_of():
    atoms = water(1)
    record = sample(1, atoms)
    before = record.to_bytes()
    atoms.positions += 1.0
    atoms.pbc = True
    assert record.to_bytes() == before


def test_every_array_has_a_unit_and_every_named_array_is_written():
    assert set(crystal(1).arrays()) == set(ARRAYS)
    assert ARRAYS["positions"] == "A"
    assert ARRAYS["forces"] == ARRAYS["member_forces"] == "eV/A"
    assert ARRAYS["stress"] == "eV/A^3"


def test_numbers_in_single_precision_are_stored_as_double():
    single = Prediction(
        energies=np.float32([1.1, 2.2]), forces=np.zeros((2, 3, 3), dtype=np.float32)
    )
    arrays = sample(1, prediction=single).arrays()
    assert {name: array.dtype.str for name, array in arrays.items()} == {
        "numbers": "<i8", "pbc": "|u1", "positions": "<f8", "cell": "<f8", "forces": "<f8",
        "member_energies": "<f8", "member_forces": "<f8",
    }  # fmt: skip
    assert arrays["member_energies"][0] == np.float32(1.1)


def test_views_of_other_arrays_are_written_by_their_own_values():
    forces = np.arange(18.0).reshape(3, 6)[:, ::2]
    record = sample(1, label=dataclasses.replace(sample(1).label, forces=forces))
    np.testing.assert_array_equal(Record.from_bytes(record.to_bytes()).label.forces, forces)


def changed(record, name):
    """Return the record with one thing changed."""
    label = record.label
    if name == "energy":
        return dataclasses.replace(
            record, label=dataclasses.replace(label, energy=label.energy + 1e-12)
        )
    if name == "forces":
        return dataclasses.replace(record, label=dataclasses.replace(label, forces=-label.forces))
    if name == "level":
        return dataclasses.replace(record, level=LevelOfTheory(program="toy"))
    if name == "rejected":
        return dataclasses.replace(record, label=None, rejection="no")
    if name in {"charge", "multiplicity"}:
        return dataclasses.replace(record, **{name: getattr(record, name) + 2})
    array = np.array(getattr(record, name))
    array.flat[0] = not array.flat[0] if name == "pbc" else array.flat[0] + 2
    return dataclasses.replace(record, **{name: array})


@pytest.mark.parametrize(
    "name",
    ["energy", "forces", "level", "rejected", "charge", "multiplicity", "numbers", "positions",
     "cell", "pbc"],
)  # fmt: skip
def test_another_question_or_answer_is_another_frame(name):
    record = crystal(1)
    assert changed(record, name).identity != record.identity


def test_what_was_said_about_a_frame_does_not_change_its_identity():
    record = sample(1)
    assert record.with_meta(run="x").identity == record.identity
    assert dataclasses.replace(record, prediction=None).identity == record.identity


def test_two_rejections_of_one_geometry_for_different_reasons_are_two_frames():
    assert rejected(1).identity != dataclasses.replace(rejected(1), rejection="other").identity


def test_more_meta_leaves_the_first_record_alone():
    record = sample(1)
    more = record.with_meta(step=7, run="abc")
    assert (more.meta["step"], more.meta["run"]) == (7, "abc")
    assert record.meta["step"] == 1


@pytest.mark.parametrize(
    "blob",
    [b"", b"\0", b"not a record at all", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}",
     (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"null"],
)  # fmt: skip
def test_bytes_that_are_no_record_are_refused(blob):
    with pytest.raises(StoreDamagedError, match="cannot be read"):
        Record.from_bytes(blob)


def test_record_cut_anywhere_is_refused():
    blob = sample(1).to_bytes()
    for end in range(len(blob)):
        with pytest.raises(StoreDamagedError):
            Record.from_bytes(blob[:end])


@pytest.mark.parametrize("missing", ["level", "label", "charge", "meta"])
def test_header_without_a_key_is_refused(missing, monkeypatch):
    header = sample(1).header()
    del header[missing]
    monkeypatch.setattr(Record, "header", lambda self: header)
    blob = sample(1).to_bytes()
    with pytest.raises(StoreDamagedError, match=missing):
        Record.from_bytes(blob)


def test_header_of_another_version_with_an_unknown_level_key_is_refused_by_name(monkeypatch):
    header = sample(1).header()
    header["level"]["temperature"] = 300
    monkeypatch.setattr(Record, "header", lambda self: header)
    blob = sample(1).to_bytes()
    with pytest.raises(StoreDamagedError, match="temperature"):
        Record.from_bytes(blob)
