"""A run on many workers: each is given a few pictures at a time, and those of one that is lost go to others.

These are actors of Ray, and not its data sets: a record is told as soon as its picture is finished, of a million names none is copied before its
turn, and what a lost worker had not finished is known picture by picture.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.atomic import sweep
from flashdiff_cli.runs.cluster import Cluster, connected
from flashdiff_cli.runs.executor import failure
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import place_of
from flashdiff_cli.runs.naming import files_of
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.task import Task
from flashdiff_cli.runs.worker import LIMITS, Worker
from flashdiff_cli.version import __version__

AT_ONCE = 16
"""Pictures that a worker is given together at most, unless it is to restore more at a time: read ahead and written behind while it computes, and
nothing else waits there."""
LOSSES = 3
"""Workers that one picture may take with it before it counts as failed."""
UNBORN = 3
"""Workers in a row that may be lost before their model is loaded."""
PATIENCE, LOOK = 900.0, 1.0
"""Seconds until the first worker has begun, for machines may have to be started for it; and between two looks at whether to stop."""


@dataclass
class _Hand:
    """A worker, as it is seen from here."""

    actor: Any
    loading: Any
    """What tells that it has a model; None: it has."""
    records: Any = None
    """What it tells of the pictures that it has been given."""
    doing: set[int] = field(default_factory=set)


def restore_all(
    jobs: Sequence[Job],
    task: Task,
    cluster: Cluster,
    stopped: Callable[[], bool] = lambda: False,
    said: Callable[[str], None] = lambda text: None,
) -> Generator[Record]:
    """Restore pictures on a cluster; the records come as they are finished, and of a run that was not stopped there is one for each.

    Args:
        jobs: with targets.
        task: what to do with each.
        cluster: where.
        stopped: asked again and again; once it is true, pictures under way are finished and the rest is left.
        said: told how many workers there are, in words.

    Raises:
        UsageError, FlashdiffError: as for `connected`; or no worker can be begun, or load the model.
    """
    with connected(cluster) as known:
        pool = _Pool(jobs, task, known, said)
        try:
            yield from pool.records(stopped)
        finally:
            pool.end()


class _Pool:
    def __init__(self, jobs: Sequence[Job], task: Task, cluster: Cluster, said: Callable[[str], None]):
        import ray

        self.jobs, self.said, self.count, self.batch = jobs, said, cluster.workers or 1, task.batch or 1
        self.waiting, self.again = deque(range(len(jobs))), deque[int]()
        self.lost, self.unborn, self.stopping = Counter[int](), 0, False
        self.hands: list[_Hand] = []
        environment = {name: os.environ[name] for name in LIMITS if name in os.environ}
        self.arguments = (task, os.getcwd() if _relative(jobs, task) else None, environment, __version__)
        # Of two calls at once, one is only ever `stop`.
        more = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus or 0, "max_concurrency": 2, "max_restarts": 0, "max_task_retries": 0}
        self.actor = ray.remote(Worker).options(**more)

    def records(self, stopped: Callable[[], bool]) -> Iterator[Record]:
        latest = time.monotonic() + PATIENCE
        while self.waiting or self.again or any(hand.doing for hand in self.hands):
            if stopped() and not self.stopping:
                self._stop()
                continue
            self._hand_out()
            hand = self._next()
            if hand is not None:
                latest = float("inf")
                yield from self._hear(hand)
            elif time.monotonic() > latest:
                raise FlashdiffError(f"`engine` ray: no worker has begun within {PATIENCE:.0f} seconds; look at `ray status` for what they lack")

    def _stop(self) -> None:
        self.stopping = True
        self.waiting.clear()
        self.again.clear()
        for hand in self.hands:
            if hand.doing:
                hand.actor.stop.remote()

    def _hand_out(self) -> None:
        """Begin workers as far as there is work for them, and give those that have nothing to do a few pictures."""
        unfinished = len(self.waiting) + len(self.again) + sum(len(hand.doing) for hand in self.hands)
        while not self.stopping and len(self.hands) < min(self.count, unfinished):
            actor = self.actor.remote(*self.arguments)
            self.hands.append(_Hand(actor, actor.load.remote()))
        for hand in self.hands:
            if hand.loading is None and hand.records is None and (some := self._some()):
                hand.doing = set(some)
                hand.records = hand.actor.restore.options(num_returns="streaming").remote([(i, self.jobs[i]) for i in some])

    def _some(self) -> list[int]:
        """Return the next pictures for one worker; towards the end fewer, so that all end together."""
        if self.again:  # alone, to see which of them it is that workers are lost by
            return [self.again.popleft()]
        few = -(-len(self.waiting) // (2 * self.count))
        return [self.waiting.popleft() for _ in range(min(max(AT_ONCE, self.batch), few))]

    def _next(self) -> _Hand | None:
        """Return a worker that has something to tell; None: none has, for a while."""
        import ray

        told = {hand.loading or hand.records: hand for hand in self.hands if hand.loading is not None or hand.records is not None}
        ready = ray.wait(list(told), timeout=LOOK)[0]
        return told[ready[0]] if ready else None

    def _hear(self, hand: _Hand) -> Iterator[Record]:
        """Yield what a worker has to tell now: that it is ready, a record, that it has nothing more to do, or that it is gone."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            if hand.loading is not None:
                ray.get(hand.loading)
                hand.loading, self.unborn = None, 0
                ready = sum(other.loading is None for other in self.hands)
                self.said(f"{ready} of {self.count} workers")
                return
            number, record = ray.get(next(hand.records))
        except StopIteration:
            hand.records = None
            hand.doing.clear()
        except RayTaskError as error:
            raise _cause(error) from error
        except RayError as error:
            yield from self._missed(hand, error)
        else:
            if number in hand.doing:
                hand.doing.discard(number)
                if record.status == "skipped" and self.lost[number]:
                    record.status = "done"  # by the worker that was lost before it could tell
                yield record

    def _missed(self, hand: _Hand, error: Exception) -> Iterator[Record]:
        """Give a lost worker's pictures to others, but for those that were so too often."""
        import ray

        self.hands.remove(hand)
        with suppress(Exception):
            ray.kill(hand.actor)
        if hand.loading is not None:
            self.unborn += 1
            if self.unborn >= UNBORN:
                reason = " ".join(str(error).split())[:300]
                raise FlashdiffError(f"`engine` ray: workers end while they load the model ({reason}); look at the memory of their machines")
        for number in sorted(hand.doing):
            self.lost[number] += 1
            if self.lost[number] >= LOSSES:
                source = str(self.jobs[number].source)
                lost = FlashdiffError(
                    f"{source}: {LOSSES} workers were lost that had it; look at the memory of their machines, or use a smaller --tile"
                )
                yield failure(source, lost)
            elif not self.stopping:
                self.again.append(number)

    def end(self) -> None:
        """Let the workers go, and remove what lost ones have left."""
        import ray

        for hand in self.hands:
            with suppress(Exception):
                ray.kill(hand.actor)
        for folder in {place_of(self.jobs[number]).parent for number in self.lost}:
            if isinstance(folder, Path):
                sweep(folder)


def _relative(jobs: Sequence[Job], task: Task) -> bool:
    """Return whether names begin from the present folder."""
    files = [*files_of(task.settings.operator_options).values(), *([Path(task.model)] if Path(task.model).is_dir() else [])]
    return any(not file.is_absolute() for file in files) or any(job.relative for job in jobs)


def _cause(error: Any) -> FlashdiffError:
    """Return what a worker has raised, as it would have been raised here."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UsageError):
        return UsageError(str(cause))
    if isinstance(cause, FlashdiffError):
        return FlashdiffError(str(cause))
    reason = " ".join(str(cause).split())[:300]
    return FlashdiffError(f"`engine` ray: a worker could not go on ({type(cause).__name__}: {reason}); please report it")
