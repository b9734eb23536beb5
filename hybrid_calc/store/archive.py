"""A whole store in one file that explains itself: a zip with a README inside."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from hybrid_calc.errors import StoreError
from hybrid_calc.store.hdf5 import write_hdf5
from hybrid_calc.store.record import ARRAYS, Record

STORE_NAME = "store.h5"
README = """\
# A store of validated frames

store.h5 is HDF5 and can be read without the program that wrote it:

- /frames: one row per frame. energy (eV, not aligned, NaN where the frame was
  rejected), identity and digest (hashes).
- /headers: bytes values[offsets[i]:offsets[i+1]] are the JSON of frame i: charge,
  multiplicity, level of theory, label with its checks, rejection, descriptors'
  digest, meta with regime, reasons, flags, signals, evidence, audit probability,
  run, step, parent frame, seeds, versions, committee.
- /arrays/NAME: arrays of all frames one after another in `values`; those of
  frame i are values[offsets[i]:offsets[i+1]], reshaped to
  shapes[i, :dimensions[i]]; dimensions -1 means the frame has none.
- /columns: what frames are selected on, derived from the above.

Arrays and their units:
{arrays}

{frames} frames, of which {rejected} were rejected by the reference.

With hybrid_calc: `hybrid-calc store import NEW.h5 THIS.zip`, or unpack it and
`ase.io.read("store.h5@:")`. SHA-256 of store.h5: {digest}
"""


def export_archive(records: Iterable[Record], path: Path) -> int:
    """Write every frame, rejected ones included, to one zip; return how many.

    Raises
    ------
    StoreError
        It could not be written.
    """
    counts = {"frames": 0, "rejected": 0}

    def counted() -> Iterable[Record]:
        for record in records:
            counts["frames"] += 1
            counts["rejected"] += record.label is None
            yield record

    temporary = path.with_name(path.name + ".tmp")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            store = Path(folder) / STORE_NAME
            write_hdf5(store, counted())
            with store.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            arrays = "\n".join(f"- {name} ({unit or 'no unit'})" for name, unit in ARRAYS.items())
            text = README.format(arrays=arrays, digest=digest, **counts)
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr("README.md", text)
                archive.write(store, STORE_NAME)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path} could not be written: {error}") from error
    return counts["frames"]
