"""Whole runs of chance: whatever happens, nothing unvalidated passes without its three neighbours.

The one who keeps the books here counts neighbours by itself.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.policy import Source
from hybrid_calc.gate.settings import GateSettings
from tests.gate.calibrations import Table, known
from tests.gate.scenes import ALL, BREAKING, CALM, CLASH, REACTIVE, WARM, observe

RADIUS, TOLERANCE, NEEDED = 1.5, 0.2, 3
WATER = frozenset({"H2O"})


class Books:
    """Labelled frames of each regime, and whether three good ones are near a place."""

    def __init__(self) -> None:
        self._frames = defaultdict(list)

    def add(self, regime, place, error, *, audit):
        good = error <= TOLERANCE
        if audit and not good:
            self._frames[regime] = [(where, False) for where, _ in self._frames[regime]]
        self._frames[regime].append((place, good))

    def trusts(self, regime, place) -> bool:
        count = 0
        for where, good in self._frames[regime]:
            if abs(where - place) <= RADIUS:
                count = count + 1 if good else 0
        return count >= NEEDED


steps = st.fixed_dictionaries(
    {
        "regime": st.sampled_from([CALM, CALM, REACTIVE]),
        "place": st.sampled_from([0.0, 0.5, 5.0]),
        "flags": st.sampled_from([(), (), (), (BREAKING,), (CLASH,), (WARM,), (BREAKING, WARM)]),
        "spread": st.sampled_from([0.01, 0.01, 0.01, 0.5]),
        "risk": st.sampled_from([0.0, 0.0, 0.9]),
        "novelty": st.sampled_from([0.1, 9.0]),
        "temperature": st.sampled_from([None, 300.0]),
        "error": st.sampled_from([0.01, 0.01, 0.01, 5.0]),
        "killed": st.sampled_from([False] * 9 + [True]),
    }
)


@given(
    story=st.lists(steps, min_size=20, max_size=60),
    policies=st.sets(st.sampled_from(sorted(ALL - {"unseen"}))),
    table=st.sampled_from(
        [
            Table(),
            Table({CALM: known()}),
            Table({CALM: known(novelty_limit=1.5)}),
            Table({CALM: known(molecules=WATER)}),
            Table({CALM: known()}, identity="another committee"),
        ]
    ),
    molecule=st.sampled_from(["H2O", "H2O2"]),
    audits=st.sampled_from([0.1, 0.9]),
    budget=st.sampled_from([None, 12]),
    seed=st.integers(0, 1000),
)
def test_nothing_unvalidated_passes_without_three_good_neighbours(
    *, story, policies, table, molecule, audits, budget, seed
):
    settings = GateSettings(
        policies=frozenset(policies | {"unseen"}),
        trust_radius=RADIUS,
        force_tolerance_ev_per_ang=TOLERANCE,
        audit_probability=audits,
        audit_probability_new=audits,
        budget=budget,
        when_budget_ends="continue",
        seed=seed,
    )
    books, doubted = Books(), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubts, other committees, tolerances
        judge = Gate(settings, table)
        judge.bind("abc")
        for step in story:
            regime, place = step["regime"], step["place"]
            flags = [flag for flag in step["flags"] if flag is not CLASH or budget is None]
            numbers = {name: step[name] for name in ("risk", "novelty", "temperature")}
            scene = observe(
                step["spread"], place, *flags, regime=regime, molecule=molecule, **numbers
            )
            if step["killed"]:
                state = json.loads(json.dumps(judge.state()))
                judge = Gate(settings, table)
                judge.bind("abc")
                judge.restore(state)
            decision = judge.decide(scene)
            if decision.validated:
                assert table.identity == "abc"
                assert regime == CALM
                assert regime not in doubted
                assert decision.calibration.covers(molecule)
                assert molecule == "H2O" or decision.calibration.molecules is None
            if decision.source is Source.REFERENCE:
                judge.budget.spend(audit=decision.is_audit)
                judge.learn(decision, scene, step["error"], 0.0)
                audit = decision.is_audit
                assert not audit or decision.validated or books.trusts(regime, place)
                books.add(regime, place, step["error"], audit=audit)
                doubted |= {kind for kind in (CALM, REACTIVE) if str(kind) in judge.doubted}
            elif not decision.unpaid:
                covered = decision.validated and step["novelty"] <= 1.5
                covered |= decision.validated and decision.calibration.novelty_limit is None
                assert covered or (decision.trusted and books.trusts(regime, place))
                if not decision.validated:
                    assert decision.trust.neighbours >= NEEDED
                    assert "trusted by" in decision.standing
