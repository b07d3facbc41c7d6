"""flashdiff severity"""

from __future__ import annotations

import sys
from collections import Counter

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags


@closed
@with_flags(OPERATOR_FLAGS, "Degradation")
def severity(
    inputs: options.Inputs,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    operator: options.Operator = None,
    mask: options.Mask = None,
    kernel: options.Kernel = None,
    noise_std: options.Noise = None,
    steps: options.Steps = None,
    variance_multiplier: options.Multiplier = None,
    encoder: options.Encoder = None,
    tile: options.Tile = 384,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    **values,
) -> None:
    """How hard is each picture? Its severity, estimated degradation and start step, without restoring it."""
    from flashdiff_cli.commands.piped import STANDARD
    from flashdiff_cli.commands.show import interruptible, meter, report, say_error, say_left, stream
    from flashdiff_cli.errors import UsageError
    from flashdiff_cli.runs.inputs import Job, find, say_passed
    from flashdiff_cli.runs.many import each
    from flashdiff_cli.runs.piped import read_standard_input

    content = read_standard_input(sys.stdin) if STANDARD in inputs else []
    if isinstance(content, bytes):
        if len(inputs) > 1:
            raise UsageError("through a pipe goes one picture: give no other input")
        jobs = [Job(STANDARD, STANDARD, data=content)]
    else:
        passed: Counter[str] = Counter()
        jobs = find(inputs, recursive, limit, content, passed)
        said = say_passed(passed)
        if said is not None:
            say_error(said)
    with meter(len(jobs), quiet) as shown, interruptible(shown) as stopped:
        from flashdiff_cli.runs.restorer import Restorer, Settings

        settings = Settings(
            operator=operator,
            operator_options=split(values)[0],
            mask=mask,
            kernel=kernel,
            noise_std=noise_std,
            steps=steps,
            variance_multiplier=variance_multiplier,
            encoder=encoder,
            tile=tile,
        )
        settings.check()
        restorer = Restorer(model, device, dtype, offline=offline)
        restorer.check(settings)

        def work(job, picture):
            return restorer.analyse(picture, settings, str(job.source))[1], None

        done = each(jobs, work, lambda job: shown.begin(str(job.source)), stopped.is_set)
        records, interrupted = stream(done, json, shown.end)
    report(records, json, restored=False)
    left = jobs[len(records) :]
    if left:
        say_left(left)
    raise typer.Exit(130 if interrupted or left else int(any(r.status == "failed" for r in records)))
