"""Implicit solvents: which may be asked for."""

from __future__ import annotations

from hybrid_calc.errors import InputError

SOLVENT_MODELS = ("c-pcm", "ief-pcm", "smd")
"""Implicit solvents whose gradients agree with finite differences of their energies
(tests/reference/test_recipes.py)."""


def check_solvent(solvent: str) -> None:
    """Refuse an implicit solvent that is not ``MODEL:WHICH`` with a model of `SOLVENT_MODELS`.

    Raises
    ------
    InputError
        Another model, or a dielectric constant that is none.
    """
    if not solvent:
        return
    model, _, which = solvent.partition(":")
    usable = model in SOLVENT_MODELS and bool(which)
    if usable and model != "smd":
        try:
            usable = float(which) > 1
        except ValueError:
            usable = False
    if not usable:
        raise InputError(
            f"solvent {solvent!r} cannot be used; write c-pcm:EPSILON, ief-pcm:EPSILON or "
            "smd:NAME, such as c-pcm:78.36 or smd:water. Other models' gradients are not reliable."
        )
