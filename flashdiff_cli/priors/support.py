"""Which models can be priors: decided from their configurations alone, before gigabytes are read; the rest is one line with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import FlashdiffError

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
FIRST_STAGES = ("AutoencoderKL", "AutoencoderDC", "VQModel")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network with a table of abar may predict."""
REASONS = (
    (r"UNet3D|SpatioTemporal|Video|Motion|Wan|LTX|Mochi|Hunyuan.*3D|CogVideo|Allegro|Cosmos", "works on video, and flashdiff on single pictures"),
    (
        r"Cascade|Wuerstchen|Kandinsky|UnCLIP|PriorTransformer|IFPipeline|IFSuperResolution",
        "is a cascade of models, and flashdiff takes a single one",
    ),
    (r"Audio|Music|Wave|Spectrogram", "makes sound, not pictures"),
    (r"ControlNet|T2IAdapter", "is guided by other pictures"),
    (r"DDPMPipeline|DDIMPipeline|ScoreSdeVe|(?<!Latent)Consistency|EDM", "works on pixels, and flashdiff on latents"),
)
"""What names of pipelines and networks tell, and why it cannot be used."""


def _known_reason(*names: Any) -> str | None:
    text = " ".join(name for name in names if isinstance(name, str))
    return next((reason for pattern, reason in REASONS if re.search(pattern, text)), None)


def check_parts(
    where: str,
    pipeline: Any,
    network: Mapping[str, Any] | None,
    first_stage: Mapping[str, Any] | None,
    scheduler: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a model that no adapter fits.

    Args:
        where: the model, for the message.
        pipeline: name of the pipeline's class in `model_index.json`, if any.
        network, first_stage, scheduler: their configurations; None where the model has no such part.

    Raises:
        FlashdiffError: with the reason.
    """
    name = (network or {}).get("_class_name")
    reason = _known_reason(pipeline, name, (first_stage or {}).get("_class_name"))
    if reason is None and network is not None and first_stage is None:
        reason = "has no autoencoder: it works on pixels, and flashdiff on latents"
    if reason is None and network is not None and name in NETWORKS and first_stage is not None and first_stage.get("_class_name") in FIRST_STAGES:
        reason = _unfit(network, first_stage)
    predicted = (scheduler or {}).get("prediction_type", PREDICTIONS[0])
    if reason is None and predicted not in PREDICTIONS:
        reason = f"predicts {short(predicted)}, which no adapter knows (known: {', '.join(PREDICTIONS)}, and rectified flow)"
    if reason is not None:
        raise FlashdiffError(f"{where}: this model {reason}; use a text-to-image or unconditional latent diffusion model")


def _unfit(network: Mapping[str, Any], first_stage: Mapping[str, Any]) -> str | None:
    """Return why a network of a known class cannot be called; None if it can."""
    latent = first_stage.get("vq_embed_dim") or first_stage.get("latent_channels", 4)
    name = network["_class_name"]
    taken = network.get("in_channels", {"UNet2DModel": 3, "UNet2DConditionModel": 4, "SD3Transformer2DModel": 16}.get(name, 64))
    wanted = 4 * latent if name == "FluxTransformer2DModel" else latent
    if taken != wanted:
        return f"takes {short(taken)} channels where its latent has {short(wanted)} (it is made for inpainting, editing or depth)"
    if (given := network.get("out_channels")) not in (None, wanted):
        return f"predicts {short(given)} channels where its latent has {short(wanted)}"
    if network.get("class_embed_type") is not None or network.get("num_class_embeds") is not None:
        return "asks which class a picture is of"
    if network.get("addition_embed_type") not in (None, "text_time") or network.get("encoder_hid_dim_type") is not None:
        return f"is told of pictures in a way that is not known ({short(network.get('addition_embed_type') or network.get('encoder_hid_dim_type'))})"
    return None
