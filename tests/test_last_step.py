"""The learned last step: what it sees, that it starts from the data, batches, saving, and its training."""

import pytest
import torch

from flashdiff_cli.last_step import LEAST_ERROR, PLANES, STRONGER, LastStep, planes
from flashdiff_cli.loading import load_component
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.inpainting import Inpainting
from flashdiff_cli.operators.motion_blur import path_kernels


def tiny(seed=0, rounds=2):
    torch.manual_seed(seed)
    network = LastStep(channels=(8, 12), blocks=(1, 1), rounds=rounds).eval()
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    return network


def image(batch=2, side=32, seed=0):
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.avg_pool2d(x, 5, 1, 2)


def operators():
    kernels = path_kernels(torch.tensor([5.0]), torch.tensor([0.3]), torch.Generator().manual_seed(0))
    mask = (torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(3)) < 0.6).float()
    return [GaussianBlur(1.2), MotionBlur(kernels), Identity(), Jpeg(30), Enlargement(2.0), Inpainting(mask), None]


@pytest.mark.parametrize("operator", operators(), ids=lambda o: getattr(o, "name", type(o).__name__))
def test_every_operator_has_its_planes(operator):
    x = image()
    y = x if operator is None else operator.on_signed(x)
    seen = planes(image(seed=1), y, operator, torch.tensor([0.02]))
    assert seen.shape == (2, PLANES, 32, 32)
    assert torch.isfinite(seen).all()
    trust = {None: 0.0, Jpeg: 0.5}.get(operator and type(operator), 1.0)
    assert (seen[:, 14] == trust).all()
    result = tiny().restore(image(seed=1), y, operator, torch.tensor([0.02]))
    assert result.shape == x.shape and result.abs().max() <= 1


def test_a_new_network_returns_the_data_solution():
    x, y = image(), image(seed=1)
    network = LastStep(channels=(8, 12), blocks=(1, 1), rounds=1)
    assert torch.equal(network.restore(x, y, None, torch.tensor([0.05])), y.clamp(-1, 1))
    blur = GaussianBlur(1.5)
    first = planes(x, y, blur, torch.tensor([0.05]))[:, 6:9]
    assert torch.equal(network.restore(x, y, blur, torch.tensor([0.05])), first.clamp(-1, 1))


def test_weights_choose_among_what_is_seen():
    network, x, y = tiny(rounds=1), image(), image(seed=1)
    torch.nn.init.zeros_(network.leave.weight)
    with torch.no_grad():
        # Pixel shuffling takes four channels for one: after the residual come the weights of measurement, image, second solution.
        network.leave.bias[12:16] = 1.0
    seen = planes(x, y, GaussianBlur(1.5), torch.tensor([0.05]))
    assert torch.allclose(network(seen), y, atol=1e-5)


def test_the_second_solution_is_nearer_to_the_data():
    blur, truth = GaussianBlur(1.5), image()
    y = blur.on_signed(truth)
    seen = planes(image(seed=1), y, blur, torch.tensor([0.02]))
    left = [(blur.on_signed(part) - y).square().mean() for part in (seen[:, 3:6], seen[:, 6:9], seen[:, 9:12])]
    assert left[2] < left[1] < left[0]
    assert STRONGER > 1


def test_the_error_is_bounded_from_below():
    """Where noise explains the residual, a data solution would be the image itself and say nothing."""
    x = image()
    seen = planes(x, x, Identity(), torch.tensor([0.0]))
    assert (seen[:, 13] >= 5 * LEAST_ERROR - 1e-6).all()


def test_what_a_mask_hides_is_not_seen():
    mask = torch.ones(1, 32, 32)
    mask[:, 8:16, 8:16] = 0
    operator, x = Inpainting(mask), image()
    y = operator.on_signed(x)
    seen = planes(image(seed=1), y, operator, torch.tensor([0.0]))
    assert torch.equal(seen[:, :3, 8:16, 8:16], image(seed=1)[..., 8:16, 8:16]), "the image stands in for the measurement in holes"
    assert torch.equal(seen[:, 15:16], mask.expand(2, 1, -1, -1))


def test_a_batch_is_what_single_samples_are():
    blur, x, noise = GaussianBlur(torch.tensor([0.8, 2.0])), image(), torch.tensor([0.01, 0.08])
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
    assert again.config.rounds == 2
