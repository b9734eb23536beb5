"""MACE's ``.model`` files: pickles, read only for someone who vouches for them."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from glob import glob, has_magic
from pathlib import Path

import torch
from torch import nn

from hybrid_calc.errors import CommitteeError, MissingPackageError, UntrustedFileError


def read_models(
    paths: str | Path | Sequence[str | Path], *, trust: bool
) -> tuple[list[nn.Module], dict[str, str]]:
    """Return the networks in ``.model`` files, and each file's SHA-256.

    Parameters
    ----------
    paths
        Files, or a pattern with ``*``, whose matches are taken in sorted order.
    trust
        True where the caller vouches for the files: loading a pickle runs
        whatever code it holds.  The bytes that are hashed are those loaded.

    Raises
    ------
    UntrustedFileError
        Not trusted; nothing was loaded.
    CommitteeError
        Files missing or unreadable.
    """
    files = _find(paths)
    contents = [path.read_bytes() for path in files]
    digests = {
        str(path): hashlib.sha256(content).hexdigest()
        for path, content in zip(files, contents, strict=True)
    }
    if not trust:
        listing = "\n".join(f"  {path}  SHA-256 {digest}" for path, digest in digests.items())
        raise UntrustedFileError(
            f"a .model file is a pickle, that is, code that would run on loading:\n{listing}\n"
            "If these come from someone you trust, pass trust=True (--trust on the command "
            "line); or use a .bundle, which holds numbers only."
        )
    with untouched():
        import_mace()
        models = [_unpickle(path, content) for path, content in zip(files, contents, strict=True)]
    return models, digests


def _find(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(paths, (str, Path)):
        text = str(paths)
        files = [Path(path) for path in sorted(glob(text))] if has_magic(text) else [Path(text)]
    else:
        text, files = "the list given", [Path(path) for path in paths]
    missing = [str(path) for path in files if not path.is_file()]
    if missing or not files:
        what = ", ".join(missing) or text
        raise CommitteeError(
            f"no such model file: {what}. Give existing .model files or a pattern."
        )
    return files


def _unpickle(path: Path, content: bytes) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:
        raise CommitteeError(
            f"{path} cannot be read as a MACE model ({type(error).__name__}: {error}). "
            "Give the .model file that mace_run_train wrote, not a checkpoint."
        ) from error
    if not isinstance(model, nn.Module):
        raise CommitteeError(
            f"{path} holds a {type(model).__name__}, not a network. "
            "Give the .model file that mace_run_train wrote, not a checkpoint."
        )
    return model


def import_mace() -> None:
    """Import what unpickling needs; its remarks are about packages we do not use."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import mace.modules  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "MACE committees need mace-torch; install it with: pip install mace-torch"
        ) from error


@contextmanager
def untouched(*, pickles: bool = False) -> Iterator[None]:
    """Restore what importing or running MACE changes for the whole process.

    Parameters
    ----------
    pickles
        Let MACE's own loaders read whole pickles meanwhile, as they expect.
        The first import of ``mace.calculators`` allows that for good; this
        does not depend on who imported it before, and ends with the block.
    """
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    environment = os.environ.get(variable)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    if pickles:
        os.environ[variable] = "1"
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if environment is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = environment
