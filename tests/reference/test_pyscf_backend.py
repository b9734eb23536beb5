"""PySCF in its own process: what it solves, what it refuses, and how it dies."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.errors import (
    InputError,
    MultireferenceSuspected,
    ReferenceCrashed,
    ReferenceFailed,
    ReferenceNotConverged,
    ReferenceTimeout,
    StructureError,
)
from hybrid_calc.reference import pyscf_backend
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import PySCFReference

pytest.importorskip("pyscf")
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are watched through /proc"
)

LEVEL = LevelOfTheory(
    program="pyscf",
    functional="pbe",
    basis="sto-3g",
    grid_level=1,
    convergence_hartree=1e-8,
    project_net_force=True,
)
HEAVY_LEVEL = dataclasses.replace(LEVEL, functional="b3lyp", basis="def2-tzvp", grid_level=5)
"""Benzene takes minutes at it: long enough to be interrupted anywhere."""


def alive(pid):
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers_of(parent):
    """Return the process ids of the living PySCF workers of a process."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
            if int(fields[1]) == parent and fields[0] != "Z" and b"pyscf_worker" in command:
                found.append(int(folder.name))
    return found


def environment_of(pid):
    parts = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(part.split("=", 1) for part in parts if "=" in part)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition, *, seconds=30.0):
    """Return the first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"nothing happened for {seconds} s")


def in_scf(parent, *, apart_from=()):
    """Return a worker that has computed for longer than it takes to import PySCF."""
    for pid in set(workers_of(parent)) - set(apart_from):
        with contextlib.suppress(OSError):
            if cpu_seconds(pid) > 1.0:
                return pid
    return None


@contextlib.contextmanager
def killing(times, *, ready):
    """Kill so many workers of this process, one after another, as each is ready."""
    killed = []

    def hunt():
        while len(killed) < times and not done.is_set():
            pid = ready()
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.05)

    done = threading.Event()
    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        done.set()
        hunter.join()


@pytest.fixture
def others():
    """Return the workers that were there before the test."""
    return set(workers_of(os.getpid()))


@pytest.fixture(scope="module")
def reference():
    reference = PySCFReference(LEVEL, stability="auto")
    yield reference
    reference.close()


@pytest.fixture
def fresh():
    """Make references whose workers start with the test and end with it."""
    made = []

    def make(level=LEVEL, **more):
        made.append(PySCFReference(level, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


# What it solves


def test_triplet_oxygen_is_solved_unrestricted_and_lies_below_the_singlet(reference):
    triplet, singlet = molecule("O2"), molecule("O2")
    triplet.info["spin"], singlet.info["spin"] = 3, 1
    high, low = reference.label(triplet), reference.label(singlet)
    assert high.checks["s_squared"] == pytest.approx(2.0, abs=0.02)
    # the singlet determinant is unstable; below it lies one of broken symmetry
    assert low.rung == "unrestricted"
    assert low.checks["s_squared"] == pytest.approx(1.0, abs=0.02)
    assert low.checks["restricted_above_hartree"] > 0.01
    assert high.energy < low.energy - 0.2


def test_doublet_is_the_default_of_an_odd_number_of_electrons(reference):
    assert reference.label(molecule("OH")).checks["s_squared"] == pytest.approx(0.75, abs=0.02)


def test_hydrogen_atom_has_no_force_and_no_gap(reference):
    label = reference.label(Atoms("H"))
    np.testing.assert_array_equal(label.forces, np.zeros((1, 3)))
    assert label.checks["gap_ev"] == -1.0  # one orbital: nothing empty to compare
    assert label.energy == pytest.approx(-13.6, abs=1.5)


def test_charge_takes_an_electron_away(reference):
    neutral, ion = molecule("H2O"), molecule("H2O")
    ion.info["charge"] = 1
    ionised = reference.label(ion)
    # first ionisation of water is 12.6 eV (NIST); a minimal basis finds it within a few eV
    assert ionised.energy - reference.label(neutral).energy == pytest.approx(12.6, abs=4)
    assert ionised.checks["s_squared"] == pytest.approx(0.75, abs=0.02)


def test_unstable_restricted_singlet_is_refused_where_no_other_may_be_taken(fresh):
    atoms = molecule("O2")
    atoms.info["spin"] = 1
    with pytest.raises(MultireferenceSuspected, match="multireference suspected") as caught:
        fresh(stability="auto", when_unstable="reject").label(atoms)
    assert caught.value.details["checks"]["stability_hartree"] < -0.002


def test_stretched_bond_gets_the_unrestricted_state_without_being_told(reference):
    label = reference.label(Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.6]]))
    assert label.rung == "unrestricted"
    assert label.checks["restricted_above_hartree"] > 1e-5
    assert 0 < label.checks["s_squared"] < 1


def test_next_step_starts_warm_and_gets_the_label_a_cold_start_gets(fresh):
    atoms = molecule("CH3OH")
    warm, cold = fresh(warm_start=True), fresh()
    warm.label(atoms)
    atoms.rattle(0.01, seed=1)
    one, other = warm.label(atoms), cold.label(atoms)
    assert (one.rung, other.rung) == ("warm", "diis")
    assert one.checks["cycles"] < other.checks["cycles"]
    assert one.energy == pytest.approx(other.energy, abs=1e-5)
    np.testing.assert_allclose(one.forces, other.forces, atol=5e-4)


def test_sampled_warm_label_is_compared_with_a_cold_one(fresh):
    reference = fresh(warm_start=True, cold_share=1.0)
    atoms = molecule("H2O")
    assert "warm_above_cold_ev" not in reference.label(atoms).checks
    atoms.rattle(0.01, seed=1)
    assert abs(reference.label(atoms).checks["warm_above_cold_ev"]) < 1e-5


def test_label_says_how_it_was_found(fresh):
    label = fresh().label(molecule("H2O"))
    assert label.rung == "diis"
    assert label.checks["cycles"] >= 3
    assert 5 < label.checks["gap_ev"] < 20
    assert label.checks["net_force_ev_per_ang"] < 0.1
    assert set(label.versions) == {"pyscf", "numpy"}
    assert label.wall_seconds > 0


# What it refuses


def test_water_cannot_be_a_doublet(reference):
    atoms = molecule("H2O")
    atoms.info["spin"] = 2
    with pytest.raises(StructureError, match="10 electrons cannot have multiplicity 2"):
        reference.label(atoms)


@pytest.mark.parametrize("value", [0.5, "two", 1000, float("nan")])
def test_charge_that_is_no_whole_number_is_refused(reference, value):
    atoms = molecule("H2O")
    atoms.info["charge"] = value
    with pytest.raises(StructureError, match="whole number"):
        reference.label(atoms)


def test_periodic_structure_is_refused(reference):
    atoms = molecule("H2O", vacuum=3.0)
    atoms.pbc = [False, False, True]
    with pytest.raises(StructureError, match="molecules only"):
        reference.label(atoms)


@pytest.mark.parametrize(
    "changes", [{"program": "orca"}, {"functional": ""}, {"basis": ""}], ids=lambda c: next(iter(c))
)
def test_level_that_pyscf_cannot_solve_is_refused_at_once(changes):
    with pytest.raises(InputError, match="needs a level with program 'pyscf'"):
        PySCFReference(dataclasses.replace(LEVEL, **changes))


@pytest.mark.parametrize("solvent", ["water", "ddcosmo:78", "c-pcm:water", "smd:", "ief-pcm:0.5"])
def test_solvent_without_reliable_gradients_is_refused_at_once(solvent):
    with pytest.raises(InputError, match="cannot be used"):
        PySCFReference(dataclasses.replace(LEVEL, solvent=solvent))


@pytest.mark.parametrize(
    "limits",
    [
        {"threads": 0},
        {"max_memory_mb": 0},
        {"wall_limit_s": 0.0},
        {"wall_limit_s": -1.0},
        {"wall_limit_s": float("nan")},
    ],
    ids=str,
)
def test_limit_that_is_not_positive_is_refused(limits):
    with pytest.raises(InputError, match="must be positive"):
        PySCFReference(LEVEL, **limits)


def test_basis_without_the_element_is_a_typed_failure_and_the_worker_lives_on(reference):
    pid = workers_of(os.getpid())
    with pytest.raises(ReferenceFailed, match="failed for Og") as caught:
        reference.label(Atoms("Og"))
    assert not isinstance(caught.value, ReferenceCrashed)
    assert reference.label(molecule("H2")).forces.shape == (2, 3)
    assert set(pid) <= set(workers_of(os.getpid()))


def test_unknown_functional_is_a_typed_failure(fresh):
    with pytest.raises(ReferenceFailed, match="nosuchfunctional"):
        fresh(dataclasses.replace(LEVEL, functional="nosuchfunctional")).label(molecule("H2"))


def test_scf_that_never_converges_is_a_typed_failure_with_its_history(fresh):
    # no double-precision energy is ever that still
    level = dataclasses.replace(LEVEL, convergence_hartree=1e-40, grid_level=0)
    with pytest.raises(ReferenceNotConverged, match="did not converge for HLi") as caught:
        fresh(level).label(molecule("LiH"))
    history = caught.value.details["not_converged"]
    assert [line.split(":")[0] for line in history] == [
        "diis",
        "other_guess",
        "level_shift",
        "second_order",
        "smearing",
    ]


# How it dies


def test_worker_runs_with_one_thread_and_a_scratch_folder_of_its_own(others, fresh):
    fresh().label(molecule("H2"))
    (pid,) = set(workers_of(os.getpid())) - others
    environment = environment_of(pid)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert environment[name] == "1"
    assert Path(environment["PYSCF_TMPDIR"]).is_dir()
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C in the terminal must not reach the SCF"


def test_worker_gets_the_threads_asked_for(others, fresh):
    fresh(threads=2).label(molecule("H2"))
    (pid,) = set(workers_of(os.getpid())) - others
    assert environment_of(pid)["OMP_NUM_THREADS"] == "2"


def test_close_ends_the_worker_and_removes_its_scratch_folder(others, fresh):
    reference = fresh()
    reference.label(molecule("H2"))
    (pid,) = set(workers_of(os.getpid())) - others
    scratch = Path(environment_of(pid)["PYSCF_TMPDIR"])
    reference.close()
    assert not alive(pid)
    assert not scratch.exists()


def test_reference_can_be_used_again_after_closing(fresh):
    reference = fresh()
    before = reference.label(molecule("H2")).energy
    reference.close()
    assert reference.label(molecule("H2")).energy == pytest.approx(before, abs=1e-6)


def test_wall_limit_kills_the_worker_in_time(others, fresh):
    reference = fresh(HEAVY_LEVEL, max_memory_mb=500, wall_limit_s=3.0)
    seen = set()
    watcher = threading.Timer(2.0, lambda: seen.update(workers_of(os.getpid())))
    watcher.start()
    start = time.monotonic()
    with pytest.raises(ReferenceTimeout, match="longer than 3 s"):
        reference.label(molecule("C6H6"))
    taken = time.monotonic() - start
    watcher.join()
    assert 3.0 <= taken < 5.0
    (worker,) = seen - others
    assert not alive(worker)


def test_label_after_a_timeout_is_that_of_its_own_geometry(fresh):
    reference = fresh(wall_limit_s=0.05)  # not even enough to start Python
    with pytest.raises(ReferenceTimeout):
        reference.label(molecule("H2O"))
    reference._wall_limit_s = 60.0
    assert reference.label(molecule("H2")).energy == pytest.approx(-31, abs=2)


def test_endless_wall_limit_is_allowed(fresh):
    assert fresh(wall_limit_s=float("inf")).label(molecule("H2")).forces.shape == (2, 3)


def test_interrupted_label_does_not_answer_the_next_question(others, fresh):
    class Interruption(BaseException):
        pass

    def interrupt(number, frame):
        raise Interruption

    reference = fresh(HEAVY_LEVEL, max_memory_mb=500)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Interruption):
            reference.label(molecule("C6H6"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(workers_of(os.getpid())) <= others
    assert reference.label(molecule("H2")).energy == pytest.approx(-32, abs=1)


def test_worker_killed_during_a_label_is_started_again_once(others, fresh):
    with killing(1, ready=lambda: next(iter(set(workers_of(os.getpid())) - others), None)) as dead:
        label = fresh().label(molecule("H2"))
    assert len(dead) == 1
    assert label.forces.shape == (2, 3)


def test_worker_killed_between_labels_is_started_again(others, fresh):
    reference = fresh()
    before = reference.label(molecule("H2")).energy
    (pid,) = set(workers_of(os.getpid())) - others
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
    time.sleep(0.3)  # until its last thread has let go of the pipes
    assert reference.label(molecule("H2")).energy == pytest.approx(before, abs=1e-6)


def test_worker_killed_twice_in_the_middle_of_an_scf_is_a_typed_failure(others, fresh):
    reference = fresh(HEAVY_LEVEL, max_memory_mb=500)
    with (
        killing(2, ready=lambda: in_scf(os.getpid(), apart_from=others)) as dead,
        pytest.raises(ReferenceCrashed, match="exit code -9") as caught,
    ):
        reference.label(molecule("C6H6"))
    assert len(dead) == 2
    assert caught.value.details["exit_code"] == -signal.SIGKILL
    assert set(workers_of(os.getpid())) <= others
    assert reference.label(molecule("H2")).forces.shape == (2, 3)


PARENT = """
from ase.build import molecule
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import PySCFReference

