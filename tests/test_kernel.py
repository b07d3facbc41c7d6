"""The path of a shaken camera: its kernel from a sharp image and a blurred one, and from an estimate that gets better with it."""

import pytest
import torch
import torch.nn.functional as F

from flashdiff_cli.kernel import ITERATIONS, MOST_SIDE, blur_of, busiest_window, centred, estimate_kernel, refine_kernel
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


def inverted(y, kernel, noise_variance=1e-4):
    """What linear least squares make of a blurred image."""
    return blur_of(kernel).proximal(torch.zeros_like(y), y, torch.tensor([noise_variance]), torch.tensor([0.05])).clamp(-1, 1)


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
    first, asked = straight_kernel(9.0, 0.9), []

    def restore(kernel):
        asked.append(kernel)
        return inverted(y, kernel)

    found = refine_kernel(first, y, restore)
    assert len(asked) == ITERATIONS and alike(found, true[0]) > alike(first, true[0])
    assert set(blur_of(found).describe()) == {"blur_length", "blur_angle"}


def test_a_kernel_is_centred_without_being_changed_otherwise():
    path = straight_kernel(7.0, 0.4)
    kernel = torch.zeros(15, 15, dtype=torch.float64)
    kernel[: len(path), 3 : 3 + len(path)] = path
    kernel = kernel + 0.5 * kernel.roll(1, 0)
    moved = centred(kernel)
    offsets = torch.arange(len(moved), dtype=torch.float64) - len(moved) // 2
    assert [(moved.sum(dim) * offsets).sum().item() for dim in (0, 1)] == pytest.approx([0, 0], abs=1e-9)
    assert moved.sum().item() == pytest.approx(1) and alike(moved, kernel) > 0.9
    middle = straight_kernel(6.0, 0.0)
    assert torch.allclose(centred(middle), F.pad(middle, (1,) * 4))


def test_what_is_moved_does_not_come_in_again_on_the_other_side():
    kernel = torch.zeros(9, 9, dtype=torch.float64)
    kernel[0, :3], kernel[8, 8] = 0.3, 0.1
    moved = centred(kernel)
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    inside = moved.sum(0) * offsets, moved.sum(1) * offsets
    # What lay far from the rest is cut off, and the middle of what is left is near the middle.
    assert all(abs(part.sum().item()) < 1 for part in inside)
    assert moved[:3, 8:].sum() == moved[8:, :3].sum() == 0, "corners that the kernel did not hold"


@pytest.mark.parametrize("side", [32, 48])
def test_kernels_stay_smaller_than_a_small_picture(side):
    """The ends of a path hold more than its middle, as if it were longer than it is."""
    kernel = torch.zeros(side - 3, side - 3, dtype=torch.float64)
    kernel[side // 2, 0] = kernel[side // 2, -1] = 0.5
    y = drawing(side)
    asked = []

    def restore(kernel):
        asked.append(len(kernel))
        return inverted(y, kernel)

    found = refine_kernel(kernel, y, restore)
    assert max(asked) < side
    assert len(found) % 2 == 1 and len(found) < side and found.sum().item() == pytest.approx(1)


def test_the_busiest_window_of_a_large_picture():
    x = torch.zeros(1, 3, 640, 800)
    x[..., 320:, 480:] = drawing(320)
    window = busiest_window(x, 16)
    assert max(window.height, window.width) <= MOST_SIDE
    assert window.top % 16 == window.left % 16 == 0 and window.of(x).abs().mean() > 0.9 * drawing(320).abs().mean()
    small = busiest_window(drawing(96), 16)
    assert (small.top, small.left, small.height, small.width) == (0, 0, 96, 96)
