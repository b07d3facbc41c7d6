"""The start: SNR matching, the start latent's noise, DDIM inversion; sample by sample."""

import pytest
import torch
from gaussian_toy import TABLE, ExactNoise, smooth_variances
from tiny import tiny_pipeline

from flashdiff_cli import flash
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEstimate

SCHEDULE = Schedule.from_table(TABLE, 100)
ALL_VARIANCES = [0.0, 1e-9, 0.05, 0.3, 0.9, 1.0, 5.0, 1e6]


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def estimate(variances, size: int = 8, seed: int = 1) -> SeverityEstimate:
    shape = (len(variances), 3, size, size)
    return SeverityEstimate(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), torch.tensor(variances))


@pytest.mark.parametrize(("c", "variance"), [(1.0, 0.09), (1.2, 0.09), (1.0, 0.7), (0.0, 0.5)])
def test_the_start_latent_has_the_noise_that_was_asked_for(c, variance):
    found = SeverityEstimate(torch.full((1, 4, 128, 128), 2.0), torch.tensor([variance]))
    latent = flash.matched(found, SCHEDULE, generators(1), correction=c).latent
    assert latent.mean().item() == pytest.approx(2 * (1 - c * variance) ** 0.5, abs=0.02)
    assert latent.var().item() == pytest.approx(c * variance, rel=0.03, abs=1e-9)


def test_together_with_the_estimates_own_error():
    # z_hat = z0 + sigma e: the start latent's error about sqrt(1 - c s2) z0 has the variance c s2 + (1 - c s2) s2.
    z0, error = torch.randn(2, 1, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    found = SeverityEstimate(z0 + 0.4 * error, torch.tensor([0.16]))
    latent = flash.matched(found, SCHEDULE, generators(1, first=9), correction=1.2).latent
    share = 1.2 * 0.16
    assert (latent - (1 - share) ** 0.5 * z0).var().item() == pytest.approx(share + (1 - share) * 0.16, rel=0.03)


@pytest.mark.parametrize("c", [0.5, 1.0, 1.2, 3.0])
def test_no_severity_gives_nan(c):
    begin = flash.matched(estimate(ALL_VARIANCES), SCHEDULE, generators(len(ALL_VARIANCES)), correction=c)
    assert torch.isfinite(begin.latent).all()
    assert (begin.level.diff() >= 0).all() and begin.level[0] == 0 and begin.level[-1] == 100


def test_beyond_one_only_noise_is_left():
    found = estimate([5.0])
    noise = flash.draw(found.latent.shape, generators(1), found.latent)
    assert torch.equal(flash.matched(found, SCHEDULE, generators(1)).latent, noise)


def test_no_severity_leaves_the_estimate_alone():
    found = estimate([0.0, 1e-9])
    begin = flash.matched(found, SCHEDULE, generators(2))
    assert begin.level.tolist() == [0, 0] and torch.equal(begin.latent, found.latent)


def test_the_correction_scales_the_noise_only_and_the_multiplier_both():
    found = estimate([0.1, 0.3])
    plain = flash.matched(found, SCHEDULE, generators(2))
    corrected = flash.matched(found, SCHEDULE, generators(2), correction=1.2)
    assert torch.equal(plain.level, corrected.level) and not torch.allclose(plain.latent, corrected.latent)
    doubled = flash.matched(found, SCHEDULE, generators(2), variance_multiplier=2.0)
    expected = flash.matched(SeverityEstimate(found.latent, 2 * found.variance), SCHEDULE, generators(2))
    assert torch.equal(doubled.level, expected.level) and torch.equal(doubled.latent, expected.latent)
    assert (doubled.level > plain.level).all()


def invert_matched(found, schedule):
    unet = ExactNoise(smooth_variances())
    return flash.inverted(found.latent, schedule.start_level(found.variance), schedule, lambda z, t: unet(z, t).sample)


@pytest.mark.parametrize("mode", flash.START_MODES)
def test_a_batch_starts_as_single_runs_do(mode):
    begin = flash.matched if mode == "stochastic" else lambda found, schedule, _: invert_matched(found, schedule)
    found = estimate(ALL_VARIANCES)
    both = begin(found, SCHEDULE, generators(8))
    for i in range(8):
        alone = SeverityEstimate(found.latent[i : i + 1], found.variance[i : i + 1])
        one = begin(alone, SCHEDULE, generators(1, first=i))
        assert one.level == both.level[i] and one.network_evaluations == both.network_evaluations[i]
        assert torch.allclose(one.latent[0], both.latent[i], atol=1e-5)


def test_a_fixed_start_has_its_steps_noise():
    found, level = estimate([0.3, 0.3, 0.3]), torch.tensor([0, 40, 100])
    begin = flash.fixed(found.latent, level, SCHEDULE, generators(3))
    noise = flash.draw(found.latent.shape, generators(3), found.latent)
    assert torch.equal(begin.level, level)
    assert torch.equal(begin.latent[0], found.latent[0])
    assert torch.allclose(begin.latent[1], SCHEDULE.add_noise(found.latent, noise, level)[1], atol=1e-5)
    assert torch.equal(begin.latent[2], noise[2]), "the last step starts from pure noise"


def test_the_baseline_start_is_pure_noise():
    like = torch.zeros(1)
    begin = flash.from_noise((2, 3, 4, 4), SCHEDULE, generators(2), like)
    assert begin.level.tolist() == [100, 100] and begin.network_evaluations.tolist() == [0, 0]
    assert torch.equal(begin.latent, flash.draw((2, 3, 4, 4), generators(2), like))


def test_a_start_that_comes_closer_is_the_code_at_the_noise_of_its_step():
    code, level = estimate([0.1, 0.1, 0.1]).latent, torch.tensor([0, 40, 100])
    begin = flash.come_closer(code, level, SCHEDULE, generators(3))
    noise = flash.draw(code.shape, generators(3), code)
    assert torch.equal(begin.level, level) and begin.network_evaluations.tolist() == [0, 0, 0]
    assert torch.equal(begin.latent, SCHEDULE.add_noise(code, noise, level))
    assert torch.equal(begin.latent, flash.come_closer(code, level, SCHEDULE, [], noise).latent)


def test_inversion_follows_the_papers_formula():
    schedule = Schedule.from_table(TABLE, 1000)
    unet = ExactNoise(smooth_variances())
    z = expected = estimate([0.1]).latent
    bars = [1.0, *TABLE.double().tolist()]
    for k in range(1, 6):
        eps = unet(expected, torch.tensor([k - 1])).sample
        below, at = bars[k - 1], bars[k]
        expected = at**0.5 * (expected - (1 - below) ** 0.5 * eps) / below**0.5 + (1 - at) ** 0.5 * eps
    found = flash.invert(z, torch.tensor([5]), schedule, lambda x, t: unet(x, t).sample)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("steps", "tolerance"), [(50, 0.2), (1000, 0.02)])
