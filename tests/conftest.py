"""What tests of several rooms share."""

from __future__ import annotations

import pytest

from tests.mace_training import train_small_committee


@pytest.fixture(scope="session")
def mace_model_files(tmp_path_factory):
    """Return the ``.model`` files of three small MACE networks trained for this session."""
    return train_small_committee(tmp_path_factory.mktemp("mace"), members=3)
