"""Records of what the reference said, with everything that tells how they came about."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from ase import Atoms

from hybrid_calc.answer.step import Step, evidence_of
from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.errors import ReferenceFailed
from hybrid_calc.flags.window import Recent
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Decision
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.record import Record

PACKAGES = ("hybrid_calc", "ase", "numpy", "torch", "mace-torch", "torchani", "pyscf")


def labelled_record(
    atoms: Atoms,
    step: Step,
    *,
    level: LevelOfTheory,
    more: Mapping[str, Any],
    recent: Recent | None = None,
) -> Record:
    """Return the record of a labelled geometry.

    Parameters
    ----------
    atoms
        The geometry.
    step
        What happened to it.
    level
        Of the label.
    more
        Provenance and what else its ``meta`` is to hold.
    recent
        The steps before it; recorded in dynamics, elsewhere one geometry is judged by itself.
    """
    meta = step.to_dict() | evidence_of(step.decision, step.observation) | dict(more)
    del meta["seconds"]
    if recent is not None and step.observation.mean_temperature is not None:
        meta["recent"] = recent.to_dict()
    return Record.of(atoms, level=level, label=step.label, prediction=step.prediction, meta=meta)


def rejected_record(
    atoms: Atoms,
    *,
    prediction: Prediction | None,
    observation: Observation,
    decision: Decision,
    error: ReferenceFailed,
    level: LevelOfTheory,
    more: Mapping[str, Any],
) -> Record:
    """Return the record of a geometry the reference could not answer, apart from every label."""
    meta = {
        "regime": str(decision.regime),
        "reasons": [[reason.policy, reason.detail] for reason in decision.reasons],
        "flags": [str(flag) for flag in observation.report.flags],
        "audit_probability": decision.audit_probability,
        "details": error.details,
    }
    return Record.of(
        atoms,
        level=level,
        label=None,
        rejection=f"{type(error).__name__}: {error}",
        prediction=prediction,
        meta=meta | evidence_of(decision, observation) | dict(more),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of what makes an answer."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
