"""What degraded a picture of which nothing is known: from the classifier's words to an operator that a solver can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from flashdiff_cli.blur_estimator import Blur
from flashdiff_cli.calibration import BlurFeatures
from flashdiff_cli.classifier import KINDS, Degradation
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, Jpeg, MotionBlur, Operator
from flashdiff_cli.operators.base import per_sample
from flashdiff_cli.operators.estimate import enlarged_noise, noise_level
from flashdiff_cli.operators.motion_blur import straight_kernel
from flashdiff_cli.severity import SeverityEstimate

OPERATOR_OF = {
    "none": "identity",
    "gaussian-blur": "gaussian-blur",
    "motion-blur": "motion-blur",
    "noise": "identity",
    "jpeg": "jpeg",
    "downsampling": "enlargement",
}
"""The operator that stands for each kind: a downsampled picture that is restored at its size was enlarged again."""


MISTAKEN = "downsampling", "motion-blur", "gaussian-blur"
"""Kinds that others are mistaken for."""

MAY_BE_BLURRED, MAY_BE_SHARP = 0.17, 0.1
"""Probabilities of a blur, behind a JPEG, and of nothing at all, from which a picture is not taken for enlarged or shaken. A faint blur looks like a
small enlargement, and gains several times as much as a blur; pictures that are soft by nature keep some probability of being sharp, and those that
were enlarged or shaken hardly any: of 120 shaken ones none above 0.07."""

BLURRED_NOT_ENLARGED = 0.3
"""The same without a JPEG, which tells better: of 120 enlarged pictures five had 0.17 to 0.28 and one more; of nine blurred ones six had 0.37 to
0.48."""

FAINT = 1.8
"""Width in pixels up to which a blur is mistaken for an enlargement: they were 0.75 to 1.5 as the estimator of blurs sees them."""

MAY_BE_NOISY = 0.25
"""Probability of noise from which a picture is not taken for shaken: 0.3 to 0.4 in four sharp noisy pictures that were, at most 0.1 in 120 shaken
ones."""

MAY_BE_SHAKEN = 0.25
"""Probability of a motion from which a picture that seems to be blurred is looked at as a shaken one is, which tells the two apart (`shake`)."""

FAINT_BLUR, BLURRED = 1.2, 0.75
"""Width in pixels up to which a blur that is seen with less than this probability may be softness of the picture's own: to sharpen that costs 3 to 10
dB. In seven soft pictures with noise and a JPEG the probability was 0.40 to 0.73 and the width 0.48 to 1.05; in eighteen that were blurred by 1 to
2.8 pixels 0.69 to 0.99 and 1.5 to 2.5. Behind a JPEG (`Diagnosis.doubted`), up to SURE, what is made without an operator stands: of 48 pictures with
a faint blur or a softness of their own it made every one better, by 0.1 to 6.7 dB."""

VEILED = 0.02
"""Noise on intensities in [0, 1] from which such a picture, if it was no JPEG, is not taken for blurred: four of ten soft noisy faces were. With
noise of 0.01 blurs of 0.8 pixels are told, with probabilities of 0.4 to 0.7, and gain 3 dB."""

BLURS = "gaussian-blur", "motion-blur"
NOT_BLURRED = "none", "noise", "jpeg"
"""Kinds of which such a picture is the likeliest."""

HEARD, SURE, UNSURE = 0.5, 0.85, 0.6
"""Share that estimates made without an operator have of a blind result whose operator may not be the whole truth; and probabilities of a blur
between which that share falls to nothing. On 315 mixtures of four sets (`training.mixtures`) those found blurred with less than 0.75 gained 0.8 dB
more by it, those found enlarged 0.9 (soft pictures, which are to stay soft, lose less) and noisy JPEGs 0.3; blurs found with more would lose 0.2."""

CERTAIN = 0.8
"""Probability that a kind must have to be told from the others."""

AGREE = 1.4
"""How many times the one of two estimates of noise may be the other and still be of the same noise."""

SHORTER = 0.85
"""Of the length of a motion that is seen: one taken too long harms more than one taken too short."""

SHAKEN_NOISE = 1.3
"""Times the noise that the classifier sees in a shaken picture, where it reads a tenth too little: a little more is reckoned with, for noise that was
left out of the account comes back as ripples along the path. Eighteen shaken pictures not looked at before gained 4.0, 3.5 and 2.5 dB (faces,
portraits, photographs) in place of 3.0, 3.3 and 1.2."""

WIDE, TAKEN = 1.8, 0.4
"""Width of a blur in pixels up to which it is believed behind JPEG, and the share of what is above: a JPEG's empty cosines look like more blur, and a
blur taken too wide harms more than one taken too narrow. Believed up to 1.7 in place of 2.4, 20 compressed grey faces gained 3.4 dB in place of 2.4
and none came back worse (5 had), 20 in colour 3.2 in place of 2.8 (1), and 9 photographs 1.5 in place of 1.7: between the two."""


@dataclass
class Analysis:
    """What the severity encoder says of B measurements."""

    estimate: SeverityEstimate
    decoded: torch.Tensor
    """(B, 3, H, W) in [-1, 1]: the decoded latent estimate, before any diffusion step."""
    encoder: str
    """Name of the severity encoder that was used."""
    blur_features: BlurFeatures | None = None
    """What blur, noise and detail the measurements show; None before it was asked for (`FlashDiffusionPipeline.blur_features`)."""

    @classmethod
    def joined(cls, several: Sequence[Analysis]) -> Analysis:
        """Return what one severity encoder says of all measurements of several analyses."""
        estimate = SeverityEstimate(torch.cat([one.latent for one in several]), torch.cat([one.variance for one in several]))
        return cls(estimate, torch.cat([one.decoded for one in several]), several[0].encoder)

    @property
    def latent(self) -> torch.Tensor:
        """(B, C, h, w)."""
        return self.estimate.latent

    @property
    def variance(self) -> torch.Tensor:
        """(B,)."""
        return self.estimate.variance


@dataclass
class Diagnosis:
    """What degraded one picture, as far as it shows."""

    kind: str
    """One of `classifier.KINDS`."""
    operator: Operator
    noise_std: float
    """On intensities in [0, 1]: what a solver is to reckon with (`estimate.enlarged_noise`)."""
    probabilities: dict[str, float] | None = None
    """Of all kinds; None where the model has no classifier and a Gaussian blur is taken for granted."""
    rounding_std: float | torch.Tensor = 0.0
    """On intensities in [0, 1]: what a JPEG's rounding has left in a picture of another kind; `noise_std` is no less. Of a batch, (B,)."""
    analysis: Analysis | None = field(default=None, repr=False)
    """Of the very measurement that is restored, where the diagnosis needed one, so that it is not made twice."""
    shares: torch.Tensor | None = field(default=None, repr=False)
    """Of a batch, (B,): `share` of each."""
    doubts: bool | None = field(default=None, repr=False)
    """`doubted`, where it does not follow from the rest: of all of a batch, or of noise that does not look like noise (`second_look`)."""

    @property
    def start_step(self) -> int | None:
        """0 where nothing is to be restored, or by no operator; else left to the severity."""
        return 0 if self.kind == "none" or self.doubted else None

    @property
    def doubted(self) -> bool:
        """Whether no operator is to be gone by: a blur or a motion behind a JPEG may be softness of the picture's own."""
        if self.doubts is not None:
            return self.doubts
        if self.probabilities is None or self.kind not in BLURS or self.probabilities[self.kind] >= SURE:
            return False
        wide = isinstance(self.operator, GaussianBlur) and bool((self.operator.blur_std >= FAINT_BLUR).all())
        return bool(per_sample(self.rounding_std).any()) and not wide

    @property
    def trusted(self) -> bool:
        """Whether the operator is known well enough to correct by it what nothing else vouches for.

        A camera's path is seen least well: a kernel that is too long or turned leaves ripples. A soft picture with noise behind
        JPEG may be taken for an enlarged one, which says that there is next to no noise.
        """
        return self.kind not in ("motion-blur", "downsampling")

    @property
    def mixed(self) -> bool:
        """Whether something else than the operator, or more, is likely to have degraded the picture: a small one that was enlarged has a past."""
        return self.kind == "downsampling" or self.doubted

    @property
    def uncertain(self) -> bool:
        """Whether other kinds are hardly less likely."""
        return self.doubted or (self.probabilities is not None and self.probabilities[self.kind] < CERTAIN)

    @property
    def share(self) -> torch.Tensor:
        """(1,) or (B,): the share that estimates made without an operator have of the result."""
        if self.shares is not None:
            return self.shares
        if self.doubted:
            # The severity encoder sharpens what is soft by nature: it is not to be averaged with.
            return torch.zeros(1)
        heard = 0.0
        if self.kind == "downsampling" or (self.kind == "noise" and self.rounding_std):
            heard = HEARD
        elif self.kind == "gaussian-blur" and self.probabilities is not None:
            heard = HEARD * min(1.0, max(0.0, (SURE - self.probabilities[self.kind]) / (SURE - UNSURE)))
        return torch.tensor([heard])

    @property
    def treated_as(self) -> tuple[str, bool, bool]:
        """What a run goes by besides operator, noise and analysis: pictures that differ in it cannot share one."""
        return self.kind, self.mixed and self.uncertain, bool(per_sample(self.rounding_std).any())

    @classmethod
    def joined(cls, several: Sequence[Diagnosis], operator: Operator) -> Diagnosis:
        """Return the diagnosis of a batch.

        Args:
            several: of its pictures, alike in `treated_as`.
            operator: of all of them together.
        """
        if len(several) == 1:
            return replace(several[0], operator=operator)
        rounding_std = torch.cat([per_sample(one.rounding_std) for one in several])
        analyses = [one.analysis for one in several if one.analysis is not None]
        analysis = Analysis.joined(analyses) if len(analyses) == len(several) else None
        noise_std = max(one.noise_std for one in several)
        known = {"shares": torch.cat([one.share for one in several]), "doubts": several[0].doubted}
        return replace(several[0], operator=operator, noise_std=noise_std, rounding_std=rounding_std, analysis=analysis, **known)

    def stored_as(self, compression: Jpeg | None) -> Diagnosis:
        """Return the diagnosis with what the file says of its own compression: its quality, and noise that rounding left at the least."""
        if compression is None or self.kind == "none":
            return self
        if self.kind == "jpeg":
            return replace(self, operator=compression)
        return self.with_rounding(compression.noise_std().item())

    def with_rounding(self, rounding_std: float) -> Diagnosis:
        """Return the diagnosis of a picture in which rounding has left an error of at least this standard deviation."""
        rounding_std = max(rounding_std, float(self.rounding_std))
        return replace(self, noise_std=max(self.noise_std, rounding_std), rounding_std=rounding_std)

    def describe(self) -> dict:
        """Return what records say."""
        said = {"kind": self.kind}
        if self.probabilities is not None:
            said |= {"confidence": round(self.probabilities[self.kind], 4)}
            said |= {"probabilities": {k: round(v, 4) for k, v in self.probabilities.items()}}
        return said


