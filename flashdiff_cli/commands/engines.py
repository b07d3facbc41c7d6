"""The options that choose where a run's pictures are restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiff_cli.errors import UsageError, choose_from

if TYPE_CHECKING:
    from flashdiff_cli.commands.run import Elsewhere
    from flashdiff_cli.runs.cluster import Cluster
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.task import Task

PANEL = "Machines"
Engine = Annotated[
    str, typer.Option("--engine", help="local: in this process; ray: on many workers, here or on a Ray cluster.", rich_help_panel=PANEL)
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Of a Ray cluster: auto, or host:port (default: workers here).", rich_help_panel=PANEL),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Each with a model of its own (default: as many as there is room for).", rich_help_panel=PANEL)
]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", min=0, help="0.5: two share one (default: 1 where there are GPUs).", rich_help_panel=PANEL, show_default=False),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do part I of N, 1/N to N/N, chosen by names: for job arrays; `report` merges them.",
        rich_help_panel=PANEL,
    ),
]


def cluster_of(engine: str, address: str | None, workers: int | None, gpus: float | None, device: str, threads: int | None) -> Cluster | None:
    """Return the cluster that was asked for; None: this process.

    Raises:
        UsageError: an unknown engine, options that do not go with it, or Ray is not installed.
    """
    from flashdiff_cli.commands.extras import require

    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine!r} is unknown; {choose_from(engine, ('local', 'ray'))}")
    if engine == "local":
        for name, given in (("--address", address), ("--workers", workers), ("--gpus-per-worker", gpus)):
            if given is not None:
                raise UsageError(f"{name} goes with --engine ray; this process is its only worker without it")
        return None
    if ":" in device:
        raise UsageError(f"--device {device}: Ray hands out the GPUs; give --device {device.split(':')[0]} and --gpus-per-worker")
    require("ray", "--engine ray needs")
    from flashdiff_cli.runs.cluster import Cluster

    cluster = Cluster(address, workers, 0.0 if device == "cpu" and gpus is None else gpus, threads or 1)
    cluster.check()
    return cluster


def elsewhere(jobs: Sequence[Job], task: Task, cluster: Cluster | None) -> Elsewhere | None:
    """Return what does a run's pictures on a cluster, as `run_pictures` takes it; None without one."""
    if cluster is None:
        return None

    def restore(shown, stopped):
        from flashdiff_cli.runs.spread import restore_all

        return restore_all(jobs, task, cluster, stopped, shown.workers)

    return restore
