"""Forces that are the slope of an energy, and forces that are not."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from hybrid_calc import MembersCommittee, ToyCommittee
from hybrid_calc.committee.prediction import CommitteeInfo, Prediction
from hybrid_calc.errors import PredictionFailed
from hybrid_calc.flags.conservative import (
    PAIRS_AT_START,
    PAIRS_WHEN_FLAGGED,
    ForceCheck,
    NotConservativeWarning,
    antisymmetry,
)
from hybrid_calc.flags.report import FlagReport, Severity
from tests.gate.scenes import BREAKING
from tests.scripted import hybrid

SPRING, CURL = np.diag([3.0, 1.0, 2.0]), np.array([[0, 1.0, 0], [-1.0, 0, 0], [0, 0, 0]])
CALM, FLAGGED = FlagReport(), FlagReport(flags=(BREAKING,))


class Linear:
    """Two members with the forces J x on every atom by itself."""

    def __init__(self, jacobian, conservative=None, fails=False, other=None):
        self.jacobians = [jacobian, jacobian if other is None else other]
        self.fails, self.calls = fails, 0
        self.info = CommitteeInfo(name="linear", identity="0", size=2, conservative=conservative)

    def predict(self, atoms):
        self.calls += 1
        if self.fails:
            raise PredictionFailed("no")
        forces = np.array([atoms.positions @ np.asarray(one).T for one in self.jacobians])
        return Prediction(energies=np.zeros(2), forces=forces)


def share(jacobian, pairs=4, seed=0):
    positions = np.random.default_rng(9).normal(size=(3, 3))
    (found,) = antisymmetry(
        lambda x: (x @ np.asarray(jacobian).T)[None],
        positions,
        pairs=pairs,
        random=np.random.default_rng(seed),
    )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_spring_is_a_gradient_and_a_whirl_is_none(seed):
    assert share(-SPRING, seed=seed) < 1e-9
    assert share(CURL, seed=seed) == pytest.approx(1.0)


def test_the_share_lies_between_and_grows_with_the_whirl():
    shares = [share(SPRING + strength * CURL, pairs=40) for strength in (0.1, 0.5, 2.0)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    # |A| / |J| = sqrt(2) 0.5 / sqrt(14 + 2 0.25) = 0.186
    assert shares[1] == pytest.approx(0.186, rel=0.5)


def test_a_force_that_never_changes_is_a_gradient():
    assert share(np.zeros((3, 3))) == 0.0


def test_a_curved_gradient_is_one():
    committee = ToyCommittee()
    atoms = molecule("H2O")

    def forces_at(positions):
        return committee.predict(Atoms(atoms.numbers, positions)).forces

    found = antisymmetry(forces_at, atoms.positions, pairs=6, random=np.random.default_rng(0))
    assert found.shape == (committee.info.size,)
    assert (found < 1e-3).all()


def test_who_differentiates_an_energy_is_not_asked():
    committee = Linear(CURL, conservative=True)
    check = ForceCheck(committee, 0.01)
    assert check.look(molecule("H2O"), FLAGGED) is FLAGGED
    assert (check.watching, committee.calls) == (False, 0)


def test_who_passes_at_the_start_is_asked_again_only_where_flags_are_up():
    committee = Linear(SPRING)
    check = ForceCheck(committee, 0.01)
    atoms = molecule("H2O")
    assert check.look(atoms, CALM) is CALM
    assert committee.calls == 4 * PAIRS_AT_START
    assert check.look(atoms, CALM) is CALM
    assert committee.calls == 4 * PAIRS_AT_START
    assert check.look(atoms, FLAGGED) is FLAGGED
    assert committee.calls == 4 * (PAIRS_AT_START + PAIRS_WHEN_FLAGGED)
    committee.jacobians = [SPRING + CURL] * 2  # a gradient here, none there
    with pytest.warns(NotConservativeWarning):
        assert check.look(atoms, FLAGGED).names == ("bond_breaking", "not_conservative")


def test_members_whose_whirls_cancel_in_the_mean_are_found():
    check = ForceCheck(Linear(SPRING + CURL, other=SPRING - CURL), 0.01)
    with pytest.warns(NotConservativeWarning, match="of a member"):
        assert check.look(molecule("H2O"), CALM).names == ("not_conservative",)


def test_a_resumed_check_goes_on_with_the_same_directions():
    atoms, committee = molecule("H2O"), Linear(SPRING + CURL)
    first = ForceCheck(committee, 0.01)
    with pytest.warns(NotConservativeWarning):
        first.look(atoms, CALM)
    second = ForceCheck(committee, 0.01)
    second.restore(json.loads(json.dumps(first.state())))
    calls = committee.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said before
        assert second.look(atoms, CALM) is CALM
        assert committee.calls == calls
        values = [check.look(atoms, FLAGGED).flags[-1].value for check in (first, second)]
    assert values[0] == values[1]


def test_who_fails_is_named_once_and_flagged_where_other_flags_are_up():
    committee = Linear(SPRING + CURL)
    check = ForceCheck(committee, 0.01)
    atoms = molecule("H2O")
    with pytest.warns(NotConservativeWarning, match="of committee linear are not the gradient"):
        (flag,) = check.look(atoms, CALM).flags
    assert (flag.name, flag.severity, flag.limit) == ("not_conservative", Severity.SOFT, 0.01)
    assert 0.1 < flag.value < 1
    calls = committee.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check.look(atoms, CALM) is CALM
        assert committee.calls == calls
        assert check.look(atoms, FLAGGED).names == ("bond_breaking", "not_conservative")
    assert committee.calls == calls + 4 * PAIRS_WHEN_FLAGGED


def test_a_committee_that_fails_nearby_is_tested_at_the_next_geometry():
    committee = Linear(SPRING, fails=True)
    check = ForceCheck(committee, 0.01)
    assert check.look(molecule("H2O"), CALM) is CALM
    assert committee.calls == 1
    committee.fails = False
    check.look(molecule("H2O"), CALM)
    assert committee.calls == 1 + 4 * PAIRS_AT_START
    check.look(molecule("H2O"), CALM)
    assert committee.calls == 1 + 4 * PAIRS_AT_START


class Whirl(Calculator):
    """Forces that a network might predict without an energy behind them."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": self.atoms.positions @ (CURL - SPRING).T}


def test_the_engine_tests_members_it_does_not_know():
    atoms = molecule("H2O")
    atoms.calc = hybrid(committee=MembersCommittee([Whirl(), Whirl()]))
    with pytest.warns(NotConservativeWarning):
        atoms.get_forces()
    assert "not_conservative" in atoms.calc.last_step.flags.names
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=0)
    copper.calc = hybrid(committee=MembersCommittee([EMT(), EMT()]))
    copper.get_forces()
    assert copper.calc.last_step.flags.names == ()