def pool(seen: Sequence[Degradation], weights: Sequence[float]) -> Degradation:
    """Return one verdict on the pieces of a picture: weighted means of the logarithms of the probabilities, and of the parameters."""
    weight = torch.tensor(weights, dtype=torch.float64)
    weight = (weight / weight.sum())[:, None]
    logs = torch.cat([one.probabilities for one in seen]).double().cpu().clamp(min=1e-6).log()
    parameters = torch.cat([one.parameters for one in seen]).double().cpu()
    return Degradation((weight * logs).sum(0, keepdim=True).softmax(1).float(), (weight * parameters).sum(0, keepdim=True).float())


def operator_of(kind: str, seen: Degradation) -> Operator:
    """Return the operator of a kind other than Gaussian blur, with the parameters (1, 7) that were seen."""
    if kind == "motion-blur":
        length, angle = (SHORTER * seen.value("blur_length")).clamp(1, 40), seen.angle
        return MotionBlur(straight_kernel(length.item(), angle.item())[None], {"blur_length": length, "blur_angle": angle.rad2deg()})
    if kind == "jpeg":
        return Jpeg(seen.value("jpeg_quality").round().cpu())
    if kind == "downsampling":
        return Enlargement(seen.value("enlarged").clamp(1, 16).cpu())
    return Identity()


