"""A Ray cluster, or one that is begun on this machine for one run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from flashdiff_cli.errors import FlashdiffError, UsageError

STORE = 128 << 20
"""Bytes of shared memory of a cluster that is begun here: only names and records go through it."""
READ_BY_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0"}
"""Variables of a cluster that is begun here, as Ray reads them when it is imported: nothing is reported to its makers, a busy machine takes its
time, and workers are as urgent as this process is."""
SECONDS = 10.0
"""That a cluster's address may take to answer."""
MOST_GPUS, MOST_WORKERS = 64, 100_000


@dataclass(frozen=True)
class Cluster:
    """Where a run's workers are.

    Args:
        address: `auto`, or `host:port` of the head; None: a cluster on this machine, for this run.
        workers: how many, each with a model of its own; None: as many as there is room for.
        gpus: of each worker, a fraction shares one; None: one where the cluster has GPUs, else none.
        cpus: processor cores of each worker.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    cpus: int = 1

    def check(self) -> None:
        """Raise a UsageError for what makes no sense."""
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise UsageError(f"`workers` {self.workers} is out of range; give a number from 1 to {MOST_WORKERS}")
        if self.gpus is not None and (not 0 <= self.gpus <= MOST_GPUS or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise UsageError(f"`gpus_per_worker` {self.gpus:g} is out of range; give a share of one, or a whole number up to {MOST_GPUS}")
        if self.address is not None and "://" in self.address:
            raise UsageError(f"`address` {self.address}: is not taken; run the command on a machine of the cluster (`ray job submit`) with auto")

    def among(self, there: dict[str, float]) -> Cluster:
        """Return the same with all that was left open, as a cluster has room.

        Args:
            there: its resources, as `ray.cluster_resources` tells them.

        Raises:
            UsageError: a machine that nothing can be added to lacks a GPU.
        """
        found = there.get("GPU", 0.0)
        gpus = (1.0 if found >= 1 else 0.0) if self.gpus is None else self.gpus
        if self.address is None and gpus > found:
            raise UsageError(f"`gpus_per_worker` {gpus:g}: this machine has {found:g}; leave it out, or give the `address` of a cluster")
        room = found / gpus if gpus else there.get("CPU", 1.0) / self.cpus
        return replace(self, gpus=gpus, workers=self.workers or max(1, int(room)))


@contextmanager
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """Be part of a cluster; yields it with nothing left open. One that a caller has joined already is taken as it is.

    Raises:
        UsageError: as for `Cluster.check` and `Cluster.among`.
        FlashdiffError: it does not answer, or cannot be begun.
    """
    cluster.check()
    for name, value in READ_BY_RAY.items():
        os.environ.setdefault(name, value)
    import ray

    joined = ray.is_initialized()
    if not joined:
        _join(cluster)
    try:
        yield cluster.among(ray.cluster_resources())
    finally:
        if not joined:
            with suppress(Exception):  # whatever is left of it ends with this process
                ray.shutdown()


def _join(cluster: Cluster) -> None:
    import ray

    if cluster.address is None:
        # Who asks for more workers than there are cores gets them.
        cores = max(os.cpu_count() or 1, (cluster.workers or 1) * cluster.cpus)
        more = {"address": "local", "include_dashboard": False, "num_cpus": cores, "object_store_memory": STORE}
    else:
        _knock(cluster.address)
        more = {"address": cluster.address}
    logging.getLogger("ray").setLevel(logging.ERROR)
    with suppress(ImportError):
        from ray._private import worker

        # Ray tells of lost workers on standard output, where records go, and has no setting for it.
        worker._worker_logs_enabled = False
    try:
        with _own_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **more)
    except Exception as error:  # whatever the network or another version of Ray makes of it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if cluster.address is None:
            raise FlashdiffError(f"`engine` ray: cannot begin on this machine ({reason}); look at its memory and at /tmp/ray") from error
        raise FlashdiffError(f"`address` {cluster.address}: no Ray cluster answers ({reason}); look at `ray status` on its head") from error


def _knock(address: str) -> None:
    """Ray itself would wait for minutes, or end the process."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "give host:port, or auto"
        raise FlashdiffError(f"`address` {address}: no Ray cluster answers ({reason}); look at `ray status` on its head") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on a signal: Ray ends it at once, with pictures under way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
