"""Executors by name: processes here, executorlib, Parsl, or whatever a function returns."""

from __future__ import annotations

import importlib
import shlex
import sysconfig
import warnings
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from hybrid_calc.errors import InputError, MissingPackageError

WORKER_RESTARTS = 3
"""How often executorlib may start a lost worker again."""

LOOPBACK = "127.0.0.1"
RUN_FOLDER = "parsl"


def executorlib_executor(
    backend: str = "SingleNodeExecutor",
    *,
    workers: int = 1,
    threads: int = 1,
    arguments: Mapping[str, Any] | None = None,
) -> Executor:
    """Return one of executorlib's executors.

    Parameters
    ----------
    backend
        ``SingleNodeExecutor`` (this machine), ``SlurmJobExecutor`` (inside a
        SLURM allocation), ``SlurmClusterExecutor`` (each label a SLURM job),
        ``FluxJobExecutor`` or ``FluxClusterExecutor``.
    workers
        Labels at a time.
    threads
        Cores of each, asked of the queue.
    arguments
        Further keyword arguments of the class, over those chosen here.

    Raises
    ------
    MissingPackageError
        executorlib is not installed.
    InputError
        It has no such executor, or the class refuses an argument.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own use of pydantic
            import executorlib
    except ImportError as error:
        raise MissingPackageError(
            'executorlib is needed: pip install "hybrid_calc[executorlib]".'
        ) from error
    made = getattr(executorlib, backend, None)
    if not (isinstance(made, type) and backend.endswith("Executor")):
        raise InputError(f"executorlib has no executor {backend!r}.")
    keys: dict[str, Any] = {
        "max_workers": workers,
        "resource_dict": {"cores": 1, "threads_per_core": threads},
    }
    if not backend.endswith("ClusterExecutor"):
        keys |= {"block_allocation": True, "restart_limit": WORKER_RESTARTS}
    if backend == "SingleNodeExecutor":
        keys["hostname_localhost"] = True
    executor: Executor = _made(made, keys | dict(arguments or {}))
    return executor


def parsl_executor(
    provider: str = "LocalProvider",
    *,
    workers: int = 1,
    threads: int = 1,
    arguments: Mapping[str, Any] | None = None,
    provider_arguments: Mapping[str, Any] | None = None,
    run_folder: str | Path = RUN_FOLDER,
) -> Executor:
    """Return Parsl's high-throughput executor behind the standard interface.

    Parameters
    ----------
    provider
        Who gives nodes: ``LocalProvider``, ``SlurmProvider``, or another of
        ``parsl.providers``.
    workers
        Labels at a time on one node.
    threads
        Cores of each.
    arguments
        Further keyword arguments of ``HighThroughputExecutor``.
    provider_arguments
        Keyword arguments of the provider: partition, account, walltime, worker_init.
    run_folder
        Where Parsl writes its logs.

    Raises
    ------
    MissingPackageError
        Parsl is not installed.
    InputError
        It has no such provider, or a class refuses an argument.
    """
    try:
        import parsl
        from parsl import providers
        from parsl.concurrent import ParslPoolExecutor
    except ImportError as error:
        raise MissingPackageError('Parsl is needed: pip install "hybrid_calc[parsl]".') from error
    made = getattr(providers, provider, None)
    if not (isinstance(made, type) and provider.endswith("Provider")):
        raise InputError(f"parsl.providers has no {provider!r}.")
    scripts = sysconfig.get_path("scripts")  # Parsl looks for its programs on the PATH
    blocks: dict[str, Any] = {"init_blocks": 1, "max_blocks": 1}
    if provider == "LocalProvider":
        blocks["worker_init"] = f"export PATH={shlex.quote(scripts)}:$PATH"
    giver = _made(made, blocks | dict(provider_arguments or {}))
    keys: dict[str, Any] = {
        "label": "labels",
        "provider": giver,
        "max_workers_per_node": workers,
        "interchange_launch_cmd": [str(Path(scripts) / "interchange.py")],
        "cores_per_worker": threads,
    }
    if provider == "LocalProvider":
        keys |= {"address": LOOPBACK, "loopback_address": LOOPBACK, "cores_per_worker": 1e-6}
    pool = _made(parsl.HighThroughputExecutor, keys | dict(arguments or {}))
    config = parsl.Config(executors=[pool], run_dir=str(run_folder), initialize_logging=False)
    executor: Executor = ParslPoolExecutor(config)
    return executor


def executor_from(name: str, arguments: Mapping[str, Any] | None = None) -> Executor:
    """Return what ``module:function`` makes.

    Raises
    ------
    InputError
        There is no such function, or it makes no executor.
    """
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"executor function {name!r} cannot be found: {error}. Write module:function, of a "
            "module that Python can import from here (PYTHONPATH)."
        ) from error
    made = _made(make, dict(arguments or {}))
    if not isinstance(made, Executor):
        raise InputError(
            f"{name} returned a {type(made).__name__}; a concurrent.futures.Executor is needed."
        )
    return made


def _made(make: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(**arguments)
    except TypeError as error:
        raise InputError(
            f"{getattr(make, '__name__', make)} refuses its arguments: {error}"
        ) from error
