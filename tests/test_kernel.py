"""The path of a shaken camera: its kernel from a sharp image and a blurred one, and from an estimate that gets better with it."""

import pytest
import torch
import torch.nn.functional as F

from flashdiff_cli.kernel import MOST_SIDE, busiest_window, estimate_kernel, refine_kernel
from flashdiff_cli.operators import MotionBlur
from flashdiff_cli.operators.motion_blur import path_kernels, straight_kernel


def drawing(side=96, seed=0):
    """Overlapping rectangles: strong edges in all directions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, side, side)
    for _ in range(40):
        top, left = (int(n) for n in torch.randint(0, side - 8, (2,), generator=generator))
        height, width = (int(n) for n in torch.randint(4, side // 2, (2,), generator=generator))
        x[..., top : top + height, left : left + width] = torch.rand(1, 3, 1, 1, generator=generator) * 2 - 1
    return x


def alike(a, b):
    """The cosine of the angle between two kernels at the best shift."""
    a, b = (F.pad(k, ((41 - k.shape[-1]) // 2,) * 4) for k in (a, b))
    found = F.conv2d(F.pad(a, (6,) * 4)[None, None], b[None, None])
    return (found.max() / (a.norm() * b.norm())).item()


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_kernel_is_found_between_a_sharp_and_a_blurred_image(seed):
    true = path_kernels(torch.tensor([11.0]), torch.tensor([0.5]), torch.Generator().manual_seed(seed))
    x = drawing(seed=seed)
    y = MotionBlur(true).on_signed(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    found, before = straight_kernel(9.0, 0.7), 0.0
    assert alike(found, true[0]) < 0.7
    for _ in range(4):
        found = estimate_kernel(x, y, found, 10)
        assert found.shape == (21, 21) and found.min() >= 0 and found.sum().item() == pytest.approx(1)
        assert alike(found, true[0]) > before, "each is drawn towards the one before, and goes on from it"
        before = alike(found, true[0])
    assert before > 0.94


def test_a_kernel_is_in_one_piece():
    x = drawing()
    found = estimate_kernel(x, x, straight_kernel(1.0, 0.0), 6)
    assert found.argmax() == found.numel() // 2 and (found > 0).sum() <= 9


def test_a_path_is_refined_by_what_is_restored_with_it():
    """The restorer here inverts the true blur as well as the kernel that it is given is right."""
    true = path_kernels(torch.tensor([11.0]), torch.tensor([0.5]), torch.Generator().manual_seed(1))
    x = drawing(seed=3)
    y = MotionBlur(true).on_signed(x)
    first = MotionBlur(straight_kernel(9.0, 0.9)[None])
    asked = []

    def restore(blur):
        asked.append(blur)
        small = torch.tensor([1e-4])
        return blur.proximal(torch.zeros_like(y), y, small, torch.tensor([0.05])).clamp(-1, 1)

    found = refine_kernel(y, first, restore)
    assert len(asked) == 4 and alike(found.kernel[0], true[0]) > alike(first.kernel[0], true[0])
    assert set(found.describe()) == {"blur_length", "blur_angle"}


def test_small_pictures_keep_the_path_that_was_seen():
    first = MotionBlur(straight_kernel(15.0, 0.0)[None])
    assert refine_kernel(drawing(24), first, lambda blur: pytest.fail("nothing to be told from")) is first


def test_the_busiest_window_of_a_large_picture():
    x = torch.zeros(1, 3, 640, 800)
    x[..., 320:, 480:] = drawing(320)
    window = busiest_window(x, 16)
    assert max(window.height, window.width) <= MOST_SIDE
    assert window.top % 16 == window.left % 16 == 0 and window.of(x).abs().mean() > 0.9 * drawing(320).abs().mean()
    small = busiest_window(drawing(96), 16)
    assert (small.top, small.left, small.height, small.width) == (0, 0, 96, 96)
