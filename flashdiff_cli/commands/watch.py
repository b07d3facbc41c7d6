"""flashdiff watch"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags

if TYPE_CHECKING:
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.task import Task
    from flashdiff_cli.runs.watching import Arrivals


@closed
@with_flags(OPERATOR_FLAGS, "Degradation")
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder into which pictures come.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder that mirrors it (default: beside each picture).")] = None,
    recursive: options.Recursive = False,
    every: Annotated[float, typer.Option("--every", min=0.05, help="Seconds between two looks.")] = 2.0,
    settle: Annotated[float, typer.Option("--settle", min=0, help="Seconds that a file must have stayed the same: then it is complete.")] = 2.0,
    idle: Annotated[float | None, typer.Option("--idle", min=0, help="End when nothing has come for so many seconds (default: never).")] = None,
    suffix: Annotated[str, typer.Option("--suffix", help="Added to names of outputs beside their inputs.")] = "-restored",
    format: Annotated[str | None, typer.Option("--format", help="png, jpg, webp, avif, tiff, bmp or heic (default: as the input).")] = None,
    quality: Annotated[int | None, typer.Option("--quality", min=1, max=100, help="Of formats with loss (default: 95).")] = None,
    operator: options.Operator = None,
    kernel: options.Kernel = None,
    noise_std: options.Noise = None,
    scale: options.Scale = None,
    fast: options.Fast = False,
    variance_multiplier: options.Multiplier = None,
    tile: options.Tile = 384,
    seed: options.Seed = 0,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    **values,
) -> None:
    """Restore pictures as they come into a folder, those that are there first; Ctrl-C ends it.

    What is done is known by the journal beside the outputs, as with restore: start it again, and it goes on.

    Examples:

    flashdiff watch scans/ -o restored/

    flashdiff watch scans/ -r -o restored/ --idle 600
    """
    from flashdiff_cli.commands.show import say_error
    from flashdiff_cli.errors import UsageError, choose_from
    from flashdiff_cli.hub.download import sha256_of
    from flashdiff_cli.pictures.formats import FORMATS
    from flashdiff_cli.runs.journal import fingerprint
    from flashdiff_cli.runs.naming import files_of
    from flashdiff_cli.runs.resume import model_identity
    from flashdiff_cli.runs.settings import Settings
    from flashdiff_cli.runs.task import Task
    from flashdiff_cli.runs.watching import Arrivals

    ending = None if format is None else "." + format.lower().lstrip(".")
    if ending is not None and ending not in FORMATS:
        raise UsageError(f"--format {format!r} cannot be written; {choose_from(format, [name[1:] for name in FORMATS])}")
    if output is not None and output.suffix.lower() in FORMATS and not output.is_dir():
        raise UsageError(f"--output {output}: one file for many pictures; give a folder")
    settings = Settings(
        operator=operator,
        operator_options=split(values)[0],
        kernel=kernel,
        noise_std=noise_std,
        scale=scale,
        start_step=0 if fast else None,
        variance_multiplier=variance_multiplier,
        seed=seed,
        tile=tile,
    )
    settings.check()
    arrivals = Arrivals(folder, recursive, settle)
    arrivals.check()
    task = Task(settings, model, device, dtype, offline, quality=quality)
    restorer = task.load()
    restorer.check(settings)
    files = {name: sha256_of(path) for name, path in files_of(settings.operator_options).items()}
    # As for restore, so that either knows what the other has done.
    asked = {"quality": quality, "dtype": dtype, "samples": 1, "map": False, "files": files}
    task = replace(task, made_with=fingerprint(**settings.identity(), **asked, **model_identity(model, offline)))
    if not quiet:
        say_error(f"watching {folder} (Ctrl-C ends it)")
    runner = Runner(restorer, task, output, suffix, ending, json, quiet)
    raise typer.Exit(_follow(arrivals, runner, every, idle))


@dataclass
class Runner:
    """Restores and writes what has come, as `restore` would."""

    restorer: Restorer
    task: Task
    output: Path | None
    suffix: str
    ending: str | None
    json: bool
    quiet: bool

    def __post_init__(self):
        from flashdiff_cli.runs.journal import Journal

        self.journal = Journal()

    def do(self, found: list[Job]) -> int | None:
        """Restore what is to be done of these; the exit code, None where nothing was to be done."""
        from flashdiff_cli.commands.run import run_pictures
        from flashdiff_cli.runs.inputs import with_targets
        from flashdiff_cli.runs.record import Record
        from flashdiff_cli.runs.resume import DO, REFUSE, Claims, decide, refusal, sweep_outputs, without_outputs

        jobs = without_outputs(found, self.journal)
        refused: list[Record] = []

        def refuse(job, error):
            refused.append(Record(str(job.source), status="failed", error=str(error)))

        # A folder, also while a single picture has come and no such folder is there.
        folder = None if self.output is None else f"{self.output}/"
        jobs = with_targets(jobs, folder, self.suffix, self.ending, of_another=self.journal.is_of_another, refused=refuse)
        decisions = decide(jobs, self.journal, self.task.made_with)
        todo = [d.job for d in decisions if d.action == DO]
        refused += [refusal(d) for d in decisions if d.action == REFUSE]
        if not todo and not refused:
            return None
        sweep_outputs(decisions)
        claims = Claims(self.journal, self.task.made_with)

        def work(restorer, shown):
            return self.task.work(restorer, self.journal, shown)

        return run_pictures(todo, self.task.settings, lambda: self.restorer, work, self.json, self.quiet, refused, claims=claims, more=True)[1]


def _follow(arrivals: Arrivals, runner: Runner, every: float, idle: float | None) -> int:
    """Look again and again; the exit code, once nothing has come for `idle` seconds, or a signal asked to stop."""
    failed, last = False, time.monotonic()
    while True:
        code = runner.do(arrivals.poll(time.monotonic()))
        if code is not None and code >= 128:
            return code
        if code is not None or arrivals.waiting:
            failed, last = failed or bool(code), time.monotonic()
        if idle is not None and time.monotonic() - last >= idle:
            return int(failed)
        time.sleep(every)