def test_inversion_is_undone_by_deterministic_steps(steps, tolerance):
    schedule, unet = Schedule.from_table(TABLE, steps), ExactNoise(smooth_variances())
    found = estimate([0.5])
    begin = invert_matched(found, schedule)
    assert begin.network_evaluations.tolist() == begin.level.tolist() != [0]
    z = begin.latent
    for j in range(int(begin.level), 0, -1):
        level = torch.tensor([j])
        eps = unet(z, schedule.timestep(level)).sample
        z = schedule.step(schedule.estimate_clean(z, eps, level), eps, level, None)
    assert (z - found.latent).norm() / found.latent.norm() < tolerance


def test_network_evaluations_are_counted_per_sample():
    pipe = tiny_pipeline(defaults={"steps": 20})
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    both = pipe(y, GaussianBlur(1.0), 0.05, start="inversion", start_step=torch.tensor([2, 5]))
    assert both.steps.tolist() == [2, 5] and both.network_evaluations.tolist() == [4, 10]


def test_bad_settings_are_refused():
    found = estimate([0.1])
    with pytest.raises(UsageError, match="`noise_correction`"):
        flash.fixed(found.latent, torch.tensor([3]), SCHEDULE, generators(1), correction=float("inf"))
    with pytest.raises(UsageError, match="`noise_correction`"):
        flash.matched(found, SCHEDULE, generators(1), correction=-1.0)
    with pytest.raises(UsageError, match="`variance_multiplier`"):
        flash.matched(found, SCHEDULE, generators(1), variance_multiplier=float("nan"))
    with pytest.raises(FlashdiffError, match="variance"):
        flash.matched(estimate([float("nan")]), SCHEDULE, generators(1))


def test_the_noise_of_the_level_is_what_the_network_expects_there():
    schedule = Schedule.from_table(TABLE)
    variance = torch.tensor([0.1, 0.4])
    draws = generators(2)
    noise = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(5))
    said = SeverityEstimate(torch.zeros(2, 4, 64, 64), variance)
    shares = {}
    for rule in ("variance", "level"):
        found = flash.matched(said, schedule, draws, noise=noise, noise_rule=rule)
        shares[rule] = found.latent.square().mean((1, 2, 3)) / noise.square().mean((1, 2, 3))
    torch.testing.assert_close(shares["variance"], variance, rtol=1e-4, atol=1e-6)
    # SNR matching: 1 - abar = variance / (1 + variance), up to the spacing of the table.
    torch.testing.assert_close(shares["level"], variance / (1 + variance), rtol=0.03, atol=0)
    with pytest.raises(UsageError, match="noise rule"):
        flash.matched(said, schedule, draws, noise_rule="much")
