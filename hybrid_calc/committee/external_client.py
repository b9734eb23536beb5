"""The other end of an external member: any ASE calculator, in any Python environment.

Runs as a file, not as a module of hybrid_calc, so the environment it runs in
needs ASE and the calculator's own packages and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import threading

import ase.io
from ase import Atoms
from ase.calculators.socketio import SocketClient


def main() -> None:
    """Connect to the socket and answer until it closes."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--socket", required=True, help="name of the UNIX socket")
    options.add_argument("--structure", required=True, help="file with the structure")
    options.add_argument("--calculator", required=True, help="module:callable that makes it")
    options.add_argument("--arguments", default="{}", help="JSON keyword arguments of the callable")
    options.add_argument("--parent", type=int, required=True, help="end when this process does")
    chosen = options.parse_args()
    threading.Thread(target=_end_with, args=(chosen.parent,), daemon=True).start()
    module, _, name = chosen.calculator.partition(":")
    make = getattr(importlib.import_module(module), name)
    atoms = ase.io.read(chosen.structure, index=-1)
    if not isinstance(atoms, Atoms):
        raise SystemExit(f"{chosen.structure} holds no single structure")
    atoms.calc = make(**json.loads(chosen.arguments))
    SocketClient(unixsocket=chosen.socket).run(atoms, use_stress=bool(atoms.pbc.any()))


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, also in the middle of a calculation."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
