"""Training of the classifier: what its samples are, and that it learns to tell them apart."""

import math

import pytest
import torch

from flashdiff_cli.classifier import KINDS, PARAMETERS, DegradationClassifier, views
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.operators.estimate import noise_level
from flashdiff_cli.training.classifier import ClassifierTask
from flashdiff_cli.training.kinds import LEAST_NOISE, MAKERS, WEIGHTS, edited, make_sample, part_of, targets
from flashdiff_cli.training.mixtures import Draws
from flashdiff_cli.training.recipe import Recipe


def draws(seed=0):
    return Draws(torch.Generator().manual_seed(seed))


def pictures(count, side=96, seed=0):
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_what_a_file_holds_and_say_what_was_drawn(kind):
    for seed in range(8):
        sample = MAKERS[kind](pictures(1, 112)[0], 96, draws(seed))
        assert sample.kind == kind and sample.measured.shape == (3, 96, 96)
        assert torch.allclose((sample.measured + 1) * 127.5, ((sample.measured + 1) * 127.5).round(), atol=1e-3)
        assert set(sample.parameters) <= set(PARAMETERS) and all(math.isfinite(value) for value in sample.parameters.values())
        own = {"gaussian-blur": "blur_std", "motion-blur": "blur_length", "jpeg": "jpeg_quality", "downsampling": "enlarged"}
        assert ({own[kind]} if kind in own else set()) == set(sample.parameters) - {"noise_std", "cosine", "sine"}
        if kind != "jpeg":
            assert sample.parameters["noise_std"] >= math.log(LEAST_NOISE) - 1e-9


def test_the_noise_that_is_to_be_found_is_that_of_the_sample():
    flat = torch.full((3, 112, 112), -0.2)
    for seed in range(12):
        sample = MAKERS["noise"](flat, 112, draws(seed))
        level = noise_level(sample.measured[None])[0].item()
        # Correlated noise, and what a JPEG has left of it, show less.
        assert 0.25 < level / math.exp(sample.parameters["noise_std"]) < 1.25


def test_every_kind_is_drawn_as_often_as_it_is_to_be():
    given = draws(3)
    found = [make_sample(pictures(1, 96)[0], 72, given).kind for _ in range(300)]
    assert all(abs(found.count(kind) / 300 - share) < 0.08 for kind, share in WEIGHTS.items()) and sum(WEIGHTS.values()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_edited_pictures_are_softer_and_large_enough(seed):
    x = torch.rand(3, 120, 120, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    y = edited(x, 112, draws(seed))
    assert min(y.shape[1:]) >= 112 and y.abs().max() <= 1
    assert y.diff(dim=2).abs().mean() < x.diff(dim=2).abs().mean()
    assert part_of(y, 112, draws(seed)).shape == (3, 112, 112)


def test_targets_count_what_a_kind_has():
    samples = [MAKERS[kind](pictures(1, 112)[0], 96, draws(1)) for kind in ("none", "motion-blur", "jpeg")]
    kinds, wanted, counts = targets(samples)
    assert [KINDS[kind] for kind in kinds] == ["none", "motion-blur", "jpeg"]
    assert counts.sum(1).tolist() == [1, 4, 1]
    assert wanted[1, PARAMETERS.index("cosine")].square() + wanted[1, PARAMETERS.index("sine")].square() == pytest.approx(1, abs=1e-5)
    assert 0.06 <= wanted[2, PARAMETERS.index("jpeg_quality")] <= 0.85


def test_convolutions_see_faint_differences_and_no_more_than_there_is():
    x = pictures(1)
    seen = views(x)
    assert seen.shape == (1, 6, 96, 96) and seen.abs().max() <= 2 and seen[:, 3:].abs().max() < 1
    noisy = views(x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert noisy[:, 3].std() > 1.2 * views(GaussianBlur(1.0).on_signed(x))[:, 3].std()


def task(**loss):
    loss = {"side": 80} | loss
    recipe = Recipe(
        stage="classifier", steps=9, crop=96, seed=1, model={"width": 32, "dropout": 0.0, "channels": [8, 12, 16], "blocks": 1}, loss=loss
    )
    return ClassifierTask(recipe, {"all": list(pictures(3)[:, None])})


@pytest.mark.parametrize("wrong", [{"views": 0}, {"side": 200}, {"side": 8}, {"parameter_weight": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} of the recipe must be from"):
        task(**wrong)


def test_it_learns_to_tell_kinds_apart(tmp_path):
    made = task(views=2, side=80, parameter_weight=0.0)
    module, clean = made.module, pictures(8, 96, seed=5)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    for step in range(45):
        loss = made.loss(module.train(), clean, torch.Generator().manual_seed(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.75 * sum(losses[:8])
    module.eval()
    with torch.no_grad():
        figures = made.validate(module)
        assert 0 <= figures["right_all"] <= 1 and made.sample_grid(module).size[0] > 0
        made.export(module, tmp_path)
        again = DegradationClassifier.from_pretrained(tmp_path / "classifier").eval()
        assert torch.equal(again(clean).probabilities, module(clean).probabilities)
