"""Thresholds by regime: their bound, also where a gate chose the frames, and their limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.flags.coverage import Surroundings
from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime_entry import RegimeEntry
from hybrid_calc.gate.thresholds import calibrate_regimes
from tests.gate.populations import CALM, TOLERANCE, TOLERANCES, frames_of, gated, run, unweighted


def entries(frames, fitting=None, missed_share=0.1, seed=0):
    return calibrate_regimes(
        frames, fitting, missed_share=missed_share, random=np.random.default_rng(seed), **TOLERANCES
    )


def seen(spread: float, **more: float) -> Observation:
    signals = {"force_spread": spread, **more}
    return Observation(regime=CALM, surroundings=Surroundings.of(np.zeros((3, 1))), signals=signals)


def asks(known: RegimeCalibration, observation: Observation) -> bool:
    """Return what the gate's rule says."""
    return not known.score(observation) < known.threshold


def bad_frames(spreads, **more):
    """Frames all out of tolerance, with given spreads, each its own trajectory."""
    spreads = np.asarray(spreads, dtype=float)
    return frames_of(np.full(len(spreads), 1.0), signals={"force_spread": spreads}, **more)


@pytest.mark.parametrize(("count", "k"), [(8, 0), (9, 1), (18, 1), (19, 2)])
def test_the_threshold_is_the_spread_of_the_kth_bad_frame(count, k):
    (entry,) = entries(bad_frames(0.1 * np.arange(1, count + 1)))
    known = entry.for_gate(0.1)
    assert known.validated == (k > 0)
    assert known.unit == "eV/A"
    if k:
        assert known.threshold == pytest.approx(0.1 * k)
        assert asks(known, seen(0.1 * k + 1e-9))
        assert not asks(known, seen(0.1 * k - 1e-6))


def test_without_enough_bad_frames_everything_is_asked():
    (entry,) = entries(frames_of(np.full(500, 0.01)))
    known = entry.for_gate(0.1)
    assert not known.validated
    assert asks(known, seen(1e-9))
    assert (entry.threshold, entry.call_rate, entry.bad_share) == (None, 1.0, 0.0)


@given(st.sampled_from([math.nan, math.inf]), st.floats(1e-9, 1e3), st.booleans())
def test_nothing_that_is_not_a_number_passes(value, other, swap):
    signals = {"force_spread": other, "novelty": value} if swap else {"force_spread": value}
    here = Observation(regime=CALM, surroundings=Surroundings.of(np.zeros((3, 1))), signals=signals)
    assert asks(FUSED, here) or (swap and value == math.inf)  # endless novelty is cut, not lost
    if not swap:
        assert asks(ALONE, here)
    nothing = Observation(regime=CALM, surroundings=Surroundings.of(np.zeros((3, 1))))
    assert asks(FUSED, nothing)
    assert asks(ALONE, nothing)


@given(st.floats(1e-9, 1e3))
def test_a_frame_passes_only_below_the_threshold(spread):
    assert asks(ALONE, seen(spread)) == (spread >= ALONE.threshold)
    chance = FUSED.score(seen(spread, novelty=1.0))
    assert asks(FUSED, seen(spread, novelty=1.0)) == (chance >= FUSED.threshold)


def test_each_regime_has_its_own_threshold():
    other = dataclasses.replace(CALM, name="warm")
    spreads = np.concatenate([np.linspace(1, 2, 20), np.linspace(5, 6, 20)])
    frames = bad_frames(spreads, regimes=[CALM] * 20 + [other] * 20)
    first, second = entries(frames)
    assert (first.regime, second.regime) == (CALM, other)
    assert 1 <= first.for_gate(0.1).threshold < 2
    assert 5 <= second.for_gate(0.1).threshold < 6


def test_frames_whose_spread_is_not_known_are_not_calibrated_with():
    spreads = np.linspace(1, 2, 20)
    spreads[3] = np.nan
    (entry,) = entries(bad_frames(spreads))
    assert entry.labelled == 19
    assert entries(bad_frames(np.full(5, np.nan))) == ()


