"""Whether what the gate promises is kept: thresholds, transfer, rules on the way, audits, scope.

Whole trajectories are on one side of every split.  Ways called after a signal
apply one threshold to it, ``default`` and ``fused`` those of a calibration: no
policies, trust or audits.  The real gate, run over tables by
`hybrid_calc.gate.replay`, is ``gate`` in `thresholds`, what answers
``asked_share_uncalibrated`` in `transfer`, ``ours``, the presets and the gates without
a part in `rules`, and all of `coverage`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from gate_domain import Domain
from gate_ranking import Loop, proxima, proxima_metric
from gate_tables import Table
from numpy.typing import NDArray
from scipy.stats import t as student

from hybrid_calc.gate.calibration import missed_share_threshold, share_within
from hybrid_calc.gate.calibration_file import CommitteeCalibration
from hybrid_calc.gate.doubts import CalibrationDoubtedWarning
from hybrid_calc.gate.labelled import LabelledFrames
from hybrid_calc.gate.replay import ReplayFrame, replay
from hybrid_calc.gate.scope import ScopeCard
from hybrid_calc.gate.scope_entry import band_of, scope_entries
from hybrid_calc.gate.settings import PRESETS
from hybrid_calc.gate.thresholds import FUSED, calibrate_regimes
from hybrid_calc.gate.tolerance import ToleranceWarning
from hybrid_calc.training.calibrate import CalibrationPlan

warnings.simplefilter("ignore", ToleranceWarning)  # what they say is among the figures
warnings.simplefilter("ignore", CalibrationDoubtedWarning)
MISSED_SHARE = 0.1
SPLITS = 20
DEFAULT, SECOND = "default", "fused_second_opinion"
"""What `hybrid-calc calibrate` makes without `--signal`; and with all signals."""
SINGLE = {
    "spread": "force_spread",
    "relative_spread": "relative_spread",
    "novelty": "novelty",
    "energy_spread": "energy_spread_per_atom",
}
"""Thresholds on one signal."""
CALM = ("300K", "600K")
RARE = 0.075
"""Share of the frames of calibrated regimes that is bad at the wider tolerance."""
LEAST_BAD = 14
"""Bad frames of which two thirds are the nine that a threshold needs (`MISSED_SHARE`)."""
GATE = "gate"
"""The whole gate with default settings and the default calibration, anew for every trajectory."""
VALIDATED = "validated"
"""Frames that the gate met in regimes it was calibrated for."""
REPLAYS = 500
Found = tuple[dict[str, float], dict[str, Any]]


def calibrated(
    domain: Domain,
    frames: LabelledFrames,
    fitting: LabelledFrames | None = None,
    signals: Sequence[str] = CalibrationPlan().signals,
) -> CommitteeCalibration:
    """Return the calibration of these frames, as `hybrid-calc calibrate` makes it."""
    force, energy = domain.tolerances
    entries = calibrate_regimes(
        frames,
        fitting,
        missed_share=MISSED_SHARE,
        force_tolerance=force,
        energy_tolerance=energy,
        random=np.random.default_rng(0),
        signals=signals,
    )
    card = ScopeCard(
        committee=domain.info.identity,
        committee_name=domain.name,
        level="known truth",
        force_tolerance=force,
        energy_tolerance=energy,
    )
    return CommitteeCalibration(
        card=card,
        level_hash="",
        missed_share=MISSED_SHARE,
        entries=entries,
        novelty_model=domain.trained.novelty,
    )


def parts(count: int, shares: Sequence[int], random: np.random.Generator) -> list[list[int]]:
    """Deal the trajectories out, so many to each part in turn."""
    order = random.permutation(count).tolist()
    turn = [part for part, share in enumerate(shares) for _ in range(share)]
    return [
        [place for at, place in enumerate(order) if turn[at % len(turn)] == part]
        for part in range(len(shares))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Frames that thresholds are calibrated on and judged by, F of them.

    Attributes
    ----------
    domain
        Whose they are, with its tolerances.
    frames
        As calibration takes them.
    met
        As a gate meets them; independent frames are no trajectory to it.
    kinds
        Of each frame.
    """

    domain: Domain
    frames: LabelledFrames
    met: Sequence[ReplayFrame]
    kinds: NDArray[np.str_]

    @classmethod
    def of(cls, domain: Domain, kinds: Sequence[str]) -> Arena:
        """Take the trajectories of some kinds."""
        tables = [table for table in domain.tables if table.kind in kinds]
        alone = {table.name for table in tables if table.momenta is None}
        return cls(
            domain=domain,
            frames=domain.labelled(tables, second=True),
            met=[
                dataclasses.replace(frame, trajectory=f"{frame.trajectory}-{frame.step}")
                if frame.trajectory in alone
                else frame
                for frame in domain.replayed(tables)
            ],
            kinds=np.array([table.kind for table in tables for _ in range(len(table))]),
        )

    def rarely_bad(self) -> Arena:
        """Return it with the smallest tolerances at which few frames are bad.

        At most `RARE` of the frames of regimes that have a calibration then (bad
        frames enough, independent of each other, in two thirds of the
        trajectories), or as few as there can be while any regime has one.
        Chosen by errors alone, not by scores; both tolerances by the same factor.
        """
        force, energy = self.domain.tolerances
        excess = self.frames.excess(force, energy)
        regimes = np.array([str(regime) for regime in self.frames.regimes])
        apart = {
            name: self.frames.take(regimes == name).thinned(force, energy).excess(force, energy)
            for name in np.unique(regimes)
        }
        wide = 1.0
        for factor in np.arange(1.0, 20.0, 0.05).tolist():
            calibrated_ones = [
                name for name, values in apart.items() if (values > factor).sum() >= LEAST_BAD
            ]
            if not calibrated_ones:
                break
            wide = factor
            if (excess[np.isin(regimes, calibrated_ones)] > factor).mean() <= RARE:
                break
        domain = dataclasses.replace(self.domain, tolerances=(wide * force, wide * energy))
        return dataclasses.replace(self, domain=domain)


