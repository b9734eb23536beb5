"""Selection for training: diverse, decorrelated, and a split through which nothing leaks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.committee.ani import AniCommittee
from hybrid_calc.committee.toy import ToyCommittee
from hybrid_calc.errors import InputError, StoreDamagedError
from hybrid_calc.store.columns import columns_of
from hybrid_calc.store.diversity import diverse, farthest_frames, farthest_points
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.query import Query
from hybrid_calc.store.selection import (
    PARTS,
    decorrelated,
    places_of,
    read_split,
    split_path,
    split_trajectories,
    write_split,
)
from tests.store.samples import sample, water


def test_farthest_points_on_a_line_are_the_ends_and_then_the_middle():
    points = np.array([[0.0], [1.0], [2.1], [4.0]])
    assert farthest_points(points, 3).tolist() == [0, 3, 2]
    assert farthest_points(points, 9).tolist() == [0, 3, 2, 1]
    assert farthest_points(points, 0).tolist() == []
    assert farthest_points(points[:0], 3).tolist() == []


def test_points_that_coincide_are_chosen_once():
    assert farthest_points(np.zeros((5, 2)), 3).tolist() == [0]


def test_every_regime_is_chosen_from_by_itself():
    points = np.array([[0.0], [0.1], [9.0], [5.0], [5.1], [5.2]])
    regimes = ["a", "a", "a", "b", "b", "b"]
    assert diverse(points, regimes, 2).tolist() == [0, 2, 3, 5]


class Described(ToyCommittee):
    """A committee whose descriptor of an atom is its distance from the first, A."""

    def predict(self, atoms):
        away = np.linalg.norm(atoms.positions - atoms.positions[0], axis=1, keepdims=True)
        return dataclasses.replace(super().predict(atoms), descriptors=away)

    def predict_many(self, frames):
        return [self.predict(atoms) for atoms in frames]


def stretched(number, distance, regime):
    atoms = Atoms("H2", positions=[[0, 0, 0], [distance, 0, 0]])
    return sample(number, atoms, meta={"regime": regime, "step": number, "run": "a"})


def test_farthest_frames_are_chosen_per_regime_by_the_committees_descriptors(tmp_path):
    distances = [0.70, 0.71, 1.20, 0.72, 0.70, 0.90]
    regimes = ["warm"] * 4 + ["reactive"] * 2
    store = FrameStore(tmp_path / "run.h5")
    for number, (distance, regime) in enumerate(zip(distances, regimes, strict=True)):
        store.append(stretched(number, distance + number * 1e-4, regime))
    places = places_of(store, Query())
    assert farthest_frames(store, places, Described(), 2).tolist() == [0, 2, 4, 5]
    assert farthest_frames(store, places[:0], Described(), 2).tolist() == []
    assert places_of(store, Query(regime="warm"), min_steps=2).tolist() == [0, 2]
    with pytest.raises(InputError, match="gives no descriptors"):
        farthest_frames(store, places, ToyCommittee(), 2)


def test_farthest_frames_by_the_descriptors_of_ani(tmp_path):
    committee, store = AniCommittee(), FrameStore(tmp_path / "run.h5")
    frames = [water(1), water(1), water(2), molecule("CH4")]
    frames[1].positions += [1e-4, 0, 0]  # nowhere else in descriptor space
    for number, atoms in enumerate(frames):
        store.append(sample(number, atoms, prediction=committee.predict(atoms)))
    digests = [record.descriptors for record in store]
    assert [digest.split("x")[0] for digest in digests] == ["3", "3", "3", "5"]
    assert len(set(digests)) >= 3  # of the moved one, the same but for rounding
    assert farthest_frames(store, places_of(store, Query()), committee, 3).tolist() == [0, 2, 3]


def columns(runs, per_run, regimes=("equilibrium", "reactive")):
    records = [
        sample(
            number,
            meta={
                "run": f"run-{number // per_run}",
                "step": number % per_run,
                "regime": regimes[(number // per_run) % len(regimes)],
            },
        )
        for number in range(runs * per_run)
    ]
    return columns_of(records)


def test_decorrelated_frames_are_apart_in_their_own_run():
    assert decorrelated(columns(2, 5), 3).tolist() == [0, 3, 5, 8]
    assert decorrelated(columns(2, 2), 1).tolist() == [0, 1, 2, 3]


def test_a_run_is_in_one_part_only_and_every_regime_in_every_part():
    frames = columns(40, 2)
    split = split_trajectories(frames, seed=1)
    parts, runs = split.part_of(frames), frames.words("run")
    for run in set(runs):
        assert len({part for part, name in zip(parts, runs, strict=True) if name == run}) == 1
    for regime in ("equilibrium", "reactive"):
        here = [p for p, r in zip(parts, frames.words("regime"), strict=True) if r == regime]
        shares = {part: here.count(part) / len(here) for part in PARTS}
        assert shares == pytest.approx(PARTS, abs=0.051)


def test_the_seed_decides():
    frames = columns(20, 1)
    one, same, other = (split_trajectories(frames, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.groups != other.groups


def test_runs_that_come_later_move_nobody():
    early, late = columns(20, 1), columns(40, 1)
    before = split_trajectories(early, seed=1)
    assert before.part_of(late)[20:] == [""] * 20
    after = split_trajectories(late, seed=5, before=before)
    assert after.groups.items() >= before.groups.items()
    assert "" not in after.part_of(late)
    counts = [after.part_of(late).count(part) for part in PARTS]
    assert counts == pytest.approx([28, 4, 4, 4], abs=1)


def test_one_run_is_split_only_where_it_is_cut():
    frames = columns(1, 40)
    with pytest.raises(InputError, match="segment_steps"):
        split_trajectories(frames, seed=1)
    split = split_trajectories(frames, seed=1, segment_steps=5)
    parts = split.part_of(frames)
    assert set(parts) == set(PARTS)
    assert all(len(set(parts[start : start + 5])) == 1 for start in range(0, 40, 5))


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(InputError, match="sum to one"):
        split_trajectories(columns(4, 1), seed=1, parts={"train": 0.7, "test": 0.7})


def test_split_is_kept_beside_the_store_and_never_guessed_again(tmp_path):
    store = tmp_path / "run.h5"
    assert read_split(store) is None
    split = split_trajectories(columns(8, 1), seed=3)
    write_split(store, split)
    assert read_split(store) == split
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5.split.json"]
    split_path(store).write_text("{")
    with pytest.raises(StoreDamagedError, match="another split would leak"):
        read_split(store)
