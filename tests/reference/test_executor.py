"""Labels through executors: processes here, executorlib's and Parsl's, and what happens to jobs
whose worker is killed."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from hybrid_calc.errors import (
    InputError,
    LevelMismatchError,
    MissingPackageError,
    ReferenceCrashed,
    ReferenceFailed,
    ReferenceNotConverged,
    ReferenceTimeout,
    StructureError,
)
from hybrid_calc.reference.executor import ExecutorReference
from hybrid_calc.reference.executor_backends import (
    executor_from,
    executorlib_executor,
    parsl_executor,
)
from hybrid_calc.reference.executor_task import Answer, Failure
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.local_executor import LocalExecutor
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.reference.toy import ToyReference
from tests.reference import executor_jobs
from tests.reference.executor_jobs import (
    DyingAtFarFrames,
    Environment,
    Failing,
    Lacking,
    Raising,
    Sleeping,
    Slow,
    frames,
)

TINY = LevelOfTheory(
    program="pyscf",
    functional="pbe",
    basis="sto-3g",
    grid_level=1,
    auxiliary_basis="auto",
    convergence_hartree=1e-8,
)

two_processes = functools.partial(LocalExecutor, 2)
one_process = functools.partial(LocalExecutor, 1)
one_thread = functools.partial(executor_jobs.threads, 1)


@pytest.fixture(autouse=True)
def _processes_find_the_tests(monkeypatch):
    """Executors of others start Python by themselves: it must find what is sent to it here."""
    root = str(Path(__file__).parents[2])
    found = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, found))))


def spawned_pool():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture
def through():
    """Return what makes references that are closed at the end."""
    made = []

    def make(what, executor, **options):
        made.append(ExecutorReference(what, executor, **options))
        return made[-1]

    yield make
    for reference in made:
        reference.close()


def assert_same_as_toy(arrivals, asked):
    assert sorted(one.index for one in arrivals) == list(range(len(asked)))
    for one in arrivals:
        truth = ToyReference().label(asked[one.index])
        assert one.label is not None, one.error
        assert one.label.energy == truth.energy
        np.testing.assert_array_equal(one.label.forces, truth.forces)


def test_two_processes_share_the_frames_and_answer_as_one_would(through):
    reference = through(Slow, two_processes)
    asked = frames(8)
    arrivals = list(reference.label_many(asked))
    assert_same_as_toy(arrivals, asked)
    places = [one.place for one in arrivals]
    assert len(set(places)) == 2
    assert f":{os.getpid()}" not in "".join(places)
    assert min(places.count(place) for place in set(places)) >= 2
    assert reference.level == ToyReference().level
    assert reference.label(asked[0]).energy == ToyReference().label(asked[0]).energy


def test_a_killed_process_costs_one_retry_and_no_frame(through, tmp_path):
    reference = through(functools.partial(DyingAtFarFrames, tmp_path), two_processes)
    asked = frames(6, far=(2,))
    arrivals = list(reference.label_many(asked))
    assert_same_as_toy(arrivals, asked)
    assert {one.index: one.retries for one in arrivals if one.retries} == {2: 1}
    assert reference.retries == 1
    assert len({one.place for one in arrivals}) == 3  # two, and the one that came instead


def test_a_process_killed_under_a_single_label_is_asked_again(through, tmp_path):
    reference = through(
        functools.partial(DyingAtFarFrames, tmp_path), functools.partial(LocalExecutor, 1)
    )
    (far,) = frames(1, far=(0,))
    assert reference.label(far).energy == ToyReference().label(far).energy
    assert reference.retries == 1


def test_a_broken_pool_is_replaced_and_only_the_frame_that_breaks_it_is_lost(through):
    """One frame kills its worker whenever it is asked, and with it every job of the pool."""
    reference = through(DyingAtFarFrames, spawned_pool)
    asked = frames(5, far=(1,))
    arrivals = {one.index: one for one in reference.label_many(asked)}
    assert sorted(arrivals) == list(range(5))
    lost = arrivals.pop(1)
    assert lost.label is None
    assert isinstance(lost.error, ReferenceCrashed)
    assert "2 times" in str(lost.error)
    assert all(one.label is not None for one in arrivals.values())


def test_a_broken_executor_of_the_caller_is_an_error_that_says_what_to_do(through):
    with spawned_pool() as pool:
        reference = through(DyingAtFarFrames, pool)
        with pytest.raises(ReferenceCrashed, match="function that makes executors"):
            list(reference.label_many(frames(3, far=(0,))))


def test_an_executor_of_the_caller_is_left_running():
    with ThreadPoolExecutor(2) as pool:
        reference = ExecutorReference(ToyReference, pool)
        asked = frames(5)
        assert_same_as_toy(list(reference.label_many(asked)), asked)
        reference.close()
        reference.close()
        assert pool.submit(int, "3").result() == 3


def test_failures_come_back_as_what_they_were(through):
    reference = through(Failing, two_processes)
    (far,) = frames(1, far=(0,))
    with pytest.raises(ReferenceNotConverged, match="too far away") as caught:
        reference.label(far)
    assert caught.value.details == {"cycles": 50}
    arrivals = {one.index: one for one in reference.label_many(frames(3, far=(1,)))}
    assert isinstance(arrivals[1].error, ReferenceNotConverged)
    assert arrivals[1].error.details == {"cycles": 50}
    assert arrivals[0].error is arrivals[2].error is None


def test_what_would_go_wrong_for_every_frame_ends_the_farm(through):
    with pytest.raises(MissingPackageError, match="pip install something"):
        list(through(Lacking, one_thread).label_many(frames(3)))


def test_a_bug_of_the_reference_is_a_failed_label_that_names_it(through):
    reference = through(Raising, one_thread)
    with pytest.raises(ReferenceFailed, match="ZeroDivisionError: a bug"):
        reference.label(molecule("H2O"))


def test_a_frame_nobody_can_compute_is_said_so_and_the_others_are_answered(through):
    bad = molecule("H2O")
    bad.positions[0, 0] = np.nan
    odd = molecule("H2O")
    odd.info["charge"] = 1
    odd.info["spin"] = 1
    reference = through(functools.partial(PySCFReference, TINY), one_thread)
    arrivals = {one.index: one for one in reference.label_many([bad, odd])}
    assert isinstance(arrivals[0].error, StructureError)
    assert isinstance(arrivals[1].error, StructureError)
    with pytest.raises(StructureError):
        reference.label(bad)


def test_threads_of_a_process_are_those_asked_for_whatever_this_one_has(through, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    reference = through(Environment, functools.partial(LocalExecutor, 1, threads=3))
    assert reference.label(molecule("H2O")).checks["threads"] == 3
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_patience_ends(through):
    reference = through(Sleeping, two_processes, patience_s=1.0)
    with pytest.raises(ReferenceTimeout, match="within 1 s"):
        reference.label(molecule("H2O"))
    with pytest.raises(ReferenceTimeout, match="within 1 s"):
        list(reference.label_many(frames(2)))


def test_closing_ends_processes_in_the_middle_of_a_label(through):
    reference = through(Sleeping, two_processes, patience_s=1.0)
    with pytest.raises(ReferenceTimeout):
        list(reference.label_many(frames(2)))
    started = time.monotonic()
    reference.close()
    assert time.monotonic() - started < 20  # the labels take 60 s


def test_frames_are_drawn_as_workers_become_free(through):
    drawn = []

    def coming():
        for number, atoms in enumerate(frames(40)):
            drawn.append(number)
            yield atoms

    reference = through(ToyReference, functools.partial(executor_jobs.threads, 2))
    arrivals = reference.label_many(coming())
    next(arrivals)
    assert len(drawn) <= 6
    arrivals.close()
    assert len(drawn) <= 6


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(InputError, match="cannot be sent to another process"):
        ExecutorReference(lambda: ToyReference(energy_offset_ev=1.0), two_processes)
    for wrong in ({"workers": 0}, {"patience_s": 0.0}):
        with pytest.raises(InputError, match="must be positive"):
            ExecutorReference(ToyReference, two_processes, **wrong)
    with pytest.raises(InputError, match="must be positive"):
        LocalExecutor(0)


def test_an_answer_of_another_level_is_refused(through):
    reference = through(ToyReference, two_processes)
    other = PySCFReference(TINY)
    label = ToyReference().label(molecule("H2O"))
    import dataclasses

    foreign = dataclasses.replace(label, level=other.level)
    with pytest.raises(LevelMismatchError, match="install the same version there"):
        reference._checked(Answer(label=foreign, place="node:1"))


def test_every_error_keeps_its_kind_message_and_details():
    for error in (
        ReferenceTimeout("slow", details={"a": 1}),
        StructureError("bad"),
        MissingPackageError("none"),
    ):
        again = Failure.of(error).error()
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert getattr(again, "details", None) == getattr(error, "details", None)
    assert type(Failure.of(KeyError("x")).error()) is ReferenceFailed


def test_pyscf_in_another_process_is_pyscf(through):
    direct = PySCFReference(TINY)
    reference = through(
        functools.partial(PySCFReference, TINY), functools.partial(LocalExecutor, 1)
    )
    water = molecule("H2O")
    here, there = direct.label(water), reference.label(water)
    direct.close()
    assert there.energy == here.energy
    np.testing.assert_array_equal(there.forces, here.forces)
    assert there.rung == here.rung
    assert there.level is reference.level
    assert reference.label_doubtful(water).energy == pytest.approx(here.energy, abs=1e-6)


def test_no_process_outlives_a_parent_that_was_killed():
    code = textwrap.dedent(
        """
        import functools, sys
        from ase.build import molecule
        from hybrid_calc.reference.executor import ExecutorReference
        from hybrid_calc.reference.local_executor import LocalExecutor
        from tests.reference.executor_jobs import Slow, frames

        if __name__ == "__main__":
            reference = ExecutorReference(Slow, functools.partial(LocalExecutor, 2))
            for one in reference.label_many(frames(1000)):
                print(one.place.split(":")[1], flush=True)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = {int(parent.stdout.readline()) for _ in range(6)}
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in pids if _is_alive(pid)]


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


