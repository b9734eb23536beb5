"""From a store to a calibration: which frames count, what they say, and what is refused."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from hybrid_calc import FlagLimits, HybridCalculator, ToyCommittee, ToyReference
from hybrid_calc.committee.spread import max_force_error
from hybrid_calc.errors import InputError, LevelMismatchError
from hybrid_calc.gate.regime import RegimeRule
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.store.frames import FrameStore, open_existing
from hybrid_calc.store.selection import read_split, split_trajectories, write_split
from hybrid_calc.training.calibrate import (
    OLDER,
    CalibrationPlan,
    RegimesMissingWarning,
    calibrate,
)
from hybrid_calc.training.evaluation import TrainingSet, evaluate
from tests.scripted import always, settings

COMMITTEE = {"perturbation": 0.1}
ALL = ("calibration", "train", "validation", "test")
RUNS, FRAMES = 12, 12
LOOSE = GateSettings(force_tolerance_ev_per_ang=1.5, energy_tolerance_ev=1.0)


def water(seed: int):
    atoms = molecule("H2O")
    atoms.rattle(0.02, seed=seed)
    return atoms


def fill(path, gate, runs=RUNS, frames=FRAMES, first=0, **more):
    """Let runs label rattled water."""
    for run in range(first, first + runs):
        with HybridCalculator(
            ToyCommittee(**COMMITTEE | more), ToyReference(), gate, str(path)
        ) as calc:
            for step in range(frames):
                atoms = water(1000 * run + step)
                atoms.calc = calc
                atoms.get_forces()


def split(path, seed=1):
    store = open_existing(path)
    write_split(path, split_trajectories(store.columns(), seed))
    return open_existing(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return twelve runs of which every geometry was labelled, split."""
    path = tmp_path_factory.mktemp("store") / "all.h5"
    fill(path, always())
    return split(path)


def places(store, part):
    return np.flatnonzero(
        [found == part for found in read_split(store.path).part_of(store.columns())]
    )


def test_errors_are_those_of_forces_and_relative_energies(store):
    committee, reference = ToyCommittee(**COMMITTEE), ToyReference()
    found = evaluate(store, places(store, "train"), committee).frames
    by_step = {}
    for _, record in store.at(places(store, "train")):
        by_step[record.meta["run"], record.meta["step"]] = record.atoms()
    first = {run: by_step[run, 0] for run, step in by_step if step == 0}
    expected_forces, expected_energies = [], []
    for (run, step), atoms in sorted(by_step.items()):
        if step:
            zero = [who.predict(first[run]).energy for who in (committee,)]
            zero.append(reference.label(first[run]).energy)
            here, truth = committee.predict(atoms), reference.label(atoms)
            expected_forces.append(max_force_error(here.mean_forces, truth.forces))
            expected_energies.append(abs((here.energy - zero[0]) - (truth.energy - zero[1])))
    assert np.sort(found.force_errors) == pytest.approx(np.sort(expected_forces))
    assert np.sort(found.energy_errors) == pytest.approx(np.sort(expected_energies), abs=1e-12)
    assert (found.weights == 1).all()
    assert (found.heaviest == 1).all()
    assert set(found.regimes) == set(found.regimes)
    assert np.isnan(found.temperatures).all()


def test_only_the_part_calibration_is_used_and_the_first_frame_of_a_run_sets_its_zero(store):
    calibration = calibrate(store, ToyCommittee(**COMMITTEE), CalibrationPlan(gate=LOOSE))
    runs = len(places(store, "calibration")) // FRAMES
    assert calibration.provenance["frames"] == runs * (FRAMES - 1)
    assert calibration.card.left_out == {"sets the energy zero of its run": runs}
    assert sum(entry.labelled for entry in calibration.card.entries) == runs * (FRAMES - 1)


def test_the_committee_that_labelled_them_may_use_frames_of_every_part(store):
    committee = ToyCommittee(**COMMITTEE)
    calibration = calibrate(store, committee, CalibrationPlan(gate=LOOSE, parts=ALL))
    assert calibration.provenance["frames"] == RUNS * (FRAMES - 1)
    (entry,) = (e for e in calibration.card.entries if e.regime.name == "equilibrium")
    assert entry.band == "outside dynamics"
    assert entry.molecules == ("H2O",)
    assert calibration.identity == committee.info.identity


def test_a_committee_that_came_later_may_not(store):
    other = ToyCommittee(**COMMITTEE, seed=9)
    calibration = calibrate(store, other, CalibrationPlan(gate=LOOSE, parts=ALL))
    own_part = len(places(store, "calibration"))
    assert calibration.card.left_out[OLDER] == RUNS * FRAMES - own_part
    assert calibration.provenance["frames"] == own_part * (FRAMES - 1) // FRAMES


