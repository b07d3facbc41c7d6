"""What holds for every schedule, operator, tiling and name, tried on drawn cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashdiff_cli.cosines import cosine_basis, cosine_rows
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.pictures.tiles import OVERLAP, Canvas, cut
from flashdiff_cli.runs.inputs import Job, with_targets
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.seeds import seed_of

TABLE = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square(), 0)
few = settings(max_examples=25, deadline=None, derandomize=True)


@few
@given(steps=st.integers(1, 1000), eta=st.floats(0, 1), offset=st.integers(0, 3))
def test_levels_fall_and_timesteps_rise(steps, eta, offset):
    schedule = Schedule.from_table(TABLE, steps, eta, offset)
    assert len(schedule) == steps and bool((schedule.timesteps.diff() > 0).all()) and int(schedule.timesteps[-1]) < len(TABLE)
    assert bool((schedule.levels.diff() < 0).all()) and schedule.levels[0] == 1


@few
@given(steps=st.integers(1, 1000), variance=st.floats(0, 4), more=st.floats(0, 4))
def test_a_larger_error_never_starts_later(steps, variance, more):
    schedule = Schedule.from_table(TABLE, steps)
    low, high = schedule.start_level(torch.tensor([variance, variance + more], dtype=torch.float64)).tolist()
    assert 0 <= low <= high <= steps


@few
@given(steps=st.integers(1, 100), eta=st.floats(0, 1), data=st.data())
def test_a_step_of_the_true_noise_lands_on_its_level(steps, eta, data):
    # Of z = alpha z0 + sigma eps, what a step keeps and what it draws have the variance of the level below.
    schedule = Schedule.from_table(TABLE, steps, eta)
    level = torch.tensor([data.draw(st.integers(1, steps))])
    like = torch.zeros(1, 1, dtype=torch.float64)
    drawn = schedule.step(like, like, level, torch.ones_like(like))
    kept = schedule.step(like, torch.ones_like(like), level, like)
    below = 1 - schedule.levels[level - 1]
    torch.testing.assert_close((drawn.square() + kept.square())[0], below, rtol=1e-6, atol=1e-9)


CASES = {
    "gaussian-blur": {"blur_std": st.floats(0.05, 4)},
    "motion-blur": {"blur_length": st.floats(0, 20), "blur_shake": st.floats(0, 1)},
    "downsampling": {"factor": st.integers(2, 4), "filter": st.sampled_from(["bicubic", "box"])},
    "enlargement": {"enlarged": st.floats(1, 6)},
    "random-inpainting": {"kept_fraction": st.floats(0, 1)},
    "box-inpainting": {"box_fraction": st.floats(0, 1)},
    "random-box-inpainting": {"box_area": st.floats(0, 1)},
    "gaussian-inpainting": {"mask_std": st.floats(0, 30), "mask_power": st.floats(0.5, 8)},
    "random-inpainting+gaussian-blur": {"kept_fraction": st.floats(0, 1), "blur_std": st.floats(0.05, 4)},
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_adjoint_is_exact_at_any_size(name, data):
    # Interpolation in torch is not its own transpose where a side has one pixel in between.
    least = 12 if name == "enlargement" else 2
    size = tuple(data.draw(st.integers(least, 24)) for _ in range(2))
    seed = data.draw(st.integers(0, 2**31))
    operator = OPERATORS[name].from_options(size, seed, **{key: data.draw(values) for key, values in CASES[name].items()})
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 3, *size, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 3, *operator.measured_size(size), generator=generator, dtype=torch.float64)
    left, right = (operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5 * float(x.norm() * y.norm()))


@few
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), tile=st.integers(1, 300), size_multiple=st.sampled_from([1, 4, 16]))
def test_tiles_cover_any_picture_and_blend_back_to_it(rows, columns, tile, size_multiple):
    size = (rows * size_multiple, columns * size_multiple)
    overlap = -(-OVERLAP // size_multiple) * size_multiple
    tiles = cut(size, tile, size_multiple)
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(rows))
    canvas = Canvas(1, size, overlap)
    for found in tiles:
        assert found.top % size_multiple == found.left % size_multiple == 0 and found.of(image).shape[1:] == (found.height, found.width)
        canvas.add(found, found.of(image))
    torch.testing.assert_close(canvas.image(), image, rtol=1e-4, atol=1e-5)


names = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name.strip(". ") == name and not name.startswith(".")
)


@few
@given(stems=st.lists(names, min_size=1, max_size=5, unique=True), folder=names, suffix=names)
def test_outputs_mirror_their_inputs_and_never_meet(tmp_path_factory, stems, folder, suffix):
    top = tmp_path_factory.getbasetemp()
    jobs = [Job(top / "in" / folder / f"{stem}.png", (top / "in" / folder / f"{stem}.png").relative_to(top / "in")) for stem in stems]
    mirrored = [job.target for job in with_targets(jobs, f"{top / 'out'}/", "-restored", None, False)]
    assert mirrored == [top / "out" / folder / f"{stem}.png" for stem in stems]
    beside = [job.target for job in with_targets(jobs, None, f"-{suffix}", None, False)]
    assert [path.parent for path in beside] == [job.source.parent for job in jobs]
    assert not {*beside} & {job.source for job in jobs} and len({*beside}) == len(jobs)


@few
@given(size=st.integers(1, 16))
def test_the_cosine_basis_is_orthonormal(size):
    rows = cosine_rows(size)
    torch.testing.assert_close(rows @ rows.T, torch.eye(size, dtype=torch.float64))
    filters = cosine_basis(size).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(size * size), atol=1e-5, rtol=0)


@few
@given(one=st.binary(max_size=40), other=st.binary(max_size=40))
def test_seeds_are_those_of_the_content(one, other):
    assert 0 <= seed_of(one) < 2**63 and (seed_of(one) == seed_of(other)) == (one == other)


def test_seeds_stay_what_they_were():
    # Published records and people's results were drawn from these.
    assert seed_of(b"0:flashdiff") == 3222150760255023373
