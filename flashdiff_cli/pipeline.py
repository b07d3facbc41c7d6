"""Measurement in; restored image, and a record of what was done, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from flashdiff_cli.arguments import Conventions, StepEnd, call_step_end, check_loading, one_each, progress
from flashdiff_cli.bounded import in_one_line
from flashdiff_cli.calibration import BlurFeatures, calibrated_variance, calibrated_width, mean_gradient
from flashdiff_cli.classifier import Degradation
from flashdiff_cli.denoiser import Denoiser
from flashdiff_cli.diagnosis import Analysis, Diagnosis, behind_jpeg, is_doubted, noise_of, operator_of, predict_kind, reconsider
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.finish import finish
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.grey import grey_as, may_be_noise
from flashdiff_cli.hub.paths import check_unlinked
from flashdiff_cli.images import ImageInput, restore_images
from flashdiff_cli.kernel import busiest_window
from flashdiff_cli.models.parts import load_parts
from flashdiff_cli.operators import OPERATORS, GaussianBlur, Operator
from flashdiff_cli.operators.base import per_sample
from flashdiff_cli.operators.estimate import fit_blur, noise_level, rounding_noise
from flashdiff_cli.operators.inpainting import missing
from flashdiff_cli.operators.kept_noise import measured_noise
from flashdiff_cli.plan import NO_ENCODER, ModelDefaults, SamplingPlan, SamplingRequest, choose_encoder, make_plan
from flashdiff_cli.priors import make_prior
from flashdiff_cli.restoration import Restoration, one_by_one
from flashdiff_cli.schedule import SPACINGS, Schedule
from flashdiff_cli.second_look import look_again
from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate
from flashdiff_cli.solvers import Problem, sample
from flashdiff_cli.start import make_start
from flashdiff_cli.timer import Timer
from flashdiff_cli.trial import try_model


class FlashDiffusionPipeline(Conventions, DiffusionPipeline):
    """Flash-Diffusion around any latent diffusion model (paper algorithm 1).

    Args:
        first_stage: AutoencoderKL, VQModel or AutoencoderDC.
        unet: network on its latents: a UNet, or a transformer of Stable Diffusion 3 or Flux.
        scheduler: says what the network predicts, at which noise; its own way of sampling is not used.
        severity: the default severity encoder; None: only start steps that are given can be used.
        severity_inpainting, severity_nonlinear_blur, severity_mixed: severity encoders for missing pixels, for nonlinear blur, and
            for camera shake, compression, enlargement and noise.
        prompt: `PromptEmbeddings` of a network that takes a prompt.
        last_step: `LastStep`, which makes the picture of decoded result and measurement; None: `data_consistency` does.
        last_step_mixed: the same for measurements that no operator explains; None: the severity encoder's estimate stands in.
        classifier: tells these kinds apart; None: a picture of which nothing is said is taken for blurred.
        blur_estimator: `BlurEstimator`, which sees how wide a blur is; None: the width is fitted to the severity encoder's estimate.
        defaults: what the model says of its own settings; see `plan.ModelDefaults`.
    """

    model_cpu_offload_seq = "severity->unet->first_stage->last_step->last_step_mixed"
    _encoders = ["severity", "severity_mixed", "severity_inpainting", "severity_nonlinear_blur"]
    _optional_components = [*_encoders, "classifier", "blur_estimator", "last_step", "last_step_mixed", "prompt"]

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
        blur_estimator=None,
        last_step=None,
        last_step_mixed=None,
        prompt=None,
        defaults: dict[str, Any] | ModelDefaults | None = None,
    ):
        super().__init__()
        self.register_modules(first_stage=first_stage, unet=unet, scheduler=scheduler, last_step=last_step, last_step_mixed=last_step_mixed)
        self.register_modules(severity=severity, severity_inpainting=severity_inpainting, severity_mixed=severity_mixed, prompt=prompt)
        self.register_modules(severity_nonlinear_blur=severity_nonlinear_blur, classifier=classifier, blur_estimator=blur_estimator)
        self.defaults = ModelDefaults.read(defaults or {})
        self.register_to_config(defaults=self.defaults.to_dict() if defaults is self.defaults else defaults or {})
        self.stage = FirstStage(first_stage)
        prior = make_prior(unet, scheduler, prompt, self.stage.size_multiple)
        self.denoiser = Denoiser(prior, prior.table, self.defaults.denoiser_gain)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        prompt: str | None = None,
        variant: str | None = None,
        **more: Any,
    ) -> FlashDiffusionPipeline:
        """Load a model in the diffusers layout (ours, or a plain latent diffusion model's).

        Args:
            model: a folder, a name of the registry, or `owner/name[@revision]` on the Hugging Face Hub.
            torch_dtype: of all weights (diffusers' newer name, `dtype`, does as well); None: float32.
            revision: branch, tag or commit on the Hub.
            local_files_only: use what is on this machine.
            cache_dir: instead of the Hub's standard cache.
            variant: of the weights' files, e.g. "fp16", where the model has it.
            more: what else diffusers takes; see `arguments.check_loading`.
            prompt: that a text-to-image model is told; None: the one that it was saved with, or "". Embedded once, and kept.

        Raises:
            UsageError: nothing goes by this name, or a prompt for a model that takes none.
            FlashdiffError: it cannot be fetched or is not supported, or a component is missing or damaged.
        """
        torch_dtype, device = check_loading(torch_dtype, more)
        folder, parts = load_parts(model, cls._optional_components, revision, local_files_only, cache_dir, torch_dtype, variant, prompt)
        with in_one_line(folder, "download or convert the model again"):
            pipeline = cls(**parts)
        try_model(pipeline, folder)
        return pipeline if device is None else pipeline.to(device)

    def save_pretrained(self, save_directory: str | Path, *given: Any, **more: Any) -> None:
        """Save components and `model_index.json` as diffusers does, arguments too, but never through a link.

        Raises:
            FlashdiffError: the folder of a component, or a file in it, is a link to elsewhere.
        """
        check_unlinked(Path(save_directory), ["model_index.json", *(name for name, part in self.components.items() if part is not None)])
        super().save_pretrained(save_directory, *given, **more)

    @property
    def size_multiple(self) -> int:
        """Sides of a measurement must be multiples of this: the first stage's factor times the network's."""
        return self.stage.size_multiple * self.denoiser.network.latent_multiple

    @property
    def encoders(self) -> dict[str, SeverityEncoder]:
        """The severity encoders that this model has, by component name, the default one first."""
        return {role: getattr(self, role) for role in self._encoders if getattr(self, role) is not None}

    def encoder_for(self, operator: str | None, name: str | None = None, noise_std: float | None = None) -> tuple[str, SeverityEncoder]:
        """Return name and network of the severity encoder that `plan.choose_encoder` chooses.

        Raises:
            FlashdiffError: the model has none.
            UsageError: it has none of that name.
        """
        role = choose_encoder(self.encoders, operator, name, noise_std)
        if role is None:
            raise FlashdiffError(NO_ENCODER)
        return role, self.encoders[role]

    def schedule(self, steps: int | None = None, eta: float = 0.0, spacing: str | None = None) -> Schedule:
        """Make the grid of a run; `steps` counts the whole process, `spacing` is the scheduler's if None."""
        config, table = self.scheduler.config, self.denoiser.table
        final = 1.0 if config.get("set_alpha_to_one", True) else float(table[0])
        return Schedule.from_table(table, steps, eta, config.get("steps_offset", 0), final, spacing or config.get("timestep_spacing", SPACINGS[0]))

    def plan(self, request: SamplingRequest | None = None, operator: str | None = None, noise_std: float | None = None) -> SamplingPlan:
        """Make every choice of a run; see `plan.make_plan`.

        Args:
            request: what the caller fixes.
            operator: registered name of the degradation, or None.
            noise_std: of the measurement on intensities in [0, 1], if known.
        """
        return make_plan(request or SamplingRequest(), self.defaults, self.encoders, self.schedule, operator, noise_std)

    def _checked(self, measurement: torch.Tensor) -> torch.Tensor:
        """Return an image-sized measurement on the model's device, in its type."""
        if measurement.ndim != 4 or measurement.shape[1] != 3:
            raise UsageError(f"a measurement must be (B, 3, H, W), not {tuple(measurement.shape)}")
        if measurement.shape[2] % self.size_multiple or measurement.shape[3] % self.size_multiple:
            raise UsageError(f"sides of a measurement must be multiples of {self.size_multiple}, not {tuple(measurement.shape[2:])}; pad it")
        return measurement.to(device=self.unet.device, dtype=self.unet.dtype)

    @torch.no_grad()
    def analyse(
        self,
        measurement: torch.Tensor,
        operator: str | None = None,
        encoder: str | None = None,
        noise_std: float | None = None,
        where: torch.Tensor | None = None,
    ) -> Analysis:
        """Estimate latent and severity without restoring.

        Args:
            measurement: (B, 3, H, W) in [-1, 1] units, sides multiples of `size_multiple`.
            operator: name of the degradation, if known, to choose the encoder.
            encoder: component name, to override the choice.
            noise_std: of the measurements on intensities in [0, 1], if known, to choose the encoder.
            where: (B, H, W) or (1, H, W), bool: the pixels that the severity is to be of; see `SeverityEncoder`.
        """
        measurement = self._checked(measurement)
        name, network = self.encoder_for(operator, encoder, noise_std)
        latent, variance = network(measurement.to(network.dtype), where)
        estimate = SeverityEstimate(latent.to(measurement.dtype), variance)
        found = Analysis(estimate, self.stage.decode(estimate.latent).float().clamp(-1, 1), name)
        calibration = self.defaults.calibration.get(name)
        if calibration is not None:
            variance = calibrated_variance(self.blur_features(measurement, found), calibration)
            found.estimate = SeverityEstimate(estimate.latent, variance)
        return found

    @staticmethod
    def blur_features(measurement: torch.Tensor, analysis: Analysis) -> BlurFeatures:
        """Return what a measurement (B, 3, H, W) and its analysis say of blur, noise and detail; found once, and kept in the analysis."""
        if analysis.blur_features is None:
            seen, decoded = measurement.to(analysis.decoded), analysis.decoded
            analysis.blur_features = BlurFeatures(fit_blur(seen, decoded), noise_level(seen), mean_gradient(decoded), analysis.variance.float())
        return analysis.blur_features

    def estimate_operator(self, measurement: torch.Tensor, analysis: Analysis, compressed: bool = False) -> tuple[GaussianBlur, torch.Tensor]:
        """Estimate the Gaussian blur and the noise that explain a measurement best.

        Args:
            measurement, analysis: (B, 3, H, W) in [-1, 1] units, `compressed` where it was a JPEG; and what `analyse` says of it.

        Returns:
            the operator with per-sample widths, and noise_std (B,) on intensities in [0, 1].
        """
        blur_features = self.blur_features(measurement, analysis)
        calibration = self.defaults.calibration.get(analysis.encoder)
        width = blur_features.width if calibration is None else calibrated_width(blur_features, calibration)
        blur = behind_jpeg(GaussianBlur(width.cpu())) if compressed else GaussianBlur(width.cpu())
        if self.blur_estimator is not None:
            blur = GaussianBlur(self.blur_estimator.look(measurement).width(blur.blur_std.to(width), compressed).cpu())
        return blur, blur_features.noise_std.cpu()

    @torch.no_grad()
    def classify(self, measurement: torch.Tensor) -> Degradation | None:
        """Return what the classifier says of measurements (B, 3, H, W); None if the model has none."""
        return None if self.classifier is None else self.classifier(measurement.to(self.classifier.device))

    def kind_of(self, measurement: torch.Tensor, seen: Degradation) -> str:
        """Return the kind of degradation to take one picture (1, 3, H, W) for, by what the classifier said of it."""
        kind, probabilities = predict_kind(seen)
        if not is_doubted(kind, probabilities):
            return kind
        part = busiest_window(measurement, self.size_multiple).of(measurement)
        blur = None if self.blur_estimator is None else self.blur_estimator.look(part)
        return reconsider(kind, probabilities, blur, rounding_noise(part)[0].item() > 0, seen.value("noise_std")[0].item())

    def diagnose(self, measurement: torch.Tensor, seen: Degradation | None = None, kind: str | None = None) -> Diagnosis:
        """Find out what degraded one picture.

        Args:
            measurement: (1, 3, H, W) in [-1, 1] units, sides multiples of `size_multiple`.
            seen: what the classifier said of it, if it was asked already.
            kind: of the whole picture, if that was found already.

        Raises:
            FlashdiffError: it takes a severity encoder to tell, and the model has none.
        """
        seen = self.classify(measurement) if seen is None else seen
        kind = kind or ("gaussian-blur" if seen is None else self.kind_of(measurement, seen))
        if seen is not None and kind != "gaussian-blur" and (found := self.diagnose_other(measurement, seen, kind)) is not None:
            return found
        if not self.encoders:
            raise FlashdiffError("this model has no severity encoder, which an unknown degradation is estimated with; give `operator`")
        rounding, analysis = rounding_noise(measurement)[0].item(), self.analyse(measurement, "gaussian-blur")
        operator, noise_std = self.estimate_operator(measurement, analysis, rounding > 0)
        said = None if seen is None else predict_kind(seen)[1]
        return Diagnosis("gaussian-blur", operator, noise_std[0].item(), said, analysis=analysis).with_rounding(rounding)

    def diagnose_other(self, measurement: torch.Tensor, seen: Degradation, kind: str) -> Diagnosis | None:
        """Diagnose a picture (1, 3, H, W) of any kind but Gaussian blur; None where one that seemed to be shaken has such a blur rather."""
        kind = "none" if kind == "noise" and not bool(may_be_noise(measurement, seen.value("noise_std"))[0]) else kind
        found = Diagnosis(kind, operator_of(kind, seen), noise_of(kind, seen, measurement), predict_kind(seen)[1])
        found = found if kind in ("none", "jpeg") else found.with_rounding(rounding_noise(measurement)[0].item())
        networks = self.last_step, self.last_step_mixed
        return look_again(found, measurement, self.analyse, *networks, self.size_multiple) if self.encoders else found

    @torch.no_grad()
    def __call__(
        self,
        measurement: torch.Tensor | None = None,
        operator: Operator | None = None,
        noise_std: float | torch.Tensor | None = None,
        request: SamplingRequest | None = None,
        generators: Sequence[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        diagnosis: Diagnosis | None = None,
        callback: Callable[[int, int], None] | None = None,
        image: ImageInput | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepEnd | None = None,
        **choices: Any,
    ) -> Any:
        """Restore measurements, each from the start step that its severity matches (paper algorithm 1).

        Called with `image`, it takes and returns pictures as other pipelines of diffusers do.

        Args:
            measurement: (B, 3, H, W) in [-1, 1] units, sides multiples of `size_multiple`.
            operator: what degraded them; None: `diagnose` says, for each picture by itself.
            noise_std: of the measurement noise on intensities in [0, 1], taken as it is; None estimates it.
            request: what is to be done; `choices`, its fields by name, go over it (and diffusers' `num_inference_steps`).
            generators: one CPU generator a sample, also as `generator`; None seeds them with 0.
            noise: (B, C, h, w) standard normal for the start instead of a draw.
            diagnosis: what `operator` came from, where it is an estimate that was made outside.
            callback: called with (steps done, steps in all).
            image: instead of a measurement, pictures in [0, 1] of any size; see `images.ImageInput`.
            output_type: of what `image` is restored to: "pil", "np" or "pt".
            callback_on_step_end: called as diffusers has it, with (pipeline, step, timestep, {"latents": z}) after each step; it returns a
                dictionary, whose "latents" are gone on from.

        Returns:
            a `Restoration`; with `image`, an `images.ImageOutput`.

        Raises:
            UsageError: shapes or settings that make no sense, or an argument that there is not.
            FlashdiffError: the model lacks what the call needs.
        """
        if (measurement is None) == (image is None):
            raise UsageError("give `image`, pictures in [0, 1], or `measurement`, a tensor in [-1, 1]: one of them")
        if image is not None:
            given = {"noise_std": noise_std, "request": request, "generators": generators, "noise": noise, "diagnosis": diagnosis}
            given |= {"callback": callback, "callback_on_step_end": callback_on_step_end, **choices}
            return restore_images(self, self.size_multiple, image, operator, output_type, **given)
        assert measurement is not None
        generators = one_each(generators or choices.pop("generator", None), len(measurement))
        request = SamplingRequest.of(request, **choices)
        image = self._checked(measurement if operator is None else operator.seen(measurement))
        # What is left alone, and the data terms, are not rounded to the networks' type.
        exact = measurement.to(image.device, torch.promote_types(image.dtype, torch.float32))
        measurement = exact.to(image)
        if operator is not None and noise_std is None:
            noise_std = measured_noise(measurement.float(), operator).cpu()
        if self._is_mixed(len(measurement), operator, noise_std, request.encoder):
            alone = partial(self, callback_on_step_end=callback_on_step_end)
            return one_by_one(alone, exact, operator, noise_std, request, generators, noise, callback)
        timer = Timer(measurement.device)
        with timer.phase("estimate"):
            if operator is None or noise_std is None:
                diagnosis = self.diagnose(measurement)
                operator, noise_std = diagnosis.operator, diagnosis.noise_std if noise_std is None else noise_std
        noise_std = per_sample(noise_std).expand(len(measurement))
        request = request.unless_started(self._known_start(request, operator, diagnosis))
        plan = self.plan(request, operator.name, float(noise_std.max()))
        problem = Problem(exact, operator, self.stage, self.denoiser, plan.schedule, noise_std)
        with timer.phase("severity"):
            analysis = self._look(plan, image, diagnosis, missing(operator))
        with timer.phase("start"):
            begin = make_start(plan, self.stage, self.denoiser, image, analysis, generators, noise)
        with timer.phase("solve"):
            step_end = None if callback_on_step_end is None else partial(call_step_end, self, plan.schedule, callback_on_step_end)
            latent = sample(plan.solver, problem, begin, generators, progress(callback, int(begin.level.max())), step_end)
        with timer.phase("decode"):
            # A run of no steps ends at the estimate, which was decoded when it was made.
            if analysis is not None and torch.equal(latent, analysis.latent):
                images = analysis.decoded
            else:
                images = self.stage.decode(latent).float().clamp(-1, 1)
        kept = torch.ones(len(images))
        if plan.fidelity:
            with timer.phase("fidelity"):
                decoded = analysis.decoded if analysis else None
                networks = self.last_step, self.last_step_mixed
                images, kept = finish(images, decoded, exact, operator, noise_std, diagnosis, *networks)
            images = grey_as(images, measurement)
        return Restoration.of(plan, problem, begin, analysis, diagnosis, images, kept, latent, timer.seconds)

    def _known_start(self, request: SamplingRequest, operator: Operator, diagnosis: Diagnosis | None) -> int | None:
        """Return the start step that needs no severity to be known.

        It is 0 also where the last step makes its picture of the measurement alone, and behind a JPEG that was found: a step's data term brings
        back what rounding left, and the last step, which begins lower there, does not take all of it out again (12 mixtures: up to 2.8 dB).
        """
        found = None if diagnosis is None else diagnosis.start_step
        corrected = self.defaults.fidelity if request.fidelity is None else request.fidelity
        if not corrected or self.last_step is None:
            return found
        compressed = diagnosis is not None and bool(per_sample(diagnosis.rounding_std).any())
        return 0 if compressed or self.last_step.needs_no_result(operator) else found

    def _is_mixed(self, batch: int, operator: Operator | None, noise_std: float | torch.Tensor | None, encoder: str | None) -> bool:
        """Return whether samples may need operators of several classes, or several severity encoders."""
        if batch == 1 or operator is None or noise_std is None:
            return batch > 1
        return len({choose_encoder(self.encoders, operator.name, encoder, n) for n in per_sample(noise_std).tolist()}) > 1

    def _look(self, plan: SamplingPlan, image: torch.Tensor, diagnosis: Diagnosis | None, where: torch.Tensor | None) -> Analysis | None:
        """Return what the plan's severity encoder says of measurements at the size of their images; None where it is not needed."""
        if not plan.looks:
            return None
        known = None if diagnosis is None else diagnosis.analysis
        if known is not None and known.encoder == plan.encoder and known.decoded.shape == image.shape:
            return known
        return self.analyse(image, None, plan.encoder, where=where)


__all__ = ["OPERATORS", "Analysis", "FlashDiffusionPipeline", "Restoration"]
