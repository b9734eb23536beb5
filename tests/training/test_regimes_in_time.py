"""Frames of dynamics classed by ranges that came later, against a run that had them all along."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from hybrid_calc import FlagLimits, GateSettings, HybridCalculator, ToyCommittee, ToyReference
from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coordination import coordination
from hybrid_calc.flags.coverage import Surroundings
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.flags.ranges import TrainingRanges, pair_name
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import BUILT_IN, RegimeRule, classify
from hybrid_calc.geometry import composition_of
from hybrid_calc.store.frames import open_existing
from hybrid_calc.store.query import Query
from hybrid_calc.store.record import Record
from hybrid_calc.store.selection import split_trajectories, write_split
from hybrid_calc.training.calibrate import CalibrationPlan, calibrate
from hybrid_calc.training.ranges import fit_ranges
from hybrid_calc.training.regimes import HOW_LONG, StoredRegimes
from tests.scripted import settings
from tests.store.samples import sample

INFO = CommitteeInfo(name="test", identity="0", size=2)
RULES = [
    RegimeRule(name=f"{parent}-{name}", parent=parent + above, flags=[flag])
    for parent in BUILT_IN
    for above, name, flag in (
        ("", "length", "bond_length"),
        ("-length", "both", "coordination"),
        ("", "count", "coordination"),
    )
]
"""Under these a regime's name tells which flags of the ranges are up."""


