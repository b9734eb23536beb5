"""The PySCF worker as its parent sees it: started, asked, killed, its scratch folder removed."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hybrid_calc.errors import ReferenceCrashed, ReferenceTimeout
from hybrid_calc.reference.pyscf_worker import MEMORY_LIMIT, SCRATCH

LONGEST_WAIT_S = 86400.0
"""The operating system takes no longer timeout than some weeks, s."""

LAST_WORDS = 2000
"""Characters of the worker's standard error that an error message quotes."""


class WorkerProcess:
    """One child process, its pipes and its scratch folder."""

    def __init__(self, threads: int, memory_limit_mb: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="hybrid_calc_", ignore_cleanup_errors=True
        )
        self._errors = Path(self._scratch.name) / "stderr"
        environment = os.environ | {
            name: str(threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        environment["PYSCF_TMPDIR"] = environment["TMPDIR"] = self._scratch.name
        environment[SCRATCH] = self._scratch.name
        environment[MEMORY_LIMIT] = str(memory_limit_mb)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # user's functions
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_calc.reference.pyscf_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the run, not for the SCF
            )

    def ask(self, request: str, wall_limit_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ReferenceCrashed("the PySCF worker has no pipes.")
        try:
            stdin.write(request.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise self._crashed() from error
        deadline = time.monotonic() + wall_limit_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if not selector.select(min(max(0.0, left), LONGEST_WAIT_S)):
                    if left > LONGEST_WAIT_S:
                        continue
                    raise ReferenceTimeout(
                        f"the reference took longer than {wall_limit_s:g} s and was killed; "
                        "raise reference.wall_limit_s or choose a cheaper level."
                    )
                chunk = os.read(stdout.fileno(), 1 << 20)
                if not chunk:
                    raise self._crashed()
                received += chunk
        answer: dict[str, Any] = json.loads(received)
        return answer

    def stop(self) -> None:
        """Kill the process and remove its scratch folder."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a question nobody read
                    pipe.close()
        self._scratch.cleanup()

    def _crashed(self) -> ReferenceCrashed:
        code = self._process.wait()
        words = self._errors.read_text(errors="replace")[-LAST_WORDS:].strip()
        return ReferenceCrashed(
            f"the PySCF worker died with exit code {code}: {words or 'no last words'}",
            details={"exit_code": code, "stderr": words},
        )
