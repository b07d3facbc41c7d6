"""Samples of one batch that join at their own levels: what the loop asks of the device, and what each sample gets."""

import pytest
import torch
from tiny import tiny_pipeline
from torch.utils._python_dispatch import TorchDispatchMode

from flashdiff_cli.flash import Start
from flashdiff_cli.operators import GaussianBlur, Identity, MaskInpainting, Operator
from flashdiff_cli.solvers import SOLVERS, Problem, sample

LEVELS = (6, 2, 0, 4)
SETTINGS = {"ldps": {"guidance": "bayes"}, "gml-dps": {"guidance": "norm"}, "psld": {"guidance": "bayes"}, "unguided": {}}


class Waiting(TorchDispatchMode):
    """Records operations after which the host has to wait for the device, and copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "item"):
            self.seen.append(name)
        if name == "_to_copy" and kwargs.get("device") not in (None, args[0].device):
            self.seen.append(f"{args[0].device} to {kwargs['device']}")
        if name == "copy_" and args[0].device != args[1].device:
            self.seen.append(f"{args[1].device} into {args[0].device}")
        return func(*args, **kwargs)


def problem_of(pipeline, operator, eta=0.0, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    measurement = torch.rand(len(LEVELS), 3, 16, 16, generator=generator).to(device) * 2 - 1
    start = Start(
        torch.randn(len(LEVELS), 4, 4, 4, generator=generator).to(device),
        torch.tensor(LEVELS),
        torch.zeros(len(LEVELS), dtype=torch.long),
    )
    noise_std = torch.linspace(0.02, 0.08, len(LEVELS))
    return Problem(measurement, operator, pipeline.stage, pipeline.denoiser, pipeline.schedule(10, eta), noise_std), start


def operators():
    mask = (torch.arange(256).view(16, 16) % 3 > 0).float()
    return {
        "blur": GaussianBlur(torch.tensor([0.6, 1.0, 1.4, 2.0])),
        "noise": Identity(),
        "mask": Operator.stack([MaskInpainting(mask.roll(i, 1), "") for i in range(len(LEVELS))]),
    }


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_between_two_joins_no_step_waits_for_the_device_or_copies_to_it(name, device):
    """On the meta device, every copy from the host shows as one from another device, and whoever asks for a value fails."""
    pipeline = tiny_pipeline()
    pipeline.stage.model.to(device)
    pipeline.unet.to(device)
    kind = "blur" if name in ("ldps", "psld") else "noise"
    problem, start = problem_of(pipeline, operators()[kind], device=device)
    watch, seen = Waiting(), {}

    def after(done, levels):
        seen[max(LEVELS) - done] = list(watch.seen)
        watch.seen.clear()

    with watch:
        sample(SOLVERS[name](**SETTINGS[name]), problem, start, [torch.Generator()] * len(LEVELS), after)
    # Levels reached by steps that nobody joined: samples join for the steps to 5, 3 and 1.
    assert sorted(seen) == list(range(max(LEVELS)))
    assert {level: seen[level] for level in (4, 2, 0)} == {4: [], 2: [], 0: []}
    if device == "meta":
        assert any("cpu" in what for what in seen[5]), "the watch sees nothing"


@pytest.mark.parametrize("kind", ["blur", "noise", "mask"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_staggered_batch_gives_what_single_runs_give(kind, eta):
    pipeline = tiny_pipeline()
    operator = operators()[kind]
    problem, start = problem_of(pipeline, operator, eta)
    solver = SOLVERS["ldps"](guidance="bayes")
    together = sample(solver, problem, start, [torch.Generator().manual_seed(i) for i in range(len(LEVELS))])
    assert problem.network_evaluations.tolist() == list(LEVELS)
    for i in range(len(LEVELS)):
        only = torch.arange(len(LEVELS)) == i
        alone = Problem(
            problem.measurement[only], operator.subset(only), pipeline.stage, pipeline.denoiser, problem.schedule, problem.noise_std[only]
        )
        one = sample(
            solver, alone, Start(start.latent[only], start.level[only], torch.zeros(1, dtype=torch.long)), [torch.Generator().manual_seed(i)]
        )
        torch.testing.assert_close(together[i : i + 1], one, rtol=1e-4, atol=1e-5)
    assert torch.equal(together[2], start.latent[2])
