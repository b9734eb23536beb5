"""Labels to a confirmed barrier: HybridNEB against transition states of the reference alone.

    python benchmarks/neb.py --data PATH --json neb.json            GFN2-xTB, six reactions
    python benchmarks/neb.py --data PATH --json neb.json --dft --cache neb.h5   also wB97X/6-31G(d)
    python benchmarks/neb.py --data PATH --json neb.json --quick    one reaction, under 50 s
    python benchmarks/neb.py --data PATH --json neb.json --only rxn003191 --seeds 10

Compared with benchmarks/neb_references.json (see neb_references.py) and, with --plain, with
a climbing-image band on GFN2-xTB itself.  A run fails silently when it says "confirmed" but
its transition state is not a first-order saddle of the reference that joins these ends, or
lies more than 0.05 eV above the one refined from ts.xyz (where that one joins these ends at
the level, or is a step of the way that was found, whose step is then compared: a barrier is not
compared with that of another elementary step; above_reference counts all that lie above).  A
way over intermediates is judged step by step; one said to have no barrier by a band on the
reference, which may not rise by more than 0.02 eV.  Labels of DFT are kept in the store given
by --cache: a run that is started again counts them, and solves none twice.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.mep import NEB
from ase.optimize import FIRE
from neb_references import OUTPUT, Plain, curvatures_of, downhill_bonds, hessian_of
from numpy.typing import NDArray
from references import Counted, dft_reference, xtb_reference

from hybrid_calc.committee.ani import AniCommittee
from hybrid_calc.correction.inflation import Forecast, coverage
from hybrid_calc.correction.surface import PredictMany
from hybrid_calc.drivers.band import band_through, idpp_band
from hybrid_calc.drivers.barrier import ElementaryStep, NEBResult
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.settings import NebSettings
from hybrid_calc.drivers.shape import bonds_of
from hybrid_calc.errors import ReferenceFailed

QUICK = ("rxn003891",)
CLEARLY_NEGATIVE = -0.05
SILENT_EV = 0.05
SHELF_EV = 0.02
SAME_ANG = 0.05
REFERENCES: dict[str, Counted] = {}


def run_one(
    folder: Path, predict_many: PredictMany, level: str, seed: int, cache: Path | None
) -> dict[str, object]:
    """Run one reaction and judge it by the reference alone."""
    reactant, product = (read(folder / f"{end}.xyz") for end in ("r", "p"))
    ask = reference_of(level, cache)
    began = time.perf_counter()
    if seed:
        rng = np.random.default_rng(seed)
        for end in (reactant, product):
            end.positions += rng.normal(0.0, 0.02, end.positions.shape)
    settings = NebSettings(seed=seed)
    result = HybridNEB(reactant, product, predict_many, ask, settings).run()
    row: dict[str, object] = {
        "name": folder.name,
        "seed": seed,
        "confirmed": result.confirmed,
        "missing": result.missing,
        "barrier_ev": result.barrier,
        "interval_ev": result.interval,
        "transition_fmax": result.highest.transition_fmax,
        "interior_labels": result.interior_labels,
        "confirmation_labels": result.confirmation_labels,
        "end_calls": result.end_calls,
        "calls": ask.calls,
        "solved": ask.solved,
        "level": ask.level.hash,
        "prior": result.highest.prior,
        "steps": [[*step.names, step.barrier, step.labels] for step in result.steps],
        "pathways": [[one.barrier, one.steps, one.missing] for one in result.pathways],
        "seconds": time.perf_counter() - began,
        "forecasts": [one.to_dict() for one in result.forecasts],
    }
    return row | judge(folder, result, level, cache)


def reference_of(level: str, cache: Path | None) -> Counted:
    """Return the reference of a level, its calls at zero."""
    if level == "xtb":
        return xtb_reference()
    if "dft" not in REFERENCES:
        REFERENCES["dft"] = dft_reference(cache, warm_start=True)
    one = REFERENCES["dft"]
    return Counted(one.ask, one.level, one.cache)


def pair_lengths(atoms: Atoms, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all distances, sorted within every pair of elements: no names, no handedness."""
    first, second = np.triu_indices(len(atoms), k=1)
    numbers = np.sort(np.stack([atoms.numbers[first], atoms.numbers[second]]), axis=0)
    lengths = np.linalg.norm(positions[first] - positions[second], axis=1)
    return lengths[np.lexsort((lengths, numbers[1], numbers[0]))]


