"""Solvers: steps in closed form, batches against single runs, edge cases, plug-ins, and a posterior that is known."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
from gaussian_toy import TABLE, ExactNoise, GaussianWorld, Mask, half_mask, smooth_variances
from tiny import tiny_pipeline

from flashdiff_cli import flash, plugins
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.flash import Start
from flashdiff_cli.operators import OPERATORS, GaussianBlur
from flashdiff_cli.priors import Epsilon
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEstimate
from flashdiff_cli.solvers import (
    GMLDPS,
    LDPS,
    PSLD,
    SOLVERS,
    Problem,
    Proximal,
    ReSample,
    Solver,
    Unguided,
    load_entry_points,
    sample,
)
from flashdiff_cli.solvers.guidance import LEAST_COSINE

QUICK = {"resample": {"inner_steps": 3, "every": 2}}
VARIANTS = [
    ("unguided", {}),
    ("ldps", {}),
    ("ldps", {"guidance": "bayes"}),
    ("gml-dps", {"ae_weight": 0.2}),
    ("gml-dps", {"guidance": "bayes"}),
    ("psld", {"ae_weight": 0.2}),
    ("psld", {"guidance": "bayes"}),
    ("proximal", {}),
    ("proximal", {"error_weight": 0.3, "model_std": 0.02}),
    ("resample", {}),
    ("resample", {"resampling": "reference", "proximal": 0.0}),
]


def make(name: str, **settings) -> Solver:
    return SOLVERS[name](**(QUICK.get(name, {}) | settings))


def generators(seeds) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["dc", "kl", "vq"])
def network(request):
    """A model with random weights: something no formula holds for."""
    return tiny_pipeline(request.param)


def network_problem(pipe, batch: int, steps: int, eta: float = 1.0) -> Problem:
    y = normal(batch, 3, 32, 32, seed=7).clamp(-1, 1)
    blur = GaussianBlur(torch.linspace(0.6, 2.0, batch))
    return Problem(y, blur, pipe.stage, pipe.denoiser, pipe.schedule(steps, eta), torch.linspace(0.02, 0.08, batch))


def only(problem: Problem, i: int) -> Problem:
    """The problem of one sample, made anew."""
    mask = torch.arange(len(problem.measurement)) == i
    part = problem.select(mask)
    return Problem(part.measurement, part.operator, part.first_stage, part.prior, part.schedule, part.noise_std)


def test_the_papers_solvers_are_registered():
    assert {"ldps", "gml-dps", "psld", "resample", "unguided"} <= set(SOLVERS)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_batch_with_mixed_starts_gives_what_single_runs_give(network, name, settings):
    solver, level = make(name, **settings), torch.tensor([0, 1, 4, 3])
    problem = network_problem(network, 4, 4)
    latent = normal(4, 4, 8, 8)
    both = sample(solver, problem, Start(latent, level, torch.zeros(4, dtype=torch.long)), generators(range(4)))
    assert torch.isfinite(both).all()
    assert torch.equal(both[0], latent[0]), "level 0 is decoded as it is"
    assert problem.network_evaluations.tolist() == level.tolist()
    for i in range(4):
        begin = Start(latent[i : i + 1], level[i : i + 1], torch.zeros(1, dtype=torch.long))
        one = sample(solver, only(problem, i), begin, generators([i]))
        # Adam's first steps have the sign of a gradient, however small: rounding may tip a few of them.
        close = (one[0] - both[i]).abs() <= 2e-3 * both[i].abs().max()
        assert close.float().mean() >= (0.97 if name == "resample" else 1.0)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_one_step_takes_levels_per_sample(name, settings):
    world = GaussianWorld(half_mask())
    problem = world.problem(Schedule.from_table(TABLE, 10, 1.0), 3)
    solver, level = make(name, **settings | ({"every": 1} if name == "resample" else {})), torch.tensor([9, 1, 5])
    z, noise = normal(3, 3, 8, 8), normal(solver.draws, 3, 3, 8, 8, seed=1)
    together = solver.step(z, level, problem, noise if solver.draws > 1 else noise[0])
    for i in range(3):
        part = noise[:, i : i + 1] if solver.draws > 1 else noise[0, i : i + 1]
        alone = solver.step(z[i : i + 1], level[i : i + 1], only(problem, i), part)
        assert torch.allclose(alone[0], together[i], atol=1e-4)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_half_precision_stays_finite(name, settings):
    pipe = tiny_pipeline("kl").to(torch.bfloat16)
    problem = network_problem(pipe, 1, 4)
    problem.measurement = problem.measurement.bfloat16()
    begin = flash.from_noise((1, 4, 8, 8), problem.schedule, generators([0]), problem.measurement)
    result = sample(make(name, **settings), problem, begin, generators([0]))
    assert result.dtype == torch.bfloat16 and torch.isfinite(result).all()


def toy(level: int = 30, **kwargs):
    """A Gaussian world, a latent at a level, and what the unconditional step makes of it."""
    world = GaussianWorld(half_mask(), **kwargs)
    schedule = Schedule.from_table(TABLE, 100, 1.0)
    problem, at = world.problem(schedule, 1), torch.tensor([level])
    z, noise = normal(1, 3, 8, 8, seed=2), normal(1, 3, 8, 8, seed=3)
    z0, eps = problem.predict(z, at)
    return world, problem, at, z, noise, z0, schedule.step(z0, eps, at, noise)


def through_unet(world, problem, at, vector):
    """(dz0/dz)' v of the exact denoiser: sqrt(abar) Sigma (abar Sigma + (1 - abar) I)^-1 v."""
    a = problem.schedule.levels[at].item()
    gain = a**0.5 * world.variances / (a * world.variances + 1 - a)
    return (((vector.double().flatten(2) @ world.unet.basis.T) * gain) @ world.unet.basis).view_as(vector).float()