level = LevelOfTheory.from_dict({level})
PySCFReference(level, max_memory_mb=500).label(molecule("C6H6"))
"""


def test_worker_ends_when_its_parent_is_killed_in_the_middle_of_an_scf():
    code = PARENT.format(level=HEAVY_LEVEL.to_dict())
    parent = subprocess.Popen([sys.executable, "-c", code])
    worker = None
    try:
        worker = wait_for(lambda: in_scf(parent.pid), seconds=60)
        scratch = Path(environment_of(worker)["HYBRID_CALC_SCRATCH"])
        assert scratch.is_dir()
        parent.kill()
        parent.wait()
        wait_for(lambda: not alive(worker), seconds=5)
        assert not scratch.exists()
    finally:
        parent.kill()
        parent.wait()
        if worker is not None and alive(worker):
            os.kill(worker, signal.SIGKILL)


def test_worker_that_wants_more_memory_than_it_may_have_is_a_typed_failure(
    fresh, monkeypatch, tmp_path
):
    (tmp_path / "greedy.py").write_text(
        "import numpy as np\n"
        "from pyscf import dft\n"
        "def make(molecule):\n"
        "    np.ones(GIGABYTES * 2**27)\n"
        "    return dft.RKS(molecule, xc='pbe')\n".replace("GIGABYTES", "2")
    )
    monkeypatch.syspath_prepend(tmp_path)
    greedy = dataclasses.replace(LEVEL, functional="", parameters={"function": "greedy:make"})
    modest = fresh(greedy)
    assert modest.label(molecule("H2O")).rung == "diis"
    monkeypatch.setattr(pyscf_backend, "MEMORY_OVERHEAD_MB", 1000)
    reference = fresh(greedy, max_memory_mb=100)
    for _ in range(2):  # the worker lives on
        with pytest.raises(ReferenceFailed, match="out of memory"):
            reference.label(molecule("H2O"))


# Warm starts that survive


def steps(count):
    """Return contiguous geometries of methanol."""
    atoms, moved = molecule("CH3OH"), []
    for number in range(count):
        moved.append(atoms.copy())
        atoms.positions += 0.01 * np.sin(np.arange(18).reshape(6, 3) + number)
    return moved


def test_resumed_reference_gives_the_next_labels_to_the_bit(fresh):
    frames = steps(5)
    whole, first, second = fresh(), fresh(), fresh()
    wanted = [whole.label(frame) for frame in frames]
    for frame in frames[:2]:
        first.label(frame)
    state = json.loads(json.dumps(first.state()))
    first.label(frames[2])  # killed here: this label is in a store, its density is gone
    second.restore(state)
    second.recall(frames[2], doubtful=False)
    for frame, label in zip(frames[3:], wanted[3:], strict=True):
        again = second.label(frame)
        assert (again.rung, again.energy) == ("warm", label.energy)
        np.testing.assert_array_equal(again.forces, label.forces)


def test_unrestricted_state_of_a_breaking_bond_is_followed_and_resumed_to_the_bit(fresh):
    frames = [Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.6 + 0.02 * n]]) for n in range(4)]
    whole, first, second = fresh(), fresh(), fresh()
    wanted = [whole.label(frame) for frame in frames]
    assert [label.rung for label in wanted] == ["unrestricted"] * 4
    assert wanted[-1].checks["cycles"] < wanted[0].checks["cycles"]
    cold = fresh(warm_start=False).label(frames[-1])
    assert wanted[-1].energy == pytest.approx(cold.energy, abs=1e-5)
    for frame in frames[:2]:
        first.label(frame)
    second.restore(first.state())
    second.recall(frames[2], doubtful=False)
    again = second.label(frames[3])
    assert again.energy == wanted[3].energy
    np.testing.assert_array_equal(again.forces, wanted[3].forces)


def test_label_without_what_came_before_differs_in_its_last_bits(fresh):
    # else the test above could not fail
    frames = steps(3)
    whole, late = fresh(), fresh()
    wanted = [whole.label(frame) for frame in frames][-1]
    assert late.label(frames[-1]).energy != wanted.energy


def test_state_taken_before_the_geometries_to_recall_are_solved_again_has_them_in_it(fresh):
    frames = steps(3)
    whole, one, two = fresh(), fresh(), fresh()
    wanted = [whole.label(frame) for frame in frames][-1]
    one.restore({})
    for frame in frames[:2]:
        one.recall(frame, doubtful=False)
    two.restore(json.loads(json.dumps(one.state())))
    assert two.label(frames[2]).energy == wanted.energy


def test_reference_that_starts_cold_has_nothing_to_resume(fresh):
    cold = fresh(warm_start=False)
    cold.label(molecule("H2O"))
    assert cold.state() == {}
    cold.restore({})
    cold.recall(molecule("H2O"), doubtful=False)
    assert cold.label(molecule("H2O")).rung == "diis"


def test_state_of_a_worker_that_died_is_the_last_one_known(fresh, others):
    reference = fresh()
    reference.label(molecule("H2O"))
    before = reference.state()
    atoms = molecule("H2O")
    atoms.rattle(0.01, seed=1)
    reference.label(atoms)
    for pid in set(workers_of(os.getpid())) - others:
        os.kill(pid, signal.SIGKILL)
    assert reference.state() == before
    assert reference.label(atoms).rung == "warm"  # the new worker was told


# Spin


def test_doublet_mixed_with_a_quartet_is_refused(fresh):
    # three hydrogen atoms in a row, far apart: two of one spin and one of the other
    atoms = Atoms("H3", positions=[[0, 0, 0], [0, 0, 2.5], [0, 0, 5.0]], info={"spin": 2})
    with pytest.raises(MultireferenceSuspected, match="multiplicity 2 has") as caught:
        fresh().label(atoms)
    assert caught.value.details["checks"]["spin_contamination"] == pytest.approx(1.0, abs=0.1)
    assert fresh(max_spin_contamination=1.5).label(atoms).checks["s_squared"] > 1.5
