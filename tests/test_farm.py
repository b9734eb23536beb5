"""Many frames into one store: durable as they arrive, resumable, failures set apart."""

from __future__ import annotations

import functools
import os
import signal

import numpy as np
import pytest
from ase.build import molecule

from hybrid_calc.errors import InputError, LevelMismatchError, MissingPackageError
from hybrid_calc.farm import label_frames
from hybrid_calc.reference.executor import ExecutorReference
from hybrid_calc.reference.local_executor import LocalExecutor
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.journals import journal_folder
from hybrid_calc.store.query import Query
from hybrid_calc.training.evaluation import _unfit
from tests.contracts.store import OTHER_LEVEL
from tests.reference.executor_jobs import DyingAtFarFrames, Failing, Lacking, Slow, frames


@pytest.fixture
def store(tmp_path):
    with FrameStore(tmp_path / "farm.h5") as opened:
        yield opened


@pytest.fixture
def two():
    made = []

    def make(what):
        made.append(ExecutorReference(what, functools.partial(LocalExecutor, 2)))
        return made[-1]

    yield make
    for reference in made:
        reference.close()


def labels_of(store):
    return {record.meta["step"]: record.label for record in store if record.label is not None}


def test_every_frame_is_labelled_with_regime_and_source(store):
    asked = frames(4)
    asked[2].set_distance(0, 1, 1.8, fix=0)
    harvest = label_frames(asked, ToyReference(), store, source="set.xyz")
    assert (harvest.labelled, harvest.quarantined, harvest.left) == (4, 0, 0)
    regimes = {record.meta["step"]: record.meta["regime"] for record in store}
    assert regimes == {
        0: "equilibrium H O",
        1: "equilibrium H O",
        2: "reactive H O",
        3: "equilibrium H O",
    }
    record = next(iter(store))
    assert record.meta["source"] == "set.xyz"
    assert record.label.energy == ToyReference().label(asked[0]).energy
    assert _unfit(record, None) == ""  # fit for calibration: labelled whatever it was


def test_each_label_is_durable_before_the_next_is_settled(tmp_path):
    """Another process that opens the store in the middle finds what has been said to be done."""
    store = FrameStore(tmp_path / "farm.h5")
    seen = []
    label_frames(
        frames(3),
        ToyReference(),
        store,
        progress=lambda _: seen.append(len(FrameStore(tmp_path / "farm.h5"))),
    )
    assert seen == [1, 2, 3]
    assert list(journal_folder(store.path).glob("*.journal"))
    store.close()


def test_a_worker_killed_on_the_way_costs_one_retry_and_no_frame(store, two):
    asked = frames(10)
    reference = two(Slow)
    killed = []

    def on_label(harvest):
        if not killed and harvest.asked == 3:
            killed.append(int(next(iter(harvest.workers)).split(":")[1]))
            os.kill(killed[0], signal.SIGKILL)

    harvest = label_frames(asked, reference, store, progress=on_label)
    assert killed
    assert (harvest.labelled, harvest.retries, harvest.quarantined) == (10, 1, 0)
    found = labels_of(store)
    for number, atoms in enumerate(asked):
        assert found[number].energy == ToyReference().label(atoms).energy
    retried = [record for record in store if record.meta["retries"]]
    assert len(retried) == 1


def test_failures_go_to_quarantine_and_are_not_asked_again_unless_wanted(store, tmp_path):
    asked = frames(5, far=(1, 3))
    harvest = label_frames(asked, Failing(), store)
    assert (harvest.labelled, harvest.quarantined) == (3, 2)
    rejected = list(store.select(Query(labelled=False)))
    assert [record.meta["step"] for record in rejected] == [1, 3]
    assert rejected[0].rejection == "ReferenceNotConverged: too far away"
    assert rejected[0].meta["details"] == {"cycles": 50}
    reference = ToyReference()
    harvest = label_frames(asked, reference, store)
    assert (harvest.known, harvest.asked, reference.calls) == (5, 0, 0)
    harvest = label_frames(asked, reference, store, again=True)
    assert (harvest.known, harvest.labelled, reference.calls) == (3, 2, 2)
    assert sorted(labels_of(store)) == [0, 1, 2, 3, 4]


def test_a_farm_goes_on_where_another_was(store):
    asked = frames(6)
    first, second = ToyReference(), ToyReference()
    assert label_frames(asked, first, store, budget=4).to_dict()["left"] == 2
    harvest = label_frames(asked, second, store)
    assert (first.calls, second.calls, harvest.known) == (4, 2, 4)
    assert sorted(labels_of(store)) == list(range(6))


def test_a_stop_ends_after_the_frames_in_flight(store):
    asked = frames(8)
    done = []
    harvest = label_frames(
        asked,
        ToyReference(),
        store,
        stopped=lambda: len(done) >= 3,
        progress=lambda _: done.append(1),
    )
    assert (harvest.labelled, harvest.left) == (3, 5)
    assert len(store) == 3


def test_frames_nobody_can_compute_are_named_and_the_others_labelled(store, two):
    asked = frames(4)
    asked[1].positions[0, 0] = np.nan
    asked[2].info = {"charge": 1, "spin": 1}
    for reference in (ToyReference(), two(ToyReference)):
        harvest = label_frames(asked, reference, store)
        assert sorted(harvest.unusable) == [1, 2]
        assert "not finite" in harvest.unusable[1]
    assert sorted(labels_of(store)) == [0, 3]


def test_a_frame_that_kills_every_worker_is_refused_and_the_others_labelled(store, two):
    harvest = label_frames(frames(5, far=(2,)), two(DyingAtFarFrames), store)
    assert (harvest.labelled, harvest.quarantined) == (4, 1)
    (rejected,) = store.select(Query(labelled=False))
    assert rejected.rejection.startswith("ReferenceCrashed")


def test_what_would_go_wrong_for_every_frame_is_an_error(store):
    with pytest.raises(MissingPackageError):
        label_frames(frames(2), Lacking(), store)
    with pytest.raises(InputError, match="positive number"):
        label_frames(frames(2), ToyReference(), store, budget=0)
    label_frames([molecule("H2O")], ToyReference(), store)

    class Other(ToyReference):
        @property
        def level(self):
            return OTHER_LEVEL

    with pytest.raises(LevelMismatchError):
        label_frames(frames(1), Other(), store)
