"""Measure a model: first stage, severity, restoration informed and blind, on folders of clean pictures.

    python benchmarks/photos.py faces=FOLDER natural=FOLDER [--model weights/photos] [--limit N] [--json FILE]

Every picture is degraded with its own seed: Gaussian blur of standard deviation U(0.3, 3.0) and noise of 0.05. PSNR is the
mean of per-picture decibels, range 1; SSIM is torchmetrics' with data_range 1; "gradient" is the mean magnitude of
forward differences as a share of that of the first stage's own reconstruction of the clean picture.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import SamplingRequest
from flashdiff_cli.stats import ordering_accuracy, spearman
from flashdiff_cli.training.data import validation_images

NOISE_STD, LOW, HIGH, LEVELS = 0.05, 0.3, 3.0, 10


def psnr(image, truth):
    return -10 * torch.log10(((image.clamp(-1, 1) - truth) / 2).square().mean()).item()


def gradient(image):
    x = image.clamp(-1, 1)
    dx, dy = x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]
    return (dx.square() + dy.square()).sqrt().mean().item()


def scores(image, truth):
    image = image.clamp(-1, 1)
    return {
        "psnr": psnr(image, truth),
        "ssim": ssim((image + 1) / 2, (truth + 1) / 2, data_range=1.0).item(),
        "gradient": gradient(image),
    }


@torch.no_grad()
def measure_picture(pipe, index, truth, settings, arms):
    """All figures of one picture (1, 3, H, W); restored images by arm."""
    generator = torch.Generator().manual_seed(1000 + index)
    std = LOW + (HIGH - LOW) * torch.rand(1, generator=generator)
    operator = GaussianBlur(std)
    y = operator.measure(truth, NOISE_STD, [generator])
    analysis = pipe.analyse(y, operator.name)
    z0 = pipe.stage.encode(truth)
    record = {"index": index, "blur_std": std.item(), "size": list(truth.shape[2:])}
    record["error_variance"] = (analysis.latent - z0).square().mean().item()
    record["variance"] = analysis.variance.item()
    record["input"] = scores(y, truth)
    record["first_stage"] = scores(pipe.stage.decode(z0), truth)
    record["decoded"] = scores(analysis.decoded, truth)
    record["truth"] = {"gradient": gradient(truth)}
    rising = torch.linspace(0, 1, LEVELS) * (HIGH - LOW) + LOW
    generators = [torch.Generator().manual_seed(5000 + 100 * index + j) for j in range(LEVELS)]
    measured = GaussianBlur(rising).measure(truth.expand(LEVELS, -1, -1, -1), NOISE_STD, generators)
    variances = torch.cat([pipe.analyse(m[None], operator.name).variance for m in measured])
    record["level_variances"] = variances.tolist()
    record["level_starts"] = pipe.plan(SamplingRequest.of(**settings), operator.name, NOISE_STD).matched_step(variances).tolist()
    images = {}
    for arm in arms:
        begin = time.perf_counter()
        known = arm == "informed"
        result = pipe(
            y,
            operator if known else None,
            NOISE_STD if known else None,
            generators=[torch.Generator().manual_seed(index)],
            **settings,
        )
        record[arm] = scores(result.images, truth) | {
            "seconds": time.perf_counter() - begin,
            "start_step": result.start_step.item(),
            "network_evaluations": result.network_evaluations.item(),
            "operator": result.operators[0],
            "noise_std": result.noise_std.item(),
        }
        images[arm] = result.images
    return record, {"truth": truth, "input": y, "decoded": analysis.decoded} | images


def mean(records, *keys):
    values = []
    for record in records:
        for key in keys:
            record = record[key]
        values.append(record)
    return sum(values) / len(values)


def summary(records, arms):
    """Means over one group of pictures."""
    first = mean(records, "first_stage", "gradient")
    out = {
        "pictures": len(records),
        "first_stage_psnr": mean(records, "first_stage", "psnr"),
        "spearman": spearman(*([r[k] for r in records] for k in ("error_variance", "variance"))),
        "ordering_accuracy": ordering_accuracy([r["level_variances"] for r in records]),
        "mean_start_by_level": torch.tensor([r["level_starts"] for r in records]).float().mean(0).tolist(),
        "truth_gradient": mean(records, "truth", "gradient") / first,
    }
    for arm in ("input", "decoded", *arms):
        for key in ("psnr", "ssim"):
            out[f"{arm}_{key}"] = mean(records, arm, key)
        out[f"{arm}_gradient"] = mean(records, arm, "gradient") / first
    for arm in arms:
        for key in ("seconds", "start_step", "network_evaluations"):
            out[f"{arm}_{key}"] = mean(records, arm, key)
        out[f"{arm}_worse"] = sum(r[arm]["psnr"] < r["input"]["psnr"] for r in records) / len(records)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="weights/photos")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--arms", default="informed,blind")
    parser.add_argument("--json", type=Path, help="write all records there")
    parser.add_argument("--sheet", type=Path, help="write pictures of the first of each group there")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a pipeline setting, e.g. steps=100")
    options = parser.parse_args()
    arms = [arm for arm in options.arms.split(",") if arm]
    settings = {k: json.loads(v) for k, v in (s.split("=", 1) for s in options.set)}
    settings["solver_options"] = {k: settings.pop(k) for k in list(settings) if k not in SamplingRequest.__dataclass_fields__}
    pipe = FlashDiffusionPipeline.from_pretrained(options.model)
    everything, rows = {}, []
    for group in options.groups:
        name, folder = group.split("=", 1)
        records = []
        for index, truth in enumerate(validation_images(folder, options.limit, pipe.size_multiple)):
            record, images = measure_picture(pipe, index, truth, settings, arms)
            records.append(record)
            if options.sheet and index < 6:
                rows.append(images)
            print(f"\r{name} {index + 1}", end="", file=sys.stderr)
        print(file=sys.stderr)
        everything[name] = {"summary": summary(records, arms), "records": records}
        for key, value in everything[name]["summary"].items():
            shown = [round(v, 1) for v in value] if isinstance(value, list) else round(value, 4)
            print(f"{name:8} {key:28} {shown}")
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    if options.sheet:
        from flashdiff_cli.training.sample_grid import grid, to_picture

        grid([[to_picture(image) for image in row.values()] for row in rows]).save(options.sheet)


if __name__ == "__main__":
    main()
