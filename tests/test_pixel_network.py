"""A severity encoder with a U-shaped network ahead of it, which is told what is missing, and what it is trained on."""

import pytest
import torch
from tiny import save_tiny_model, tiny_first_stage, tiny_pipeline
from torch.nn import functional as F

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.severity import SeverityEncoder
from flashdiff_cli.training.parts import Part
from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.severity import SeverityTask

TABLES = [
    {"operator": "gaussian-blur", "blur_std": [0.3, 3.0], "noise_std": 0.02},
    {"operator": "random-inpainting", "kept_fraction": [0.6, 0.2], "noise_std": 0.0},
]


def network():
    torch.manual_seed(1)
    made = LastStep([8, 8], [1, 1])
    torch.nn.init.normal_(made.leave.weight, std=0.05)
    return made


def images(count, seed=0):
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(32, 32), mode="bilinear")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    network().save_pretrained(folder / "ahead")
    return folder


def task(model, mixtures=0.0, tables=TABLES):
    loss = {"variance_form": "local", "image_share": 0.5, "mixtures": mixtures}
    recipe = Recipe("severity", steps=1, degradation=tables, loss=loss, model={"pixel_network": "ahead"})
    return SeverityTask(recipe, {"pictures": list(images(2).split(1))}, model)


def test_it_begins_as_network_then_encoder(tmp_path):
    stage, ahead = FirstStage(tiny_first_stage("dc")), network()
    encoder = SeverityEncoder.from_first_stage(stage, pixel_network=ahead).eval()
    x = images(2)
    none = torch.zeros(2)
    assert torch.allclose(encoder(x).latent, stage.encode(ahead(x, none, none)), atol=1e-5)
    encoder.save_pretrained(tmp_path)
    again = SeverityEncoder.from_pretrained(tmp_path).eval()
    assert torch.equal(again(x).latent, encoder(x).latent) and torch.equal(again(x).variance, encoder(x).variance)
    with pytest.raises(ValueError, match="AutoencoderDC"):
        SeverityEncoder.from_first_stage(FirstStage(tiny_first_stage("kl")), pixel_network=ahead)


def test_it_is_told_what_is_missing():
    encoder = SeverityEncoder.from_first_stage(FirstStage(tiny_first_stage("dc")), pixel_network=network()).eval()
    x, holes = images(2), torch.zeros(2, 32, 32, dtype=torch.bool)
    assert torch.equal(encoder(x, holes).latent, encoder(x).latent), "nothing is missing"
    holes[1, 8:20, 4:12] = True
    told, untold = encoder(x, holes).latent, encoder(x).latent
    assert torch.equal(told[0], untold[0]) and not torch.allclose(told[1], untold[1])
    plain = SeverityEncoder.from_first_stage(FirstStage(tiny_first_stage("dc"))).eval()
    assert torch.equal(plain(x, holes).latent, plain(x).latent), "an encoder without it cannot be told"


def test_missing_pixels_are_filled_and_named(model):
    found = task(model, tables=TABLES[1:]).lessons(images(3), torch.Generator().manual_seed(0))
    assert found.holes is not None and 0.3 < found.holes.float().mean() < 0.9
    kept = ~found.holes[:, None].expand_as(found.clean)
    assert torch.allclose(found.measured[kept], found.clean[kept], atol=1e-6)
    assert (found.measured - found.clean)[~kept].abs().mean() < (found.clean[~kept] + 1).abs().mean(), "filled, not black"
    assert task(model, tables=TABLES[:1]).lessons(images(3), torch.Generator().manual_seed(0)).holes is None


def test_lessons_are_exact_where_a_training_computes_in_half_precision(model):
    own = task(model, 0.7, [*TABLES, {"operator": "enlargement", "enlarged": [1.5, 3.0]}])
    with torch.autocast("cpu", torch.bfloat16):
        half = own.lessons(images(16), torch.Generator().manual_seed(0))
    whole = own.lessons(images(16), torch.Generator().manual_seed(0))
    assert half.measured.dtype == torch.float32 and torch.equal(half.measured, whole.measured)


def test_mixtures_take_their_share(model):
    x = images(32)
    for share, low, high in ((0.0, 0, 0), (0.5, 8, 24), (1.0, 32, 32)):
        found = task(model, share, TABLES[:1]).lessons(x, torch.Generator().manual_seed(0))
        # What mixtures make is rounded to 8 bits; noise on floats is not.
        levels = (found.measured + 1) * 127.5
        rounded = ((levels - levels.round()).abs() < 1e-3).flatten(1).all(1).sum().item()
        assert low <= rounded <= high, share
    assert torch.equal(x, images(32)), "the pictures themselves stay as they are"


@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_batch_learn_what_the_whole_would(model, count):
    x, own = images(8), task(model, 0.5)
    whole = own.lessons(x, torch.Generator().manual_seed(3))
    for index in range(count):
        part = own.lessons(x[index::count], torch.Generator().manual_seed(3), Part(index, count))
        assert torch.allclose(part.measured, whole.measured[index::count], atol=1e-5)
        assert torch.equal(part.clean, whole.clean[index::count])


def test_it_learns(model):
    own = task(model, 0.5)
    assert isinstance(load_component(model, "ahead"), LastStep)
    own.prepare(torch.device("cpu"))
    own.module.train()
    optimizer = torch.optim.AdamW(own.module.parameters(), 2e-3)
    losses = []
    for step in range(12):
        losses.append(own.loss(own.module, images(4), torch.Generator().manual_seed(step % 2))["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad is not None for n, p in own.module.named_parameters() if n.startswith("ahead"))
        optimizer.step()
    assert sum(losses[-2:]) < sum(losses[:2])
    with torch.no_grad():
        figures = own.validate(own.module.eval())
    assert figures["estimated_pictures"] > 0


def test_one_that_needs_larger_steps_than_the_model_is_refused(tmp_path):
    """With three levels it works in steps of 8 pixels, as the tiny model does; with four in steps of 16."""
    for levels, works in ((3, True), (4, False)):
        pipeline = tiny_pipeline()
        ahead = LastStep([8] * levels, [1] * levels)
        pipeline.register_modules(severity=SeverityEncoder.from_first_stage(pipeline.stage, pixel_network=ahead).eval())
        pipeline.save_pretrained(tmp_path / str(levels))
        if works:
            FlashDiffusionPipeline.from_pretrained(tmp_path / str(levels))
        else:
            with pytest.raises(FlashdiffError, match="severity: .*steps of 16 pixels, the model in steps of 8"):
                FlashDiffusionPipeline.from_pretrained(tmp_path / str(levels))
