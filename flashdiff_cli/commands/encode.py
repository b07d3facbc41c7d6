"""flashdiff encode"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flashdiff_cli import lean
from flashdiff_cli.commands import helpful, options, process
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags


@closed
@with_flags(OPERATOR_FLAGS, "Degradation", any_option=True)
def encode(
    inputs: options.Inputs,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results (default: beside each input)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that stand in the way.")] = False,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    operator: options.Operator = None,
    mask: options.Mask = None,
    kernel: options.Kernel = None,
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
    """Write the estimated latent and severity (NAME-latent.safetensors) and the decoded latent (NAME-latent.png).

    Examples:

    flashdiff encode photo.png

    flashdiff encode holiday/ -r -o latents/
    """
    from flashdiff_cli.commands.piped import STANDARD
    from flashdiff_cli.commands.run import find_pictures, run_pictures
    from flashdiff_cli.errors import UsageError
    from flashdiff_cli.pictures.files import write_picture
    from flashdiff_cli.pictures.tensors import write_tensors
    from flashdiff_cli.runs.inputs import with_targets
    from flashdiff_cli.runs.journal import Journal, Origin
    from flashdiff_cli.runs.piped import read_standard_input

    content = read_standard_input(sys.stdin) if STANDARD in inputs else []
    if isinstance(content, bytes):
        raise UsageError("-: standard input is a picture; encode writes files named after its inputs, so give it a file")
    found = find_pictures(inputs, recursive, limit, content)
    jobs = with_targets(found, None if output is None else f"{output}/", "-latent", ".png")
    if output is not None:
        jobs = [job.renamed("-latent") for job in jobs]
    with lean.start():
        from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.settings import Settings

    settings = Settings(operator=operator, operator_options=split(values)[0], mask=mask, kernel=kernel, encoder=encoder, tile=tile)
    settings.check()
    journal = Journal()

    def load():
        return Restorer(model, device, dtype, offline=offline, prompt=prompt)

    def encoded(restorer, job, picture):
        target = job.target.with_suffix(".safetensors")
        origin, main = Origin.of(job.source), target.name
        journal.check(target, origin, overwrite=overwrite)
        journal.check(job.target, origin, main, overwrite)
        found, record = restorer.analyse(picture, settings, str(job.source))
        decoded = found.pop("decoded")
        facts = {"model": record.model, "width": str(record.width), "height": str(record.height), "encoder": record.encoder}
        kept = {"digest": picture.digest.hex(), "overwrite": overwrite}

        def finish(record):
            record.output = str(target)
            # The preview first: what PNG cannot hold is a note in the record, which goes with the latent.
            write_picture(picture.with_image(decoded), job.target, None, lambda path: journal.file(path, origin, of=main, **kept), record.notes)
            write_tensors(found, target, facts, lambda path: journal.file(path, origin, record=record, **kept))

        return record, finish

    raise typer.Exit(run_pictures(jobs, settings, load, lambda restorer, shown: partial(encoded, restorer), json, quiet, restored=False)[1])