def judge(folder: Path, result: NEBResult, level: str, cache: Path | None) -> dict[str, object]:
    """Compare with the transition state that the reference found by itself.

    Every other saddle of the way is judged by the reference's Hessian and the ends that it
    leads to.
    """
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    wanted = known.get(level, {}).get(folder.name)
    above = result.barrier - wanted["barrier_ev"] if wanted else float("nan")
    sure = result.confirmed
    saddles = [judge_step(step, wanted, level, cache, sure=sure) for step in result.steps]
    error = float("nan")
    if wanted and wanted.get("joins_ends", True):
        error = above
    elif wanted:
        start = 0.0
        for step, judged in zip(result.steps, saddles, strict=True):
            if judged["same_saddle"]:
                error = start + step.barrier - wanted["barrier_ev"]
            start += step.reaction_energy
    wrong = any(one["wrong"] for one in saddles) or error > SILENT_EV
    return {
        "comparable": bool(np.isfinite(error)),
        "reference_barrier_ev": wanted["barrier_ev"] if wanted else float("nan"),
        "barrier_error_ev": error,
        "above_reference_ev": above,
        "saddles": saddles,
        "silent_failure": bool(sure and wrong),
    }


def judge_step(
    step: ElementaryStep,
    wanted: dict[str, object] | None,
    level: str,
    cache: Path | None,
    *,
    sure: bool,
) -> dict[str, object]:
    """Judge one saddle; the reference is asked about those a run is sure of."""
    verdict: dict[str, object] = {"same_saddle": False, "wrong": False}
    if sure and step.barrierless:
        rise, calls = rise_of(step, level, cache)
        return verdict | {"rise_ev": rise, "judging_calls": calls, "wrong": rise > SHELF_EV}
    if step.transition_state is None:
        return verdict
    atoms = step.start.copy()
    if wanted:
        lengths = [
            pair_lengths(atoms, one)
            for one in (step.transition_state, np.array(wanted["transition_state"]))
        ]
        away = float(np.abs(lengths[0] - lengths[1]).max())
        verdict |= {"distance_from_reference_saddle_ang": away, "same_saddle": away < SAME_ANG}
    if not sure:
        return verdict
    known = [frozenset(map(tuple, one)) for one in (wanted or {}).get("joins_bonds", ())]
    ends = {bonds_of(atoms.numbers, end.positions) for end in (step.start, step.end)}
    if wanted and verdict["same_saddle"] and (wanted.get("joins_ends", True) or known):
        curvatures = np.array(wanted["curvatures"])
        joins = set(known) == ends if known else True
    else:
        ask = reference_of(level, cache)
        hessian = hessian_of(ask, atoms, step.transition_state)
        curvatures = curvatures_of(atoms, step.transition_state, hessian)
        found = downhill_bonds(ask, atoms, step.transition_state, hessian, careful=True)
        joins = set(found) == ends
        verdict["judging_calls"] = ask.calls
    negative = int((curvatures < CLEARLY_NEGATIVE).sum())
    return verdict | {
        "negative_modes": negative,
        "joins_ends": joins,
        "curvatures": curvatures[:3].tolist(),
        "wrong": negative != 1 or not joins,
    }


def rise_of(step: ElementaryStep, level: str, cache: Path | None) -> tuple[float, int]:
    """Return how far a band on the reference itself rises above the higher end, eV, and calls."""
    ask = reference_of(level, cache)
    stops = [step.start.copy() for _ in step.path]
    for stop, positions in zip(stops, step.path, strict=True):
        stop.positions = positions
    images = []
    for positions in band_through(stops, 2 * len(stops) - 1):
        image = step.start.copy()
        image.positions = positions
        image.calc = Plain(ask)
        images.append(image)
    band = NEB(images, k=1.0, method="improvedtangent", remove_rotation_and_translation=True)
    FIRE(band, logfile=None).run(fmax=0.1, steps=200)
    energies = [image.get_potential_energy() for image in images]
    return max(energies) - max(energies[0], energies[-1]), ask.calls


