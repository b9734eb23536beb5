"""Labels made elsewhere: what passes, what does not and why, and what is known about each."""

from __future__ import annotations

import hashlib

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from hybrid_calc.errors import InputError, LevelMismatchError
from hybrid_calc.gate.annotation import Annotator
from hybrid_calc.intake import foreign_level, take_in
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.energy_only import is_energy_only
from hybrid_calc.store.export import export_energies
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query

LEVEL = foreign_level("CCSD(T)-F12/cc-pVTZ-F12")


def labelled(seed=0, **changes):
    """Return rattled water with the toy's answer as others write it."""
    atoms = molecule("H2O")
    atoms.rattle(0.03, seed=seed)
    label = ToyReference().label(atoms)
    atoms.info["REF_energy"] = label.energy
    atoms.arrays["REF_forces"] = label.forces.copy()
    for key, value in changes.items():
        atoms.info[key] = value
    return atoms


def without_forces(seed):
    atoms = labelled(seed)
    del atoms.arrays["REF_forces"]
    return atoms


def write(folder, frames, name="set.xyz"):
    ase.io.write(folder / name, frames, format="extxyz")
    return folder / name


@pytest.fixture
def store(tmp_path):
    with FrameStore(tmp_path / "store.h5") as opened:
        yield opened


def test_frames_come_in_with_level_regime_and_where_they_are_from(tmp_path, store):
    stretched = labelled(1)
    stretched.set_distance(0, 1, 1.8, fix=0)
    stretched.arrays["REF_forces"] = ToyReference().label(stretched).forces
    path = write(tmp_path, [labelled(0, trajectory="a", doi="10.1/x"), stretched])
    intake = take_in(path, store, LEVEL)
    assert (intake.new, intake.quarantined, intake.energy_only) == (2, 0, 0)
    assert intake.regimes == {"equilibrium H O": 1, "reactive H O": 1}
    calm, reactive = store
    assert calm.level == LEVEL
    assert str(calm.level) == "foreign(method=CCSD(T)-F12/cc-pVTZ-F12)"
    assert calm.label.energy == labelled(0).info["REF_energy"]
    np.testing.assert_allclose(calm.label.forces, labelled(0).arrays["REF_forces"], atol=1e-7)
    assert calm.label.checks["net_force_ev_per_ang"] < 1e-6
    assert calm.meta["source"] == "set.xyz, frame 0"
    assert calm.meta["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert calm.meta["source_says"] == {"doi": "10.1/x"}
    assert (calm.meta["run"], calm.meta["judged_by"]) == ("set/a", "isomer")
    assert (reactive.meta["judged_by"], reactive.meta["reasons"]) == ("radii", [])
    (found,) = store.select(Query(regime="reactive"))
    assert found.identity == reactive.identity


def test_the_same_file_again_changes_nothing(tmp_path, store):
    path = write(tmp_path, [labelled(0), labelled(1), without_forces(2)])
    take_in(path, store, LEVEL)
    again = take_in(path, store, LEVEL)
    assert (again.new, again.there, again.energy_only, len(store)) == (0, 3, 0, 3)


def test_each_check_sends_its_frame_to_quarantine_with_the_reason(tmp_path, store):
    calm = [labelled(seed) for seed in range(6)]
    nan, pushed, hartree, huge, bare = (labelled(seed) for seed in range(10, 15))
    nan.arrays["REF_forces"][0, 0] = np.nan
    pushed.arrays["REF_forces"] += [0.5, 0.0, 0.0]
    hartree.info["REF_energy"] = hartree.info["REF_energy"] - 2000.0
    huge.arrays["REF_forces"][0] += [500.0, 0, 0]
    huge.arrays["REF_forces"][1] -= [500.0, 0, 0]
    del bare.info["REF_energy"], bare.arrays["REF_forces"]
    intake = take_in(write(tmp_path, [*calm, nan, pushed, hartree, huge, bare]), store, LEVEL)
    assert (intake.new, intake.quarantined) == (6, 5)
    reasons = [record.rejection for record in store.select(Query(labelled=False))]
    assert len(reasons) == 5
    for words in (
        "not finite",
        "add up to 1.5 eV/A",
        "eV per atom from the median of its composition",
        "500 eV/A, at most 300",
        "no energy",
    ):
        assert len([reason for reason in reasons if words in reason]) == 1, words
    assert sum(intake.why.values()) == 5
    assert len(list(store.select(Query(labelled=True)))) == 6


def test_a_net_force_may_be_allowed(tmp_path, store):
    pushed = labelled(0)
    pushed.arrays["REF_forces"] += [0.5, 0.0, 0.0]
    path = write(tmp_path, [pushed])
    assert take_in(path, store, LEVEL, max_net_force_ev_per_ang=2.0).new == 1


def test_energies_without_forces_are_kept_apart_and_can_be_trained_on(tmp_path, store):
    path = write(tmp_path, [without_forces(0), without_forces(1), labelled(2)])
    intake = take_in(path, store, LEVEL)
    assert (intake.new, intake.energy_only, intake.quarantined) == (1, 2, 0)
    kept = [record for record in store if is_energy_only(record)]
    assert [record.label for record in kept] == [None, None]
    assert kept[0].meta["energy"] == without_forces(0).info["REF_energy"]
    assert store.find_label(without_forces(0), LEVEL) is None
    assert export_energies(store, tmp_path / "energies.xyz") == 2
    back = ase.io.read(tmp_path / "energies.xyz", ":")
    assert [atoms.info["REF_energy"] for atoms in back] == [r.meta["energy"] for r in kept]
    assert all(atoms.info["config_forces_weight"] == 0 for atoms in back)
    assert "REF_forces" not in back[0].arrays
    store.append(kept[0])
    with pytest.raises(InputError, match="no frame is an energy"):
        export_energies([next(store.select(Query(labelled=True)))], tmp_path / "none.xyz")


def test_an_answer_that_contradicts_the_stores_goes_to_quarantine(tmp_path, store):
    take_in(write(tmp_path, [labelled(0)]), store, LEVEL)
    other = labelled(0)
    other.info["REF_energy"] += 0.1
    other.positions = next(iter(store)).positions
    intake = take_in(write(tmp_path, [other], "other.xyz"), store, LEVEL)
    assert (intake.new, intake.quarantined) == (0, 1)
    assert "+0.100 eV away" in list(store)[-1].rejection


def test_charge_and_spin_are_taken_and_contradictions_left_out(tmp_path, store):
    cation = labelled(0, total_charge=1, total_spin=2)
    impossible = labelled(1, charge=1, spin=1)
    intake = take_in(write(tmp_path, [cation, impossible]), store, LEVEL)
    assert intake.new == 1
    assert intake.regimes == {"equilibrium H O, charge +1, multiplicity 2": 1}
    (why,) = intake.unusable
    assert why.startswith("set.xyz, frame 1: 9 electrons cannot have multiplicity 1")


def test_rows_of_a_database_bring_their_keys(tmp_path, store):
    atoms = labelled(0)
    atoms.calc = SinglePointCalculator(
        atoms, energy=atoms.info["REF_energy"], forces=atoms.arrays["REF_forces"]
    )
    with connect(tmp_path / "set.db") as database:
        database.write(atoms, trajectory="t1", source="thesis")
    assert take_in(tmp_path / "set.db", store, LEVEL).new == 1
    (record,) = store
    assert record.meta["source"] == "set.db, row 1"
    assert record.meta["source_says"] == {"source": "thesis"}
    assert record.meta["run"] == "set/t1"


def test_a_given_structure_and_temperature_reach_the_regimes(tmp_path, store):
    path = write(tmp_path, [labelled(0)])
    annotator = Annotator(structures=[molecule("H2O")], temperature_kelvin=600.0)
    assert take_in(path, store, LEVEL, annotator=annotator).regimes == {"warm H O": 1}
    assert next(iter(store)).meta["judged_by"] == "structure"


def test_levels_are_asked_for_and_never_mixed(tmp_path, store):
    path = write(tmp_path, [labelled(0)])
    with pytest.raises(InputError, match="--method"):
        take_in(path, store, None)
    take_in(path, store, LEVEL)
    with pytest.raises(LevelMismatchError):
        take_in(path, store, foreign_level("MP2/cc-pVTZ"))
    with pytest.raises(InputError, match="needs words"):
        foreign_level("  ")
    assert foreign_level(" MP2  / x ") == foreign_level("MP2 / x")


def test_frames_that_came_from_a_store_are_as_they_were(tmp_path, store):
    from hybrid_calc.store.export import export_extxyz

    take_in(write(tmp_path, [labelled(0)]), store, LEVEL)
    export_extxyz(store, tmp_path / "ours.xyz")
    with FrameStore(tmp_path / "other.h5") as other:
        assert take_in(tmp_path / "ours.xyz", other, None).new == 1
        assert next(iter(other)).meta == next(iter(store)).meta


def test_single_atoms_pass(tmp_path, store):
    atom = Atoms("H", info={"REF_energy": -13.6})
    atom.arrays["REF_forces"] = np.zeros((1, 3))
    assert take_in(write(tmp_path, [atom]), store, LEVEL).new == 1
