"""Intervals of shares that were counted."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(hits: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927).

    Parameters
    ----------
    hits, trials
        Bad frames among the audited ones; not whole where frames are weighted.
    confidence
        Two-sided.
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / scale
    # Without hits (or with nothing else) a bound is exact; rounding would move it past the truth.
    low = centre - half if hits > 0 else 0.0
    high = centre + half if hits < trials else 1.0
    return max(0.0, low), min(1.0, high)
