"""Published models as members, loaded through MACE's own functions."""

from __future__ import annotations

import os

import pytest
from ase.build import molecule

from hybrid_calc.committee.foundation import foundation_committee
from hybrid_calc.errors import CommitteeError, UntrustedFileError


def test_loading_does_not_depend_on_who_imported_mace_before(mace_model_files):
    paths = [str(path) for path in mace_model_files[:2]]
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    # The first may import mace.calculators, the second finds it imported.
    first, second = (foundation_committee(paths, trust=True) for _ in range(2))
    assert os.environ.get(variable) == before
    assert first.info.identity == second.info.identity
    assert first.predict(molecule("H2O")).forces.shape == (2, 3, 3)


def test_a_pickle_needs_trust_and_a_name_needs_a_file_or_the_network(mace_model_files, tmp_path):
    paths = [str(path) for path in mace_model_files[:2]]
    with pytest.raises(UntrustedFileError, match=r"trust=True"):
        foundation_committee(paths, trust=False)
    with pytest.raises(CommitteeError, match=r"at least 2 foundation models; got \["):
        foundation_committee(paths[:1], trust=True)
    (tmp_path / "torn.model").write_bytes(mace_model_files[0].read_bytes()[:1000])
    with pytest.raises(CommitteeError, match=r"could not be loaded"):
        foundation_committee([paths[0], str(tmp_path / "torn.model")], trust=True)
