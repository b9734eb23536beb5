"""Where labels are computed, in settings files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hybrid_calc.config.base import Settings

WORKERS = "Labels at a time; on one node for Parsl."
PATIENCE = "Longest wait for one answer, queueing included, s; null waits for ever."


class LocalExecutorSettings(Settings):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    workers: int = Field(1, ge=1, description=WORKERS)
    patience_s: float | None = Field(None, gt=0, description=PATIENCE)


class ExecutorlibSettings(Settings):
    """executorlib, here or on a cluster."""

    kind: Literal["executorlib"] = "executorlib"
    workers: int = Field(1, ge=1, description=WORKERS)
    patience_s: float | None = Field(None, gt=0, description=PATIENCE)
    backend: str = Field(
        "SingleNodeExecutor",
        pattern=r"^\w+Executor$",
        description="SingleNodeExecutor, SlurmJobExecutor (inside an allocation), "
        "SlurmClusterExecutor (a job per label), FluxJobExecutor or FluxClusterExecutor.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of that class."
    )


class ParslSettings(Settings):
    """Parsl's high-throughput executor, here or on a cluster."""

    kind: Literal["parsl"] = "parsl"
    workers: int = Field(1, ge=1, description=WORKERS)
    patience_s: float | None = Field(None, gt=0, description=PATIENCE)
    provider: str = Field(
        "LocalProvider",
        pattern=r"^\w+Provider$",
        description="LocalProvider, SlurmProvider or another of parsl.providers.",
    )
    provider_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Of the provider: partition, account, walltime, max_blocks, worker_init.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of HighThroughputExecutor."
    )
    run_folder: Path = Field(Path("parsl"), description="Where Parsl writes its logs.")


class OwnExecutorSettings(Settings):
    """Any concurrent.futures.Executor: Dask's, MPI's, your own."""

    kind: Literal["own"] = "own"
    workers: int = Field(1, ge=1, description=WORKERS)
    patience_s: float | None = Field(None, gt=0, description=PATIENCE)
    function: str = Field(..., description="module:function that returns the executor.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the function."
    )


ExecutorSettings = Annotated[
    LocalExecutorSettings | ExecutorlibSettings | ParslSettings | OwnExecutorSettings,
    Field(discriminator="kind"),
]
