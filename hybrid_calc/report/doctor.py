"""What is installed and how it will run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from rich.console import Console
from rich.table import Table

NEEDED = ("ase", "torch", "mace-torch", "pyscf", "numpy", "h5py", "torchani")
OPTIONAL = ("tblite", "pyscf-dispersion", "sella")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        Its name.
    value
        What was found.
    good
        Whether that is as it should be.
    """

    what: str
    value: str
    good: bool = True


def examine() -> list[Finding]:
    """Look at versions, threads, device, and the default pair of committee and level."""
    findings = [Finding(what="python", value=platform.python_version())]
    for package in ("hybrid_calc", *NEEDED):
        version = _version(package)
        findings.append(Finding(what=package, value=version or "missing", good=bool(version)))
    findings += [
        Finding(what=package, value=_version(package) or "not installed (optional)")
        for package in OPTIONAL
    ]
    findings += _threads()
    findings += _default_pair()
    return findings


def print_findings(console: Console, findings: list[Finding]) -> bool:
    """Print a table; return whether everything is as it should be."""
    table = Table("what", "found", "")
    for finding in findings:
        table.add_row(finding.what, finding.value, "" if finding.good else "look here")
    console.print(table)
    return all(finding.good for finding in findings)


def _threads() -> list[Finding]:
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    findings = [
        Finding(what="processor cores", value=str(os.cpu_count())),
        Finding(what="OMP_NUM_THREADS", value=asked),
    ]
    try:
        import torch
    except ImportError:  # said above
        return findings
    return [
        *findings,
        Finding(
            what="torch threads",
            value=f"{torch.get_num_threads()} (hybrid-calc run sets threads: 1 by default)",
        ),
        Finding(what="cuda", value="available" if torch.cuda.is_available() else "none: cpu"),
    ]


def _default_pair() -> list[Finding]:
    from hybrid_calc.committee.ani import AniCommittee
    from hybrid_calc.errors import HybridCalcError
    from hybrid_calc.reference.recipes import ANI_1X_LEVEL

    try:
        info = AniCommittee().info
    except HybridCalcError as error:
        return [Finding(what="default committee", value=str(error), good=False)]
    matches = info.level is not None and info.level.same_physics(ANI_1X_LEVEL)
    return [
        Finding(what="default committee", value=f"{info.name}, {info.size} members"),
        Finding(what="its weights", value=f"{info.source} ({info.identity})"),
        Finding(what="default level", value=f"{ANI_1X_LEVEL} ({ANI_1X_LEVEL.hash})"),
        Finding(what="they match", value="yes" if matches else "no", good=matches),
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
