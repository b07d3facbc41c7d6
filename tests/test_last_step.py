"""The learned last step: what it makes of every operator's measurement, its levels, batches, saving, and its training pictures."""

import math

import pytest
import torch
import torch.nn.functional as F

from flashdiff_cli import last_step
from flashdiff_cli.errors import UsageError
from flashdiff_cli.last_step import LastStep, levels
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.inpainting import Inpainting
from flashdiff_cli.operators.motion_blur import path_kernels
from flashdiff_cli.training.last_step import DEGRADATIONS, LastStepTask, spoil
from flashdiff_cli.training.recipe import Recipe


def tiny(seed=0):
    torch.manual_seed(seed)
    network = LastStep(channels=(8, 12), blocks=(1, 1)).eval()
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    return network


def image(batch=2, side=32, seed=0):
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.avg_pool2d(x, 5, 1, 2)


def operators():
    kernels = path_kernels(torch.tensor([5.0]), torch.tensor([0.3]), torch.Generator().manual_seed(0))
    mask = (torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(3)) < 0.6).float()
    return [GaussianBlur(1.2), MotionBlur(kernels), Identity(), Jpeg(30), Enlargement(2.0), Inpainting(mask), None]


@pytest.mark.parametrize("operator", operators(), ids=lambda o: getattr(o, "name", type(o).__name__))
def test_every_operator_has_its_picture(operator):
    x = image()
    y = x if operator is None else operator.on_signed(x)
    result = tiny().restore(image(seed=1), y, operator, torch.tensor([0.02]), torch.tensor([0.01]))
    assert result.shape == x.shape and result.abs().max() <= 1


def test_a_new_network_leaves_the_data_term():
    """A network that changes nothing leaves rounds of the exact data term: the residual is what noise explains."""
    truth, blur = image(), GaussianBlur(1.5)
    y = blur.on_signed(truth)
    network = LastStep(channels=(8, 12), blocks=(1, 1))
    assert torch.equal(network.restore(truth, y, None, torch.tensor([0.05])), y.clamp(-1, 1))
    start = image(seed=1)
    found = network.restore(start, y, blur, torch.tensor([0.001]))
    before, after = ((blur.on_signed(x) - y).square().mean() for x in (start, found))
    assert after < 0.01 * before


@pytest.mark.parametrize("number", range(8))
def test_an_orientation_is_taken_back(number):
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    turned = last_step.turn(x, number)
    assert torch.equal(last_step.turn_back(turned, number), x)
    assert all(number == other or not torch.equal(turned[..., :8, :8], last_step.turn(x, other)[..., :8, :8]) for other in range(8))


@pytest.mark.parametrize("operator", [None, Identity()], ids=["none", "identity"])
def test_a_network_that_is_asked_once_is_asked_in_orientations(operator):
    """The orientations form a group, so the mean over them turns with the picture, which a single pass does not."""
    network, y, noise = tiny(), image(), torch.tensor([0.05])
    found = network.restore(y, y, operator, noise)
    for number in last_step.TURNS:
        turned = network.restore(last_step.turn(y, number), last_step.turn(y, number), operator, noise)
        assert torch.allclose(turned, last_step.turn(found, number), atol=1e-6)
    once = [network(last_step.turn(y, number), 2 * noise.expand(2), torch.zeros(2)) for number in last_step.TURNS]
    assert not torch.allclose(last_step.turn_back(once[1], last_step.TURNS[1]), once[0], atol=1e-4)


def test_twice_the_noise_on_twice_the_image_is_twice_the_result():
    network, x = tiny(), image()
    noise, rounding = torch.tensor([0.1, 0.3]), torch.tensor([0.05, 0.0])
    assert torch.allclose(network(2 * x, 2 * noise, 2 * rounding), 2 * network(x, noise, rounding), atol=1e-5)


def test_levels_fall_to_the_noise_of_each_sample():
    noise = torch.tensor([0.0, 0.05, 0.4])
    found = torch.stack(levels(noise))
    assert len(found) == last_step.ROUNDS
    assert (found[1:] <= found[:-1]).all()
    assert torch.allclose(found[-1], torch.tensor([last_step.LAST, 0.05, 0.4]))
    assert torch.allclose(found[0], torch.tensor([last_step.FIRST, last_step.FIRST, 0.4]))


def test_behind_a_jpeg_the_rounds_are_fewer(monkeypatch):
    network, x, told = tiny(), image(), []
    monkeypatch.setattr(network, "forward", lambda x, noise, rounding: told.append(noise[0].item()) or x)
    for rounding, (rounds, first) in ((0.0, (last_step.ROUNDS, last_step.FIRST)), (0.01, last_step.COMPRESSED)):
        told.clear()
        network.restore(x, x, GaussianBlur(1.5), torch.tensor([0.01]), torch.tensor([rounding]))
        assert len(told) == rounds and told[0] == pytest.approx(first)
        assert told[-1] == pytest.approx(0.02)


def test_the_power_that_passes_is_that_of_the_transfer_function():
    x = torch.zeros(2, 3, 128, 128)
    for operator, share in (
        (Identity(), 1.0),
        (GaussianBlur(torch.tensor([1.0, 2.0])), [1 / (4 * math.pi), 1 / (16 * math.pi)]),
        (Enlargement(1.0), 1.0),
    ):
        assert last_step.passing_power(operator, x).tolist() == pytest.approx(share if isinstance(share, list) else [share] * 2, rel=0.1)


