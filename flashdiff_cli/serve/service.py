"""Job queue: bounded, before one or more worker processes, with a limit on the time of each picture; workers that die are started again."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.serve import worker
from flashdiff_cli.serve.worker import Answer, Model, Task

Step = Callable[[int, int], None]


class Busy(FlashdiffError):
    """As many pictures wait as may."""


class Ending(Busy):
    """The server ends."""


class TimeUp(FlashdiffError):
    """A picture took longer than it may."""


class Broken(FlashdiffError):
    """The worker died of a picture, or met a fault of the program."""


@dataclass
class Job:
    """A task in the queue."""

    task: Task
    step: Step
    future: Future[Answer] = field(default_factory=Future)


class WorkerProcess:
    """One worker process; started when it is needed, ended when it takes too long."""

    def __init__(self, model: Model, scratch: str):
        self.model, self.scratch, self.process, self.pipe = model, scratch, None, None
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            Ending: it has been closed.
            FlashdiffError: the model cannot be loaded.
        """
        context = multiprocessing.get_context("spawn")
        with self._lock:
            self._check_open()
            pipe, other = context.Pipe()
            self.pipe = pipe
            self.process = context.Process(target=worker.main, args=(other, self.model, self.scratch), daemon=True, name="flashdiff-worker")
            self.process.start()
        other.close()
        try:
            kind, message = pipe.recv()
        except (EOFError, OSError):
            self.end()
            self._check_open()
            raise Broken("the worker ended before its model was loaded; is there enough memory?") from None
        if kind != "ready":
            self.end()
            raise FlashdiffError(message)

    def _check_open(self) -> None:
        if self._closed:
            raise Ending("the server is ending; send the picture again when it is back")

    def close(self) -> None:
        """End the process for good."""
        with self._lock:
            self._closed = True
        self.end()

    def end(self) -> None:
        """End the process, whatever it does."""
        process, pipe, self.process, self.pipe = self.process, self.pipe, None, None
        if process is not None:
            process.kill()
            process.join(10)
        # Whoever listens at it, in another thread, has heard of the end by now.
        if pipe is not None:
            pipe.close()

    def run(self, task: Task, step: Step, seconds: float) -> Answer:
        """Have a task done.

        Raises:
            UsageError, FlashdiffError: as `worker.work`.
            TimeUp: it took too long.
            Broken: the process died of it, met a fault of the program, or cannot be started again.
            Ending: it is closed.
        """
        process = self.process
        if process is None or not process.is_alive():
            self.end()
            try:
                self.start()
            except (Ending, Broken):
                raise
            except FlashdiffError as error:
                raise Broken(f"the worker cannot be started again: {error}") from None
        pipe = self.pipe
        end = time.monotonic() + seconds
        try:
            if pipe is None:
                raise EOFError
            pipe.send(task)
            while pipe.poll(max(0.0, end - time.monotonic())):
                kind, value = pipe.recv()
                if kind == "step":
                    step(*value)
                    continue
                if kind == "done":
                    return value
                raise {"usage": UsageError, "failed": FlashdiffError}.get(kind, Broken)(value)
        except (EOFError, OSError):
            self.end()
            self._check_open()
            raise Broken(f"{task.name}: the worker ended while it had this picture; is it far too large?") from None
        self.end()
        raise TimeUp(f"{task.name}: not done after {seconds:g} seconds, which is the limit here; give a smaller picture, or choose `fast`")


class Service:
    """Pictures in, answers out, one after the other.

    Args:
        model: that every worker loads.
        workers: processes.
        waiting: pictures that may wait; more are refused.
        seconds: that one picture may take, not counting the wait.
    """

    def __init__(self, model: Model | None = None, workers: int = 1, waiting: int = 32, seconds: float = 600.0):
        self.model, self.waiting, self.seconds = model or Model(), waiting, seconds
        self._scratch = tempfile.TemporaryDirectory(prefix="flashdiff-", ignore_cleanup_errors=True)
        self.workers = [WorkerProcess(self.model, self._scratch.name) for _ in range(workers)]
        self.counts: Counter[str] = Counter()
        self._queue: deque[Job] = deque()
        self._running = 0
        self._open = True
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._serve, args=(process,), daemon=True, name="flashdiff-queue") for process in self.workers]

    def start(self) -> None:
        """Load the models and begin.

        Raises:
            FlashdiffError: a model cannot be loaded.
        """
        try:
            for process in self.workers:
                process.start()
        except BaseException:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the workers; who waits is told."""
        with self._changed:
            self._open = False
            left, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        for job in left:
            job.future.cancel()
        for process in self.workers:
            with suppress(OSError, ValueError):
                process.close()
        self._scratch.cleanup()

    def submit(self, task: Task, step: Step = lambda done, total: None) -> Job:
        """Put a task at the end of the queue.

        Args:
            task: what to do.
            step: called from another thread with (steps done, steps in all).

        Returns:
            the job, whose `future` gives the answer; a future that is cancelled before its turn is passed over.

        Raises:
            Busy: too many wait.
            Ending: the server ends.
        """
        with self._changed:
            self._queue = deque(job for job in self._queue if not job.future.cancelled())
            if not self._open:
                raise Ending("the server is ending; send the picture again when it is back")
            if len(self._queue) >= self.waiting + len(self.workers) - self._running:
                self.counts["refused"] += 1
                raise Busy(f"{len(self._queue)} pictures wait already, which is the limit here; try again in a minute")
            job = Job(task, step)
            self._queue.append(job)
            self._changed.notify()
        return job

    def before(self, job: Job) -> int:
        """Return how many pictures are done before a job begins; 0 for one that runs or is done."""
        with self._changed:
            waiting = [one for one in self._queue if not one.future.cancelled()]
            return waiting.index(job) + self._running if job in waiting else 0

    def status(self) -> dict[str, int]:
        """Return how many wait, run, and were done, failed and refused."""
        with self._changed:
            return {
                "waiting": len(self._queue),
                "running": self._running,
                "done": self.counts["done"],
                "failed": self.counts["failed"],
                "refused": self.counts["refused"],
            }

    def _next(self) -> Job | None:
        with self._changed:
            while self._open:
                while self._queue:
                    job = self._queue.popleft()
                    if job.future.set_running_or_notify_cancel():
                        self._running += 1
                        return job
                self._changed.wait()
        return None

    def _serve(self, process: WorkerProcess) -> None:
        while (job := self._next()) is not None:
            try:
                answer = process.run(job.task, job.step, self.seconds)
            except Exception as error:
                self._ended("failed")
                job.future.set_exception(error)
            else:
                self._ended("done")
                job.future.set_result(answer)

    def _ended(self, how: str) -> None:
        with self._changed:
            self._running -= 1
            self.counts[how] += 1
