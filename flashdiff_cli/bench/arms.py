"""What an arm does with a batch of measurements; each sample gets what it would get alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from flashdiff_cli.bench import classical
from flashdiff_cli.bench.dataset import Case
from flashdiff_cli.bench.protocol import Arm, Condition, Protocol
from flashdiff_cli.diagnosis import OPERATOR_OF, Analysis
from flashdiff_cli.errors import FlashdiffError, NotApplicable, UsageError
from flashdiff_cli.operators import Operator
from flashdiff_cli.operators.estimate import effective_noise_std
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import SamplingPlan, SamplingRequest
from flashdiff_cli.runs.journal import fingerprint
from flashdiff_cli.solvers import Solver
from flashdiff_cli.timer import Timer

RESAMPLE_STEPS = 500
"""Length of ReSample's schedule in the paper; the others run all steps of the training table."""


@dataclass
class Batch:
    """Measurements of equal size of one condition."""

    cases: Sequence[Case]
    operator: Operator
    """What the solver is told, all samples together."""
    noise_std: torch.Tensor
    measurement: torch.Tensor
    """(B, 3, H', W')."""
    clean: torch.Tensor
    """(B, 3, H, W)."""
    resized: torch.Tensor
    """(B, 3, H, W): the measurement at the size of the image."""
    most_noise: float
    """The strongest that the solver is told under this condition, which chooses the encoder for all of its pictures."""
    analyses: dict[str, tuple[Analysis, dict[str, float], torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, cases: Sequence[Case], most_noise: float) -> Batch:
        """Join cases of a condition.

        Raises:
            UsageError: their operators cannot share a batch.
        """
        operator = Operator.stack([case.assumed for case in cases])
        measurement = torch.cat([case.measurement for case in cases])
        noise_std = effective_noise_std(torch.tensor([case.assumed_noise_std for case in cases]), measurement, operator)
        clean = torch.cat([case.clean for case in cases])
        # What a condition's measurement looks like is the truth's matter, whatever the solver is told.
        resized = torch.cat([case.operator.resize_to_image(case.measurement) for case in cases])
        return cls(cases, operator, noise_std, measurement, clean, resized, most_noise)

    def generators(self) -> list[torch.Generator]:
        """Return fresh generators, the same for every arm."""
        return [torch.Generator().manual_seed(case.seed) for case in self.cases]

    def analyse(self, pipeline: FlashDiffusionPipeline, encoder: str | None) -> tuple[Analysis, dict[str, float], list[float]]:
        """Return what the severity encoder says, the seconds it took, and the true variance of its latent's error."""
        name, _ = encoder_of(pipeline, self.operator.name, encoder, self.most_noise)
        if name not in self.analyses:
            timer = Timer(pipeline.unet.device)
            with timer.phase("severity"):
                seen = torch.cat([case.operator.seen(case.measurement) for case in self.cases])
                analysis = pipeline.analyse(seen, None, name)
            clean = pipeline.stage.encode(self.clean.to(analysis.latent))
            error = (analysis.latent - clean).float().square().mean((1, 2, 3))
            self.analyses[name] = (analysis, timer.seconds, error)
        analysis, seconds, error = self.analyses[name]
        return analysis, seconds, error.tolist()


@dataclass
class Outcome:
    """What came out of an arm for B measurements; lists are per sample, `seconds` of the whole batch."""

    images: torch.Tensor
    assumed: list[dict[str, Any]]
    seconds: dict[str, float]
    start_step: list[int] | None = None
    steps: list[int] | None = None
    network_evaluations: list[int] | None = None
    schedule_steps: int | None = None
    variance: list[float] | None = None
    error_variance: list[float] | None = None
    encoder: str | None = None


@dataclass(frozen=True)
class Plan:
    """An arm with every choice made for a model: what it needs to run, and what its results depend on."""

    arm: Arm
    sampling: SamplingPlan | None = None
    """None for a baseline."""

    @property
    def solver(self) -> Solver | None:
        return None if self.sampling is None else self.sampling.solver

    @property
    def fidelity(self) -> bool | None:
        return None if self.sampling is None else self.sampling.fidelity

    @property
    def choices(self) -> dict[str, Any]:
        """Under names that stay: records keep a hash of them. What an arm has no use for is None, so that its records outlast a new default."""
        plan, kind = self.sampling, self.arm.kind
        if plan is None:
            return {}
        return {
            "steps": len(plan.schedule),
            "eta": plan.eta,
            "noise_correction": plan.noise_correction if kind in ("flash", "fixed") else None,
            "variance_multiplier": plan.variance_multiplier if kind == "flash" else None,
            "fidelity": plan.fidelity,
        }

    def describe(self) -> dict[str, Any]:
        """Return for protocol.json the choices under the arm's own names."""
        own = given_only(asdict(self.arm))
        return own if self.sampling is None else own | self.choices | {"settings": self.sampling.solver.describe()}

    @property
    def described_solver(self) -> dict[str, Any] | None:
        return None if self.sampling is None else self.sampling.describe_solver()

    @property
    def expected_steps(self) -> float:
        """Reverse steps to expect, for the time that is left."""
        if self.sampling is None:
            return 5.0 if self.arm.baseline in classical.CLASSICAL else 0.5
        if self.sampling.start_step is not None:
            return float(self.sampling.start_step[0])
        return 0.2 * len(self.sampling.schedule)


def encoder_of(pipeline: FlashDiffusionPipeline, operator: str | None, name: str | None, noise_std: float | None = None):
    """Return (name, network) of the severity encoder for an operator and a noise; NotApplicable where the model has none at all."""
    try:
        return pipeline.encoder_for(operator, name, noise_std)
    except UsageError:
        raise
    except FlashdiffError as error:
        raise NotApplicable(str(error)) from error


def plan(
    arm: Arm, protocol: Protocol, pipeline: FlashDiffusionPipeline, model: str, operator: str | None = None, noise_std: float | None = None
) -> Plan:
    """Make an arm's choices: its own settings, then the protocol's for the model, then the model's own for the operator and noise.

    Raises:
        UsageError: a setting that the solver or the schedule does not have.
    """
    if arm.baseline is not None:
        return Plan(arm)
    of_arm, of_solver = protocol.given(arm, model)
    start, start_step = {"full": ("noise", None), "come-closer": ("come-closer", arm.start_step)}.get(arm.kind, ("stochastic", None))
    if arm.kind == "full":
        total = len(pipeline.denoiser.table)
        of_arm = {"steps": min(RESAMPLE_STEPS, total) if arm.solver == "resample" else total, "eta": 1.0} | of_arm
    request = SamplingRequest(
        solver=arm.solver,
        solver_options=of_solver,
        **of_arm,
        start=start,
        start_step=arm.start if isinstance(arm.start, int) else start_step,
        encoder=arm.encoder,
        fidelity=protocol.fidelity if arm.fidelity is None else arm.fidelity,
    )
    try:
        return Plan(arm, pipeline.plan(request, operator, noise_std))
    except UsageError as error:
        raise UsageError(f"arm {arm.name}: {error}") from None


def condition_identity(condition: Condition) -> dict[str, Any]:
    """Return what a measurement depends on besides picture and seed, under names that stay: records keep a hash of it."""
    assumed = condition.assumed
    fixed = assumed and {"operator": assumed.operator, "options": assumed.options, "noise_std": assumed.noise_std}
    return {
        "name": condition.name,
        "operator": condition.operator,
        "options": condition.options,
        "noise_std": condition.noise_std,
        "assumed": fixed,
        "draws": condition.draws,
        "stored": condition.stored,
        "stored_quality": condition.stored_quality,
    }


def given_only(value: Any) -> Any:
    """Return a value without entries that are None, false or empty, at any depth: a field added later changes no fingerprint."""
    if not isinstance(value, dict):
        return value
    kept = {k: given_only(v) for k, v in value.items()}
    return {k: v for k, v in kept.items() if not (v is None or v is False or (isinstance(v, (dict, list, tuple)) and not v))}


class Identities:
    """Fingerprints of a model's components, so that a record stays valid while what it depends on is the same."""

    def __init__(self, pipeline: FlashDiffusionPipeline):
        self.pipeline = pipeline
        self._found: dict[str, str] = {}

    def weights(self, role: str) -> str:
        """Return a digest of one component's tensors."""
        if role not in self._found:
            digest = hashlib.sha256()
            for name, tensor in sorted(getattr(self.pipeline, role).state_dict().items()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            self._found[role] = digest.hexdigest()[:16]
        return self._found[role]

    def settings(self, plan: Plan, condition: Condition, protocol: Protocol) -> str:
        """Return everything that a record depends on besides the picture and its size."""
        arm, pipe = plan.arm, self.pipeline
        parts: dict[str, Any] = {"condition": condition_identity(condition), "seed": protocol.seed, "baseline": arm.baseline}
        if arm.baseline in classical.CLASSICAL:
            parts["settings"] = classical.complete(arm.baseline, arm.settings)
        if arm.blind:
            parts |= {"blind": {role: self.weights(role) for role in self.reached_blind()}, "calibration": pipe.defaults.calibration}
        elif arm.baseline == "decoded" or arm.kind in ("flash", "fixed"):
            parts |= self.of_encoder(condition, arm.encoder)
        if plan.sampling is not None:
            schedule = plan.sampling.schedule
            parts |= {"unet": self.weights("unet"), "first_stage": self.weights("first_stage"), "solver": plan.described_solver}
            if pipe.prompt is not None:
                parts["prompt"] = self.weights("prompt")
            parts["schedule"] = fingerprint(timesteps=schedule.timesteps.tolist(), levels=schedule.levels.tolist())
            parts["choices"] = plan.choices
            parts["start"] = [arm.start, arm.start_step, arm.blind]
            parts["denoiser_gain"] = pipe.defaults.denoiser_gain
            if arm.kind == "flash" and pipe.defaults.noise_rule != "variance":
                parts["noise_rule"] = pipe.defaults.noise_rule
            if plan.fidelity and pipe.last_step is not None:
                parts["last_step"] = self.weights("last_step")
            if plan.fidelity and arm.blind and pipe.last_step_mixed is not None:
                parts["last_step_mixed"] = self.weights("last_step_mixed")
        return fingerprint(**given_only(parts))

    def sweep(self, condition: Condition, protocol: Protocol) -> str:
        """Return everything that a record of a severity sweep depends on besides the picture and its size."""
        chosen = self.pipeline.plan(None, condition.assumption[0], condition.most_noise)
        parts = {"condition": condition_identity(condition), "seed": protocol.seed, "levels": protocol.levels}
        parts |= {"steps": chosen.steps, "multiplier": chosen.variance_multiplier}
        return fingerprint(**given_only(parts | self.of_encoder(condition, None)))

    def reached_blind(self) -> list[str]:
        """Return the components that a blind restoration may use to look at a picture."""
        kinds = [None, *OPERATOR_OF.values()]
        try:
            roles = {self.pipeline.encoder_for(operator)[0] for operator in kinds}
        except FlashdiffError:
            return []
        return sorted(roles | {role for role in ("classifier", "blur_estimator") if getattr(self.pipeline, role) is not None})

    def of_encoder(self, condition: Condition, name: str | None) -> dict[str, Any]:
        """Return what the severity encoder's estimate depends on."""
        try:
            role, _ = self.pipeline.encoder_for(condition.assumption[0], name, condition.most_noise)
        except FlashdiffError:
            return {"encoder": None}
        calibration = self.pipeline.defaults.calibration.get(role)
        return {"encoder": role, "weights": self.weights(role), "calibration": calibration, "first_stage": self.weights("first_stage")}


@torch.no_grad()
def run(plan: Plan, batch: Batch, pipeline: FlashDiffusionPipeline, callback: Callable[[int, int], None] | None = None) -> Outcome:
    """Run an arm on a batch.

    Args:
        plan: of the arm.
        batch: the measurements.
        pipeline: the model.
        callback: called with (steps done, steps in all).

    Raises:
        NotApplicable: the arm does not go with this condition or model.
        FlashdiffError: it failed.
    """
    if plan.sampling is None:
        return _baseline(plan, batch, pipeline)
    solver = plan.sampling.solver
    if solver.needs_adjoint and not batch.operator.linear:
        raise NotApplicable(f"{solver.name} needs a linear operator, and {batch.operator.name} is not")
    arm, encoder, error = plan.arm, plan.arm.encoder, None
    if arm.blind:
        encoder_of(pipeline, None, arm.encoder)
    elif arm.kind in ("flash", "fixed"):
        # Outside the pipeline's own time: the arm's seconds hold its own look at the measurement.
        analysis, _, error = batch.analyse(pipeline, arm.encoder)
        encoder = analysis.encoder
    result = pipeline(
        # Who knows nothing of the operator has a picture of the image's size in hand.
        batch.resized if arm.blind else batch.measurement,
        None if arm.blind else batch.operator,
        None if arm.blind else batch.noise_std,
        plan.sampling.as_request(encoder),
        generators=batch.generators(),
        callback=callback,
    )
    found = zip(result.operators, result.noise_std.tolist(), result.diagnosis, strict=True)
    return Outcome(
        images=result.images,
        assumed=[o | {"noise_std": n, "estimated": arm.blind} | (d.describe() if d else {}) for o, n, d in found],
        seconds=result.seconds,
        start_step=result.start_step.tolist(),
        steps=result.steps.tolist(),
        network_evaluations=result.network_evaluations.tolist(),
        schedule_steps=result.schedule_steps,
        variance=None if result.variance is None else result.variance.tolist(),
        error_variance=error,
        encoder=result.encoder,
    )


def describe_assumed(batch: Batch) -> list[dict[str, Any]]:
    """Return what the solver is told, sample by sample, for records."""
    each = enumerate(batch.noise_std.tolist())
    return [{"name": batch.operator.name, **batch.operator.describe(i), "noise_std": n, "estimated": False} for i, n in each]


def _baseline(plan: Plan, batch: Batch, pipeline: FlashDiffusionPipeline) -> Outcome:
    arm = plan.arm
    if arm.baseline == "input":
        return Outcome(batch.resized.clamp(-1, 1), describe_assumed(batch), {})
    if arm.baseline == "decoded":
        analysis, seconds, error = batch.analyse(pipeline, arm.encoder)
        variance = analysis.variance.float().tolist()
        return Outcome(analysis.decoded, describe_assumed(batch), dict(seconds), variance=variance, error_variance=error, encoder=analysis.encoder)
    timer, images = Timer(torch.device("cpu")), []
    with timer.phase("solve"):
        for i, case in enumerate(batch.cases):
            images.append(classical.restore(str(arm.baseline), batch.measurement[i : i + 1], case.assumed, case.assumed_noise_std, arm.settings))
    return Outcome(torch.cat(images), describe_assumed(batch), timer.seconds)
