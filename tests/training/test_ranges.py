"""What training frames spanned, and how far beyond what they show a limit must lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase.build import molecule
from scipy.stats import norm

from hybrid_calc.errors import InputError
from hybrid_calc.training.ranges import fit_ranges, force_limit


def water(force, *, length=0.96):
    atoms = molecule("H2O")
    atoms.set_distance(0, 1, length, fix=0)
    atoms.arrays["REF_forces"] = np.array([[0.6, 0, 0.8], [0, 0, 0.1], [0, 0, 0]]) * force
    return atoms


def test_ranges_by_hand():
    frames = [water(force, length=0.9 + 0.04 * force) for force in (1.0, 5.0, 2.0, 4.0, 3.0)]
    ranges = fit_ranges(frames)
    assert ranges.lengths == {"H-O": (pytest.approx(0.94), pytest.approx(1.1))}
    assert ranges.frames == 5
    # oxygen has two neighbours, each hydrogen one, but for what is smooth
    assert ranges.coordination["O"][1] == pytest.approx(2, abs=0.05)
    assert ranges.coordination["H"][0] == pytest.approx(1, abs=0.1)
    assert ranges.largest_force == force_limit([np.array([1.0, 5.0, 2.0, 4.0, 3.0])])


def test_ranges_of_nothing_or_of_nan_are_refused():
    with pytest.raises(InputError, match="at least one"):
        fit_ranges([])
    broken = molecule("H2O")
    broken.positions[0, 0] = np.nan
    with pytest.raises(InputError, match="finite"):
        fit_ranges([broken])
    with pytest.raises(InputError, match="finite"):
        fit_ranges([water(math.nan)])


def test_frames_without_forces_say_nothing_about_them():
    assert fit_ranges([molecule("H2O")] * 9).largest_force is None


def test_the_limit_of_five_forces_by_hand():
    # logarithms -1, 1, -1, 1, 0: mean 0, variance 4 / 4; 7.173 is the 99.9 % quantile of
    # Student's law with four degrees of freedom
    sizes = np.exp([-1.0, 1.0, -1.0, 1.0, 0.0])
    assert math.log(force_limit([sizes])) == pytest.approx(7.173 * math.sqrt(6 / 5), rel=1e-3)


def test_fewer_than_five_forces_say_nothing():
    assert force_limit([]) is None
    assert force_limit([np.array([1.0, 2.0, 1.0, 2.0])]) is None


def test_a_thousand_forces_speak_for_themselves():
    sizes = np.random.default_rng(0).permutation(np.arange(1.0, 4001.0))
    assert force_limit([sizes]) == 3996.0  # of 4,000, four lie above


def test_frames_that_are_alike_count_for_fewer():
    sizes = np.exp(np.random.default_rng(1).normal(size=30))
    assert force_limit([np.repeat(sizes, 4)]) == pytest.approx(force_limit([sizes]), rel=0.2)
    assert force_limit([np.tile(sizes, 4)]) < 0.8 * force_limit([sizes])
    assert force_limit([np.full(300, 2.0)]) is None


def test_the_limit_of_many_compositions_is_that_of_all_frames():
    random = np.random.default_rng(2)
    small, large = np.exp(random.normal(size=(2, 300)) * 0.1 + np.array([[0.0], [1.0]]))
    both = force_limit([small, large])
    assert both > force_limit([large])  # they differ more than the frames of one do
    # in one trajectory they would be one long fluctuation
    assert force_limit([np.concatenate([small, large])]) is None


def test_a_limit_is_not_below_what_was_seen():
    sizes = np.append(np.exp(np.random.default_rng(3).normal(size=50) * 0.01), 9.0)
    assert force_limit([sizes]) >= 9.0


@pytest.mark.parametrize("count", [10, 50, 200])
def test_one_frame_in_a_thousand_lies_beyond_however_few_were_seen(count):
    random = np.random.default_rng(count)
    beyond = [
        norm.sf(math.log(limit))
        for limit in (force_limit([np.exp(random.normal(size=count))]) for _ in range(400))
        if limit is not None
    ]
    assert np.mean(beyond) == pytest.approx(1e-3, rel=0.5)