def dynamics(atoms, kelvin, seed, steps=40, timestep=0.5):
    """Return the geometries of constant-energy dynamics."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(seed))
    driver = VelocityVerlet(atoms, timestep * units.fs)
    return [atoms.copy() for _ in driver.irun(steps)]


def strained(seed):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.08, seed=seed)
    return dynamics(atoms, 600, seed)


def crystal(seed):
    return dynamics(bulk("Cu", cubic=True) * (2, 2, 1), 900, seed, steps=20, timestep=5)


def breaking(seed):
    """One hydrogen leaves and comes back, now and then far enough to count as broken."""
    frames = dynamics(molecule("CH3OH"), 300, seed)
    away = np.random.default_rng(seed).uniform(0.0, 0.5, len(frames)).cumsum() / 10
    for frame, far in zip(frames, 0.5 * np.abs(np.sin(4 * away)), strict=True):
        frame.positions[1] += far * (frame.positions[1] - frame.positions[0])
    return frames


def jumping(seed):
    """From one step to the next a bond is too short, then too long."""
    random = np.random.default_rng(seed)
    frames = [molecule("H2O") for _ in range(40)]
    for frame in frames:
        oxygen = frame.positions[0]
        arms = random.uniform(0.86, 1.3, (2, 1)) * (frame.positions[1:] - oxygen)
        frame.positions[1:] = oxygen + arms
        frame.set_momenta(random.normal(0, 0.2, (3, 3)))
    return frames


def relaxed_before(seed):
    """Geometries without momenta, then dynamics."""
    frames = strained(seed)
    for frame in frames[:10]:
        frame.set_momenta(None)
    return frames


def quantiles(values):
    """Return what lies between the quantiles."""
    return tuple(np.quantile(values, (0.3, 0.7)).tolist())


def ranges_of(frames):
    """Return ranges that leave out what is rare in these frames themselves."""
    pairs = pairs_of(frames[0].numbers)
    distances = np.array([pair_distances(atoms, pairs) for atoms in frames])
    counts = np.array([coordination(lengths, pairs) for lengths in distances])
    symbols = np.array(frames[0].symbols)
    names = np.array(
        [pair_name(symbols[i], symbols[j]) for i, j in zip(pairs.first, pairs.second, strict=True)]
    )
    near = distances < 1.3 * pairs.radii_sum
    return TrainingRanges(
        lengths={
            name: quantiles(distances[:, names == name][near[:, names == name]])
            for name in sorted(set(names))
            if near[:, names == name].any()
        },
        coordination={
            symbol: quantiles(counts[:, symbols == symbol]) for symbol in sorted(set(symbols))
        },
        frames=len(frames),
    )


def recorded(atoms, watch):
    """Return the record of a frame, labelled where this monitor has just seen it."""
    report = watch.report
    composition = composition_of(atoms)
    regime = classify(composition, report, watch.limits)
    seen = Observation(regime=regime, surroundings=Surroundings.of(np.zeros((1, 1))), report=report)
    meta = {"regime": str(regime), "observation": seen.to_dict()}
    if report.mean_temperature is not None:
        recent = watch.monitor.recent()
        if recent is not None:
            meta["recent"] = recent.to_dict()
    return Record.from_bytes(sample(1, atoms, meta=meta).to_bytes())


class Watch:
    """A monitor, and what it saw last."""

    def __init__(self, limits, ranges=None):
        self.limits, self.monitor = limits, Monitor(limits, INFO, ranges)

    def see(self, atoms):
        self.report = self.monitor.survey(atoms).report

    def restarted(self, drop=()):
        """Return a watch that goes on from the state, as written to a file."""
        state = json.loads(json.dumps(self.monitor.state()))
        for name in drop:
            del state["bonds"][name]
        again = Watch(self.limits)
        again.monitor.restore(state)
        again.report = self.report
        return again


NARROW = FlagLimits(coordination_margin=0.01, max_step_displacement_ang=9, bonded_ratio=1.25)


def other(**more):
    return FlagLimits(**{**NARROW.model_dump(), **more})


def truth(frames, limits, ranges):
    """Return the regimes in a run that has the ranges."""
    knowing, found = Watch(limits, ranges), []
    for atoms in frames:
        knowing.see(atoms)
        found.append(classify(composition_of(atoms), knowing.report, limits, RULES).name)
    return found


def name(regime):
    return regime if isinstance(regime, str) else regime.name


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("moves", [strained, crystal, breaking, jumping, relaxed_before])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"persistence_steps": 1},
        {"persistence_steps": 5, "coordination_margin": 0.0, "length_margin_ang": 0.0},
    ],
)
def test_every_frame_is_classed_as_by_a_run_that_had_the_ranges(moves, seed, more):
    frames, limits = moves(seed), other(**more)
    ranges, random = ranges_of(frames), np.random.default_rng(seed)
    want = truth(frames, limits, ranges)
    assert any(found.endswith(("-length", "-both", "-count")) for found in want)
    ignorant, later = Watch(limits), StoredRegimes(RULES, limits, ranges)
    for number, atoms in enumerate(frames):
        ignorant.see(atoms)
        # Outside dynamics the bonds of the one geometry decide, which may be others
        moving = ignorant.report.mean_temperature is not None
        if moving and random.random() < 0.7:  # labelled
            assert (number, name(later.of(recorded(atoms, ignorant)))) == (number, want[number])
        if random.random() < 0.2:
            ignorant = ignorant.restarted()


@pytest.mark.parametrize(("asked", "told"), [(1, True), (2, True), (3, True), (4, False)])
def test_limits_of_the_calibration_may_ask_for_fewer_steps_but_not_for_more(asked, told):
    nothing_else = {"strained_bond": 9, "strained_angle": 9, "breaking_ratio": 9}
    frames, limits = jumping(1), other(persistence_steps=asked, **nothing_else)
    ranges = ranges_of(frames)
    want = truth(frames, limits, ranges)
    ignorant, later, found = Watch(other(**nothing_else)), StoredRegimes(RULES, limits, ranges), []
    for atoms in frames:
        ignorant.see(atoms)
        found.append(name(later.of(recorded(atoms, ignorant))))
    unsure = [number for number, regime in enumerate(found) if regime == HOW_LONG]
    assert all(found[n] == want[n] for n in range(len(frames)) if n not in unsure)
    assert bool(unsure) is not told
    assert not unsure or min(unsure) == 2  # a window that is not full shows the whole trajectory


def test_after_a_state_of_an_earlier_version_it_is_told_again_once_the_window_is_full():
    frames = breaking(0)
    ranges = ranges_of(frames)
    want = truth(frames, NARROW, ranges)
    steps, hidden = NARROW.persistence_steps, 0
    for cut in range(1, len(frames) - steps, 3):
        ignorant, later = Watch(NARROW), StoredRegimes(RULES, NARROW, ranges)
        for number, atoms in enumerate(frames[: cut + steps]):
            ignorant.see(atoms)
            if number == cut - 1:
                ignorant = ignorant.restarted(drop=["window"])
            if number == cut:  # and once more before the window is full
                ignorant = ignorant.restarted()
            found = name(later.of(recorded(atoms, ignorant)))
            hidden += found == HOW_LONG
            assert found == want[number] or (found == HOW_LONG and number >= cut - 1)
        assert ignorant.monitor.recent() is None  # the second began anew
        ignorant.see(frames[cut + steps])
        assert len(ignorant.monitor.recent().lengths) == steps
    assert hidden


def test_a_new_start_forgets_what_was_before():
    frames, watch = strained(0), Watch(NARROW)
    for atoms in frames[:5]:
        watch.see(atoms)
    assert len(watch.monitor.recent().lengths) == 3
    watch.monitor.start(frames[5])
    watch.see(frames[5])
    recent = watch.monitor.recent()
    assert (len(recent.lengths), recent.kept) == (1, 3)
    assert np.array_equal(recent.lengths[0], recent.initial)


# a real run, its store, its calibration

COMMITTEE = {"perturbation": 0.1}
LOOSE = GateSettings(force_tolerance_ev_per_ang=1.5, energy_tolerance_ev=1.0, regimes=tuple(RULES))


def test_a_sparsely_audited_store_is_calibrated_with_every_frame_in_its_regime(tmp_path):
    path, seen = tmp_path / "all.h5", {}
    gate = settings(
        "audit", audit_probability=0.4, audit_probability_new=0.4, force_tolerance_ev_per_ang=1.5
    )
    for seed in range(6):
        atoms, random = molecule("H2O"), np.random.default_rng(seed)
        thermalize_momenta(atoms, 600, rng=random)
        committee = ToyCommittee(**COMMITTEE)
        with HybridCalculator(committee, ToyReference(), gate, str(path)) as calc:
            atoms.calc = calc
            driver = VelocityVerlet(atoms, 0.5 * units.fs)
            seen[calc.engine.run] = [atoms.copy() for _ in driver.irun(40)]
    training = [molecule("H2O") for _ in range(5)]  # no length but one: others are outside
    ranges, limits = fit_ranges(training), FlagLimits()
    want = {run: truth(frames, limits, ranges) for run, frames in seen.items()}
    columns = open_existing(path).columns()
    write_split(path, split_trajectories(columns, 1))
    store = open_existing(path)
    assert len(store) < 0.6 * sum(map(len, seen.values()))
    first = {run: min(r.meta["step"] for r in store.select(Query(run=run))) for run in seen}
    counted = Counter(
        want[record.meta["run"]][record.meta["step"]]
        for record in store
        if record.meta["step"] != first[record.meta["run"]]  # which sets the energy zero
    )
    assert {"equilibrium", "high-energy-length"} <= set(counted)
    calibration = calibrate(
        store,
        ToyCommittee(**COMMITTEE),
        CalibrationPlan(gate=LOOSE, parts=("train", "validation", "test", "calibration")),
        training=training,
        training_name="narrow",
    )
    assert HOW_LONG not in calibration.card.left_out
    found = Counter()
    for entry in calibration.card.entries:
        found[entry.regime.name] += entry.labelled
    assert found == counted
