"""A mean field made by the user's own Python function, as part of a level of theory."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from hybrid_calc.errors import InputError


def level_parameters(function: str) -> dict[str, object]:
    """Return a level's parameters for ``module:function``; none for an empty name.

    The digest of the module's source is among them: a changed function is
    another level.

    Raises
    ------
    InputError
        No such module, or not of that form.
    """
    if not function:
        return {}
    module, colon, name = function.partition(":")
    try:
        found = importlib.util.find_spec(module) if module and colon and name else None
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise InputError(
            f"function {function!r} cannot be found; write module:function, of a module that "
            "Python can import from here (PYTHONPATH)."
        )
    source = hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()[:16]
    return {"function": function, "source": source}
