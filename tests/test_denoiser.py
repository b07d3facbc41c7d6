"""The shrunk noise prediction, against its closed forms."""

import pytest
import torch

from flashdiff_cli.denoiser import Denoiser, Prediction
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.schedule import Schedule

TABLE = torch.linspace(0.999, 0.0001, 1000, dtype=torch.float64)


class Network(torch.nn.Module):
    """Predicts the true noise plus an error of its own."""

    def __init__(self, noise, error):
        super().__init__()
        self.noise, self.error = noise, error

    def forward(self, z, timesteps):
        return Prediction(self.noise + self.error)


def case(timestep):
    draw = lambda seed: torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    schedule = Schedule.from_table(TABLE)
    level = torch.full((2,), timestep + 1)
    z0, noise, error = draw(0), draw(1), 0.05 * draw(2)
    return schedule, level, z0, schedule.add_noise(z0, noise, level), Network(noise, error)


@pytest.mark.parametrize("timestep, gain", [(500, 1.0), (650, 0.7), (999, 0.2)])
def test_the_clean_latent_is_the_networks_times_the_gain(timestep, gain):
    schedule, level, _, z, network = case(timestep)
    at = schedule.timestep(level)
    own = schedule.estimate_clean(z, network(z, at).sample, level)
    shrunk = schedule.estimate_clean(z, Denoiser(network, TABLE, [[600, 1.0], [700, 0.4], [900, 0.2]])(z, at).sample, level)
    torch.testing.assert_close(shrunk, gain * own)


def test_the_best_gain_has_the_least_error():
    schedule, level, z0, z, network = case(990)
    at = schedule.timestep(level)
    own = schedule.estimate_clean(z, network(z, at).sample, level)
    best = ((own * z0).sum() / own.square().sum()).item()
    assert 0 < best < 0.9

    def error(gain):
        eps = Denoiser(network, TABLE, [[0, gain], [999, gain]])(z, at).sample
        return (schedule.estimate_clean(z, eps, level) - z0).square().mean().item()

    assert error(best) < min(error(1.0), error(0.8 * best), error(1.2 * best))


def test_a_gain_of_one_is_the_network_bit_for_bit():
    schedule, level, _, z, network = case(400)
    z, network.noise = z.float(), network.noise.float()
    at = schedule.timestep(level)
    for gain in (None, [[500, 1.0], [999, 0.1]]):
        assert torch.equal(Denoiser(network, TABLE, gain)(z, at).sample, network(z, at).sample)


def test_each_sample_gets_the_gain_of_its_own_timestep():
    _, _, _, z, network = case(700)
    denoiser = Denoiser(network, TABLE, [[600, 1.0], [700, 0.4]])
    both = denoiser(z, torch.tensor([100, 700])).sample
    network.noise, network.error = network.noise[1:], network.error[1:]
    torch.testing.assert_close(both[1:], denoiser(z[1:], torch.tensor([700])).sample)


@pytest.mark.parametrize("gain", [[[600, 1.0], [500, 0.5]], [[600, 1.5]], [[600, -0.1]], [600, 1.0], "much"])
def test_a_table_that_makes_no_sense_is_refused(gain):
    with pytest.raises(FlashdiffError, match="denoiser_gain"):
        Denoiser(torch.nn.Identity(), TABLE, gain)
