"""From posterior std to error bar."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from hybrid_calc.correction.inflation import (
    PRIOR_SCALE,
    PRIOR_WEIGHT,
    Forecast,
    coverage,
    interval_factor,
)


def test_without_forecasts_the_factor_is_the_prior_t_interval():
    assert interval_factor([]) == pytest.approx(PRIOR_SCALE * student.ppf(0.975, PRIOR_WEIGHT))


def test_large_errors_widen_and_small_errors_narrow():
    assert interval_factor([0.5] * 10) < interval_factor([]) < interval_factor([8.0] * 10)


def test_many_forecasts_are_covered_by_the_factor_they_make():
    scores = np.random.default_rng(0).standard_t(2, size=59)
    # ceil(60 * 0.95) = 57 of 59.
    assert np.sum(np.abs(scores) <= interval_factor(scores) + 1e-12) >= 57


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_coverage_in_runs_of_ten_forecasts(scale):
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(200):
        scores = []
        for _ in range(10):
            new = rng.normal(0, scale)
            hits.append(abs(new) <= interval_factor(scores))
            scores.append(new)
    assert np.mean(hits) > 0.94


def test_the_first_interval_is_generous_to_scores_of_the_assumed_scale():
    scores = np.random.default_rng(1).normal(0, PRIOR_SCALE, 4000)
    share = np.mean(np.abs(scores) <= interval_factor([]))
    # t(0.975, 4) is 2.776; a normal score lies within that with 99.45 %.
    assert share == pytest.approx(0.9945, abs=0.004)


def test_a_forecast_knows_its_score_and_survives_json():
    one = Forecast(predicted=1.0, observed=1.3, std=0.1, half_width=0.2)
    assert one.z_score == pytest.approx(3.0)
    assert not one.covered
    assert Forecast.from_dict(one.to_dict()) == one


def test_coverage_is_the_share_covered():
    inside = Forecast(predicted=0.0, observed=0.1, std=0.1, half_width=0.2)
    outside = Forecast(predicted=0.0, observed=0.3, std=0.1, half_width=0.2)
    assert coverage([inside, inside, inside, outside]) == 0.75
    assert math.isnan(coverage([]))