def test_unguided_is_the_schedules_step():
    _, problem, at, z, noise, _, expected = toy()
    assert torch.allclose(Unguided().step(z, at, problem, noise), expected, atol=1e-6)


def test_ldps_subtracts_the_gradient_of_the_norm():
    world, problem, at, z, noise, z0, proposal = toy()
    difference = world.operator.mask * problem.difference(world.stage.decode(z0))
    pull = world.stage.encode(difference) / problem.difference(world.stage.decode(z0)).norm()
    expected = proposal + 1.7 * through_unet(world, problem, at, pull)
    assert torch.allclose(LDPS(dc_step=1.7).step(z, at, problem, noise), expected, atol=1e-4)


def test_gml_dps_adds_nothing_where_the_autoencoder_loses_nothing():
    _, problem, at, z, noise, *_ = toy()
    assert torch.allclose(GMLDPS(ae_weight=5.0).step(z, at, problem, noise), LDPS().step(z, at, problem, noise), atol=1e-4)


def test_gml_dps_adds_the_autoencoders_own_misfit():
    world, problem, at, z, noise, z0, proposal = toy()
    problem.first_stage.encode = lambda image: 0.5 * type(world.stage).encode(world.stage, image)
    # z0 - Enc(Dec(z0)) = z0 / 2, whose norm has the gradient z0 / (2 |z0|); dc_step does not scale it.
    expected = proposal - 0.3 * through_unet(world, problem, at, 0.5 * z0 / z0.norm())
    assert torch.allclose(GMLDPS(dc_step=0.0, ae_weight=0.3).step(z, at, problem, noise), expected, atol=1e-4)


def test_psld_glues_the_measurement_into_the_image():
    world, problem, at, z, noise, z0, proposal = toy()
    # z0 - Enc(x0 + A'(y - A x0)) = -R M (y - x0) with a mask M.
    gap = world.stage.encode(world.operator.mask * problem.difference(world.stage.decode(z0)))
    expected = proposal + 0.3 * through_unet(world, problem, at, gap / gap.norm())
    assert torch.allclose(PSLD(dc_step=0.0, ae_weight=0.3).step(z, at, problem, noise), expected, atol=1e-4)