def plain_band(result_folder: Path) -> dict[str, object]:
    """Converge a climbing-image band on GFN2-xTB itself, as far as that gives answers."""
    from ase.optimize import BFGS

    ask = xtb_reference()
    ends = []
    for end in ("r", "p"):
        atoms = read(result_folder / f"{end}.xyz")
        atoms.calc = Plain(ask)
        BFGS(atoms, logfile=None).run(fmax=0.03, steps=200)
        ends.append(atoms)
    images = []
    for one in idpp_band(*ends, NebSettings().images):
        image = ends[0].copy()
        image.positions = one
        image.calc = Plain(ask)
        images.append(image)
    band = NEB(
        images, climb=True, k=1.0, method="improvedtangent", remove_rotation_and_translation=True
    )
    barrier, converged, failed = float("nan"), False, ""
    try:
        converged = bool(FIRE(band, logfile=None).run(fmax=0.1, steps=600))
        energies = [image.get_potential_energy() for image in images]
        barrier = max(energies) - energies[0]
    except ReferenceFailed as error:
        failed = str(error)
    return {
        "plain_converged": converged,
        "plain_barrier_ev": barrier,
        "plain_failed": failed,
        "plain_calls": ask.calls,
    }


def summary(rows: list[dict[str, object]], suffix: str) -> dict[str, float]:
    """Return the figures the issue asks for."""
    sure = [row for row in rows if row["confirmed"]]
    errors = [abs(float(str(row["barrier_error_ev"]))) for row in sure if row["comparable"]]
    forecasts = [Forecast.from_dict(one) for row in rows for one in row["forecasts"]]  # type: ignore[attr-defined]
    return {
        f"converged_share{suffix}": len(sure) / len(rows),
        f"max_barrier_error_ev{suffix}": max(errors, default=float("nan")),
        f"median_labels{suffix}": float(np.median([int(str(r["interior_labels"])) for r in rows])),
        f"silent_failures{suffix}": float(sum(bool(row["silent_failure"]) for row in rows)),
        f"interval_coverage{suffix}": coverage(forecasts),
        f"runs{suffix}": float(len(rows)),
        f"not_comparable{suffix}": float(sum(not row["comparable"] for row in rows)),
        f"above_reference{suffix}": float(
            sum(float(str(row["above_reference_ev"])) > SILENT_EV for row in sure)
        ),
    } | plain_summary([row for row in rows if "plain_calls" in row], suffix)


def plain_summary(rows: list[dict[str, object]], suffix: str) -> dict[str, float]:
    """Return what the plain bands cost and came to beside ours; nothing without any."""
    if not rows:
        return {}
    calls = [float(str(row["plain_calls"])) for row in rows]
    ours = [float(str(row["calls"])) for row in rows]
    arrived = [row for row in rows if row["plain_converged"] and row["confirmed"]]
    apart = [
        abs(float(str(row["plain_barrier_ev"])) - float(str(row["barrier_ev"]))) for row in arrived
    ]
    return {
        f"plain_median_calls{suffix}": float(np.median(calls)),
        f"plain_min_calls{suffix}": min(calls),
        f"plain_max_calls{suffix}": max(calls),
        f"plain_converged_share{suffix}": sum(bool(r["plain_converged"]) for r in rows) / len(rows),
        f"median_calls_over_plain{suffix}": float(np.median(np.divide(ours, calls))),
        f"plain_max_barrier_apart_ev{suffix}": max(apart, default=float("nan")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dft", action="store_true", help="also real DFT")
    parser.add_argument("--dft-only", action="store_true")
    parser.add_argument("--plain", action="store_true", help="also a plain band on GFN2-xTB")
    parser.add_argument("--only", nargs="*", default=[], help="reactions, such as rxn003191")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="store NAME.h5 of DFT labels, to start again")
    arguments = parser.parse_args()
    began = time.perf_counter()
    predict_many = AniCommittee().predict_many
    wanted = set(QUICK if arguments.quick else arguments.only)
    folders = [f for f in sorted(arguments.data.glob("rxn*")) if not wanted or f.name in wanted]
    folders.sort(key=lambda folder: len(read(folder / "r.xyz")))
    levels = ["dft"] if arguments.dft_only else ["xtb", "dft"] if arguments.dft else ["xtb"]
    report: dict[str, object] = {}
    for level in levels:
        suffix = "" if level == "dft" else "_xtb"
        rows: list[dict[str, object]] = []
        for folder in folders:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                row = run_one(folder, predict_many, level, seed, arguments.cache)
                if arguments.plain and level == "xtb":
                    row |= plain_band(folder)
                rows.append(row)
                report[f"rows{suffix}"] = rows
                report |= summary(rows, suffix)
                report["seconds"] = time.perf_counter() - began
                arguments.json.write_text(json.dumps(report, indent=1))
                shown = {key: value for key, value in row.items() if key != "forecasts"}
                print(json.dumps(shown, default=float), flush=True)
    figures = {key: value for key, value in report.items() if isinstance(value, float)}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