def thresholds(acetylacetone: Domain, gfn2: Domain, *, quick: bool) -> Found:
    """Judge thresholds on trajectories of regimes they were calibrated in.

    At the committee's tolerance on all kinds, and, ``..._rare``, on 300 and 600 K
    at a wider one that few frames exceed.
    """
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    calm = Arena.of(gfn2, CALM).rarely_bad()
    alone = Arena.of(acetylacetone, CALM).rarely_bad()
    arenas = {"": Arena.of(gfn2, gfn2.kinds), "_rare": calm, "_rare_acetylacetone": alone}
    for label, arena in arenas.items():
        force, energy = arena.domain.tolerances
        figures |= {f"force_tolerance{label}": force, f"energy_tolerance{label}": energy}
        for way in (*SINGLE, DEFAULT, "fused", SECOND, "flags", GATE):
            rows = [split(arena, way, seed) for seed in range(5 if quick else SPLITS)]
            details[f"{way}{label}"] = rows
            figures |= {f"{name}{label}": value for name, value in averages(rows, way).items()}
        for way in (DEFAULT, GATE):
            by_part = averages_by_part(details[f"{way}{label}"], "" if way == DEFAULT else "gate_")
            details[f"{way}{label} by part"] = by_part
            for name in (*gfn2.kinds, VALIDATED):
                found = by_part.get(name, {})
                figures |= {f"{figure}{label}": value for figure, value in found.items()}
        for name in ("missed_share_calibrated_upper", "call_rate_over_bad_share"):
            if f"{name}_{DEFAULT}{label}" in figures:
                figures[f"{name}{label}"] = figures[f"{name}_{DEFAULT}{label}"]
        show(figures, label, gfn2.kinds)
    return figures, details