BACKENDS = {
    "executorlib": functools.partial(executorlib_executor, workers=2),
    "parsl": functools.partial(parsl_executor, workers=2),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_local_executors_of_others_answer_and_survive_a_killed_worker(
    backend, through, tmp_path, monkeypatch
):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"an extra: pip install hybrid_calc[{backend}]")
    monkeypatch.chdir(tmp_path)  # both leave files where they run
    reference = through(functools.partial(DyingAtFarFrames, tmp_path), BACKENDS[backend])
    asked = frames(6, far=(3,))
    arrivals = list(reference.label_many(asked))
    assert_same_as_toy(arrivals, asked)
    assert (tmp_path / "died").exists()
    assert len({one.place for one in arrivals}) >= 2


def test_executors_that_are_not_there_are_refused_with_what_to_do():
    with pytest.raises(InputError, match="no executor 'NoExecutor'"):
        executorlib_executor("NoExecutor")
    with pytest.raises(InputError, match="no 'NoProvider'"):
        parsl_executor("NoProvider")
    with pytest.raises(InputError, match="refuses its arguments"):
        executorlib_executor(arguments={"colour": "red"})
    with pytest.raises(InputError, match="cannot be found"):
        executor_from("nowhere:at_all")
    with pytest.raises(InputError, match=r"concurrent\.futures\.Executor is needed"):
        executor_from("tests.reference.executor_jobs:not_an_executor")
    executor_from("tests.reference.executor_jobs:threads", {"count": 2}).shutdown()


def test_a_worker_killed_by_hand_is_noticed_while_its_pool_goes_on(through):
    """The same as a node that fails: SIGKILL from outside, in the middle of a label."""
    reference = through(Slow, two_processes)
    asked = frames(10)
    arrivals = []
    for one in reference.label_many(asked):
        if len(arrivals) == 2:
            os.kill(int(one.place.split(":")[1]), signal.SIGKILL)
        arrivals.append(one)
    assert_same_as_toy(arrivals, asked)
    assert sum(one.retries for one in arrivals) == 1
