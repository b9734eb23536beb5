"""Frames of a store classed by other rules and ranges than those of their own runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hybrid_calc import FlagLimits, FrameStore, Gate
from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.regime import RegimeRule
from hybrid_calc.training.regimes import HOW_LONG, NO_FLAGS, StoredRegimes
from tests.scripted import always, hybrid, pair
from tests.store.samples import sample

RANGES = TrainingRanges(lengths={"H-H": (0.73, 0.77)}, frames=9)
"""With a margin of 0.03 A: from 0.70 to 0.80."""
INSIDE, OUTSIDE = 0.75, 0.68
"""Neither strains the bond: that takes 15 % of 0.75 A."""


@dataclasses.dataclass
class Ranged:
    """A calibration that knows the training ranges and nothing else."""

    identity: str
    ranges: TrainingRanges | None

    def regime(self, regime):
        return None

    def novelty(self, descriptors, numbers):
        return None


def labelled(path, lengths, *, rules=(), ranges=None, momentum=0.1):
    """Return the records of a run that labelled every geometry of these lengths."""
    gate = Gate(always(regimes=tuple(rules)))
    calc = hybrid(gate, store=FrameStore(path))
    gate.calibration = Ranged(calc.engine.committee.info.identity, ranges)
    calc.trajectory = calc.engine.new_trajectory()  # with the ranges
    for length in lengths:
        atoms = pair(length, momentum=momentum)
        atoms.calc = calc
        atoms.get_forces()
    records = list(calc.engine.store)
    calc.close()
    return records


def names(found):
    return [one if isinstance(one, str) else one.name for one in found]


def anew(records, *rules, **more):
    regimes = StoredRegimes(rules, **more)
    return names([regimes.of(record) for record in records])


def stored(records):
    return [record.meta["regime"].partition(" ")[0] for record in records]


def lengths(*inside):
    """Return lengths that differ a little, so that each is a geometry of its own."""
    return [(INSIDE if here else OUTSIDE) + 1e-4 * number for number, here in enumerate(inside)]


def test_without_rules_and_ranges_they_keep_their_regimes(tmp_path):
    records = labelled(tmp_path / "run.h5", [0.75, 0.76, 0.95, 0.96, 0.97, 0.98])
    assert stored(records)[-1] != "equilibrium"
    assert anew(records) == stored(records)


def test_rules_of_the_settings_take_their_part(tmp_path):
    wet = RegimeRule(name="protic", parent="equilibrium", elements=["H"])
    records = labelled(tmp_path / "run.h5", lengths(1, 1, 1))
    assert stored(records) == ["equilibrium"] * 3
    assert anew(records, wet) == ["protic"] * 3


def test_a_rule_that_rests_on_a_flag_reads_it_from_the_record(tmp_path):
    # Stretched by 18 %: strained from the third such step on
    records = labelled(tmp_path / "run.h5", [0.75, 0.885, 0.886, 0.887])
    assert stored(records) == [*["equilibrium"] * 3, "high-energy"]
    pulled = RegimeRule(name="pulled", parent="high-energy", flags=["strained_bond"])
    assert anew(records, pulled) == [*["equilibrium"] * 3, "pulled"]


def test_regimes_that_the_settings_lack_are_counted_and_dissolved(tmp_path):
    wet = RegimeRule(name="protic", parent="equilibrium", elements=["H"])
    records = labelled(tmp_path / "run.h5", lengths(1, 1, 1), rules=[wet])
    assert stored(records) == ["protic"] * 3
    regimes = StoredRegimes()
    assert names(map(regimes.of, records)) == ["equilibrium"] * 3
    assert regimes.strangers == {"protic": 3}
    regimes = StoredRegimes([wet])
    assert names(map(regimes.of, records)) == ["protic"] * 3
    assert not regimes.strangers


def test_ranges_that_the_run_did_not_have_are_looked_up_in_the_geometry(tmp_path):
    records = labelled(tmp_path / "run.h5", lengths(1, 0, 0, 0, 0, 1, 0, 1))
    assert stored(records) == ["equilibrium"] * 8
    assert anew(records, ranges=RANGES) == [
        *["equilibrium"] * 3,  # it must last three steps
        *["high-energy"] * 2,
        *["equilibrium"] * 3,
    ]
    assert anew(records, ranges=RANGES, limits=FlagLimits(persistence_steps=1)) == [
        "equilibrium", *["high-energy"] * 4, "equilibrium", "high-energy", "equilibrium",
    ]  # fmt: skip


def test_ranges_that_the_run_had_and_the_calibration_has_not_say_nothing(tmp_path):
    records = labelled(tmp_path / "run.h5", lengths(1, 0, 0, 0), ranges=RANGES)
    assert stored(records) == [*["equilibrium"] * 3, "high-energy"]
    assert anew(records) == ["equilibrium"] * 4


def test_outside_dynamics_once_is_enough(tmp_path):
    records = labelled(tmp_path / "run.h5", lengths(1, 0, 1), momentum=0.0)
    assert not any("recent" in record.meta for record in records)
    assert anew(records, ranges=RANGES) == ["equilibrium", "high-energy", "equilibrium"]


def test_the_record_tells_what_the_steps_before_were_that_nobody_labelled(tmp_path):
    records = labelled(tmp_path / "run.h5", lengths(1, 0, 0, 0, 1, 0, 0, 0))
    for missing in (0, 4):  # the step before the excursion
        del records[missing - (missing > 0)]
    once = ["equilibrium", "equilibrium", "high-energy"]
    assert anew(records, ranges=RANGES) == once * 2
    assert anew(records[::-1], ranges=RANGES) == once[::-1] * 2


def test_without_the_steps_before_it_cannot_be_told_for_how_long(tmp_path):
    records = labelled(tmp_path / "run.h5", lengths(1, 0, 0, 0, 1))
    for record in records:
        del record.meta["recent"]  # as in earlier versions
    assert anew(records, ranges=RANGES) == [
        "equilibrium", HOW_LONG, HOW_LONG, HOW_LONG, "equilibrium",
    ]  # fmt: skip
    at_once = FlagLimits(persistence_steps=1)
    assert HOW_LONG not in anew(records, ranges=RANGES, limits=at_once)
    atom_counts = TrainingRanges(coordination={"H": (0.5, 1.5)}, frames=9)
    assert anew(records, ranges=atom_counts) == ["equilibrium"] * 5


def test_bonds_are_those_of_the_start_of_the_run(tmp_path):
    # From the second step on it is no bond by itself: 1.3 times the radii are 0.81 A
    records = labelled(tmp_path / "run.h5", [0.75, 0.85, 0.86, 0.87, 0.88])
    long = RegimeRule(name="long", parent="high-energy", flags=["bond_length"])
    found = anew(records, long, ranges=RANGES)
    assert found == [*["equilibrium"] * 3, "long", "long"]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_had_the_ranges_classed_its_frames_the_same(tmp_path, seed):
    random = np.random.default_rng(seed)
    walk = INSIDE + 0.07 * np.sin(0.3 * np.arange(60) + random.normal(0, 0.3, 60))
    records = labelled(tmp_path / "run.h5", walk.tolist(), ranges=RANGES)
    assert {"equilibrium", "high-energy"} <= set(stored(records))
    assert anew(records, ranges=RANGES) == stored(records)


# frames from elsewhere


def imported(regime, **meta):
    return sample(1, pair(INSIDE), meta={"regime": regime, **meta})


def test_frames_without_an_observation_keep_their_regime_where_no_flag_is_needed():
    assert anew([imported("reactive H")]) == ["reactive"]
    assert anew([imported("transition-state")]) == ["transition-state"]
    warm = RegimeRule(name="lukewarm", parent="warm", above_kelvin=400)
    assert anew([imported("warm H", mean_temperature=450.0)], warm) == ["lukewarm"]
    assert anew([imported("equilibrium H")], ranges=RANGES) == ["equilibrium"]
    far = sample(1, pair(OUTSIDE), meta={"regime": "equilibrium H"})
    assert anew([far], ranges=RANGES) == ["high-energy"]


def test_where_a_rule_needs_a_flag_that_no_one_wrote_down_it_says_so():
    transfer = RegimeRule(name="transfer", parent="reactive", flags=["bond_forming"])
    later = RegimeRule(name="late", parent="transfer")
    assert anew([imported("reactive H")], transfer, later) == [NO_FLAGS]
    assert anew([imported("equilibrium H")], transfer) == ["equilibrium"]
    told = imported("reactive H", flags=["bond_forming at atoms 0, 1: 0.5 against 0.4"])
    assert anew([told], transfer) == ["transfer"]
    assert anew([imported("reactive H", flags=[])], transfer) == ["reactive"]
