"""The statistics that tell degradations apart, straight motions, and the verdict on a picture in pieces."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flashdiff_cli.blur_estimator import Blur
from flashdiff_cli.classifier import (
    FEATURES,
    KINDS,
    PARAMETERS,
    Degradation,
    DegradationClassifier,
    grid_marks,
    spectrum,
    statistics,
)
from flashdiff_cli.diagnosis import OPERATOR_OF, SHAKEN_NOISE, SHORTER, Diagnosis, is_doubted, noise_of, operator_of, pool, predict_kind, reconsider
from flashdiff_cli.finish import finish
from flashdiff_cli.operators import OPERATORS, GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.motion_blur import kernel_axis, straight_kernel


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(kind="none", **values):
    parameters = torch.zeros(1, len(PARAMETERS))
    for name, value in values.items():
        parameters[0, PARAMETERS.index(name)] = value
    probabilities = torch.full((1, len(KINDS)), 0.1 / (len(KINDS) - 1))
    probabilities[0, KINDS.index(kind)] = 0.9
    return Degradation(probabilities, parameters)


def test_the_spectrum_of_white_noise_is_flat_at_its_variance():
    power, logs = spectrum(0.1 * noise(4, 256, 256), 32)
    inner = power.view(4, 32, 17)[:, 4:12, 4:12]
    assert (inner.mean() - math.log(0.01)).abs() < 0.05
    # The mean of the logarithm of an exponential variable lies Euler's constant below the logarithm of its mean.
    assert (logs.view(4, 32, 17)[:, 4:12, 4:12].mean() - (math.log(0.01) - 0.5772)).abs() < 0.05


def test_a_spectrum_falls_by_the_square_of_the_blur_s_transfer():
    x = noise(1, 3, 256, 256)
    sharp, soft = (spectrum(part[:, 0], 64)[0].view(64, 33) for part in (x, GaussianBlur(1.0).forward(x)))
    frequency = 2 * math.pi * 8 / 64
    wanted = -(frequency**2)
    assert abs((soft - sharp)[0, 7:10].mean().item() - wanted) < 0.15 * abs(wanted) + 0.1


def test_compression_marks_its_own_grid_only():
    x = 0.5 + 0.1 * GaussianBlur(1.0).forward(noise(1, 3, 128, 128))
    marked = grid_marks(Jpeg(30.0).forward(x)[:, 0])[0]
    plain = grid_marks(x[:, 0])[0]
    assert marked[:64].mean() < -0.8 and plain[:64].mean().abs() < 0.1
    assert marked[64:].max() > 2 * plain[64:].max()


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (64, 64), (112, 160), (300, 90)], ids=str)
def test_statistics_of_any_size_have_one_length_and_are_finite(size):
    assert statistics(noise(2, 3, *size)).shape == (2, FEATURES)
    for flat in (torch.zeros(1, 3, *size), torch.ones(1, 3, *size), noise(1, 3, *size)):
        assert torch.isfinite(statistics(flat)).all()


def test_a_batch_is_told_what_its_pictures_are_told_alone():
    model = DegradationClassifier(width=8).eval()
    model.norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    x = noise(3, 3, 80, 96)
    together, alone = model(x), [model(x[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together.probabilities, torch.cat([a.probabilities for a in alone]))
    torch.testing.assert_close(together.probabilities.sum(1), torch.ones(3))
    assert model.dtype == torch.float32


def test_it_is_saved_and_loaded(tmp_path):
    model = DegradationClassifier(width=8, degradations=[{"operator": "identity", "kind": "noise"}]).eval()
    model.save_pretrained(tmp_path, safe_serialization=True)
    again = DegradationClassifier.from_pretrained(tmp_path, use_safetensors=True).eval()
    x = noise(1, 3, 64, 64)
    torch.testing.assert_close(again(x).parameters, model(x).parameters)


@pytest.mark.parametrize("length, angle", [(5, 0.3), (12, -1.0), (20, 1.5), (30, 0.0)])
def test_a_straight_kernel_has_its_length_and_direction(length, angle):
    kernel = straight_kernel(length, angle)
    assert abs(kernel.sum().item() - 1) < 1e-12 and kernel.shape[0] % 2 == 1
    found, direction = kernel_axis(kernel)
    # Sharing a place between its four pixels widens the kernel by a sixth of a pixel squared at most, twelve times that in square length.
    assert length <= found + 0.01 and found**2 < length**2 + 4
    assert abs(direction - angle) < 0.02


def test_every_kind_has_an_operator_of_its_name():
    for kind in KINDS:
        assert OPERATOR_OF[kind] in OPERATORS
        if kind != "gaussian-blur":
            assert operator_of(kind, seen(kind)).name == OPERATOR_OF[kind]


def test_operators_get_the_parameters_that_were_seen():
    angle = math.radians(30)
    shake = operator_of("motion-blur", seen(blur_length=math.log(9), cosine=math.cos(2 * angle), sine=math.sin(2 * angle)))
    length, direction = kernel_axis(shake.kernel[0])
    assert abs(length - SHORTER * 9) < 0.3 and abs(direction - angle) < 0.02
    assert shake.describe() == {"blur_length": round(SHORTER * 9, 4), "blur_angle": 30.0}
    assert operator_of("jpeg", seen(jpeg_quality=0.37)).describe()["jpeg_quality"] == 37
    assert operator_of("downsampling", seen(enlarged=math.log(2.5))).describe() == {"enlarged": 2.5}
    noisy = 0.2 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert abs(noise_of("noise", seen(noise_std=math.log(0.05)), noisy) - 0.05) < 1e-6 and noise_of("jpeg", seen(), noisy) == 0
    assert noise_of("noise", seen(noise_std=math.log(0.3)), noisy) == pytest.approx(0.1, rel=0.2), "no more than smooth places show"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("likely", "kind", "behind_jpeg"),
    [
        ({"downsampling": 0.65, "gaussian-blur": 0.35}, "gaussian-blur", "gaussian-blur"),
        ({"downsampling": 0.75, "gaussian-blur": 0.25}, "downsampling", "gaussian-blur"),
        ({"downsampling": 0.7, "gaussian-blur": 0.24, "none": 0.06}, "downsampling", "gaussian-blur"),
        ({"downsampling": 0.9, "gaussian-blur": 0.1}, "downsampling", "downsampling"),
        ({"downsampling": 0.5, "gaussian-blur": 0.25, "none": 0.25}, "none", "none"),
        ({"downsampling": 0.85, "none": 0.15}, "none", "none"),
        ({"motion-blur": 0.6, "gaussian-blur": 0.4}, "motion-blur", "motion-blur"),
        ({"motion-blur": 0.8, "none": 0.2}, "none", "none"),
        ({"motion-blur": 0.65, "noise": 0.35}, "noise", "noise"),
        ({"motion-blur": 0.9, "noise": 0.1}, "motion-blur", "motion-blur"),
        ({"motion-blur": 0.94, "none": 0.06}, "motion-blur", "motion-blur"),
        ({"noise": 0.5, "none": 0.5 - 1e-3}, "noise", "noise"),
        ({"gaussian-blur": 0.6, "none": 0.4}, "gaussian-blur", "gaussian-blur"),
    ],
)
def test_what_may_be_something_else_is_no_enlargement_and_no_motion(likely, kind, behind_jpeg, compressed):
    probabilities = torch.tensor([[likely.get(name, 0.0) for name in KINDS]])
    likeliest, said = predict_kind(seen("none")._replace(probabilities=probabilities))
    assert reconsider(likeliest, said, None, compressed) == (behind_jpeg if compressed else kind)
    assert said == pytest.approx({name: likely.get(name, 0.0) for name in KINDS}) and likeliest == max(likely, key=likely.get)


@pytest.mark.parametrize(("width", "kind"), [(1.0, "gaussian-blur"), (2.4, "downsampling")])
def test_only_a_faint_blur_is_mistaken_for_an_enlargement(width, kind):
    look = Blur(torch.zeros(1, 3, 3), torch.tensor([math.log(width)]), torch.zeros(1))
    said = dict.fromkeys(KINDS, 0.0) | {"downsampling": 0.5, "gaussian-blur": 0.5}
    assert reconsider("downsampling", said, look, False) == kind


@pytest.mark.parametrize(("moved", "kind"), [(0.24, "gaussian-blur"), (0.26, "motion-blur")])
def test_a_blur_that_may_be_a_motion_is_looked_at_as_one(moved, kind):
    said = dict.fromkeys(KINDS, 0.0) | {"gaussian-blur": 0.7, "motion-blur": moved}
    assert reconsider("gaussian-blur", said, Blur(torch.zeros(1, 3, 3), torch.tensor([1.0]), torch.zeros(1)), False) == kind


def test_noise_that_was_enlarged_with_a_picture_is_reckoned_with():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 64, 64)
    noisy = ramp + 2 * 0.05 * torch.randn(ramp.shape, generator=generator)
    clean, enlarged = (F.interpolate(x, scale_factor=2, mode="bicubic") for x in (ramp, noisy))
    said = seen("downsampling", enlarged=math.log(2), noise_std=-9.0)
    assert noise_of("downsampling", said, clean) < 0.001
    # The classifier has seen none; neighbours share theirs, so that it counts for more than the 0.05 that it was.
    assert 0.05 < noise_of("downsampling", said, enlarged) < 0.25
    assert noise_of("downsampling", said, enlarged[..., :24, :24]) < 0.001, "too small to tell"


def test_pieces_are_heard_by_their_weight():
    sky, wall = seen("none", noise_std=-6.0), seen("motion-blur", noise_std=-4.0)
    assert predict_kind(pool([sky, wall], [0.01, 1.0]))[0] == "motion-blur"
    assert predict_kind(pool([sky, wall], [1.0, 0.01]))[0] == "none"
    middle = pool([sky, wall], [1.0, 1.0])
    assert abs(middle.parameters[0, 0].item() + 5) < 1e-6
    assert abs(sum(predict_kind(middle)[1].values()) - 1) < 1e-6


@pytest.mark.parametrize(
    ("width", "blurred", "kind"), [(0.6, 0.5, "jpeg"), (1.1, 0.74, "jpeg"), (1.1, 0.76, "gaussian-blur"), (1.3, 0.5, "gaussian-blur")]
)
def test_a_faint_blur_that_is_seen_unsurely_behind_noise_is_softness_of_the_picture_s_own(width, blurred, kind):
    look = Blur(torch.zeros(1, 3, 3), torch.tensor([math.log(width)]), torch.zeros(1))
    said = dict.fromkeys(KINDS, 0.0) | {"gaussian-blur": blurred, "jpeg": 0.15, "none": 0.05, "downsampling": 0.8 - blurred}
    assert reconsider("gaussian-blur", said, look, False, 0.03) == kind
    assert reconsider("gaussian-blur", said, look, False, 0.01) == "gaussian-blur", "nothing veils it"
    assert reconsider("gaussian-blur", said, look, True, 0.03) == "gaussian-blur", "it is doubted, and restored without an operator"
    assert reconsider("gaussian-blur", said, None, False, 0.03) == "gaussian-blur", "there is nothing that says how wide it is"


@pytest.mark.parametrize(
    ("kind", "operator", "likely", "doubted"),
    [
        ("gaussian-blur", GaussianBlur(1.1), 0.84, True),
        ("gaussian-blur", GaussianBlur(1.3), 0.84, False),
        ("gaussian-blur", GaussianBlur(1.1), 0.86, False),
        ("motion-blur", MotionBlur(straight_kernel(9.0, 0.7)[None]), 0.84, True),
        ("motion-blur", MotionBlur(straight_kernel(9.0, 0.7)[None]), 0.86, False),
        ("noise", Identity(), 0.5, False),
    ],
)
def test_a_blur_behind_a_jpeg_that_is_seen_unsurely_is_restored_without_an_operator(kind, operator, likely, doubted):
    said = dict.fromkeys(KINDS, 0.0) | {kind: likely}
    found = Diagnosis(kind, operator, 0.01, said)
    assert not found.doubted and not replace(found, probabilities=None).with_rounding(0.01).doubted
    for compressed in (found.with_rounding(0.01), found.stored_as(Jpeg(90.0)), Diagnosis.joined([found.with_rounding(0.01)] * 2, operator)):
        assert compressed.doubted == doubted
        assert (compressed.start_step == 0) == doubted and compressed.mixed == doubted
        assert not doubted or (compressed.uncertain and not compressed.share.any())


def test_what_is_made_without_an_operator_stands_where_one_is_doubted():
    """And by the operator where it is not: the network of mixtures is not even asked."""
    y, generator = torch.zeros(1, 3, 16, 16), torch.Generator().manual_seed(0)
    decoded, asked = y + 0.1 * torch.randn(y.shape, generator=generator), []

    class Made:
        def restore(self, image, measurement, operator, *known):
            asked.append(operator)
            return torch.full_like(image, 0.25 if operator is None else 0.5)

        def needs_no_result(self, operator):
            return False

    for likely, value in ((0.6, 0.25), (0.9, 0.5)):
        found = Diagnosis("gaussian-blur", GaussianBlur(1.0), 0.01, dict.fromkeys(KINDS, 0.0) | {"gaussian-blur": likely}).with_rounding(0.01)
        images, _ = finish(decoded, decoded, y, found.operator, torch.tensor([0.01]), found, Made(), Made())
        assert torch.equal(images, torch.full_like(y, value))
    assert [operator is None for operator in asked] == [True, False]


def test_a_blur_that_is_seen_surely_is_not_doubted():
    said = dict.fromkeys(KINDS, 0.05)
    assert is_doubted("gaussian-blur", said | {"gaussian-blur": 0.74}) and not is_doubted("gaussian-blur", said | {"gaussian-blur": 0.76})
    assert is_doubted("motion-blur", said | {"motion-blur": 0.99}), "however sure, for pictures that were taken for shaken were too"
    assert not any(is_doubted(kind, said | {kind: 0.5}) for kind in ("none", "noise", "jpeg"))


def test_more_noise_is_reckoned_with_in_a_shaken_picture():
    picture = torch.zeros(1, 3, 32, 32)
    said = seen("motion-blur", noise_std=math.log(0.01))
    assert abs(noise_of("motion-blur", said, picture) - SHAKEN_NOISE * 0.01) < 1e-6
    assert noise_of("motion-blur", seen("motion-blur", noise_std=math.log(0.49)), picture) == 0.5, "what solvers take at the most"
