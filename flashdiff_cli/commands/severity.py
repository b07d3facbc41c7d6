"""flashdiff severity"""

from __future__ import annotations

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, closed, split, with_flags


@closed
@with_flags(OPERATOR_FLAGS, "Degradation")
def severity(
    inputs: options.Inputs,
    recursive: options.Recursive = False,
    operator: options.Operator = None,
    noise_std: options.Noise = None,
    steps: options.Steps = None,
    variance_multiplier: options.Multiplier = None,
    encoder: options.Encoder = None,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    **values,
) -> None:
    """How hard is each picture? Its severity, estimated degradation and start step, without restoring it."""
    from flashdiff_cli.commands.show import meter, report, stream
    from flashdiff_cli.runs.many import each
    from flashdiff_cli.runs.plan import find

    jobs = find(inputs, recursive)
    with meter(len(jobs), quiet) as shown:
        from flashdiff_cli.runs.restorer import Restorer, Settings

        settings = Settings(
            operator=operator,
            operator_options=split(values)[0],
            noise_std=noise_std,
            steps=steps,
            variance_multiplier=variance_multiplier,
            encoder=encoder,
        )
        settings.check()
        restorer = Restorer(model, device, dtype, offline=offline)
        restorer.check(settings)

        def work(job, picture):
            return restorer.analyse(picture, settings, str(job.source))[1]

        records, interrupted = stream(each(jobs, work, lambda job: shown.begin(str(job.source))), json, shown.end)
    report(records, json, restored=False)
    raise typer.Exit(130 if interrupted else int(any(r.status == "failed" for r in records)))
