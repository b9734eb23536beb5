"""Where to label next: on pools whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_calc.errors import InputError
from hybrid_calc.gate.search import Pool, expected_errors, next_frames, search


def pool_of(places, spreads=None):
    """Return a pool whose frames stand at these places of a line, one atom with one descriptor."""
    places = np.asarray(places, dtype=float)
    spreads = np.ones(len(places)) if spreads is None else np.asarray(spreads, dtype=float)
    return Pool(spreads=spreads, descriptors=places[:, None, None])


def hidden(frames=400, seed=0):
    """Return a pool and its errors: a hump on the line that the spread does not see."""
    random = np.random.default_rng(seed)
    places = np.sort(random.uniform(0, 10, frames))
    errors = 0.1 + np.exp(-((places - 7) ** 2) / 0.5)
    return pool_of(places, random.uniform(0.5, 1.5, frames)), errors


def test_one_label_is_carried_to_all_frames_of_the_same_spread():
    # spread 1: log spread 0, so log error = a alone; its prior weighs a thousandth of a label
    expected, std = expected_errors(pool_of([0, 100, 200]), np.array([0]), np.array([0.5]))
    assert expected == pytest.approx(0.5 ** (1 / 1.001), rel=1e-3)
    assert std == pytest.approx(0.0, abs=1e-9)  # one label leaves nothing unexplained


def test_far_from_labels_the_error_grows_as_the_spread_does():
    # two labels whose error is twice the spread, and a third frame far away
    pool = pool_of([0, 100, 1e6], spreads=[1.0, 4.0, 3.0])
    expected, _ = expected_errors(pool, np.array([0, 1]), np.array([2.0, 8.0]))
    assert expected[2] == pytest.approx(6.0, rel=1e-2)


def test_frames_like_a_bad_one_are_next():
    pool = pool_of([0.0, 0.1, 0.2, 9.8, 9.9, 10.0])
    assert set(next_frames(pool, np.array([0, 5]), np.array([0.1, 1.0]), 2)) == {3, 4}
    assert set(next_frames(pool, np.array([0, 5]), np.array([1.0, 0.1]), 2)) == {1, 2}


def test_of_frames_expected_to_err_alike_the_one_far_from_labels_is_next():
    pool = pool_of([0.0, 0.01, 1.0, 1.01, 5.0])
    # 0.1 and 10: their logarithms lie as far below their mean as above
    expected, std = expected_errors(pool, np.array([0, 2]), np.array([0.1, 10.0]))
    assert std[4] == pytest.approx(np.log(10.0), rel=1e-2)
    assert expected[4] == pytest.approx(1.0, rel=1e-2)
    assert std[1] < 0.2 * std[4]
    assert std[3] < 0.2 * std[4]


def test_descriptors_all_alike_leave_the_order_of_the_spread():
    pool = pool_of(np.zeros(6), spreads=[0.1, 0.5, 0.2, 0.4, 0.3, 0.6])
    labelled = search(pool, lambda frames: pool.spreads[frames], 6, at_once=1)
    assert labelled.tolist() == [5, 1, 3, 4, 2, 0]


def test_a_search_finds_what_the_spread_does_not_see():
    pool, errors = hidden()
    worst = np.argsort(-errors)[:20]
    labelled = search(pool, lambda frames: errors[frames], 40)
    by_spread = np.argsort(-pool.spreads)[:40]
    assert np.isin(worst, labelled).mean() >= 0.8
    assert np.isin(worst, by_spread).mean() <= 0.3


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_a_search_spends_its_budget_and_asks_no_frame_twice(at_once):
    pool, errors = hidden(frames=60)
    asked = []

    def ask(frames):
        asked.extend(frames.tolist())
        return errors[frames]

    labelled = search(pool, ask, 25, at_once=at_once)
    assert labelled.tolist() == asked
    assert len(asked) == len(set(asked)) == 25
    assert asked[:1] == [int(np.argmax(pool.spreads))]


def test_no_more_is_labelled_than_there_is():
    pool, errors = hidden(frames=9)
    assert sorted(search(pool, lambda frames: errors[frames], 100)) == list(range(9))
    everything = np.arange(9)
    assert next_frames(pool, everything, errors, 3).tolist() == []


def test_the_order_of_the_frames_and_the_unit_of_descriptors_do_not_matter():
    pool, errors = hidden(frames=100)
    mixed = np.random.default_rng(1).permutation(100)
    other = Pool(spreads=pool.spreads[mixed], descriptors=50.0 * pool.descriptors[mixed])
    labelled = search(pool, lambda frames: errors[frames], 20)
    again = search(other, lambda frames: errors[mixed][frames], 20)
    assert mixed[again].tolist() == labelled.tolist()


@pytest.mark.parametrize(
    ("spreads", "descriptors"),
    [
        (np.ones(3), np.ones((4, 1, 1))),
        (np.ones(3), np.ones((3, 1))),
        (np.array([1.0, np.nan]), np.ones((2, 1, 1))),
        (np.ones(2), np.full((2, 1, 1), np.inf)),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(spreads, descriptors):
    with pytest.raises(InputError, match="pool"):
        Pool(spreads=spreads, descriptors=descriptors)


def test_labels_that_make_no_sense_are_refused():
    pool, errors = hidden(frames=9)
    with pytest.raises(InputError, match="one label"):
        next_frames(pool, np.array([], dtype=int), np.array([]), 1)
    with pytest.raises(InputError, match="finite"):
        search(pool, lambda frames: np.full(len(frames), np.nan), 5)
    for budget, at_once in ((0, 1), (5, 0)):
        with pytest.raises(InputError, match="one at least"):
            search(pool, lambda frames: errors[frames], budget, at_once=at_once)