def test_where_pixels_are_missing_what_the_sampler_put_there_stays():
    """A network that takes away a tenth of what it is told: rounds from a high level would leave nothing of a hole's detail."""
    mask = torch.ones(1, 32, 32)
    mask[:, 8:24, 8:24] = 0
    drawn, operator = image(seed=1), Inpainting(mask)
    network = LastStep(channels=(8, 12), blocks=(1, 1))
    network.forward = lambda x, noise, rounding: x * (1 - noise.view(-1, 1, 1, 1))
    found = network.restore(drawn, operator.on_signed(image()), operator, torch.tensor([0.0]))
    hole = mask[None].expand_as(drawn) == 0
    assert (found[hole] / drawn[hole]).median() > 0.9
    assert len(levels(torch.tensor([0.0]), *last_step.HOLES)) == last_step.HOLES[0] < last_step.ROUNDS


def test_a_compressed_picture_stays_within_its_rounding():
    operator, x = Jpeg(20), image()
    y = operator.on_signed(x)
    found = tiny().restore(x, y, operator, torch.tensor([0.0]))
    again = (found + 1) / 2
    table = operator._table(0, again)
    off = (operator.coefficients(again)[0] - operator.coefficients((y + 1) / 2)[0]).abs() / table
    assert off.quantile(0.99) <= 0.51


def test_a_batch_is_what_single_samples_are():
    """A narrow blur and a wide one, which have weights of their own."""
    blur, x, noise = GaussianBlur(torch.tensor([0.8, 3.0])), image(), torch.tensor([0.01, 0.08])
    assert last_step.weight_of(blur, x).tolist() == pytest.approx([0.3, 0.13], abs=0.03)
    y, network = blur.on_signed(x), tiny()
    both = network.restore(image(seed=1), y, blur, noise)
    for i in range(2):
        alone = network.restore(image(seed=1)[i : i + 1], y[i : i + 1], blur.subset(torch.arange(2) == i), noise[i : i + 1])
        assert torch.allclose(both[i : i + 1], alone, atol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    network = tiny()
    network.save_pretrained(tmp_path / "last_step", safe_serialization=True)
    again = load_component(tmp_path, "last_step")
    x = image()
    assert torch.equal(again.restore(x, x, None, torch.tensor([0.1])), network.restore(x, x, None, torch.tensor([0.1])))


def test_training_pictures_are_told_what_was_added():
    """Over many draws: noise alone has the standard deviation that is told, and where nothing is told nothing was done."""
    x = image(1, 64)[0]
    samples = [spoil(x, torch.Generator().manual_seed(seed)) for seed in range(150)]
    noisy = [s for s in samples if s.noise_std > 0.02 and not s.rounding_std]
    assert len(noisy) > 20
    ratios = torch.tensor([((s.seen - s.clean).std() / s.noise_std).item() for s in noisy])
    assert abs(ratios.median() - 1) < 0.1
    assert sum(s.rounding_std > 0 for s in samples) > 30
    for s in samples:
        assert s.clean.shape == x.shape and torch.isfinite(s.seen).all()
    same, again = (spoil(x, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(same.seen, again.seen)


def test_validation_pictures_are_what_they_are_called():
    x = image(1, 64)
    noisy = LastStepTask.sample(x, "noise_0.05", 0)
    assert (noisy.seen - noisy.clean).std().item() == pytest.approx(0.1, rel=0.05) and noisy.noise_std == pytest.approx(0.1)
    stored = LastStepTask.sample(x, "jpeg_10", 0)
    assert stored.rounding_std == pytest.approx(2 * Jpeg(10.0).noise_std().item()) and not torch.equal(stored.seen, stored.clean)


@pytest.mark.parametrize("given", [["mixtures"], {}, "fog"])
def test_degradations_that_are_none_are_refused(given):
    with pytest.raises(UsageError, match="degradations of the recipe: give noise, JPEG or mixtures"):
        LastStepTask(Recipe("last-step", steps=1, model={"degradations": given}), {})


@pytest.mark.parametrize("degradations", list(DEGRADATIONS))
def test_pictures_are_degraded_in_full_precision_under_autocast(degradations):
    """Rounded to half precision a clean picture is off by more than the network leaves of faint noise; and resizing has no code for it."""
    seen = []
    task = LastStepTask(Recipe("last-step", steps=1, model={"degradations": degradations, "channels": [8, 8], "blocks": [1, 1]}), {})
    spoiled = task.spoil
    task.spoil = lambda x, generator: seen.append(spoiled(x, generator)) or seen[-1]
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task.loss(task.module, images, torch.Generator().manual_seed(1))
    expected = [spoiled(x, g) for g in [torch.Generator().manual_seed(1)] for x in images]
    assert all(
        torch.equal(a.clean, b.clean) and torch.equal(a.seen, b.seen) and a.seen.dtype == torch.float32 for a, b in zip(seen, expected, strict=True)
    )
    assert losses["loss"].isfinite()
