"""Which type the weights have, and that half of the bits are enough."""

import math
from pathlib import Path

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import GaussianBlur, Identity
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs import restorer
from flashdiff_cli.runs.restorer import Restorer, pick_dtype
from flashdiff_cli.solvers import Problem

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("able, device, chosen", [
    ({"amx_bf16": True, "avx512_bf16": False}, CPU, "bfloat16"),
    ({"avx512_bf16": True}, CPU, "bfloat16"),
    ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, CPU, "float32"),
    ({}, CPU, "float32"),
    ({"amx_bf16": True}, CUDA, "float32"),
])  # fmt: skip
def test_auto_is_what_the_processor_is_made_for(monkeypatch, able, device, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert pick_dtype("auto", device) == chosen
    assert pick_dtype("float32", device) == "float32"


def test_a_torch_that_does_not_say_what_a_processor_can_do_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_dtype("auto", CPU) == "float32"


def test_an_unknown_type_is_refused():
    with pytest.raises(UsageError, match="`dtype` 'int8' is unknown"):
        pick_dtype("int8", CPU)


def test_half_of_the_bits_restore_as_well_and_tell_the_same(monkeypatch):
    picture = read_picture(Path(__file__).parents[1] / "examples/blurry.png")
    picture = picture.with_image(picture.image[..., 96:160, 96:160])
    exact, told = Restorer("photos", "cpu", "float32").restore(picture)
    monkeypatch.setattr(restorer, "pick_dtype", lambda name, device: "bfloat16")
    half = Restorer("photos", "cpu", "auto")
    assert half.pipeline.unet.dtype == torch.bfloat16
    assert half.pipeline.classifier.dtype == half.pipeline.blur_estimator.dtype == torch.float32
    found, record = half.restore(picture)
    assert record.dtype == "bfloat16" and record.degradation == told.degradation
    off = (found.image - exact.image).square().mean().sqrt().item() / 2
    changed = (exact.image - picture.image).square().mean().sqrt().item() / 2
    assert -20 * math.log10(off) > 45 and off < changed / 10


def test_what_is_left_alone_is_not_rounded_to_the_type_of_the_weights():
    pipeline = tiny_pipeline(defaults={"fidelity": True}).to(torch.bfloat16)
    y = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nothing = Diagnosis("none", Identity(), 0.0)
    assert torch.equal(pipeline(y, Identity(), 0.0, diagnosis=nothing, start_step=0).images, y)


@pytest.mark.parametrize("solver", ["ldps", "gml-dps", "psld", "resample", "proximal"])
def test_data_terms_are_computed_on_what_was_measured(monkeypatch, solver):
    pipeline = tiny_pipeline().to(torch.bfloat16)
    y = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []
    of = Problem.difference
    monkeypatch.setattr(Problem, "difference", lambda problem, image: seen.append(problem.measurement) or of(problem, image))
    found = pipeline(y, GaussianBlur(1.0), 0.05, solver=solver, steps=4, start_step=2, fidelity=False)
    assert found.images.isfinite().all() and (seen or solver == "proximal")
    assert all(torch.equal(one, y) for one in seen)
    assert of(Problem(y, Identity(), None, None, None, 0.05), y.bfloat16()).dtype == torch.float32
