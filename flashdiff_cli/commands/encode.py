"""flashdiff encode"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags


@closed
@with_flags(OPERATOR_FLAGS, "Degradation")
def encode(
    inputs: options.Inputs,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="Folder of the results (default: beside each input)."),
    ] = None,
    recursive: options.Recursive = False,
    operator: options.Operator = None,
    encoder: options.Encoder = None,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    **values,
) -> None:
    """Write the estimated latent and severity (NAME-latent.safetensors) and the decoded latent (NAME-latent.png)."""
    from flashdiff_cli.commands.show import meter, report, stream
    from flashdiff_cli.pictures.files import write_picture
    from flashdiff_cli.pictures.tensors import write_tensors
    from flashdiff_cli.runs.many import each
    from flashdiff_cli.runs.plan import find, with_targets

    jobs = with_targets(find(inputs, recursive), None if output is None else f"{output}/", "-latent", ".png")
    if output is not None:
        jobs = [job.renamed("-latent") for job in jobs]
    with meter(len(jobs), quiet) as shown:
        from flashdiff_cli.runs.restorer import Restorer, Settings

        settings = Settings(operator=operator, operator_options=split(values)[0], encoder=encoder)
        settings.check()
        restorer = Restorer(model, device, dtype, offline=offline)
        restorer.check(settings)

        def work(job, picture):
            found, record = restorer.analyse(picture, settings, str(job.source))
            decoded = found.pop("decoded")
            facts = {"model": record.model, "width": str(record.width), "height": str(record.height), "encoder": record.encoder}
            target = job.target.with_suffix(".safetensors")
            write_tensors(found, target, facts)
            write_picture(picture.with_image(decoded), job.target)
            record.output = str(target)
            return record

        records, interrupted = stream(each(jobs, work, lambda job: shown.begin(str(job.source))), json, shown.end)
    report(records, json, restored=False)
    raise typer.Exit(130 if interrupted else int(any(r.status == "failed" for r in records)))
