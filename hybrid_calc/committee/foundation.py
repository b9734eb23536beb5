"""Foundation models as members: each published size is one member of a committee.

One foundation model is a committee of one and has no spread.  Two or more of
one family (small, medium, large) were trained on the same data and do disagree
where it is thin.  They differ in architecture, so they run one after another.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from hybrid_calc.committee.mace import member_digests
from hybrid_calc.committee.mace_files import import_mace, untouched
from hybrid_calc.committee.members import MembersCommittee
from hybrid_calc.committee.prediction import NEUTRAL_SINGLET, Domain
from hybrid_calc.errors import CommitteeError, UntrustedFileError
from hybrid_calc.reference.level import LevelOfTheory

LEVELS = {
    "mp": LevelOfTheory(program="vasp", functional="pbe+u", basis="paw"),
    "off": LevelOfTheory(
        program="psi4", functional="wb97m-d3bj", dispersion="d3bj", basis="def2-tzvppd"
    ),
}
"""Training levels: Materials Project (Batatia et al. 2023) and SPICE (Kovacs et al. 2023)."""


def foundation_committee(
    models: Sequence[str],
    *,
    family: Literal["mp", "off"] = "off",
    trust: bool,
    dtype: Literal["float64", "float32"] = "float64",
    device: str = "cpu",
) -> MembersCommittee:
    """Return a committee of published MACE models.

    Parameters
    ----------
    models
        Names (``small``, ``medium``, ``large``) or paths of model files, at least two.
        Names are downloaded by mace-torch at the first use and kept in its cache.
    family
        MACE-MP (materials) or MACE-OFF (organic molecules).
    trust
        The files are pickles, that is, code: True says that you trust their maker.
    dtype
        Of the arithmetic.
    device
        ``cpu`` or ``cuda``.

    Raises
    ------
    UntrustedFileError
        `trust` is False.
    CommitteeError
        Fewer than two models, or one that can neither be found nor downloaded.
    MissingPackageError
        mace-torch is not installed.
    """
    if len(models) < 2:
        raise CommitteeError(
            f"a committee needs at least 2 foundation models; got {list(models)}. One model has "
            "no spread: name two sizes, such as small and medium, or fine-tune two seeds."
        )
    if not trust:
        raise UntrustedFileError(
            "foundation models are pickles, that is code from their maker; say trust: true "
            "(trust=True) if you trust it."
        )
    with untouched(pickles=True):
        members = [_load(model, family=family, dtype=dtype, device=device) for model in models]
        digests = member_digests([member.models[0] for member in members])
    elements = [frozenset(int(z) for z in member.z_table.zs) for member in members]
    return MembersCommittee(
        members,
        name=f"mace-{family}: {', '.join(models)}",
        domain=Domain(
            elements=frozenset.intersection(*elements),
            charges=NEUTRAL_SINGLET["charges"],
            multiplicities=NEUTRAL_SINGLET["multiplicities"],
        ),
        level=LEVELS[family],
        identity=hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
    )


def _load(model: str, *, family: str, dtype: str, device: str) -> Any:
    import_mace()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mace and torch warn about each other here
            from mace.calculators import MACECalculator, mace_mp, mace_off

            make = {"mp": mace_mp, "off": mace_off}[family]
            names = list(MACECalculator.implemented_properties)
            try:
                member = make(model=model, default_dtype=dtype, device=device)
                member.implemented_properties = ["energy", "free_energy", "forces", "stress"]
            finally:  # making one appends to the list that all of them share
                MACECalculator.implemented_properties[:] = names
            return member
    except Exception as error:  # whatever the download or the unpickling meets
        raise CommitteeError(
            f"MACE foundation model {model!r} could not be loaded: {type(error).__name__}: "
            f"{error}. Give a name (small, medium, large) with network access, or the path of "
            "a file."
        ) from error
