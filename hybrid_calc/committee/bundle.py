"""A committee as one file of numbers and JSON: ``NAME.bundle``.

A safetensors file: the members' weights stacked, and a header that says how
the networks are built (from an allow-list of MACE's classes), what they were
trained on, at which level of theory, and what they are validated for.  Loading
one runs no code from the file.  ``.model`` files, which are pickles, are
imported once, by someone who vouches for them.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hybrid_calc.committee.architecture import build, common_part, describe
from hybrid_calc.errors import BundleError
from hybrid_calc.reference.level import LevelOfTheory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hybrid_calc.committee.mace import MaceCommittee

FORMAT = "hybrid_calc committee"
SCHEMAS = ("1", "2")
"""2 where a calibration is inside, which version 1 cannot read."""
CALIBRATION = "calibration"
"""Name of the tensor that holds the bytes of a calibration."""
PROBE_TOLERANCE = 1e-9
"""Largest force difference between a file's networks and the bundle's, eV/A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleHeader:
    """What a bundle says about itself.

    Attributes
    ----------
    name
        Short name for people.
    members
        Number of networks M.
    architecture
        Class of the networks and what its constructor takes, JSON-able; what
        differs from member to member (energies, scales) stands in `varying`.
    varying
        Per member, the arguments that differ.
    level
        Level of theory of the training data, or None.
    training_digest
        Hash of the training set, empty where nobody knows.
    sources
        File name to SHA-256 of the ``.model`` files it was imported from.
    scope
        What the committee is validated for (a scope card), or None.
    created
        ISO date and time.
    """

    name: str
    members: int
    architecture: Mapping[str, Any]
    varying: Sequence[Mapping[str, Any]]
    level: LevelOfTheory | None = None
    training_digest: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    scope: Mapping[str, Any] | None = None
    created: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        data = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        return data | {"level": None if self.level is None else self.level.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BundleHeader:
        """Rebuild a header from `to_dict`."""
        level = data["level"]
        return cls(**{**data, "level": None if level is None else LevelOfTheory.from_dict(level)})


def write_bundle(
    path: Path,
    models: Sequence[nn.Module],
    *,
    name: str,
    level: LevelOfTheory | None = None,
    training_digest: str = "",
    sources: Mapping[str, str] | None = None,
    scope: Mapping[str, Any] | None = None,
) -> BundleHeader:
    """Write networks of one architecture as a bundle.

    Parameters
    ----------
    path
        ``NAME.bundle``; replaced whole where it is there.
    models
        MACE networks, at least two.
    name, level, training_digest, sources, scope
        As in `BundleHeader`.

    Raises
    ------
    CommitteeError
        A network of a kind that cannot be written as data, or networks that differ in kind.
    BundleError
        The file cannot be written.
    """
    import torch

    architectures = [describe(model) for model in models]
    common, varying = common_part(architectures)
    header = BundleHeader(
        name=name,
        members=len(models),
        architecture=common,
        varying=varying,
        level=level,
        training_digest=training_digest,
        sources=dict(sources or {}),
        scope=scope,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    states = [model.state_dict() for model in models]
    tensors = {
        key: torch.stack([state[key].detach().cpu() for state in states]).contiguous()
        for key in sorted(states[0])
        if states[0][key].numel()
    }
    _write(path, header, tensors)
    return header


def _write(path: Path, header: BundleHeader, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    text = json.dumps(header.to_dict(), sort_keys=True)
    metadata = {
        "format": FORMAT,
        "schema": SCHEMAS[CALIBRATION in tensors],
        "header": text,
        "digest": _digest(text, tensors),
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(dict(tensors), temporary, metadata=metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(f"{path} could not be written: {error}.") from error


def embed_calibration(path: Path, calibration: bytes, scope: Mapping[str, Any]) -> None:
    """Put a calibration into a bundle, in place of one that is there.

    Parameters
    ----------
    path
        ``NAME.bundle``; replaced whole.
    calibration
        The file that ``hybrid-calc calibrate`` writes.
    scope
        Its scope card, JSON-able, for whoever reads the header alone.

    Raises
    ------
    BundleError
        As `read_bundle`, or the file cannot be written.
    """
    import torch

    header, tensors = _read_tensors(path)
    blob = torch.frombuffer(bytearray(calibration), dtype=torch.uint8)
    _write(path, dataclasses.replace(header, scope=scope), {**tensors, CALIBRATION: blob})


def embedded_calibration(path: Path) -> bytes | None:
    """Return the calibration inside a bundle, None where there is none.

    Raises
    ------
    BundleError
        As `read_header`.
    """
    _metadata(path)
    with safe_open(path, framework="numpy") as file:
        if CALIBRATION not in file.keys():  # noqa: SIM118 - no mapping
            return None
        blob: bytes = file.get_tensor(CALIBRATION).tobytes()
        return blob


def import_files(
    paths: str | Path | Sequence[str | Path],
    target: Path,
    *,
    trust: bool,
    name: str,
    level: LevelOfTheory | None = None,
    training_digest: str = "",
) -> BundleHeader:
    """Turn trusted ``.model`` files into a bundle that gives the same numbers.

    Parameters
    ----------
    paths
        Files or a pattern, at least two networks of one architecture.
    target
        ``NAME.bundle`` to write.
    trust
        True where you vouch for the files; their SHA-256 are recorded.
    name, level, training_digest
        As in `BundleHeader`.

    Raises
    ------
    UntrustedFileError, CommitteeError
        As `MaceCommittee.from_files`.
    BundleError
        The bundle's networks do not answer as the files' do.
    """
    from hybrid_calc.committee.mace import MaceCommittee, probe_frames
    from hybrid_calc.committee.mace_files import read_models, untouched

    models, digests = read_models(paths, trust=trust)
    # Any charge and spin: the probe is a cluster of the elements, whatever electrons it has.
    original = MaceCommittee(models, charges=None, multiplicities=None)
    with untouched():
        header = write_bundle(
            target,
            models,
            name=name,
            level=level,
            training_digest=training_digest,
            sources={Path(file).name: digest for file, digest in digests.items()},
        )
    frames = probe_frames(sorted(original.info.domain.elements or ()), original.info.cutoff or 5.0)
    with untouched():
        _, networks = read_bundle(target)
    rebuilt = MaceCommittee(networks, charges=None, multiplicities=None)
    for before, after in zip(
        original.predict_many(frames), rebuilt.predict_many(frames), strict=True
    ):
        wrong = float(abs(before.forces - after.forces).max())
        if not wrong < PROBE_TOLERANCE * max(1.0, float(abs(before.forces).max())):
            target.unlink()
            raise BundleError(
                f"the bundle's forces differ from the files' by {wrong:.1e} eV/A; "
                "use the files with committee.kind: mace instead."
            )
    return header


def load_committee(
    path: Path,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    compile: bool = False,  # noqa: A002 - the settings' word
) -> MaceCommittee:
    """Return the committee of a bundle, with the calibration inside; no code from the file runs.

    Parameters
    ----------
    path
        ``NAME.bundle``.
    dtype
        ``float64``, or ``float32``, which is enough for molecular dynamics.
    device
        ``cpu``, or ``cuda`` where there is one.
    compile
        As for `MaceCommittee`.

    Raises
    ------
    BundleError
        As `read_bundle`.
    """
    from hybrid_calc.committee.mace import MaceCommittee
    from hybrid_calc.committee.mace_files import import_mace, untouched

    with untouched():
        import_mace()
        header, models = read_bundle(path)
    return MaceCommittee(
        models,
        name=header.name,
        dtype=dtype,
        device=device,
        compile=compile,
        level=header.level,
        source=f"{path.name}, imported {header.created}",
        calibration=embedded_calibration(path),
    )


def export_files(path: Path, folder: Path) -> list[Path]:
    """Write each member as a ``.model`` file for other programs; return the files.

    Raises
    ------
    BundleError
        As `read_bundle`, or the folder cannot be written.
    """
    import torch

    from hybrid_calc.committee.mace_files import import_mace, untouched

    with untouched():
        import_mace()
        header, models = read_bundle(path)
        files = [folder / f"{header.name}_{number}.model" for number in range(len(models))]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for model, file in zip(models, files, strict=True):
                torch.save(model, file)
        except OSError as error:
            raise BundleError(f"{folder} cannot be written: {error}.") from error
    return files


def read_header(path: Path) -> BundleHeader:
    """Return what a bundle says about itself, without its weights.

    Raises
    ------
    BundleError
        Not a bundle, or of a schema not known.
    """
    return _parse(path, _metadata(path))


def read_bundle(path: Path) -> tuple[BundleHeader, list[nn.Module]]:
    """Return header and networks of a bundle.

    Raises
    ------
    BundleError
        Not a bundle, of a schema not known, or changed since it was written.
    """
    header, tensors = _read_tensors(path)
    tensors.pop(CALIBRATION, None)
    models = [
        build({**header.architecture, **header.varying[member]}, tensors, member, path)
        for member in range(header.members)
    ]
    return header, models


def _read_tensors(path: Path) -> tuple[BundleHeader, dict[str, Tensor]]:
    """Return header and tensors as they are in the file, once the digest agrees."""
    from safetensors.torch import load_file

    metadata = _metadata(path)
    header = _parse(path, metadata)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    if _digest(metadata["header"], tensors) != metadata.get("digest"):
        raise BundleError(
            f"{path} is not what was written: its digest differs. Import the committee again "
            "from its .model files, or fetch the bundle again."
        )
    return header, tensors


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits.

    Raises
    ------
    BundleError
        It cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}.") from error


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"{path} cannot be read as a committee bundle: {error}. "
            "Make one with: hybrid-calc committee import."
        ) from error
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path} is a safetensors file but not a {FORMAT}.")
    if metadata.get("schema") not in SCHEMAS:
        known = " and ".join(SCHEMAS)
        raise BundleError(
            f"{path} has schema {metadata.get('schema')}; this version reads {known}."
        )
    return metadata


def _parse(path: Path, metadata: Mapping[str, str]) -> BundleHeader:
    try:
        return BundleHeader.from_dict(json.loads(metadata["header"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the header of {path} cannot be read: {error}.") from error


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of header and weights, 64 hex digits."""
    digest = hashlib.sha256(header.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
