"""Measurement in; restored image, and a record of what was done, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from flashdiff_cli.calibration import Evidence, calibrated_variance, calibrated_width, mean_gradient
from flashdiff_cli.classifier import Degradation
from flashdiff_cli.denoiser import Denoiser
from flashdiff_cli.diagnosis import Diagnosis, noise_of, operator_of, verdict
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.fidelity import correct, restrain
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.flash import start as flash_start
from flashdiff_cli.hub.resolve import resolve_model
from flashdiff_cli.loading import component_folder, load_component, read_config
from flashdiff_cli.operators import OPERATORS, GaussianBlur, Operator
from flashdiff_cli.operators.base import per_sample
from flashdiff_cli.operators.estimate import fit_blur, noise_level
from flashdiff_cli.restoration import Analysis, Clock, Restoration
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate, trained_for
from flashdiff_cli.solvers import SOLVERS, Problem, Solver, load_entry_points, sample

FALLBACK = {"solver": "ldps", "steps": None, "eta": None, "noise_correction": 1.0, "variance_multiplier": 1.0}
FALLBACK |= {"calibration": {}, "fidelity": False, "noise_rule": "variance", "denoiser_gain": None}
"""Settings of a model folder that names none of its own: the paper's."""


class FlashDiffusionPipeline(DiffusionPipeline):
    """Flash-Diffusion around any latent diffusion model (paper algorithm 1).

    Args:
        first_stage: AutoencoderKL, VQModel or AutoencoderDC.
        unet: noise predictor on its latents.
        scheduler: carries the training table `alphas_cumprod`.
        severity: the default severity encoder; None: only start steps that are given can be used.
        severity_inpainting, severity_nonlinear_blur, severity_mixed: severity encoders for missing pixels, for nonlinear blur, and
            for camera shake, compression, enlargement and noise.
        classifier: tells these kinds apart; None: a picture of which nothing is said is taken for blurred.
        defaults: settings to use where a call gives none: `solver`, `steps`, `eta`, `noise_correction`,
            `variance_multiplier`, `fidelity`, `noise_rule` (see `flash.start`), `solver_settings` (by solver name), `tuned` (by solver and operator; see the method of
            that name), `of_encoder` (by severity encoder, see there), `denoiser_gain` (see `denoiser.Denoiser`) and `calibration` (by severity encoder; see the module of that name).
    """

    model_cpu_offload_seq = "severity->unet->first_stage"
    _encoders = ["severity", "severity_mixed", "severity_inpainting", "severity_nonlinear_blur"]
    _optional_components = [*_encoders, "classifier"]

    def __init__(
        self,
        first_stage,
        unet,
        scheduler,
        severity=None,
        severity_inpainting=None,
        severity_nonlinear_blur=None,
        severity_mixed=None,
        classifier=None,
        defaults: dict | None = None,
    ):
        super().__init__()
        self.register_modules(
            first_stage=first_stage,
            unet=unet,
            scheduler=scheduler,
            severity=severity,
            severity_inpainting=severity_inpainting,
            severity_nonlinear_blur=severity_nonlinear_blur,
            severity_mixed=severity_mixed,
            classifier=classifier,
        )
        self.register_to_config(defaults=defaults or {})
        self.defaults = FALLBACK | (defaults or {})
        self.stage = FirstStage(first_stage)
        if scheduler.config.get("prediction_type", "epsilon") != "epsilon":
            raise FlashdiffError(f"this model predicts {scheduler.config.prediction_type}; flashdiff needs noise prediction (epsilon)")
        self.denoiser = Denoiser(unet, scheduler.alphas_cumprod, self.defaults["denoiser_gain"])

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        torch_dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        **_: Any,
    ) -> FlashDiffusionPipeline:
        """Load a model in the diffusers layout (ours, or a plain latent diffusion model's).

        Args:
            model: a folder, a name of the registry, or `owner/name[@revision]` on the Hugging Face Hub.
            torch_dtype: of all weights.
            revision: branch, tag or commit on the Hub.
            local_files_only: use what is on this machine.
            cache_dir: instead of the Hub's standard cache.

        Raises:
            UsageError: nothing goes by this name.
            FlashdiffError: it cannot be fetched, or a component is missing or damaged.
        """
        folder = resolve_model(str(model), revision, local_files_only, cache_dir)
        if not (folder / "model_index.json").exists():
            raise FlashdiffError(f"{folder}: no model_index.json in it; give a model folder in the diffusers layout")
        index = read_config(folder / "model_index.json")
        parts = {role: load_component(folder, role, torch_dtype) for role in ("first_stage", "unet", "scheduler")}
        for role in cls._optional_components:
            if component_folder(folder, role) is not None:
                parts[role] = load_component(folder, role, torch_dtype)
        defaults = index.get("defaults", {})
        return cls(**parts, defaults=defaults if isinstance(defaults, dict) else {})

    @property
    def grain(self) -> int:
        """Sides of a measurement must be multiples of this: the first stage's factor times the UNet's."""
        levels = len(self.unet.config.block_out_channels) - 1
        return self.stage.grain * 2**levels

    def encoder_for(self, operator: str | None, name: str | None = None, noise_std: float | None = None) -> tuple[str, SeverityEncoder]:
        """The severity encoder that was trained on an operator, or on its kin, or the default one.

        Args:
            operator: registered name, or None.
            name: of a component, to override the choice.
            noise_std: on intensities in [0, 1], if known: of several encoders the first whose training reached it.

        Raises:
            FlashdiffError: there is none, or none of that name.
        """
        found = {role: getattr(self, role) for role in self._encoders if getattr(self, role) is not None}
        if name is not None:
            if name not in found:
                raise UsageError(f"--encoder {name!r}: this model has {', '.join(found) or 'no severity encoder'}")
            return name, found[name]
        if not found:
            raise FlashdiffError("this model has no severity encoder; give --start-step, or train one (flashdiff train severity)")
        kin = OPERATORS[operator].kin if operator is not None and operator in OPERATORS else None
        role = trained_for(found, [wanted for wanted in (operator, kin) if wanted], noise_std) or next(iter(found))
        return role, found[role]

    def schedule(self, steps: int | None = None, eta: float = 0.0) -> Schedule:
        """The grid of a run; `steps` counts the whole process."""
        config = self.scheduler.config
        final = 1.0 if config.get("set_alpha_to_one", True) else float(self.scheduler.alphas_cumprod[0])
        return Schedule.from_table(self.scheduler.alphas_cumprod, steps, eta, config.get("steps_offset", 0), final)

    def _check(self, measurement: torch.Tensor) -> torch.Tensor:
        """An image-sized measurement on the model's device, in its type."""
        if measurement.ndim != 4 or measurement.shape[1] != 3:
            raise UsageError(f"a measurement must be (B, 3, H, W), not {tuple(measurement.shape)}")
        if measurement.shape[2] % self.grain or measurement.shape[3] % self.grain:
            raise UsageError(f"sides of a measurement must be multiples of {self.grain}, not {tuple(measurement.shape[2:])}; pad it")
        return measurement.to(device=self.unet.device, dtype=self.unet.dtype)

    @torch.no_grad()
    def analyse(
        self, measurement: torch.Tensor, operator: str | None = None, encoder: str | None = None, noise_std: float | None = None
    ) -> Analysis:
        """Estimate latent and severity without restoring.

        Args:
            measurement: (B, 3, H, W) in [-1, 1] units, sides multiples of `grain`.
            operator: name of the degradation, if known, to choose the encoder.
            encoder: component name, to override the choice.
            noise_std: of the measurements on intensities in [0, 1], if known, to choose the encoder.
        """
        measurement = self._check(measurement)
        name, network = self.encoder_for(operator, encoder, noise_std)
        estimate = network(measurement)
        decoded = self.stage.decode(estimate.latent).float().clamp(-1, 1)
        calibration = self.defaults["calibration"].get(name)
        found = Analysis(estimate, decoded, name)
        if calibration is not None:
            found.evidence = self.evidence(measurement, found)
            found.estimate = SeverityEstimate(estimate.latent, calibrated_variance(found.evidence, calibration))
        return found

    @staticmethod
    def evidence(measurement: torch.Tensor, analysis: Analysis) -> Evidence:
        """What a measurement (B, 3, H, W) and its analysis say of blur, noise and detail."""
        if analysis.evidence is not None:
            return analysis.evidence
        seen = measurement.to(analysis.decoded)
        decoded = analysis.decoded
        return Evidence(fit_blur(seen, decoded), noise_level(seen), mean_gradient(decoded), analysis.variance.float())

    def estimate_operator(self, measurement: torch.Tensor, analysis: Analysis) -> tuple[Operator, torch.Tensor]:
        """Gaussian blur of the width, and noise of the level, that explain the measurement best.

        Returns:
            the operator with per-sample widths, and noise_std (B,) on intensities in [0, 1].
        """
        evidence = self.evidence(measurement, analysis)
        calibration = self.defaults["calibration"].get(analysis.encoder)
        width = evidence.width if calibration is None else calibrated_width(evidence, calibration)
        return GaussianBlur(width.cpu()), evidence.noise_std.cpu()

    @torch.no_grad()
    def classify(self, measurement: torch.Tensor) -> Degradation | None:
        """What the classifier says of measurements (B, 3, H, W); None if the model has none."""
        return None if self.classifier is None else self.classifier(measurement.to(self.classifier.device))

    def diagnose(self, measurement: torch.Tensor, seen: Degradation | None = None) -> Diagnosis:
        """What degraded one picture.

        Args:
            measurement: (1, 3, H, W) in [-1, 1] units, sides multiples of `grain`.
            seen: what the classifier said of it, if it was asked already.
        """
        seen = self.classify(measurement) if seen is None else seen
        kind, probabilities = ("gaussian-blur", None) if seen is None else verdict(seen)
        if kind != "gaussian-blur":
            return Diagnosis(kind, operator_of(kind, seen), noise_of(kind, seen, measurement), probabilities)
        analysis = self.analyse(measurement, kind)
        operator, noise_std = self.estimate_operator(measurement.to(analysis.decoded), analysis)
        return Diagnosis(kind, operator, noise_std[0].item(), probabilities)

    def tuned(
        self, solver: str | None = None, operator: str | None = None, encoder: str | None = None, noise_std: float | None = None
    ) -> dict[str, Any]:
        """This model's choices for a solver: those found for an operator, for its kin, for any ("*"), or the general ones.

        How far a variance is trusted depends on who estimated it: `of_encoder` holds what differs from the general choices.

        Args:
            solver: registered name; None: the model's default.
            operator: registered name of the degradation, or None.
            encoder: the severity encoder in use; None: that of the operator and `noise_std` (on intensities in [0, 1]).

        Returns:
            `steps`, `eta`, `noise_correction`, `variance_multiplier`, and the solver's own `settings`.
        """
        solver = solver or self.defaults["solver"]
        general = {name: self.defaults[name] for name in ("steps", "eta", "noise_correction", "variance_multiplier")}
        general["settings"] = self.defaults.get("solver_settings", {}).get(solver, {})
        if encoder is None and any(getattr(self, role) is not None for role in self._encoders):
            encoder, _ = self.encoder_for(operator, None, noise_std)
        general |= self.defaults.get("of_encoder", {}).get(encoder, {})
        found = self.defaults.get("tuned", {}).get(solver, {})
        kin = OPERATORS[operator].kin if operator is not None and operator in OPERATORS else None
        return general | next((found[name] for name in (operator, kin, "*") if name in found), {})

    def make_solver(self, solver: str | Solver | None, operator: str | None = None, **settings: Any) -> Solver:
        """A solver by name, with this model's settings for it and an operator under the given ones.

        Raises:
            UsageError: unknown name or setting.
        """
        if isinstance(solver, Solver):
            return solver
        load_entry_points()
        name = solver or self.defaults["solver"]
        stored = self.tuned(name, operator)["settings"]
        return SOLVERS[name](**(stored | {k: v for k, v in settings.items() if v is not None}))

    @torch.no_grad()
    def __call__(
        self,
        measurement: torch.Tensor,
        operator: Operator | None = None,
        noise_std: float | torch.Tensor | None = None,
        solver: str | Solver | None = None,
        steps: int | None = None,
        eta: float | None = None,
        noise_correction: float | None = None,
        variance_multiplier: float | None = None,
        start: str = "stochastic",
        start_step: int | torch.Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        encoder: str | None = None,
        fidelity: bool | None = None,
        noise: torch.Tensor | None = None,
        diagnosis: Diagnosis | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """Restore measurements, each from the start step that its severity matches.

        Args:
            measurement: (B, 3, H, W) in [-1, 1] units, sides multiples of `grain`.
            operator: what degraded them; None: `diagnose` says, for each picture by itself.
            noise_std: of the measurement noise on intensities in [0, 1], taken as it is; None estimates it.
            solver: name or instance; None takes the model's default.
            steps: length of the whole reverse process; None: `tuned` says, or all of the training steps.
            eta: 0 deterministic DDIM to 1 ancestral; None: `tuned` says, or the solver's default.
            noise_correction: c of paper eq. 9; None: `tuned` says.
            variance_multiplier: applied to the estimated variance before the start is chosen; None: `tuned` says.
            start: "stochastic" or "inversion".
            start_step: start there instead of at the matched step; len(schedule) starts from pure noise.
            generators: one CPU generator a sample; None seeds them with 0.
            encoder: name of the severity encoder component.
            fidelity: whether the restored image is corrected by its measurement at the end (`fidelity.correct`).
            noise: (B, C, h, w) standard normal for the start instead of a draw.
            diagnosis: where `operator` is an estimate made outside, of a whole picture of which this is a window: what it came from.
            callback: called with (steps done, steps in all) as the run proceeds.

        Raises:
            UsageError: shapes or settings that make no sense.
            FlashdiffError: the model lacks what the call needs.
        """
        # A severity encoder sees a measurement at the size of the image that it is of.
        lifted = self._check(measurement if operator is None else operator.lift(measurement))
        measurement = measurement.to(lifted)
        batch = len(measurement)
        generators = generators or [torch.Generator().manual_seed(0) for _ in range(batch)]
        if len(generators) != batch:
            raise UsageError(f"{batch} measurements need {batch} generators, not {len(generators)}")
        if operator is not None and noise_std is None:
            noise_std = noise_level(measurement.float()).cpu()
        if batch > 1 and (operator is None or len({self.encoder_for(operator.name, encoder, n)[0] for n in per_sample(noise_std).tolist()}) > 1):
            # Each may need an operator of another class, or another severity encoder.
            settings = dict(solver=solver, steps=steps, eta=eta, noise_correction=noise_correction, encoder=encoder, callback=callback)
            settings |= dict(variance_multiplier=variance_multiplier, start=start, fidelity=fidelity)
            parts = []
            for i in range(batch):
                own = {"noise_std": noise_std, "start_step": start_step, "noise": noise}
                own = {k: v[i : i + 1] if torch.is_tensor(v) and v.numel() > 1 else v for k, v in own.items()}
                own["operator"] = None if operator is None else operator.subset(torch.arange(batch) == i)
                parts.append(self(measurement[i : i + 1], generators=generators[i : i + 1], **settings, **own))
            return Restoration.joined(parts)
        clock = Clock(measurement.device)
        with clock.phase("estimate"):
            if operator is None:
                diagnosis = self.diagnose(measurement)
                operator = diagnosis.operator
                noise_std = diagnosis.noise_std if noise_std is None else noise_std
                start_step = diagnosis.start_step if start_step is None else start_step
        with clock.phase("severity"):
            analysis = self.analyse(lifted, operator.name, encoder, float(per_sample(noise_std).max()))
        noise_std = per_sample(noise_std).expand(batch) if per_sample(noise_std).numel() == 1 else per_sample(noise_std)
        solver = self.make_solver(solver, operator.name)
        tuned = self.tuned(solver.name, operator.name, analysis.encoder)
        eta = next(v for v in (eta, tuned["eta"], solver.default_eta) if v is not None)
        schedule = self.schedule(steps or tuned["steps"], eta)
        correction = tuned["noise_correction"] if noise_correction is None else noise_correction
        multiplier = tuned["variance_multiplier"] if variance_multiplier is None else variance_multiplier
        problem = Problem(measurement, operator, self.stage, self.denoiser, schedule, noise_std)
        with clock.phase("start"):
            begin = self._start(analysis, schedule, problem, generators, correction, multiplier, start, start_step, noise)
        with clock.phase("solve"):
            total = int(begin.level.max())
            report = (lambda done, levels: callback(done, total)) if callback else None
            latent = sample(solver, problem, begin, generators, report)
        with clock.phase("decode"):
            images = self.stage.decode(latent).float().clamp(-1, 1)
        fidelity, kept = self.defaults["fidelity"] if fidelity is None else fidelity, torch.ones(batch)
        if fidelity:
            with clock.phase("fidelity"):
                images, mean = (correct(x, measurement.float(), operator, noise_std) for x in (images, analysis.decoded))
                if diagnosis is not None and not diagnosis.trusted:
                    mean = analysis.decoded
                images, kept = restrain(images, mean, lifted.float())
        return Restoration(
            images=images,
            decoded=analysis.decoded,
            latent=latent,
            variance=analysis.variance.float().cpu(),
            start_step=begin.level,
            schedule_steps=len(schedule),
            steps=begin.level.clone(),
            network_evaluations=problem.network_evaluations,
            operators=[{"name": operator.name, **operator.describe(i)} for i in range(batch)],
            diagnosis=[diagnosis] * batch,
            noise_std=noise_std,
            solver={"name": solver.name, "eta": eta, **solver.describe()},
            encoder=analysis.encoder,
            fidelity=bool(fidelity),
            kept_detail=kept,
            seconds=clock.seconds,
        )

    def _start(self, analysis, schedule, problem, generators, correction, multiplier, mode, start_step, noise):
        level = None
        if start_step is not None:
            level = per_sample(start_step).long()
            level = level.expand(len(problem.measurement)) if len(level) == 1 else level
            if int(level.min()) < 0 or int(level.max()) > len(schedule):
                raise UsageError(f"--start-step must be from 0 to {len(schedule)}, the length of this schedule")
        return flash_start(
            analysis.estimate,
            schedule,
            generators,
            correction=correction,
            variance_multiplier=multiplier,
            mode=mode,
            predict_noise=lambda z, timesteps: self.denoiser(z, timesteps).sample,
            level=level,
            noise=noise,
            noise_rule=self.defaults["noise_rule"],
        )


__all__ = ["OPERATORS", "Analysis", "FlashDiffusionPipeline", "Restoration"]