def test_a_later_committee_is_judged_by_its_own_answers_and_learned_from_part_train(store):
    other = ToyCommittee(**COMMITTEE, seed=9)
    calibration = calibrate(store, other, CalibrationPlan(gate=LOOSE))
    here = evaluate(store, places(store, "calibration"), other).frames
    there = evaluate(store, places(store, "calibration"), ToyCommittee(**COMMITTEE)).frames
    assert here.force_errors != pytest.approx(there.force_errors)
    assert calibration.training.startswith("part train of all.h5")
    low, high = calibration.ranges.lengths["H-O"]
    assert 0.8 < low < 0.95 < high < 1.2
    assert calibration.ranges.largest_force > 0
    own = calibrate(store, ToyCommittee(**COMMITTEE), CalibrationPlan(gate=LOOSE))
    assert own.ranges is None  # nothing in the store is older than the committee


def test_frames_it_was_trained_on_are_recognised_by_content(store, tmp_path):
    chosen = places(store, "calibration")
    frames = [record.atoms() for _, record in store.at(chosen)]
    ase.io.write(tmp_path / "train.xyz", frames[:5])  # eight decimals
    training = ase.io.read(tmp_path / "train.xyz", index=":")
    committee = ToyCommittee(**COMMITTEE)
    found = calibrate(store, committee, CalibrationPlan(gate=LOOSE), training=training)
    assert found.card.left_out["the committee was trained on it"] == 5
    known = TrainingSet(training)
    moved = frames[0].copy()
    moved.positions[0, 0] += 0.01
    records = [record for _, record in store.at(chosen)]
    assert records[0] in known
    assert records[-1] not in known
    assert records[0] not in TrainingSet([moved])
    assert records[0] in TrainingSet([_named(moved, records[0].identity)])


def _named(atoms, identity):
    atoms.info["frame"] = identity
    return atoms


def test_audited_frames_weigh_one_over_their_probability(tmp_path):
    path = tmp_path / "audited.h5"
    gate = settings("audit", audit_probability=0.5, audit_probability_new=0.5)
    fill(path, gate, runs=6, frames=18)
    store = open_existing(path)
    frames = evaluate(store, np.arange(len(store)), ToyCommittee(**COMMITTEE)).frames
    assert 20 < len(frames) < 80
    assert set(frames.weights.tolist()) == set(frames.heaviest.tolist()) == {2.0}


def test_frames_asked_for_weigh_one_but_others_could_have_weighed_more(tmp_path):
    path = tmp_path / "mixed.h5"
    gate = settings("uncertain", "audit", audit_probability=0.5, audit_probability_new=0.5)
    fill(path, gate, runs=6, frames=18)
    store = open_existing(path)
    frames = evaluate(store, np.arange(len(store)), ToyCommittee(**COMMITTEE)).frames
    assert set(frames.weights.tolist()) == {1.0, 2.0}
    assert set(frames.heaviest.tolist()) == {2.0}


def test_runs_without_audits_have_holes_and_are_left_out(tmp_path):
    path = tmp_path / "holes.h5"
    fill(path, settings("uncertain"), runs=4)
    store = open_existing(path)
    found = evaluate(store, np.arange(len(store)), ToyCommittee(**COMMITTEE))
    assert len(found.frames) == 0
    assert any("could not be labelled at all" in why for why in found.left_out)


def test_labels_that_a_driver_wanted_are_shown_and_support_nothing(tmp_path):
    path = tmp_path / "driven.h5"
    for run in range(4):
        with HybridCalculator(
            ToyCommittee(**COMMITTEE), ToyReference(), settings("audit"), str(path)
        ) as calc:
            for step in range(10):
                calc.label(water(run * 100 + step), "the saddle point")
    store = split(path)
    plan = CalibrationPlan(gate=LOOSE, parts=ALL)
    calibration = calibrate(store, ToyCommittee(**COMMITTEE), plan)
    assert calibration.card.entries == ()
    assert calibration.entries == ()
    assert sum(entry.labels for entry in calibration.card.chosen) == 4 * 9
    assert calibration.card.statements() == []


def test_frames_it_cannot_answer_are_counted(store):
    blind = ToyCommittee(**COMMITTEE, elements=frozenset({1}))
    found = evaluate(store, places(store, "train"), blind, novelty=None)
    # what it said when they were labelled is stored: same weights, same identity
    assert len(found.frames) > 0
    other = ToyCommittee(**COMMITTEE, seed=3, elements=frozenset({1}))
    found = evaluate(store, places(store, "train"), other)
    assert len(found.frames) == 0
    assert found.left_out == {"the committee cannot answer": len(places(store, "train"))}