def test_bayes_guidance_is_exact_for_a_white_prior():
    # Sigma = I and a mask: log p(y | z_t) has the covariance (s^2 + 1 - abar) I on the kept pixels.
    world, problem, at, z, noise, z0, _ = toy(variances=torch.ones(64, dtype=torch.float64))
    a = problem.schedule.levels[at].item()
    kept = world.operator.mask * problem.difference(world.stage.decode(z0))
    # Dropped pixels carry noise alone; it enters the length of the residual but not its direction.
    seen = kept.square().sum() / problem.difference(world.stage.decode(z0)).square().sum()
    score = a**0.5 * world.stage.encode(kept) / (0.2**2 + seen * (1 - a))
    eps = (z - a**0.5 * z0) / (1 - a) ** 0.5
    expected = problem.schedule.step(z0 + (1 - a) / a**0.5 * score, eps - (1 - a) ** 0.5 * score, at, noise)
    assert torch.allclose(LDPS(guidance="bayes").step(z, at, problem, noise), expected, atol=1e-4)


@pytest.mark.parametrize("slope", [2.0, 5.0])
def test_a_network_that_falls_where_it_should_rise_does_not_blow_up_a_guided_step(slope):
    # z0 = (1 - sqrt(1 - abar) slope) / sqrt(abar) z falls: its quotient along the residual is negative, which no variance is.
    world, problem, at, z, noise, _, _ = toy(variances=torch.ones(64, dtype=torch.float64))
    problem.prior = Epsilon(lambda latent, timesteps: slope * latent, TABLE)
    a = problem.schedule.levels[at].item()
    rise = (1 - (1 - a) ** 0.5 * slope) / a**0.5
    assert rise < 0
    residual = problem.difference(world.stage.decode(rise * z))
    seen = (world.operator.mask * residual).square().sum() / residual.square().sum()
    variance = 0.2**2 + LEAST_COSINE * (1 - a) / a**0.5 * -rise * seen
    score = rise * world.stage.encode(world.operator.mask * residual) / variance
    eps = slope * z - (1 - a) ** 0.5 * score
    expected = problem.schedule.step(rise * z + (1 - a) / a**0.5 * score, eps, at, noise)
    assert torch.allclose(LDPS(guidance="bayes").step(z, at, problem, noise), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("noise_std", [0.0, 0.05])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_residual_of_zero_gives_no_nan(name, settings, noise_std):
    world, problem, at, z, noise, z0, proposal = toy(level=20)
    problem.measurement = problem.operator.on_signed(world.stage.decode(z0))
    problem.noise_std = torch.tensor([noise_std])
    solver = make(name, **settings)
    result = solver.step(z, at, problem, torch.stack([noise, noise]) if solver.draws == 2 else noise)
    assert torch.isfinite(result).all()
    if name in ("ldps", "gml-dps", "proximal"):
        assert torch.allclose(result, proposal, atol=2e-3)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_extreme_severities_run_through(name, settings):
    world, schedule = GaussianWorld(half_mask()), Schedule.from_table(TABLE, 6, 1.0)
    variance = torch.tensor([0.0, 0.9, 1e6])
    estimate = SeverityEstimate(world.mean.expand(3, -1, -1, -1), variance)
    begin = flash.matched(estimate, schedule, generators(range(3)), correction=1.2)
    result = sample(make(name, **settings), world.problem(schedule, 3), begin, generators(range(3)))
    assert begin.level.tolist()[::2] == [0, 6]
    assert torch.isfinite(result).all() and torch.equal(result[0], world.mean[0])


def solved(world, problem, z0, weight, masked):
    """argmin |y - A x|^2 + weight |x - x0|^2 for a mask, as a latent."""
    image, mask = world.stage.decode(z0), masked.mask
    offset = masked.on_signed(torch.zeros_like(image))
    return world.stage.encode((mask * (problem.measurement - offset) + weight * image) / (mask + weight))


def test_proximal_steps_from_what_data_and_estimate_agree_on():
    world, problem, at, z, noise, z0, _ = toy(level=30)
    a = problem.schedule.levels[at].item()
    agreed = solved(world, problem, z0, 0.2**2 / (0.7 * (1 - a)), world.operator)
    expected = problem.schedule.step(agreed, (z - a**0.5 * agreed) / (1 - a) ** 0.5, at, noise)
    assert torch.allclose(Proximal(error_weight=0.7).step(z, at, problem, noise), expected, atol=1e-3)


def test_proximal_does_not_add_up_what_encoding_loses():
    """A first stage that returns half of what it is given: the correction alone is halved, not the latent."""
    world, problem, at, z, noise, z0, proposal = toy(level=30)
    problem.measurement = problem.operator.on_signed(world.stage.decode(z0))
    problem.first_stage.encode = lambda image: 0.5 * type(world.stage).encode(world.stage, image)
    assert torch.allclose(Proximal().step(z, at, problem, noise), proposal, atol=1e-4), "nothing to correct"


def test_proximal_brings_a_picture_to_what_compresses_to_its_measurement():
    from flashdiff_cli.operators import Jpeg

    x = normal(1, 3, 32, 32, seed=5).clamp(-1, 1)
    operator = Jpeg(30)
    problem = SimpleNamespace(operator=operator, measurement=operator.on_signed(x))
    assert torch.equal(Proximal().solve(x, torch.tensor([3]), problem), 2 * operator.project((x + 1) / 2, (problem.measurement + 1) / 2) - 1)


def test_proximal_refuses_what_it_has_no_solution_for():
    blurred = SimpleNamespace(operator=SimpleNamespace(linear=False, name="nonlinear-blur"))
    with pytest.raises(FlashdiffError, match=r"no exact solution for nonlinear-blur; use ldps"):
        Proximal().check(blurred)


@pytest.mark.parametrize("in_latent", [True, False])
def test_resample_solves_for_the_measurement(in_latent):
    world, problem, at, z, noise, z0, _ = toy(level=30)
    a = problem.schedule.levels[at].item()
    settings = {
        "every": 1,
        "inner_stop": 0.0,
        "inner_steps": 800,
        "inner_lr": 0.02,
        "gamma": 1e6,
        "latent_below": 750 if in_latent else -1,
    }
    quiet = torch.stack([noise, torch.zeros_like(noise)])
    result = ReSample(**settings).step(z, at, problem, quiet)
    below = problem.schedule.levels[at - 1].item()
    expected = solved(world, problem, z0, 0.2**2 / (1 - a), world.operator)
    assert torch.allclose(result / below**0.5, expected, atol=5e-3)
    free = ReSample(**settings | {"proximal": 0.0}).step(z, at, problem, quiet)
    assert not torch.allclose(free, result, atol=5e-3), "the proximal term does something"


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("level", [1, 30])
def test_resampling_draws_from_the_papers_distribution(level, reference):
    schedule = Schedule.from_table(TABLE, 100, 1.0, offset=1, final_alpha=float(TABLE[0]))
    at, bars = torch.tensor([level]), [TABLE[0].item(), *TABLE[schedule.timesteps].tolist()]
    a, below = bars[level], bars[level - 1]
    if reference:
        below = TABLE[int(schedule.timestep(at)) - 1].item()
    target = a if reference else below
    s = 40.0 * (1 - below) / a * (1 - a / below)
    z_solved, z_sampled, noise = normal(1, 2, 3, 3), normal(1, 2, 3, 3, seed=1), normal(1, 2, 3, 3, seed=2)
    mean = (s * target**0.5 * z_solved + (1 - target) * z_sampled) / (s + 1 - target)
    expected = mean + (s * (1 - target) / (s + 1 - target)) ** 0.5 * noise
    solver = ReSample(gamma=40.0, resampling="reference" if reference else "exact")
    assert torch.allclose(solver.resample(z_solved, z_sampled, at, schedule, noise), expected, rtol=1e-3, atol=1e-4)


def test_resample_stays_finite_at_the_clean_end():
    schedule = Schedule.from_table(TABLE, 1000, 1.0)
    one = torch.ones(1, 1, 2, 2)
    for resampling in ("exact", "reference"):
        result = ReSample(resampling=resampling).resample(one, one, torch.tensor([1]), schedule, one)
        assert torch.isfinite(result).all()
    assert torch.equal(ReSample().resample(one, one, torch.tensor([1]), schedule, one), one), "no noise is left at level 0"


def test_resample_corrects_at_its_own_steps_only():
    world = GaussianWorld(half_mask())
    problem = world.problem(Schedule.from_table(TABLE, 500, 1.0), 4)
    level = torch.tensor([20, 21, 201, 401])
    z, noise = normal(4, 3, 8, 8), normal(2, 4, 3, 8, 8, seed=1)
    plain = Unguided().step(z, level, problem, noise[0])
    result = ReSample().step(z, level, problem, noise)
    changed = [not torch.equal(result[i], plain[i]) for i in range(4)]
    # Step 20 is none of every tenth; step 401 is at timestep 800, above 750.
    assert changed == [False, True, True, False]


def test_resample_stops_each_sample_at_its_own_noise():
    world = GaussianWorld(half_mask())
    problem = world.problem(Schedule.from_table(TABLE, 500, 1.0), 2)
    problem.noise_std = torch.tensor([0.02, 0.3])
    begin = normal(2, 3, 8, 8)
    found = ReSample(inner_steps=400, proximal=0.0).solve(begin, world.stage.decode, torch.tensor([21, 21]), problem)
    masked = (world.operator.mask * problem.difference(world.stage.decode(found))).square().mean((1, 2, 3))
    whole = problem.difference(world.stage.decode(found)).square().mean((1, 2, 3))
    assert whole[1] <= 0.6**2 and whole[1] > 0.8 * 0.6**2, "it stops as soon as the residual is down to the noise"
    assert masked[0] < 0.1 * masked[1]


def test_the_prior_alone_samples_the_prior():
    # Deterministic steps are linear here: the gain of each mode, squared, is the variance that pure noise ends with.
    basis = ExactNoise(smooth_variances()).basis.float().view(64, 1, 8, 8).expand(-1, 3, -1, -1)
    errors = []
    for steps in (20, 200):
        world, schedule = GaussianWorld(half_mask()), Schedule.from_table(TABLE, steps, 0.0)
        begin = Start(basis.clone(), torch.full((64,), steps), torch.zeros(64, dtype=torch.long))
        final = sample(Unguided(), world.problem(schedule, 64), begin, generators(range(64)))
        gain = (final[:, 0] * basis[:, 0]).sum((1, 2)).double()
        errors.append(float((gain**2 / world.variances - 1).abs().max()))
    assert errors[1] < 0.08 and errors[1] < errors[0] / 4


@pytest.mark.parametrize(
    ("name", "settings", "bounds"),
    [
        ("ldps", {}, (0.8, 0.2)),
        ("gml-dps", {}, (0.8, 0.2)),
        ("psld", {}, (0.8, 0.2)),
        ("ldps", {"guidance": "bayes"}, (0.14, 0.14)),
        ("gml-dps", {"guidance": "bayes"}, (0.14, 0.14)),
        ("psld", {"guidance": "bayes"}, (0.14, 0.14)),
        ("resample", {"every": 1}, (0.5, 0.2)),
    ],
)
def test_sample_means_approach_a_known_posterior_mean(name, settings, bounds):
    # benchmarks/gaussian_posterior.py makes the whole table; the chains' own scatter is 0.08 here.
    world, chains, errors = GaussianWorld(half_mask()), 64, []
    for steps in (8, 40):
        schedule = Schedule.from_table(TABLE, steps, 1.0)
        begin = flash.from_noise((chains, 3, 8, 8), schedule, generators(range(chains)), world.mean)
        latents = sample(SOLVERS[name](**settings), world.problem(schedule, chains), begin, generators(range(500, 500 + chains)))
        errors.append(world.error(latents))
    assert errors[0] < bounds[0] and errors[1] < bounds[1]
    assert errors[1] < errors[0] or max(bounds) < 0.2, "the paper's guidance needs its many steps, the weighed one does not"
    assert world.sampling_error(chains) < 0.08


def test_a_matched_start_needs_fewer_steps_than_noise():
    world, chains, schedule = GaussianWorld(half_mask()), 64, Schedule.from_table(TABLE, 10, 1.0)
    estimate = SeverityEstimate(world.mean.expand(chains, -1, -1, -1), torch.full((chains,), float(world.variance)))
    matched = flash.matched(estimate, schedule, generators(range(chains)))
    noise = flash.from_noise((chains, 3, 8, 8), schedule, generators(range(chains)), world.mean)
    errors = [world.error(sample(LDPS(), world.problem(schedule, chains), s, generators(range(99, 99 + chains)))) for s in (matched, noise)]
    assert matched.level.max() <= 3 and errors[0] < errors[1] / 2


def test_linear_solvers_refuse_other_operators():
    class Bent(Mask):
        name, linear = "bent", False

    world = GaussianWorld(half_mask())
    schedule = Schedule.from_table(TABLE, 4, 1.0)
    problem = world.problem(schedule, 1)
    problem.operator = Bent(world.operator.mask)
    begin = flash.from_noise((1, 3, 8, 8), schedule, generators([0]), world.mean)
    with pytest.raises(FlashdiffError, match="psld needs a linear operator and bent is not"):
        sample(PSLD(), problem, begin, generators([0]))
    assert torch.isfinite(sample(GMLDPS(), problem, begin, generators([0]))).all()


def test_settings_are_checked_and_described():
    with pytest.raises(FlashdiffError, match="`ae_weight` does not go with `solver` ldps"):
        LDPS(ae_weight=1.0)
    with pytest.raises(UsageError, match="`guidance`"):
        PSLD(guidance="no-such")
    with pytest.raises(UsageError, match="`resampling`"):
        ReSample(resampling="no-such")
    with pytest.raises(UsageError, match="`dc_step`"):
        GMLDPS(dc_step=-1.0)
    assert GMLDPS(ae_weight=0.2).describe() == {"dc_step": 1.0, "ae_weight": 0.2, "guidance": "norm", "model_std": 0.0}
    assert ReSample(every="5").every == 5


PLUGIN = """
from flashdiff_cli.solvers import Unguided

class Mine(Unguided):
    help = "somebody else's"
    options = ()

NOT_A_SOLVER = dict
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package that offers an entry point; returns a function (name, target) -> None."""
    (tmp_path / "their_solvers.py").write_text(PLUGIN)
    info = tmp_path / "their_solvers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-solvers\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_seen", {})
    for registry in (SOLVERS, OPERATORS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        monkeypatch.setattr(registry, "broken", {})
    yield lambda name, target, group="solvers": (info / "entry_points.txt").write_text(f"[flashdiff.{group}]\n{name} = {target}\n")
    for name in ("their_solvers", "they_exit", "they_register"):
        sys.modules.pop(name, None)


def test_other_peoples_solvers_plug_in(plugin):
    plugin("theirs", "their_solvers:Mine")
    load_entry_points()
    load_entry_points()
    assert "theirs" in set(SOLVERS) and SOLVERS["theirs"].help == "somebody else's"
    pipe = tiny_pipeline(defaults={"steps": 10})
    result = pipe(torch.zeros(1, 3, 32, 32), GaussianBlur(1.0), 0.05, solver="theirs", start_step=2)
    assert result.solver["name"] == "theirs" and result.network_evaluations.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "target", "cause"),
    [
        ("broken", "no_such_module:X", "ModuleNotFoundError"),
        ("broken", "their_solvers:NOT_A_SOLVER", "no subclass"),
        ("broken", "they_exit:X", "SystemExit: 3"),
        ("broken", "they_register:X", "already registered"),
        ("ldps", "their_solvers:Mine", "the name is in use for a solver of flashdiff_cli.solvers.ldps"),
    ],
)
def test_broken_plugins_are_named_once_and_left_out(plugin, tmp_path, caplog, name, target, cause):
    (tmp_path / "they_exit.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "they_register.py").write_text(
        "from flashdiff_cli.solvers import SOLVERS, Solver\nSOLVERS.add(type('X', (Solver,), {'name': 'ldps'}))\n"
    )
    plugin(name, target)
    before = list(SOLVERS)
    for _ in range(3):
        load_entry_points()
    assert len(caplog.messages) == 1 and re.fullmatch(f"solver plug-in '{name}' .* is left out: .*{cause}.*", caplog.messages[0])
    assert list(SOLVERS) == before and SOLVERS["ldps"] is LDPS
    pipe = tiny_pipeline(defaults={"steps": 10, "solver": "ldps"})
    pipe(torch.zeros(1, 3, 32, 32), GaussianBlur(1.0), 0.05, start_step=1)
    if name == "broken":
        with pytest.raises(FlashdiffError, match=f"'broken' .* does not load .*{cause}"):
            SOLVERS["broken"]


def test_a_broken_operator_of_others_does_not_stop_a_restoration(plugin, tmp_path, caplog):
    (tmp_path / "they_exit.py").write_text("raise SystemExit\n")
    plugin("gone", "they_exit:X", "operators")
    load_entry_points()
    assert len(caplog.messages) == 1 and "operator plug-in 'gone'" in caplog.messages[0]
    with pytest.raises(FlashdiffError, match="'gone' .* does not load"):
        OPERATORS["gone"]
