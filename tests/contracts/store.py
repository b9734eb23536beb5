"""What every store of frames must pass; subclass it and say how to open one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hybrid_calc.committee.toy import TOY_LEVEL
from hybrid_calc.errors import LevelMismatchError
from hybrid_calc.reference.level import LevelOfTheory
from tests.store.samples import KINDS, identities, rejected, sample, water

OTHER_LEVEL = LevelOfTheory(program="toy", parameters={"well_depth_ev": 7})


class StoreContract:
    """Round trips to the bit, each frame once, one level, order, going on.

    A subclass gives `open` and may override `settle`, which is what happens
    between writing and reading.
    """

    @staticmethod
    def open(folder: Path):
        raise NotImplementedError

    def settle(self, store) -> None:
        """Do nothing: what is appended is there."""

    @pytest.fixture
    def store(self, tmp_path):
        return self.open(tmp_path)

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda: self.open(tmp_path)

    def test_new_store_is_empty(self, store):
        assert len(store) == 0
        assert list(store) == []
        assert store.levels == ()
        assert store.damage == ()

    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_record_comes_back_to_the_bit(self, store, reopen, kind):
        record = KINDS[kind](1)
        assert store.append(record)
        self.settle(store)
        for reader in (store, reopen()):
            (back,) = reader
            assert back.to_bytes() == record.to_bytes()
            assert back.identity == record.identity
            assert back.header() == record.header()
            for name, array in record.arrays().items():
                assert back.arrays()[name].dtype == array.dtype
                np.testing.assert_array_equal(back.arrays()[name], array)

    def test_records_of_every_kind_live_side_by_side(self, store, reopen):
        records = [make(number) for number, make in enumerate(KINDS.values())]
        for record in records:
            store.append(record)
        self.settle(store)
        assert [r.to_bytes() for r in reopen()] == [r.to_bytes() for r in records]

    def test_frames_come_back_in_the_order_they_came(self, store, reopen):
        for number in (5, 3, 9, 1):
            store.append(sample(number))
        self.settle(store)
        assert [record.meta["step"] for record in reopen()] == [5, 3, 9, 1]

    def test_same_frame_again_is_there_once(self, store, reopen):
        assert store.append(sample(1)) is True
        assert store.append(sample(1)) is False
        self.settle(store)
        assert store.append(sample(1)) is False
        assert reopen().append(sample(1)) is False
        assert len(store) == 1
        assert identities(reopen()) == identities([sample(1)])

    def test_same_frame_said_of_another_run_is_the_same_frame(self, store):
        store.append(sample(1))
        assert store.append(sample(1).with_meta(run="another")) is False

    def test_two_stores_opened_before_either_wrote_keep_one_of_each(self, store, reopen):
        other = reopen()
        store.append(sample(1))
        other.append(sample(1))
        other.append(sample(2))
        self.settle(store)
        self.settle(other)
        assert identities(reopen()) == identities([sample(1), sample(2)])

    def test_opening_an_existing_store_goes_on_with_it(self, store, reopen):
        store.append(sample(1))
        self.settle(store)
        second = reopen()
        second.append(sample(2))
        self.settle(second)
        assert identities(reopen()) == identities([sample(1), sample(2)])

    def test_label_is_found_by_its_geometry_and_level(self, store, reopen):
        record = sample(1)
        store.append(record)
        store.append(rejected(2))
        self.settle(store)
        for reader in (store, reopen()):
            found = reader.find_label(water(1), TOY_LEVEL)
            assert found.energy == record.label.energy
            np.testing.assert_array_equal(found.forces, record.label.forces)
            assert reader.find_label(water(2), TOY_LEVEL) is None
            assert reader.find_label(water(1), OTHER_LEVEL) is None

    def test_charged_molecule_is_another_question(self, store):
        store.append(sample(1))
        ion = water(1)
        ion.info["charge"] = 2
        assert store.find_label(ion, TOY_LEVEL) is None

    def test_another_level_is_refused_and_both_are_named(self, store, reopen):
        store.append(sample(1))
        self.settle(store)
        label = dataclasses.replace(sample(2).label, level=OTHER_LEVEL)
        foreign = sample(2, level=OTHER_LEVEL, label=label)
        for writer in (store, reopen()):
            with pytest.raises(LevelMismatchError) as caught:
                writer.append(foreign)
            assert TOY_LEVEL.hash in str(caught.value)
            assert OTHER_LEVEL.hash in str(caught.value)
        assert identities(reopen()) == identities([sample(1)])

    def test_rejected_frame_does_not_set_the_level(self, store):
        store.append(rejected(1))
        store.check_level(OTHER_LEVEL)
        assert store.levels == ()

    def test_levels_are_those_of_the_labels(self, store, reopen):
        store.append(sample(1))
        self.settle(store)
        assert reopen().levels == (TOY_LEVEL,)

    def test_close_may_be_called_twice_and_appending_goes_on(self, store, reopen):
        store.append(sample(1))
        store.close()
        store.close()
        store.append(sample(2))
        store.close()
        assert identities(reopen()) == identities([sample(1), sample(2)])