def test_enough_good_frames_are_validated_and_the_same_seed_says_the_same(store):
    committee, plan = ToyCommittee(**COMMITTEE), CalibrationPlan(gate=LOOSE, parts=ALL)
    first, second = (calibrate(store, committee, plan) for _ in range(2))
    assert first.entries == second.entries
    assert first.card == second.card
    tight = CalibrationPlan(
        gate=GateSettings(force_tolerance_ev_per_ang=0.01, energy_tolerance_ev=1.0), parts=ALL
    )
    hard = calibrate(store, committee, tight)
    assert all(entry.share is None for entry in hard.card.entries)
    assert any(entry.threshold is not None for entry in hard.entries)
    assert any(entry.validated for entry in first.card.entries)


PROTIC = RegimeRule(name="protic", parent="equilibrium", elements=["H"])


def test_frames_are_classed_by_the_regimes_of_the_settings(store):
    plan = CalibrationPlan(gate=LOOSE.model_copy(update={"regimes": (PROTIC,)}), parts=ALL)
    calibration = calibrate(store, ToyCommittee(**COMMITTEE), plan)
    names = {entry.regime.name for entry in calibration.entries}
    assert "protic" in names
    assert "equilibrium" not in names
    assert {entry.regime.name for entry in calibration.card.entries} == names


def test_regimes_of_the_runs_that_the_settings_lack_are_named(tmp_path):
    fill(tmp_path / "all.h5", always(regimes=(PROTIC,)), runs=4, frames=4)
    runs = split(tmp_path / "all.h5")
    plan = CalibrationPlan(gate=LOOSE, parts=ALL)
    with pytest.warns(RegimesMissingWarning, match=r"protic \(\d+ frames\).*SETTINGS.yaml"):
        calibration = calibrate(runs, ToyCommittee(**COMMITTEE), plan)
    assert "protic" not in {entry.regime.name for entry in calibration.entries}
    known = CalibrationPlan(gate=LOOSE.model_copy(update={"regimes": (PROTIC,)}), parts=ALL)
    calibration = calibrate(runs, ToyCommittee(**COMMITTEE), known)
    assert "protic" in {entry.regime.name for entry in calibration.entries}


def test_frames_are_classed_by_the_training_ranges_that_the_calibration_writes(store):
    committee = ToyCommittee(**COMMITTEE)
    same = [molecule("H2O") for _ in range(5)]  # no length but one: all others are outside
    wide = calibrate(store, committee, CalibrationPlan(gate=LOOSE, parts=ALL))
    narrow = calibrate(
        store, committee, CalibrationPlan(gate=LOOSE, parts=ALL), training=same, training_name="x"
    )
    length = molecule("H2O").get_distance(0, 1)
    assert narrow.ranges.lengths["H-O"] == pytest.approx((length, length))

    def labelled(calibration):
        return {entry.regime.name: entry.labelled for entry in calibration.entries}

    before, after = labelled(wide), labelled(narrow)
    assert sum(before.values()) == sum(after.values())
    outside = [  # of every frame but the first of each run
        any(
            abs(atoms.get_distance(0, hydrogen) - length) > FlagLimits().length_margin_ang
            for hydrogen in (1, 2)
        )
        for atoms in (water(1000 * run + step) for run in range(RUNS) for step in range(1, FRAMES))
    ]
    assert 0 < sum(outside) < len(outside)
    assert after["high-energy"] >= sum(outside) > before.get("high-energy", 0)


def test_a_store_that_was_never_split_is_refused(tmp_path):
    fill(tmp_path / "new.h5", always(), runs=1, frames=3)
    store = open_existing(tmp_path / "new.h5")
    with pytest.raises(InputError, match="hybrid-calc store split"):
        calibrate(store, ToyCommittee(**COMMITTEE), CalibrationPlan())


def test_a_part_that_is_not_there_is_refused(store):
    for parts in (("holdout",), ()):
        with pytest.raises(InputError, match="its parts are"):
            calibrate(store, ToyCommittee(**COMMITTEE), CalibrationPlan(parts=parts))


def test_an_empty_store_and_another_level_are_refused(store, tmp_path):
    with pytest.raises(InputError, match="0 levels"):
        calibrate(FrameStore(tmp_path / "none.h5"), ToyCommittee(), CalibrationPlan())
    from hybrid_calc import ANI_1X_LEVEL

    class Elsewhere(ToyCommittee):
        @property
        def info(self):
            import dataclasses

            return dataclasses.replace(super().info, level=ANI_1X_LEVEL)

    with pytest.raises(LevelMismatchError):
        calibrate(store, Elsewhere(**COMMITTEE), CalibrationPlan())
