"""The discrete process: start levels, and DDPM and DDIM steps against closed forms and against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from gaussian_toy import TABLE

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.schedule import SPACINGS, Schedule, start_index

LDM = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("variance", "index"), [(0.001, 0), (0.05, 29), (0.1, 54), (0.25, 112), (0.5, 176), (1.0, 254), (2.0, 339)])
def test_start_index_is_the_papers(variance, index):
    assert start_index(TABLE, torch.tensor([variance])).item() == index
    snr = [float(a / (1 - a)) for a in TABLE.double()]
    assert min(range(1000), key=lambda k: abs(snr[k] - 1 / variance)) == index


def test_the_exact_start_level_runs_the_step_that_the_published_code_leaves_out():
    # Index k is the k-th timestep, so k + 1 steps lead from it to the clean end; the published code runs k.
    variance = torch.tensor([0.05, 0.5])
    schedule = Schedule.from_table(TABLE)
    level = schedule.start_level(variance)
    assert torch.equal(level, start_index(TABLE, variance) + 1)
    assert torch.equal(schedule.timestep(level), torch.tensor([29, 176]))


@pytest.mark.parametrize("steps", [1, 7, 10, 300, 500, 1000])
def test_the_start_level_has_the_nearest_signal_to_noise_ratio(steps):
    schedule = Schedule.from_table(TABLE, steps, offset=1, final_alpha=float(TABLE[0]))
    variance = torch.logspace(-2, 2, 40)
    levels = schedule.levels[1:]
    chosen = schedule.start_level(variance)
    distance = (levels / (1 - levels) - 1 / variance.double()[:, None]).abs()
    running = chosen > 0
    assert torch.equal(distance.argmin(1)[running] + 1, chosen[running])
    noise = (1 - schedule.levels[:2]) / schedule.levels[:2]
    assert torch.equal(~running, variance < noise.mean())


def test_extreme_severities_start_at_the_ends():
    schedule = Schedule.from_table(TABLE, 50)
    levels = schedule.start_level(torch.tensor([0.0, 1e-30, 1e6, 1e12, float("inf")]))
    assert levels.tolist() == [0, 0, 50, 50, 50]
    # Half of the first level's noise-to-signal ratio, 0.0015 / 0.9985 here, divides decoding at once from one step.
    assert schedule.start_level(torch.tensor([0.00075, 0.00076])).tolist() == [0, 1]


@pytest.mark.parametrize("variance", [float("nan"), -0.1])
def test_a_severity_that_is_no_number_is_an_error(variance):
    with pytest.raises(FlashdiffError, match="variance"):
        Schedule.from_table(TABLE).start_level(torch.tensor([0.1, variance]))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37, 300, 500, 667, 999, 1000])
def test_every_grid_falls_strictly(steps, offset):
    schedule = Schedule.from_table(TABLE, steps, offset=offset, final_alpha=float(TABLE[0]))
    assert len(schedule) == steps and len(schedule.levels) == steps + 1
    assert (schedule.timesteps.diff() > 0).all() and schedule.timesteps[0] >= 0 and schedule.timesteps[-1] < 1000
    assert (schedule.levels.diff() < 0).all()


def test_ancestral_steps_are_the_posterior_of_the_forward_process():
    schedule = Schedule.from_table(TABLE, 100, eta=1.0)
    z0, eps, level = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1), torch.tensor([1, 2, 50, 100])
    z = schedule.add_noise(z0, eps, level)
    a, b = (schedule.levels[k].view(-1, 1, 1, 1) for k in (level, level - 1))
    alpha = a / b
    mean = (b.sqrt() * (1 - alpha) * z0 + alpha.sqrt() * (1 - b) * z) / (1 - a)
    assert torch.allclose(schedule.step(z0, eps, level, torch.zeros_like(z)), mean, atol=1e-12)
    assert torch.allclose(schedule.step_std(level, z) ** 2, (1 - b) / (1 - a) * (1 - alpha), atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_eta_scales_the_noise_and_keeps_the_marginals(eta):
    schedule = Schedule.from_table(TABLE, 20, eta=eta)
    level = torch.arange(1, 21)
    zero, one = torch.zeros(20, 1, 1, 1, dtype=torch.float64), torch.ones(20, 1, 1, 1, dtype=torch.float64)
    std = schedule.step(zero, zero, level, one)
    direction = schedule.step(zero, one, level, zero)
    ancestral = Schedule.from_table(TABLE, 20, eta=1.0).step_std(level, one)
    assert torch.allclose(std, eta * ancestral, atol=1e-14)
    assert torch.allclose(direction**2 + std**2, 1 - schedule.levels[level - 1].view(-1, 1, 1, 1), atol=1e-12)
    assert std[0] == 0 and torch.allclose(schedule.step(one, zero, level[:1], None)[0], one[0])


def test_deterministic_steps_move_along_the_predicted_noise():
    schedule = Schedule.from_table(TABLE, 20)
    z0, eps, level = normal(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1), torch.tensor([1, 7, 20])
    stepped = schedule.step(z0, eps, level, None)
    assert torch.equal(stepped, schedule.step(z0, eps, level, normal(3, 1, 2, 2, seed=2)))
    assert torch.allclose(stepped, schedule.add_noise(z0, eps, level - 1), atol=1e-12)
    assert torch.allclose(stepped[0], z0[0])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_steps_are_those_of_diffusers(eta):
    theirs = DDIMScheduler(**LDM, steps_offset=1, set_alpha_to_one=False)
    theirs.set_timesteps(100)
    ours = Schedule.from_table(theirs.alphas_cumprod, 100, eta, offset=1, final_alpha=float(theirs.alphas_cumprod[0]))
    assert ours.timesteps.flip(0).tolist() == theirs.timesteps.tolist()
    z, eps, noise = (normal(1, 3, 4, 4, seed=s, dtype=torch.float32) for s in range(3))
    for level in (1, 2, 60, 100):
        at = torch.tensor([level])
        expected = theirs.step(eps, int(ours.timestep(at)), z, eta=eta, variance_noise=noise if eta else None)
        z0 = ours.estimate_clean(z, eps, at)
        assert torch.allclose(z0, expected.pred_original_sample, rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours.step(z0, eps, at, noise), expected.prev_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 3, 8, 50, 1000])
def test_every_spacing_has_the_timesteps_of_diffusers(spacing, steps):
    theirs = DDIMScheduler(**LDM, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    ours = Schedule.from_table(theirs.alphas_cumprod, steps, spacing=spacing)
    # diffusers rounds the length of a leading part down before it multiplies.
    assert torch.allclose(ours.timesteps.flip(0), theirs.timesteps, atol=steps if spacing == "leading" and 1000 % steps else 0)
    assert (ours.timesteps.diff() > 0).all() and ours.levels[0] == 1


def test_an_unknown_spacing_is_refused():
    with pytest.raises(UsageError, match="spacing 'even' of timesteps is unknown; choose from leading, trailing, linspace"):
        Schedule.from_table(TABLE, 10, spacing="even")


def test_ddpm_steps_are_those_of_diffusers():
    theirs = DDPMScheduler(**LDM, variance_type="fixed_small")
    ours = Schedule.from_table(theirs.alphas_cumprod, eta=1.0, offset=1, final_alpha=float(theirs.alphas_cumprod[0]))
    z, eps = (normal(1, 3, 4, 4, seed=s, dtype=torch.float32) for s in range(2))
    for t in (0, 1, 500, 999):
        generator = torch.Generator().manual_seed(t)
        expected = theirs.step(eps, t, z, generator=generator).prev_sample
        noise = torch.randn(z.shape, generator=generator.manual_seed(t))
        at = torch.tensor([t + 1])
        assert torch.allclose(ours.step(ours.estimate_clean(z, eps, at), eps, at, noise), expected, rtol=1e-4, atol=1e-5)


def test_levels_are_per_sample():
    schedule = Schedule.from_table(TABLE, 50, eta=0.7)
    z, eps, noise = (normal(3, 2, 4, 4, seed=s) for s in range(3))
    level = torch.tensor([50, 1, 20])
    z0 = schedule.estimate_clean(z, eps, level)
    together = schedule.step(z0, eps, level, noise)
    for i in range(3):
        alone = schedule.step(
            schedule.estimate_clean(z[i : i + 1], eps[i : i + 1], level[i : i + 1]),
            eps[i : i + 1],
            level[i : i + 1],
            noise[i : i + 1],
        )
        assert torch.equal(alone, together[i : i + 1])
    assert torch.allclose(schedule.add_noise(z0, eps, level), z, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_latents_type_is_kept(dtype):
    schedule = Schedule.from_table(TABLE, 50, eta=1.0)
    z, eps, level = normal(1, 1, 4, 4).to(dtype), normal(1, 1, 4, 4, seed=1).to(dtype), torch.tensor([9])
    z0 = schedule.estimate_clean(z, eps, level)
    assert z0.dtype == schedule.step(z0, eps, level, eps).dtype == schedule.add_noise(z0, eps, level).dtype == dtype
    assert schedule.alpha(level, z).dtype == dtype


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"steps": 0}, "`steps`"), ({"steps": 1001}, "`steps`"), ({"eta": -0.1}, "`eta`"), ({"eta": 1.5}, "`eta`")],
)
def test_impossible_grids_are_refused(settings, flag):
    with pytest.raises(UsageError, match=flag):
        Schedule.from_table(TABLE, **settings)
