"""The rankers that are compared, and the units they rank: nothing is fitted on what it ranks.

Acetylacetone: scores are fitted on test_MD_300K and rank 600 K, the dihedral
scan and the proton transfer.  GFN2-xTB: molecule by molecule, scores are fitted
on the other molecules; those that rank 1,200 K or a reaction on their 300 and
600 K alone, those that rank 300 or 600 K on all their other temperatures and
reactions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from gate_distance import Labelled
from gate_domain import Domain, trajectories
from gate_ranking import IN_ROUNDS, Unit, oracle, proxima_metric, with_search
from gate_signals import CANDIDATES, ReliabilityHead
from gate_tables import Table
from numpy.typing import NDArray

from hybrid_calc.gate.score import (
    HIGHEST,
    LOWEST,
    Score,
    choose_score,
    fit_score,
    spread_alone,
)
from hybrid_calc.gate.search import Pool

PLAIN = {
    "spread": "force_spread",
    "relative spread": "relative_spread",
    "energy spread": "energy_spread_per_atom",
    "novelty": "novelty",
    "largest force": "largest_force",
} | {name.replace("_", " "): name for name in CANDIDATES}
"""Rankers that are one signal each."""
SPREAD = "force_spread"
PAIRS = {
    f"spread + {name.replace('_', ' ')}": (SPREAD, name)
    for name in ("novelty", "energy_spread_per_atom", "largest_force", *CANDIDATES)
}
"""Spread with one signal beside it, weights fitted."""
TRIPLES = {
    "spread + novelty + flags": (SPREAD, "novelty", "flag_count"),
    "spread + novelty + second opinion": (SPREAD, "novelty", "second_opinion"),
}
CALM = ("300K", "600K")
"""What is calibrated on where other temperatures and reactions are ranked."""
DISTANCE = "distance to labelled environments"
NEAR = f"spread + {DISTANCE}"
EVERYTHING = (SPREAD, "novelty", "energy_spread_per_atom", "largest_force", *CANDIDATES)
FITTED = PAIRS | TRIPLES
RANKERS = (
    *PLAIN,
    "flags",
    "flags, then spread",
    "every-N",
    "random",
    "Proxima's metric",
    DISTANCE,
    NEAR,
    *FITTED,
    "spread + novelty + energy + force",
    "all candidates",
    "reliability head",
    "ours",
    "ours with a second opinion",
    IN_ROUNDS,
)
ORACLES = {
    "oracle of the signals": tuple(name for name in PLAIN if name != "second opinion"),
    "oracle of the signals and a second opinion": tuple(PLAIN),
    "oracle of the descriptors": None,
}
"""Fitted on the other trajectories of the very unit that they rank: yardsticks, not rankers."""


def ranked_units(domain: Domain) -> list[Unit]:
    """Return every unit with the scores of every ranker."""
    if domain.name == "acetylacetone":
        known = [table for table in domain.tables if table.kind == "300K"]
        return [unit_of([table], domain, known) for table in domain.tables]
    units = []
    for molecule in domain.molecules:
        others = [table for table in domain.tables if table.molecule != molecule]
        calm = [table for table in others if table.kind in CALM]
        after_calm = Models(domain, calm)
        for kind in domain.kinds:
            mine = [t for t in domain.tables if t.molecule == molecule and t.kind == kind]
            if kind in CALM:
                units.append(unit_of(mine, domain, [t for t in others if t.kind != kind]))
            else:
                units.append(unit_of(mine, domain, calm, after_calm))
    return units


class Models:
    """Every ranker that must be fitted, fitted on these tables."""

    def __init__(self, domain: Domain, known: Sequence[Table]) -> None:
        frames = domain.labelled(known, second=True)
        bad = frames.excess(*domain.tolerances) > 1
        table = {name: np.maximum(values, 1e-6) for name, values in frames.signals.items()}
        both = bool(bad.any() and not bad.all())

        def fitted(names: Sequence[str]) -> Score | None:
            chosen = {name: table[name] for name in names}
            return fit_score(chosen, bad, frames.weights) if both else None

        self.labelled = Labelled(known, domain.trained.novelty)
        table[DISTANCE] = self.labelled.distances(known)
        pairs = FITTED | {NEAR: (SPREAD, DISTANCE)}
        self.pairs = {name: fitted(signals) for name, signals in pairs.items()}
        self.four = fitted((SPREAD, "novelty", "energy_spread_per_atom", "largest_force"))
        self.everything = fitted(EVERYTHING)

        def chosen(names: Sequence[str]) -> Score:
            return choose_score(
                {name: table[name] for name in names},
                bad,
                frames.weights,
                frames.trajectories,
                tolerance=domain.tolerances[0],
                random=np.random.default_rng(0),
            )

        self.ours = chosen((SPREAD, "novelty"))
        self.ours_with_second = chosen((SPREAD, "novelty", "second_opinion"))
        self.head = ReliabilityHead(domain.trained)
        with_forces = [t for t in known if t.true_forces is not None]
        self.head.fit([(t, domain.atoms[t.name]) for t in with_forces])


def unit_of(
    tables: Sequence[Table], domain: Domain, known: Sequence[Table], models: Models | None = None
) -> Unit:
    """Return tables ranked together, by models fitted on the known ones."""
    models = models or Models(domain, known)
    frames = domain.labelled(tables, second=True)
    columns = {name: np.maximum(values, 1e-6) for name, values in frames.signals.items()}
    flags = np.concatenate([domain.signals[table.name]["flags"] for table in tables])
    scores: dict[str, NDArray[np.float64]] = {name: columns[key] for name, key in PLAIN.items()}
    scores["flags"] = flags
    scores["flags, then spread"] = flags * 1e6 + columns[SPREAD]
    scores["every-N"] = scores["random"] = np.zeros(len(frames))  # the share that is paid for
    columns[DISTANCE] = models.labelled.distances(tables)
    scores[DISTANCE] = columns[DISTANCE]
    scores["Proxima's metric"] = np.concatenate([proxima_metric(t.forces) for t in tables])
    fitted = dict(models.pairs) | {
        "spread + novelty + energy + force": models.four,
        "all candidates": models.everything,
        "ours": models.ours,
        "ours with a second opinion": models.ours_with_second,
    }
    for name, model in fitted.items():
        scores[name] = log_odds(model or spread_alone(domain.tolerances[0]), columns)
    scores["reliability head"] = np.concatenate(
        [models.head.scores(table, domain.atoms[table.name]) for table in tables]
    )
    unit = Unit(
        name=f"{tables[0].molecule}-{tables[0].kind}",
        kind=tables[0].kind,
        errors=frames.excess(*domain.tolerances)
        if tables[0].true_forces is None
        else frames.force_errors,
        scores=scores,
        pool=Pool(
            spreads=columns[SPREAD],
            descriptors=np.concatenate([table.descriptors for table in tables]),
        ),
        trajectories=trajectories(tables),
    )
    bounds = {name: oracle(unit, signals) for name, signals in ORACLES.items()}
    return with_search(dataclasses.replace(unit, scores={**unit.scores, **bounds}))


def log_odds(score: Score, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the log-odds of `Score.probabilities`, which order as those do and lose no digits.

    With the bias: frames that several models score are ranked together.
    """
    values = np.column_stack([columns[name] for name in score.signals])
    odds = np.log(np.clip(values, LOWEST, HIGHEST)) @ np.array(score.weights) + score.bias
    return np.where(np.isnan(values).any(axis=1), np.inf, odds)