def averages(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return means over splits and the bound of the missed share.

    Splits without a frame covered, or a bad one, say nothing about shares of them.
    """
    columns = {
        key: np.array([row[key] for row in rows if math.isfinite(row[key])]) for key in NOTHING
    }
    found = {
        f"covered_share_{name}": columns["covered"],
        f"call_rate_calibrated_{name}": columns["asked"],
        f"bad_share_covered_{name}": columns["bad"],
        f"missed_share_calibrated_mean_{name}": columns["missed"],
        f"call_rate_over_bad_share_{name}": columns["price"],
        f"price_of_asking_all_{name}": 1 / columns["bad"][columns["bad"] > 0],
    }
    figures = {figure: float(values.mean()) for figure, values in found.items() if len(values)}
    if len(columns["missed"]) > 1:
        figures[f"missed_share_calibrated_upper_{name}"] = upper_bound(columns["missed"])
    return figures


def averages_by_part(rows: Sequence[Mapping[str, Any]], before: str) -> dict[str, dict[str, float]]:
    """Return averages of every temperature, reaction and regime."""
    parts_of = [row["parts"] for row in rows]
    names = sorted({name for found in parts_of for name in found})
    return {
        name: averages([found[name] for found in parts_of if name in found], f"{before}{name}")
        for name in names
    }


def show(figures: Mapping[str, float], label: str, kinds: Sequence[str]) -> None:
    """Print what thresholds, and the gate, do by kind."""
    names = {
        "covered": "covered_share",
        "bad": "bad_share_covered",
        "all cost": "price_of_asking_all",
        "missed": "missed_share_calibrated_mean",
        "at most": "missed_share_calibrated_upper",
        "calls/bad": "call_rate_over_bad_share",
    }
    force = figures[f"force_tolerance{label}"]
    title = f"at {force:.2f} eV/A{label.replace('_', ' ')}"
    print(f"{title:32s}" + "".join(f"{name:>10s}" for name in names), file=sys.stderr)
    for way in (DEFAULT, *kinds, GATE, f"{GATE}_{VALIDATED}"):
        values = [figures.get(f"{name}_{way}{label}", math.nan) for name in names.values()]
        line = "".join(f"{value:10.3f}" for value in values)
        print(f"{way:32s}{line}", file=sys.stderr)


def upper_bound(values: NDArray[np.float64]) -> float:
    """Return the one-sided 95 % bound of a mean (Student's t)."""
    half = student.ppf(0.95, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() + half)


def split(arena: Arena, way: str, seed: int) -> dict[str, Any]:
    """Calibrate on some trajectories and judge on others of the same kinds.

    Two thirds calibrate, or, where a score is fitted, one third fits it and one
    calibrates; the last judges.
    """
    random = np.random.default_rng(seed)
    domain, everything = arena.domain, arena.frames
    sides: list[list[int]] = [[], [], []]
    for kind in dict.fromkeys(arena.kinds.tolist()):
        same = np.unique(everything.trajectories[arena.kinds == kind])
        for side, places in zip(sides, parts(len(same), (1, 1, 1), random), strict=True):
            side.extend(same[places].tolist())
    fitting, calibrating, test = (
        everything.take(np.isin(everything.trajectories, side)) for side in sides
    )
    both = everything.take(np.isin(everything.trajectories, sides[0] + sides[1]))
    bad = test.excess(*domain.tolerances) > 1
    regimes = np.array([str(regime) for regime in test.regimes])
    asked, covered, audited, validated = np.zeros((4, len(test)), dtype=bool)
    if way == GATE:
        calibration = calibrated(domain, known(both, second=False))
        for trajectory in np.unique(test.trajectories):
            here = np.flatnonzero(everything.trajectories == trajectory)
            gate = domain.gate(calibration, seed=seed)
            run = replay([arena.met[place] for place in here], gate)
            mine = test.trajectories == trajectory
            asked[mine], audited[mine] = run.asked, run.audited
            validated[mine] = run.validated
        covered = ~covered
    elif way == "flags":
        asked, covered = test.signals["flag_count"] > 1, ~covered
    elif way in SINGLE:
        for regime in set(both.regimes):
            thin = both.of_regime(regime).thinned(*domain.tolerances)
            wrong = thin.excess(*domain.tolerances) > 1
            limit = missed_share_threshold(thin.signals[SINGLE[way]][wrong], MISSED_SHARE)
            if limit is not None:
                here = regimes == str(regime)
                asked[here] = test.signals[SINGLE[way]][here] >= limit
                covered |= here
    else:
        second = way == SECOND
        calibration = (
            calibrated(domain, known(both, second=False))
            if way == DEFAULT
            else calibrated(domain, known(calibrating, second), known(fitting, second), FUSED)
        )
        for entry in calibration.entries:
            if entry.threshold is not None:
                here = regimes == str(entry.regime)
                columns = {name: values[here] for name, values in test.signals.items()}
                asked[here] = entry.score.probabilities(columns) >= entry.threshold
                covered |= here
    judged = Judged(asked=asked, audited=audited, bad=bad, covered=covered)
    kinds = arena.kinds[np.isin(everything.trajectories, sides[2])]
    parts_of = {kind: kinds == kind for kind in np.unique(kinds).tolist()}
    parts_of |= {regime: regimes == regime for regime in np.unique(regimes).tolist()}
    if way == GATE:
        parts_of[VALIDATED] = validated
    return judged.row() | {"parts": {name: judged.row(here) for name, here in parts_of.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a threshold, or the gate, does with F frames.

    Attributes
    ----------
    asked
        What is paid for.
    audited
        What nothing but chance asks for: paid for, and missed where it is bad.
    bad
        Which answers are wrong by more than the tolerance.
    covered
        Which frames belong to a regime with a threshold; shape (F,) all.
    """

    asked: NDArray[np.bool_]
    audited: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    covered: NDArray[np.bool_]

    def row(self, here: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Return shares among some frames; NaN where none of them is covered, or bad."""
        mine = self.covered if here is None else self.covered & here
        if not mine.any():
            return NOTHING
        asked, bad = float(self.asked[mine].mean()), float(self.bad[mine].mean())
        missed = (~self.asked | self.audited)[mine & self.bad]
        return {
            "missed": float(missed.mean()) if bad else math.nan,
            "asked": asked,
            "bad": bad,
            "price": asked / bad if bad else math.nan,
            "covered": float((self.covered if here is None else self.covered[here]).mean()),
        }


NOTHING = dict.fromkeys(("missed", "asked", "bad", "price"), math.nan) | {"covered": 0.0}


def known(frames: LabelledFrames, second: bool) -> LabelledFrames:
    """Return frames with the signals of a run, with or without a second opinion."""
    signals = {
        name: values
        for name, values in frames.signals.items()
        if second or name != "second_opinion"
    }
    return dataclasses.replace(frames, signals=signals)


def transfer(acetylacetone: Domain, gfn2: Domain, *, quick: bool) -> Found:
    """Carry thresholds into regimes they were not calibrated in; the gate asks instead.

    Molecules at 300 and 600 K into 1,200 K and reactions; acetylacetone at 300 K
    into 600 K, the dihedral scan and the proton transfer.
    """
    del quick
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    asked: list[NDArray[np.bool_]] = []
    for domain, calm in ((gfn2, CALM), (acetylacetone, ("300K",))):
        cool = [table for table in domain.tables if table.kind in calm]
        others = [table for table in domain.tables if table.kind not in calm]
        rows = carried(domain, cool, others)
        details[domain.name] = rows
        for way, row in rows.items():
            figures[f"missed_share_transferred_{way}_{domain.name}"] = row["missed"]
            figures[f"call_rate_transferred_{way}_{domain.name}"] = row["asked"]
        gate = domain.gate(calibrated(domain, domain.labelled(cool)), trust=False)
        found = replay(domain.replayed(others), gate)
        asked.append(found.asked[~found.validated])
    figures["asked_share_uncalibrated"] = float(np.concatenate(asked).mean())
    figures["frames_uncalibrated"] = float(sum(map(len, asked)))
    return figures, details


def carried(
    domain: Domain, cool: Sequence[Table], others: Sequence[Table]
) -> dict[str, dict[str, float]]:
    """Return what thresholds of some tables, and rules without one, do on other tables.

    Proxima's rule needs forces; tables with energies only are left out of its row.
    Ours is the default gate with the calibration of the first tables, run over each of
    the others; what nothing but an audit would have found counts as missed.
    """
    frames, strange = domain.labelled(cool), domain.labelled(others)
    was_bad = frames.excess(*domain.tolerances) > 1
    bad = strange.excess(*domain.tolerances) > 1
    rows = {"flags": shares(strange.signals["flag_count"] > 1, bad)}
    for way, name in SINGLE.items():
        limit = missed_share_threshold(frames.signals[name][was_bad], MISSED_SHARE)
        rows[way] = shares(strange.signals[name] >= (0.0 if limit is None else limit), bad)
    with_forces = [table for table in others if table.true_forces is not None]
    for way, tables in (
        ("Proxima", with_forces),
        ("every tenth", others),
        ("random tenth", others),
    ):
        loops = [decide(way, domain, table, domain.tolerances[0]) for table in tables]
        asked = np.concatenate([loop.asked for loop in loops])
        rows[way.replace(" ", "_")] = shares(asked, np.concatenate([loop.bad for loop in loops]))
    calibration = calibrated(domain, frames)
    runs = [
        replay(domain.replayed([table]), domain.gate(calibration, seed=table.seed))
        for table in others
    ]
    asked, audited = (
        np.concatenate([getattr(run, name) for run in runs]) for name in ("asked", "audited")
    )
    rows["ours"] = shares(asked, bad) | {"missed": float((~asked | audited)[bad].mean())}
    return rows


def shares(asked: NDArray[np.bool_], bad: NDArray[np.bool_]) -> dict[str, float]:
    """Return shares of frames asked and bad, and of the bad ones that were not asked."""
    return {
        "missed": float((~asked)[bad].mean()),
        "asked": float(asked.mean()),
        "bad": float(bad.mean()),
    }


def rules(acetylacetone: Domain, gfn2: Domain, *, quick: bool) -> Found:
    """Let rules that decide on the way meet every trajectory: price and wrong share.

    Nothing is calibrated; wrong is a bad answer that was used, of all steps.
    """
    del acetylacetone, quick
    tolerance = gfn2.tolerances[0]
    details: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for way in WAYS:
        rows = []
        for kind in gfn2.kinds:
            tables = [table for table in gfn2.tables if table.kind == kind]
            loops = [decide(way, gfn2, table, tolerance) for table in tables]
            bad = np.concatenate([loop.bad for loop in loops])
            asked = np.concatenate([loop.asked for loop in loops])
            whole = Loop(asked=asked, bad=bad)
            row = {
                "calls": whole.call_rate,
                "missed": whole.missed,
                "wrong": float((bad & ~asked).mean()),
                "bad": float(bad.mean()),
            }
            details[f"{kind} {way}"] = row
            rows.append(row)
        label = way.replace(" ", "_")
        figures[f"call_rate_{label}"] = float(np.mean([row["calls"] for row in rows]))
        figures[f"wrong_share_{label}"] = float(np.mean([row["wrong"] for row in rows]))
    show_rules(details, gfn2.kinds)
    return figures, details


def show_rules(details: Mapping[str, Mapping[str, float]], kinds: Sequence[str]) -> None:
    """Print the share of steps asked, and wrong, of every rule by kind."""
    print(f"{'asked / wrong, %':22s}" + "".join(f"{kind:>14s}" for kind in kinds), file=sys.stderr)
    for way in WAYS:
        cells = [
            f"{100 * row['calls']:6.1f} / {100 * row['wrong']:5.1f}"
            for row in (details[f"{kind} {way}"] for kind in kinds)
        ]
        print(f"{way:22s}" + "".join(f"{cell:>14s}" for cell in cells), file=sys.stderr)


PRESET_NAMES = ("uncertainty", "contradiction", "unseen")
"""One policy each, with audits; "ours" is all of them."""
WITHOUT: dict[str, dict[str, Any]] = {
    "without trust": {"trust": False},
    "factor fixed at 3": {"factor_labels": 10**9},
    "without hysteresis": {"hysteresis_steps": 1},
} | {
    f"without {policy}": {"policies": sorted(PRESETS["all"] - {policy})}
    for policy in sorted(PRESETS["all"])
}
"""The default gate without one of its parts."""
WAYS = (
    "Proxima",
    "every tenth",
    "random tenth",
    "3 sigma",
    "ours",
    *PRESET_NAMES,
    *WITHOUT,
)


def decide(way: str, domain: Domain, table: Table, tolerance: float) -> Loop:
    """Run one rule over one trajectory."""
    bad, random = domain.bad(table), np.random.default_rng(table.seed)
    if way == "Proxima":
        metric = proxima_metric(table.forces)
        return proxima(metric, table.force_errors, bad, target=tolerance, random=random)
    if way == "every tenth":
        return Loop(asked=np.arange(len(table)) % 10 == 0, bad=bad)
    if way == "random tenth":
        return Loop(asked=random.random(len(table)) < 0.1, bad=bad)
    if way == "3 sigma":
        spread = domain.signals[table.name]["force_spread"]
        return Loop(asked=3 * spread > tolerance, bad=bad)
    settings = WITHOUT.get(way) or {"policies": "all" if way == "ours" else way}
    gate = domain.gate(seed=table.seed, **settings)
    return Loop(asked=replay(domain.replayed([table]), gate).asked, bad=bad)


RUN_STEPS = (300, 4000)
"""Steps of a replayed run: as often between 300 and 600 as between 2,000 and 4,000."""
STRETCH_STEPS = (40, 240)
"""Steps in a row that are taken from one trajectory."""
MANY_AUDITS = 30


def coverage(acetylacetone: Domain, gfn2: Domain, *, quick: bool) -> Found:
    """Replay runs of many kinds: how often does the interval hold what each has missed.

    One run repeated with other audits has one truth, and with a few tens of
    audits the coverage of any interval at one truth is some number between 0.8
    and 1 (Brown, Cai and DasGupta 2001).  Runs differ, so every replay is
    another: one molecule, at 300 K, at 600 K or heated and cooled between them,
    of a length of its own, laid together from stretches of trajectories that the
    calibration has not seen, under one of the presets, calibrated or not, with
    audits of its own.  Nothing but the seed is chosen.  The truth is the share of
    the run's steps that were bad and not flagged.  Runs without an audit, in
    which all or nearly all is asked, make no statement and are not counted.
    """
    del acetylacetone
    tables = [table for table in gfn2.tables if table.kind in ("300K", "600K")]
    calibration = calibrated(gfn2, gfn2.labelled([table for table in tables if table.seed == 0]))
    fresh = [table for table in tables if table.seed > 0]
    frames = {table.name: gfn2.replayed([table]) for table in fresh}
    rows: list[dict[str, Any]] = []
    seed = 0
    while len(rows) < (50 if quick else REPLAYS):
        random = np.random.default_rng([seed, REPLAYS])
        preset, known = str(random.choice(tuple(PRESETS))), bool(random.random() < 0.5)
        gate = gfn2.gate(calibration if known else None, policies=preset, seed=seed)
        found = replay(run_of(fresh, frames, random), gate)
        seed += 1
        missed = found.missed
        if missed.audits:
            rows.append(
                {
                    "preset": preset,
                    "calibrated": known,
                    "ended": gate.audits.ended,
                    "steps": len(found.asked),
                    "audits": missed.audits,
                    "truth": found.missed_share,
                    "low": missed.low,
                    "high": missed.high,
                }
            )
    parts_of: dict[str, list[dict[str, Any]]] = {
        "few_audits": [row for row in rows if row["audits"] < MANY_AUDITS],
        "many_audits": [row for row in rows if row["audits"] >= MANY_AUDITS],
        "nothing_missed": [row for row in rows if row["truth"] == 0],
        "calibrated": [row for row in rows if row["calibrated"]],
        "not_calibrated": [row for row in rows if not row["calibrated"]],
        "ended": [row for row in rows if row["ended"]],
        "not_ended": [row for row in rows if not row["ended"]],
    } | {preset: [row for row in rows if row["preset"] == preset] for preset in PRESETS}
    figures = {
        "audit_interval_coverage": covered_share(rows),
        "audit_interval_coverage_low": covered_share(rows),
        "audit_interval_above_truth": float(np.mean([r["low"] > r["truth"] for r in rows])),
        "audit_interval_below_truth": float(np.mean([r["high"] < r["truth"] for r in rows])),
        "audit_share_of_steps": audit_share(rows),
        "audit_runs_without_statement": float(seed - len(rows)),
    }
    for name, mine in parts_of.items():
        if mine:
            figures[f"audit_interval_coverage_{name}"] = covered_share(mine)
            figures[f"audit_replays_{name}"] = float(len(mine))
            figures[f"audit_share_of_steps_{name}"] = audit_share(mine)
    return figures, {"replays": rows}


def run_of(
    tables: Sequence[Table],
    frames: Mapping[str, Sequence[ReplayFrame]],
    random: np.random.Generator,
) -> list[ReplayFrame]:
    """Return a run of one molecule, laid together from stretches of its trajectories."""
    molecule = random.choice(sorted({table.molecule for table in tables}))
    kinds = [("300K",), ("600K",), ("300K", "600K")][random.integers(3)]
    mine = [table for table in tables if table.molecule == molecule and table.kind in kinds]
    steps = int(np.exp(random.uniform(*np.log(RUN_STEPS))))
    run: list[ReplayFrame] = []
    part = 0
    while len(run) < steps:
        whole = frames[mine[random.integers(len(mine))].name]
        length = min(int(random.integers(*STRETCH_STEPS)), len(whole))
        first = int(random.integers(len(whole) - length + 1))
        run += [
            dataclasses.replace(frame, trajectory=f"{molecule}-{part}")
            for frame in whole[first : first + length]
        ]
        part += 1
    return run[:steps]


def covered_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the replays whose interval holds the truth."""
    return float(np.mean([row["low"] <= row["truth"] <= row["high"] for row in rows]))


def audit_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of all steps that were audited."""
    return sum(row["audits"] for row in rows) / sum(row["steps"] for row in rows)


def scope(acetylacetone: Domain, gfn2: Domain, *, quick: bool) -> Found:
    """Compare every statement with frames of other trajectories, at several tolerances.

    A statement is true where the fresh frames reach the share it claims, and
    refuted where they exclude it with 95 % confidence (decorrelated frames).
    """
    random = np.random.default_rng(0)
    claims: list[dict[str, Any]] = []
    for domain in (gfn2, acetylacetone):
        tables = [table for table in domain.tables if table.true_forces is not None]
        frames = domain.labelled(tables)
        kinds = [f"{table.molecule} {table.kind}" for table in tables for _ in range(len(table))]
        _, runs = np.unique(kinds, return_inverse=True)
        for factor in STRICTNESS:
            limits = tuple(factor * tolerance for tolerance in domain.tolerances)
            for _ in range(2 if quick else CARDS):
                chosen = half(frames, runs, random)
                claims += checked(frames.take(chosen), frames.take(~chosen), limits)
    figures = {"scope_statements": float(len(claims))}
    if claims:
        figures["scope_statements_true_share"] = float(np.mean([c["true"] for c in claims]))
        figures["scope_statements_refuted_share"] = float(np.mean([c["refuted"] for c in claims]))
        for least in (2, 3, 5, 8):
            many = [claim["true"] for claim in claims if claim["trajectories"] >= least]
            if many:
                figures[f"scope_statements_true_share_{least}_trajectories"] = float(np.mean(many))
    return figures, {"claims": claims}


STRICTNESS = (0.75, 1.0, 1.5, 2.5)
"""Tolerances that statements are made for, in units of the domain's own."""
CARDS = 20
"""Cards of every tolerance, each from another half of the trajectories."""


def half(
    frames: LabelledFrames, runs: NDArray[np.integer], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which frames belong to a random half of the trajectories of every run.

    The other half are the same runs from other seeds, which is what a
    statement speaks of.
    """
    chosen: list[int] = []
    for run in np.unique(runs):
        names = random.permutation(np.unique(frames.trajectories[runs == run]))
        count = len(names) // 2 + int(len(names) % 2 and random.random() < 0.5)
        chosen += names[:count].tolist()
    return np.isin(frames.trajectories, chosen)


def checked(
    mine: LabelledFrames, fresh: LabelledFrames, limits: tuple[float, float]
) -> list[dict[str, Any]]:
    """Return every statement of a card with what fresh frames say about it."""
    force, energy = limits
    bands = [band_of(None if math.isnan(kelvin) else kelvin) for kelvin in fresh.temperatures]
    rows = []
    for entry in scope_entries(mine, force_tolerance=force, energy_tolerance=energy):
        if entry.share is None:
            continue
        here = np.array(
            [
                regime == entry.regime and band == (entry.above, entry.up_to)
                for regime, band in zip(fresh.regimes, bands, strict=True)
            ]
        )
        if not here.any():
            continue
        there = fresh.take(here)
        share = float((there.excess(force, energy) <= 1).mean())
        bad = there.thinned(force, energy).excess(force, energy) > 1
        best = 1 - share_within(len(bad), len(bad) - int(bad.sum()))  # upper bound of the share
        rows.append(
            {
                "entry": entry.name,
                "trajectories": entry.trajectories,
                "frames": entry.frames,
                "failures": entry.failures,
                "claimed": entry.share,
                "found": share,
                "true": share >= entry.share,
                "refuted": best < entry.share,
            }
        )
    return rows
