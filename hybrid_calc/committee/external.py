"""A committee member that lives in another process, and if need be in another environment.

Packages that cannot be installed together (MACE pins e3nn 0.4.4, SevenNet and
others need 0.5) still make one committee: each runs in its own Python and
answers over a UNIX socket in the i-PI protocol, through ASE's
`ase.calculators.socketio`.  The protocol carries positions and cell only, so a
connection serves one composition, charge and spin and is made anew when those
change.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.socketio import SocketIOCalculator

from hybrid_calc.committee import external_client
from hybrid_calc.errors import InputError, MemberLost
from hybrid_calc.geometry import charge_of, multiplicity_of

LAST_WORDS = 2000
"""Characters of the member's output that an error message quotes."""


class ExternalMember(Calculator):
    """An ASE calculator in another process, over a socket.

    Parameters
    ----------
    calculator
        ``module:callable`` that makes the calculator in the other environment,
        ``sevenn.calculator:SevenNetCalculator``.
    arguments
        Keyword arguments of the callable, JSON-able.
    python
        Interpreter of the other environment, which has ASE; this one by default.
    command
        Instead of the three above: a program of your own that speaks i-PI,
        with ``{socket}`` (name of the UNIX socket, as ASE takes it) and
        ``{structure}`` (extended XYZ file) where it wants them.
    timeout_s
        Longest wait for the start and for one answer, s.

    Raises
    ------
    InputError
        Neither or both of calculator and command, or a command without ``{socket}``.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        calculator: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        *,
        python: str | Path = sys.executable,
        command: Sequence[str] | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        super().__init__()
        if (calculator is None) == (command is None):
            raise InputError(
                "an external member needs either calculator (module:callable) or command."
            )
        if calculator is not None:
            if ":" not in calculator:
                raise InputError(f"calculator is module:callable; got {calculator!r}.")
            # Braces of the JSON must survive the placeholders' formatting.
            given = json.dumps(dict(arguments or {})).replace("{", "{{").replace("}", "}}")
            command = [
                str(python), external_client.__file__,
                "--socket", "{socket}", "--structure", "{structure}",
                "--calculator", calculator,
                "--arguments", given,
                "--parent", str(os.getpid()),
            ]  # fmt: skip
        self._command = list(command or [])
        if not any("{socket}" in word for word in self._command):
            raise InputError("the command of an external member must contain {socket}.")
        self._described = {
            "calculator": calculator,
            "arguments": dict(arguments or {}),
            "command": None if calculator is not None else self._command,
        }
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Send the geometry and wait for the answer.

        Raises
        ------
        MemberLost
            The process could not be started, died, or did not answer in time.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise InputError("the external member was given no structure.")
        served = (
            self.atoms.numbers.tobytes(),
            self.atoms.pbc.tobytes(),
            charge_of(self.atoms),
            multiplicity_of(self.atoms),
        )
        if self._connection is None or self._connection.served != served:
            self.close()
            self._connection = _Connection(self._command, self.atoms, served, self._timeout_s)
        try:
            self.results = self._connection.ask(self.atoms)
        except Exception as error:
            words = self._connection.last_words()
            self.close()
            self.atoms = None
            raise MemberLost(
                f"external member {self._command[:2]} gave no answer within "
                f"{self._timeout_s:g} s or died: {type(error).__name__}: {error}. "
                f"Its last words: {words or 'none'}"
            ) from error

    def close(self) -> None:
        """End the process; the next geometry starts it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def todict(self, skip_default: bool = True) -> dict[str, Any]:  # noqa: ARG002 - ASE's
        """Return what answers, JSON-able."""
        return self._described

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class _Connection:
    """One process, its socket and its scratch folder."""

    def __init__(
        self, command: Sequence[str], atoms: Atoms, served: tuple[Any, ...], timeout_s: float
    ) -> None:
        self.served = served
        self._timeout_s = timeout_s
        self._scratch = tempfile.TemporaryDirectory(prefix="hybrid_calc_")
        folder = Path(self._scratch.name)
        self._output = folder / "output"
        structure = folder / "structure.xyz"
        plain = Atoms(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
        )
        plain.info = {"charge": charge_of(atoms), "spin": multiplicity_of(atoms)}
        ase.io.write(structure, plain, format="extxyz")
        name = f"hybrid_calc_{uuid.uuid4().hex[:12]}"
        self._argv = [word.format(socket=name, structure=structure) for word in command]
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = SocketIOCalculator(
            unixsocket=name, timeout=timeout_s, launch_client=self._launch
        )

    def ask(self, atoms: Atoms) -> dict[str, Any]:
        """Return energy, forces and stress of a geometry."""
        starting = self._process is None
        # ASE waits for ever for a process that runs but never connects.
        watch = threading.Timer(self._timeout_s, self._kill) if starting else None
        if watch is not None:
            watch.start()
        try:
            self._socket.calculate(atoms, ["energy"], [] if not starting else all_changes)
        finally:
            if watch is not None:
                watch.cancel()
        results = dict(self._socket.results)
        return {
            name: results[name]
            for name in ("energy", "free_energy", "forces", "stress")
            if name in results
        }

    def last_words(self) -> str:
        """Return the end of what the process printed."""
        return self._output.read_text(errors="replace")[-LAST_WORDS:].strip()

    def close(self) -> None:
        """End the process and remove socket and scratch folder."""
        server = self._socket.server
        if server is not None:
            server.proc = None  # ASE would wait for it without a limit
        self._socket.close()
        self._kill()
        self._scratch.cleanup()

    def _launch(self, *_: object, **__: object) -> subprocess.Popen[bytes]:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._argv, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
