"""How a restoration ends: the learned last step where a model has one, nothing where nothing was found, and what a JPEG file says of itself."""

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny import tiny_pipeline

from flashdiff_cli.data_consistency import limit_deviation, residual_correlation
from flashdiff_cli.diagnosis import CERTAIN, HEARD, SURE, UNSURE, Diagnosis, behind_jpeg
from flashdiff_cli.finish import KNOWN, UNEXPLAINED, UNKNOWN, by_what_explains, finish, root_mean_square
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.motion_blur import straight_kernel
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.pipeline import FlashDiffusionPipeline


def image(side=32, seed=0, batch=1):
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.avg_pool2d(x, 5, 1, 2)


def with_last_step():
    pipeline = tiny_pipeline(defaults={"fidelity": True, "steps": 20})
    torch.manual_seed(1)
    last = LastStep(channels=(8, 12), blocks=(1, 1)).eval()
    torch.nn.init.normal_(last.leave.weight, std=0.02)
    pipeline.register_modules(last_step=last)
    return pipeline


def test_the_last_step_makes_the_picture():
    pipeline, y = with_last_step(), image()
    blur, noise = GaussianBlur(1.5), torch.tensor([0.02])
    found = pipeline(y, blur, 0.02, start_step=0)
    plain = pipeline(y, blur, 0.02, start_step=0, fidelity=False)
    assert torch.allclose(found.images, pipeline.last_step.restore(plain.images, y, blur, noise), atol=1e-5)
    assert found.kept_detail.tolist() == [1], "started and ended at the estimate: nothing that a sampler made up"


def test_a_model_with_a_last_step_is_saved_and_loaded(tmp_path):
    pipeline, y = with_last_step(), image()
    pipeline.save_pretrained(tmp_path, safe_serialization=True)
    again = FlashDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(again(y, Identity(), 0.05).images, pipeline(y, Identity(), 0.05).images)


@pytest.mark.parametrize("operator", [Identity(), Jpeg(30)], ids=["noise", "jpeg"])
def test_no_step_is_run_that_cannot_change_the_picture(operator):
    pipeline, y = with_last_step(), image()
    found = pipeline(y, operator, 0.1)
    assert found.start_step.tolist() == [0]
    assert torch.equal(found.images, pipeline(y, operator, 0.1, start_step=3).images), "steps that are asked for are run, and change nothing"
    assert pipeline(y, operator, 0.1, fidelity=False).start_step[0] > 0, "without the last step it is the steps that restore"
    assert pipeline(y, GaussianBlur(1.5), 0.1).start_step[0] > 0


def test_where_nothing_was_found_nothing_changes():
    pipeline, y = with_last_step(), image()
    nothing = Diagnosis("none", Identity(), 0.01)
    images, kept = finish(image(seed=3), image(seed=4), y, Identity(), torch.tensor([0.01]), nothing, pipeline.last_step)
    assert torch.equal(images, y) and kept.tolist() == [1]


def test_an_operator_that_is_not_trusted_does_not_correct_the_estimate():
    pipeline, y, decoded = with_last_step(), image(), image(seed=3)
    shake, noise = MotionBlur(straight_kernel(7.0, 0.3)[None]), torch.tensor([0.02])
    corrected = pipeline.last_step.restore(decoded, y, shake, noise)
    told, _ = finish(decoded, decoded, y, shake, noise, None, pipeline.last_step)
    assert torch.equal(told, corrected)
    images, kept = finish(decoded, decoded, y, shake, noise, Diagnosis("motion-blur", shake, 0.02), pipeline.last_step)
    expected, share = limit_deviation(corrected, decoded, y)
    assert residual_correlation(shake, corrected, y) > UNEXPLAINED, "a random picture was not shaken along this path"
    assert torch.equal(images, expected) and torch.equal(kept, share)
    assert not Diagnosis("downsampling", Enlargement(2.0), 0.0).trusted and Diagnosis("gaussian-blur", GaussianBlur(2.0), 0.0).trusted


def test_a_path_that_leaves_no_structure_is_believed(monkeypatch):
    pipeline, truth, decoded, noise = with_last_step(), image(side=96), image(side=96, seed=3), torch.tensor([0.05])
    shake = MotionBlur(straight_kernel(7.0, 0.3)[None])
    y = shake.measure(truth, 0.05, [torch.Generator().manual_seed(5)])
    found = Diagnosis("motion-blur", shake, 0.05)
    for corrected, believed in ((truth, True), (image(side=96, seed=4), False)):
        monkeypatch.setattr(pipeline.last_step, "restore", lambda *_, corrected=corrected: corrected)
        images, kept = finish(decoded, decoded, y, shake, noise, found, pipeline.last_step)
        limited, share = limit_deviation(corrected, decoded, y)
        assert torch.equal(images, corrected if believed else limited)
        assert torch.equal(kept, torch.ones(1) if believed else share)


