"""The published loop that falls silent, and ours on the same frames."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.observation import Outcome
from hybrid_calc.gate.replay import ReplayFrame, replay
from hybrid_calc.gate.settings import GateSettings
from tests.gate.scenes import observe

TOLERANCE = 0.5
CALM_STEPS, STEPS = 250, 1000


def frames(spread_when_bad):
    """A dynamics that starts calm; for its last three quarters the committee is wrong.

    Calm: spread 0.05 and error 0.06 eV/A.  Later the members still agree
    better than their error: 1 eV/A.
    """
    random = np.random.default_rng(0)
    for step in range(STEPS):
        calm = step < CALM_STEPS
        noise = float(random.uniform(0.9, 1.1))
        yield ReplayFrame(
            observation=observe(
                (0.05 if calm else spread_when_bad) * noise, temperature=300, place=0.001 * step
            ),
            outcome=Outcome(force_error=(0.06 if calm else 1.0) * noise),
            step=step,
        )


def proxima(frames, target, history=8):
    """Proxima's rule (Zamora et al. 2021) as its authors' code has it: who is asked.

    The threshold is set from the first eight labels, half of target over the
    mean ratio of error and uncertainty, and moves only when a label comes.
    """
    seen = deque(maxlen=history)
    threshold, asked = None, []
    for frame in frames:
        spread, error = frame.observation.spread, frame.outcome.force_error
        asks = threshold is None or spread >= threshold
        asked.append(asks)
        if not asks:
            continue
        seen.append((spread, error))
        if len(seen) < history:
            continue
        ratio = np.mean([e / u for u, e in seen])
        if threshold is None:
            threshold = target / ratio / 2
        else:
            threshold = max(0.0, threshold - (np.mean([e for _, e in seen]) - target) / ratio)
    return np.array(asked)


def ours(frames, **more):
    settings = {"force_tolerance_ev_per_ang": TOLERANCE, "trust_radius": 0.5, **more}
    return replay(frames, Gate(GateSettings(**settings)))


@pytest.mark.parametrize(
    ("spread", "caught"),
    [
        (0.10, 0.95),  # 3 x 0.1 is within the tolerance: an audit has to come first, 1 / 0.03 steps
        (0.18, 0.99),  # what calm frames said does not hold for more spread: 3 x 0.18 asks at once
    ],
)
def test_the_published_loop_falls_silent_and_ours_does_not(spread, caught):
    shown = list(frames(spread))
    bad = np.array([frame.outcome.force_error > TOLERANCE for frame in shown])
    assert bad.mean() == 0.75
    asked = proxima(shown, TOLERANCE)
    assert asked.sum() == 8
    assert (bad & ~asked).sum() == bad.sum() == 750  # every bad step passed
    result = ours(shown)
    assert np.array_equal(result.bad, bad)
    assert (bad & result.asked).sum() > caught * bad.sum()
    assert result.asked[CALM_STEPS + 100 :].all()  # and once it has noticed, none


def test_audits_alone_wake_it_where_spread_and_trust_say_all_is_well():
    # 3 x 0.1 is within the tolerance: only chance can find the first bad frame
    shown = list(frames(0.1))
    result = ours(shown, policies="uncertainty")
    first = np.flatnonzero(result.asked & result.bad)[0]
    assert result.audited[first]
    assert result.asked[first + 30 :].mean() > 0.99
    assert result.missed.bad >= 1


def test_calm_frames_alone_do_not_lower_the_factor_for_wilder_ones():
    judge = Gate(GateSettings(force_tolerance_ev_per_ang=TOLERANCE))
    replay(list(frames(0.15))[:CALM_STEPS], judge)
    regime = observe().regime
    assert judge.factor(regime, 0.05) < 2  # error over spread was 1.2
    assert judge.factor(regime, 0.15) == 3.0