def behind_jpeg(blur: GaussianBlur) -> GaussianBlur:
    """Return a blur that was estimated in a compressed picture, as far as it is believed."""
    return GaussianBlur(blur.blur_std - (1 - TAKEN) * (blur.blur_std - WIDE).clamp(min=0))


def predict_kind(seen: Degradation) -> tuple[str, dict[str, float]]:
    """Return the likeliest kind of one picture, and the probabilities of all."""
    probabilities: dict[str, float] = dict(zip(KINDS, seen.probabilities[0].tolist(), strict=True))
    return max(probabilities, key=lambda kind: probabilities[kind]), probabilities


def is_doubted(kind: str, probabilities: Mapping[str, float]) -> bool:
    """Return whether `reconsider` may take a picture for anything but its likeliest kind."""
    return kind in MISTAKEN and not (kind == "gaussian-blur" and probabilities[kind] >= BLURRED)


def reconsider(kind: str, probabilities: Mapping[str, float], blur: Blur | None, compressed: bool, noise_std: float = 0.0) -> str:
    """Return the kind to take a picture for of which `is_doubted` is true: what may well be another is that.

    Args:
        kind, probabilities: as `predict_kind` returns them.
        blur: what the estimator of blurs says of the picture; None where the model has none.
        compressed: whether the picture was a JPEG.
        noise_std: that the classifier saw, on intensities in [0, 1].
    """
    blurred, sharp = probabilities["gaussian-blur"], probabilities["none"]
    if kind == "downsampling":
        least = max(MAY_BE_BLURRED if compressed else BLURRED_NOT_ENLARGED, 2 * sharp)
        if blurred >= least and (blur is None or blur.log_width[0].exp() < FAINT):
            return "gaussian-blur"
    if kind == "motion-blur" and probabilities["noise"] >= MAY_BE_NOISY:
        return "noise"
    if kind == "gaussian-blur":
        faint = blurred < BLURRED and blur is not None and blur.log_width[0].exp() < FAINT_BLUR
        if faint and not compressed and noise_std > VEILED:
            return max(NOT_BLURRED, key=lambda one: probabilities[one])
        return "motion-blur" if not compressed and probabilities["motion-blur"] >= MAY_BE_SHAKEN else kind
    return "none" if kind in MISTAKEN and sharp >= MAY_BE_SHARP else kind


def noise_of(kind: str, seen: Degradation, picture: torch.Tensor) -> float:
    """Return the noise to reckon with in one picture (1, 3, H, W) of this kind, on intensities in [0, 1]; what JPEG adds is in its operator."""
    if kind == "jpeg":
        return 0.0
    found = min(seen.value("noise_std")[0].item(), 0.5)
    if kind == "noise":
        # Smooth places show it best, unless texture is among them: then the two differ, and there is hardly more noise than the lesser.
        shown = noise_level(picture.float())[0].item()
        return shown if found / AGREE < shown < found * AGREE else min(found, 1.1 * shown)
    if kind == "downsampling":
        return max(found, enlarged_noise(picture, seen.value("enlarged")[0].clamp(1, 16).item()))
    return min(SHAKEN_NOISE * found, 0.5) if kind == "motion-blur" else found