def test_the_residual_of_the_true_operator_is_white_and_of_another_is_not():
    x, shake = image(side=96), MotionBlur(straight_kernel(9.0, 0.3)[None])
    y = shake.measure(x, 0.02, [torch.Generator().manual_seed(5)])
    found = residual_correlation(shake, x, y).item()
    assert found == pytest.approx(1 / (3 * 96 * 96) ** 0.5, rel=0.5)
    assert residual_correlation(MotionBlur(straight_kernel(9.0, 1.2)[None]), x, y).item() > 10 * found


def test_where_more_than_an_operator_is_at_work_another_network_has_its_share():
    pipeline, y, decoded, noise = with_last_step(), image(), image(seed=3), torch.tensor([0.02])
    torch.manual_seed(2)
    mixed = LastStep(channels=(8, 12), blocks=(1, 1)).eval()
    torch.nn.init.normal_(mixed.leave.weight, std=0.02)
    blind = mixed.restore(decoded, y, None, torch.zeros(1))
    operator = Enlargement(2.0)
    for sure in (0.99, CERTAIN - 0.1):
        found = Diagnosis("downsampling", operator, 0.02, {"downsampling": sure, "none": 1 - sure})
        images, kept = finish(decoded, decoded, y, operator, noise, found, pipeline.last_step, mixed)
        # With no more noise than the network of mixtures took away.
        less = torch.minimum(noise, root_mean_square(blind - y) / 2)
        alone = blind if sure < CERTAIN else by_what_explains(pipeline.last_step.restore(decoded, y, operator, less), blind, y)
        assert torch.allclose(images, alone + HEARD * ((decoded + blind) / 2 - alone), atol=1e-6) and kept.tolist() == [1]
    blur = GaussianBlur(1.0)
    alone = pipeline.last_step.restore(decoded, y, blur, noise)
    for sure, share in ((0.99, 0.0), (SURE, 0.0), ((SURE + UNSURE) / 2, HEARD / 2), (0.3, HEARD)):
        found = Diagnosis("gaussian-blur", blur, 0.02, {"gaussian-blur": sure, "none": 1 - sure})
        images, _ = finish(decoded, decoded, y, blur, noise, found, pipeline.last_step, mixed)
        assert torch.allclose(images, alone + share * ((decoded + blind) / 2 - alone), atol=1e-6), sure
        assert torch.equal(finish(decoded, decoded, y, blur, noise, found, pipeline.last_step)[0], alone), "a model without that network"
    assert torch.equal(finish(decoded, decoded, y, blur, noise, None, pipeline.last_step, mixed)[0], alone), "an operator that is told is believed"


def test_each_of_a_batch_is_heard_as_it_is_by_itself():
    pipeline, noise = with_last_step(), torch.tensor([0.02, 0.02])
    torch.manual_seed(2)
    mixed = LastStep(channels=(8, 12), blocks=(1, 1)).eval()
    torch.nn.init.normal_(mixed.leave.weight, std=0.02)
    y, decoded = image(batch=2), image(seed=3, batch=2)
    found = [Diagnosis("gaussian-blur", GaussianBlur(1.0), 0.02, {"gaussian-blur": sure, "none": 1 - sure}) for sure in (0.99, 0.5)]
    both = Diagnosis.joined(found, GaussianBlur(torch.tensor([1.0, 1.0])))
    assert both.share.tolist() == [0.0, HEARD]
    together, _ = finish(decoded, decoded, y, both.operator, noise, both, pipeline.last_step, mixed)
    for i, one in enumerate(found):
        at = slice(i, i + 1)
        alone, _ = finish(decoded[at], decoded[at], y[at], one.operator, noise[at], one, pipeline.last_step, mixed)
        assert torch.allclose(together[at], alone, atol=1e-5)


def test_noise_behind_a_jpeg_is_not_the_whole_truth():
    noise = Diagnosis("noise", Identity(), 0.02, {"noise": 0.9})
    assert noise.share.tolist() == [0.0] and noise.with_rounding(0.01).share.tolist() == [HEARD]
    assert Diagnosis("jpeg", Jpeg(30), 0.0, {"jpeg": 0.4}).share.tolist() == [0.0]
    assert Diagnosis("gaussian-blur", GaussianBlur(1.0), 0.02).share.tolist() == [0.0], "a model without classifier takes a blur for granted"


@pytest.mark.parametrize(("changed", "share"), [(0.2, 0.0), (KNOWN, 0.0), ((KNOWN + UNKNOWN) / 2, 0.5), (UNKNOWN, 1.0), (3.0, 1.0)])
def test_what_the_operator_does_not_explain_decides(changed, share):
    y, direction = image(batch=2), image(batch=2, seed=1)
    corrected, blind = y + 0.1 * direction, y - 0.1 * changed * direction
    assert torch.allclose(by_what_explains(corrected, blind, y), corrected + share * (blind - corrected), atol=1e-5)
    assert torch.equal(by_what_explains(y, y, y), y)