def missed_of(entry: RegimeEntry, fresh) -> float:
    if entry.threshold is None:
        return 0.0
    bad = fresh.excess(TOLERANCE, 0.1) > 1
    return float((entry.score.probabilities(fresh.signals) < entry.threshold)[bad].mean())


@pytest.mark.parametrize("audits", [None, 0.2])
def test_new_bad_frames_are_missed_no_more_often_than_promised(audits):
    weighted, plain = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        how = {"good": 0.8, "memory": 0.5, "agreement": 0.7}
        frames = run(random, trajectories=8, steps=120, **how)
        if audits is not None:
            frames = gated(random, frames, asked_above=0.12, audits=audits)
        fresh = run(random, trajectories=2, steps=500, **how)
        weighted.append(missed_of(entries(frames)[0], fresh))
        plain.append(missed_of(entries(unweighted(frames))[0], fresh))
    error = np.std(weighted) / math.sqrt(len(weighted))
    assert np.mean(weighted) <= 0.1 + 2 * error
    assert np.mean(weighted) > 0.04  # and not by asking everything
    if audits is not None:
        assert np.mean(plain) > 0.2  # what the same frames say where their choice is forgotten


def test_audits_too_rare_to_bound_anything_leave_a_regime_unvalidated():
    # 40 bad frames that were asked for, but one that nothing asked for would weigh 33
    frames = bad_frames(np.linspace(1, 2, 40), heaviest=np.full(40, 1 / 0.03))
    assert entries(frames)[0].threshold is None
    assert entries(bad_frames(np.linspace(1, 2, 40)))[0].threshold is not None


def test_a_score_of_several_signals_is_fitted_on_other_trajectories_and_keeps_its_bound():
    entry = entries(POPULATION, FITTING)[0]
    assert entry.fitted
    assert set(entry.score.signals) == {"force_spread", "novelty"}
    assert entry.score.gains[0][2] > 0
    known = entry.for_gate(0.1)
    assert known.unit == ""
    assert 0 < known.threshold < 1
    assert missed_of(entry, two_signals(9, first=400)) < 0.17
    spread_alone = entries(POPULATION)[0]
    assert entry.call_rate < spread_alone.call_rate


def test_signals_nobody_asked_for_are_not_used():
    (entry,) = calibrate_regimes(
        POPULATION, FITTING, missed_share=0.1, random=np.random.default_rng(0), signals=(),
        **TOLERANCES,
    )  # fmt: skip
    assert entry.score.signals == ("force_spread",)
    assert entry.score.gains == ()


def test_a_trajectory_on_both_sides_is_refused():
    with pytest.raises(InputError, match="may not be fitted"):
        entries(POPULATION, POPULATION)


def test_an_entry_survives_json():
    for entry in (*entries(POPULATION, FITTING), *entries(frames_of(np.full(3, 0.01)))):
        assert RegimeEntry.from_dict(entry.to_dict()) == entry


def test_the_error_lies_within_the_factor_as_often_as_promised():
    held = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        how = {"good": 0.8, "memory": 0.0, "agreement": 0.7}
        entry = entries(run(random, trajectories=4, steps=20, **how))[0]
        fresh = run(random, trajectories=1, steps=400, **how)
        ratios = fresh.force_errors / fresh.signals["force_spread"]
        held.append((ratios <= entry.error_factor).mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def two_signals(seed: int, first: int = 0):
    """Frames whose errors follow the spread and, as much, the novelty."""
    random = np.random.default_rng(seed)
    count, groups = 600, 20
    spread, novelty = random.lognormal(size=count), random.lognormal(size=count)
    errors = 0.12 * np.sqrt(spread * novelty) * random.lognormal(sigma=0.2, size=count)
    return frames_of(
        errors,
        signals={"force_spread": spread, "novelty": novelty},
        trajectories=first + np.arange(count) % groups,
        steps=np.arange(count),
    )


POPULATION = two_signals(0)
FITTING = two_signals(1, first=100)
FUSED = entries(POPULATION, FITTING)[0].for_gate(0.1)
ALONE = entries(POPULATION)[0].for_gate(0.1)
