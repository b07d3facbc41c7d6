"""The estimator of blurs: what it gives, what it is trained on, and where a blind restoration takes it at its word."""

import itertools
import math

import pytest
import torch
from tiny import tiny_pipeline

from flashdiff_cli.blur_estimator import DOUBT, HEARD, HEARD_BEHIND_JPEG, WIDER, Blur, BlurEstimator
from flashdiff_cli.diagnosis import behind_jpeg
from flashdiff_cli.errors import UsageError
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.operators import GaussianBlur, MotionBlur
from flashdiff_cli.operators.motion_blur import straight_kernel
from flashdiff_cli.training.blur import LEAST_WIDTH, MOST_WIDTH, BlurTask, kernel_of, likeness
from flashdiff_cli.training.mixtures import Draws
from flashdiff_cli.training.recipe import Recipe

SMALL = {"channels": [4, 8, 8], "blocks": [1, 1], "hidden": 16, "radius": 7}


def pictures(count=2, side=80, seed=0):
    """Smooth patches with edges."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, side // 8, side // 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(x, scale_factor=8)


def small_network(seed=0):
    torch.manual_seed(seed)
    return BlurEstimator(**SMALL).eval()


@pytest.mark.parametrize("size", [(20, 33), (72, 72), (101, 160)])
def test_kernels_of_pictures_of_any_size_sum_to_one(size):
    with torch.no_grad():
        found = small_network()(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    assert found.kernel.shape == (2, 15, 15) and found.kernel.min() >= 0
    assert torch.allclose(found.kernel.sum((1, 2)), torch.ones(2))
    assert found.log_width.shape == found.log_deviation.shape == (2,)


def test_it_comes_back_from_its_folder(tmp_path):
    network, x = small_network(), pictures()
    network.save_pretrained(tmp_path / "blur_estimator", safe_serialization=True)
    again = load_component(tmp_path, "blur_estimator")
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(network(x), again(x), strict=True))


def test_brightness_and_contrast_leave_the_view_of_the_picture_alone():
    x = 0.5 * pictures(1)
    luma, powers = BlurEstimator._views(x)
    darker, fewer = BlurEstimator._views(x - 0.3)
    assert torch.allclose(luma, darker, atol=1e-4) and torch.allclose(powers, fewer, atol=1e-2)
    # Frequency 0 lies in the middle row: there is most of the power.
    assert powers[0, 0].mean(1).argmax() == 32


def test_kernels_of_operators_are_what_becomes_of_a_point():
    offsets = torch.arange(-7, 8).float()
    wanted = torch.exp(-(offsets[:, None].square() + offsets.square()) / (2 * 1.5**2))
    assert torch.allclose(kernel_of(GaussianBlur(1.5), 7), wanted / wanted.sum(), atol=1e-3)
    straight = straight_kernel(6.0, 0.4)
    assert likeness(kernel_of(MotionBlur(straight[None]), 7), torch.nn.functional.pad(straight, ((15 - len(straight)) // 2,) * 4)) > 0.9999
    assert likeness(kernel_of(GaussianBlur(0.5), 7), kernel_of(GaussianBlur(4.0), 7)) < 0.5


def width_of(seen, fitted, compressed=False, deviation=0.05):
    blur = Blur(torch.zeros(1, 3, 3), torch.tensor([seen]).log(), torch.tensor([deviation]).log())
    return blur.width(torch.tensor([fitted]), compressed).item()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seen, fitted", [(2.0, 2.6), (2.6, 2.0), (1.9, 0.4)])
def test_a_wide_blur_that_is_seen_unsurely_is_taken_for_less(seen, fitted, compressed):
    sure, *doubted = (width_of(seen, fitted, compressed, deviation) for deviation in (0.1, 0.11, 0.12, 0.15, 0.3, 0.6))
    widths = [sure, *doubted]
    assert sure == pytest.approx(width_of(seen, fitted, compressed, 0.01))
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0]
    assert doubted[-1] == pytest.approx(min(seen, fitted) * math.exp(-DOUBT * 0.5), rel=1e-4)
    assert max(abs(math.log(b / a)) for a, b in itertools.pairwise(widths[:4])) < 0.9 * abs(math.log(widths[4] / widths[0])), "no jump"


def test_a_faint_blur_is_seen_unsurely_and_believed():
    assert width_of(0.8, 0.9, deviation=0.3) == pytest.approx(width_of(0.8, 0.9))


def test_network_and_severity_encoder_are_both_heard():
    width = width_of

    assert width(1.3, 0.4) == pytest.approx(1.3, rel=1e-5), "the encoder takes sharp pictures for hardly blurred"
    assert width(1.5, 2.0) == pytest.approx(1.5 ** (1 - HEARD) * 2.0**HEARD, rel=1e-5)
    assert width(2.1, 2.0) == pytest.approx(2.1 ** (1 - HEARD) * 2.0**HEARD, rel=1e-5)
    assert width(3.5, 2.0) == pytest.approx(2.0 * math.exp(WIDER), rel=1e-5), "too wide costs more than too narrow"
    fitted = [0.4 + 0.01 * i for i in range(50)]
    widths = [width(3.0, w) for w in fitted]
    assert all(w >= f * 0.999 for w, f in zip(widths, fitted, strict=True))
    assert max(abs(math.log(b / a)) for a, b in itertools.pairwise(widths)) < 0.25, "no jump where it begins to see"
    assert width(3.0, 0.0) == pytest.approx(3.0, rel=1e-5)
    assert width(2.4, 1.2, True) == pytest.approx(2.4 ** (1 - HEARD_BEHIND_JPEG) * 1.2**HEARD_BEHIND_JPEG, rel=1e-5), "noise shows no limit there"
    assert width(2.4, 0.4, True) == pytest.approx(2.4, rel=1e-5)


def test_four_views_are_heard():
    """Mirrored or turned by a right angle, a picture has the same width."""
    network, x = small_network(), torch.rand(2, 3, 72, 96, generator=torch.Generator().manual_seed(3)) * 2 - 1
    seen = network.look(x)
    for view in (x.flip(2), x.flip(3), x.rot90(1, (2, 3)), x.rot90(2, (2, 3))):
        other = network(view).log_width
        assert not torch.allclose(other, seen.log_width, atol=1e-6)
    with torch.no_grad():
        views = [x, x.flip(3), x.rot90(1, (2, 3)), x.rot90(1, (2, 3)).flip(3)]
        assert torch.allclose(seen.log_width, torch.stack([network(v).log_width for v in views]).mean(0), atol=1e-6)
        assert torch.equal(seen.kernel, network(x).kernel)
    assert seen.kernel.shape == (2, 15, 15) and seen.log_width.shape == seen.log_deviation.shape == (2,)


def test_samples_repeat_and_hold_what_is_said_of_them():
    task = BlurTask(Recipe("blur", steps=1, crop=80, model=SMALL, loss={"side": 72}), {})
    for seed in range(12):
        y, kernel, width = task.blurred(pictures(1)[0], Draws(torch.Generator().manual_seed(seed)), 72)
        again = task.blurred(pictures(1)[0], Draws(torch.Generator().manual_seed(seed)), 72)
        assert torch.equal(y, again[0]) and torch.equal(kernel, again[1])
        assert y.shape == (3, 72, 72) and kernel.shape == (15, 15) and kernel.sum().item() == pytest.approx(1)
        assert math.isnan(width) or math.log(LEAST_WIDTH) <= width <= math.log(MOST_WIDTH)


@pytest.mark.parametrize("loss", [{"views": 0}, {"views": 1e9}, {"side": 81}, {"side": 8}, {"width_weight": -1.0}])
def test_what_cannot_be_made_of_a_crop_is_refused_in_one_line(loss):
    with pytest.raises(UsageError, match=rf"{next(iter(loss))} of the recipe must be from"):
        BlurTask(Recipe("blur", steps=1, crop=80, model=SMALL, loss={"side": 72} | loss), {})


def test_training_tells_wide_from_narrow():
    recipe = Recipe("blur", steps=1, crop=80, model=SMALL, loss={"views": 4, "side": 72})
    task = BlurTask(recipe, {"all": [pictures(1)]})
    optimizer, x = torch.optim.AdamW(task.module.parameters(), lr=3e-3), pictures(4)
    losses = []
    for step in range(40):
        found = task.loss(task.module, x, torch.Generator().manual_seed(step))
        found["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found["path"].item())
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])
    task.module.eval()
    with torch.no_grad():
        narrow, wide = (task.module(GaussianBlur(width).on_signed(x)).log_width.mean() for width in (0.5, 3.5))
        figures = task.validate(task.module)
    assert wide > narrow + 0.1
    assert 0 < figures["alike_all"] <= 1 and figures["off_width_all"] > 0
    assert task.sample_grid(task.module).size[0] > 0


class Sees(torch.nn.Module):
    """An estimator that is sure of what it says."""

    device = torch.device("cpu")

    def __init__(self, kernel, width):
        super().__init__()
        self.seen = Blur(kernel[None], torch.tensor([math.log(width)]), torch.tensor([-20.0]))

    def look(self, measurement):
        return self.seen


def test_a_blind_restoration_takes_the_width_that_was_seen():
    pipeline, x = tiny_pipeline(), pictures(1, 32)
    before = pipeline.diagnose(x).operator.blur_std.item()
    pipeline.blur_estimator = Sees(straight_kernel(5.0, 0.0), 3.2)
    wanted = pipeline.blur_estimator.seen.width(torch.tensor([before])).item()
    assert pipeline.diagnose(x).operator.blur_std.item() == pytest.approx(wanted, rel=1e-4)
    assert wanted != pytest.approx(before, rel=0.02)


def test_behind_a_jpeg_the_encoder_is_believed_less():
    pipeline, x = tiny_pipeline(), pictures(1, 32)
    pipeline.blur_estimator = Sees(straight_kernel(5.0, 0.0), 1.7)
    analysis = pipeline.analyse(x)
    pipeline.blur_features(x, analysis).width.fill_(3.4)
    plain, behind = (pipeline.estimate_operator(x, analysis, compressed)[0].blur_std for compressed in (False, True))
    seen, fitted = pipeline.blur_estimator.seen, GaussianBlur(torch.tensor([3.4]))
    assert torch.equal(plain, seen.width(fitted.blur_std))
    assert torch.equal(behind, seen.width(behind_jpeg(fitted).blur_std, compressed=True))
    assert 1.7 < behind < plain < 3.4