def test_a_wide_blur_is_not_wholly_believed_behind_a_jpeg():
    believed = behind_jpeg(GaussianBlur(torch.tensor([0.5, 1.8, 2.8]))).blur_std
    assert torch.allclose(believed, torch.tensor([0.5, 1.8, 2.2]))


def test_what_rounding_left_is_told_to_the_last_step():
    pipeline, y, decoded = with_last_step(), image(), image(seed=3)
    noise = torch.tensor([0.02])
    found = Diagnosis("noise", Identity(), 0.01).with_rounding(0.02)
    assert (found.noise_std, found.rounding_std) == (0.02, 0.02)
    images, _ = finish(decoded, decoded, y, Identity(), noise, found, pipeline.last_step)
    assert torch.equal(images, pipeline.last_step.restore(decoded, y, Identity(), noise, torch.tensor([0.02])))


def jpeg_of(quality, subsampling=2, mode="RGB"):
    pixels = ((image(64)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return from_pil(Image.open(file))


@pytest.mark.parametrize("quality", [10, 37, 50, 75, 92])
def test_a_file_tells_its_quality(quality):
    picture = jpeg_of(quality)
    found = Jpeg.of_file(picture.jpeg_tables, picture.subsampling)
    assert found.describe() == {"jpeg_quality": quality, "chroma": "420"}
    assert Jpeg.of_file(jpeg_of(quality, 0).jpeg_tables, "444").chroma == "444"
    x = (image(64) + 1) / 2
    assert torch.equal(found.forward(x), Jpeg(quality).forward(x)), "its tables are those of the standard"
    assert torch.equal(Jpeg.stack([found, found]).subset(torch.tensor([True, False])).forward(x), found.forward(x))


def test_grey_files_have_one_table():
    picture = jpeg_of(40, mode="L")
    assert Jpeg.of_file(picture.jpeg_tables, picture.subsampling).describe()["jpeg_quality"] == 40


def test_tables_of_ones_own_are_kept():
    flat = [[20] * 64, [30] * 64]
    found = Jpeg.of_file(flat, "444")
    assert 1 <= found.describe()["jpeg_quality"] <= 100
    x = (image(64) + 1) / 2
    assert not torch.equal(found.forward(x), Jpeg(found.jpeg_quality, "444").forward(x))


def test_what_a_file_says_goes_over_what_was_guessed():
    said = Jpeg(30)
    guessed = Diagnosis("jpeg", Jpeg(55), 0.0)
    assert guessed.stored_as(said).operator is said and guessed.stored_as(None) is guessed
    blur = Diagnosis("gaussian-blur", GaussianBlur(2.0), 0.002)
    assert blur.stored_as(said).noise_std == pytest.approx(said.noise_std().item()), "rounding leaves noise, whatever shows"
    assert blur.stored_as(said).operator is blur.operator
    assert Diagnosis("gaussian-blur", GaussianBlur(2.0), 0.2).stored_as(said).noise_std == 0.2
    nothing = Diagnosis("none", Identity(), 0.0)
    assert nothing.stored_as(said) is nothing


def test_a_run_of_no_steps_decodes_once(monkeypatch):
    pipeline, y = with_last_step(), image()
    decode, count = pipeline.stage.decode, []
    monkeypatch.setattr(pipeline.stage, "decode", lambda latent: count.append(1) or decode(latent))
    found = pipeline(y, GaussianBlur(1.5), 0.1, start_step=0, fidelity=False)
    assert len(count) == 1
    assert torch.equal(found.images, decode(found.latent).float().clamp(-1, 1))


def test_behind_a_jpeg_that_was_found_the_last_step_begins_with_the_estimate():
    pipeline, y, blur = with_last_step(), image(), GaussianBlur(1.0)
    pipeline.defaults = replace(pipeline.defaults, variance_multiplier=50.0)

    def steps(rounding, **choices):
        found = Diagnosis("gaussian-blur", blur, 0.02, {"gaussian-blur": 0.99}, rounding_std=rounding)
        return int(pipeline(y, blur, 0.02, diagnosis=found, generators=[torch.Generator().manual_seed(0)], **choices).steps[0])

    assert steps(0.0) > 0 and steps(0.01) == 0
    assert steps(0.01, fidelity=False) > 0, "without a last step the steps are what there is"
    assert steps(0.01, start_step=2) == 2, "what is asked for is done"


def test_the_network_of_mixtures_is_asked_once():
    pipeline, y, operator, noise = with_last_step(), image(), Enlargement(2.0), torch.tensor([0.02])
    mixed, asked = LastStep(channels=(8, 12), blocks=(1, 1)).eval(), []
    restore = mixed.restore
    mixed.restore = lambda *given: asked.append(1) or restore(*given)
    for kind, times in (("downsampling", 1), ("none", 1), ("jpeg", 1)):
        finish(y, y, y, operator, noise, Diagnosis(kind, operator, 0.02, {kind: 0.9}), pipeline.last_step, mixed)
        assert len(asked) == times, "once where it is heard, else never"
