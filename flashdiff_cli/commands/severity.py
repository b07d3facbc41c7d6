"""flashdiff severity"""

from __future__ import annotations

import sys

import typer

from flashdiff_cli import lean
from flashdiff_cli.commands import helpful, options, process
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags


@closed
@with_flags(OPERATOR_FLAGS, "Degradation", any_option=True)
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
    prompt: options.Prompt = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    threads: process.Threads = None,
    max_megapixels: process.MaxMegapixels = None,
    verbose: process.Verbose = False,
    log_file: process.LogFile = None,
    help_all: helpful.HelpAll = False,
    **values,
) -> None:
    """Estimate how hard each picture is: its severity, degradation and start step, without restoring it.

    Examples:

    flashdiff severity photo.png

    flashdiff severity holiday/ -r --json
    """
    from flashdiff_cli.commands.piped import STANDARD
    from flashdiff_cli.commands.run import find_pictures, run_pictures
    from flashdiff_cli.errors import UsageError
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.piped import read_standard_input

    content = read_standard_input(sys.stdin) if STANDARD in inputs else []
    if not isinstance(content, bytes):
        jobs = find_pictures(inputs, recursive, limit, content)
    elif len(inputs) > 1:
        raise UsageError("through a pipe goes one picture: give no other input")
    else:
        jobs = [Job(STANDARD, STANDARD, data=content)]
    with lean.start():
        from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.settings import Settings

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

    def load():
        return Restorer(model, device, dtype, offline=offline, prompt=prompt)

    def work(restorer, shown):
        return lambda job, picture: (restorer.analyse(picture, settings, str(job.source))[1], None)

    raise typer.Exit(run_pictures(jobs, settings, load, work, json, quiet, restored=False)[1])
