"""Text encoders of a model folder, loaded once to embed a prompt; needs transformers (pip install "flashdiff[text]").

Which words go to which encoder, and how, is the business of diffusers' own pipelines: they are made of the encoders alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bounded import in_one_line, short
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import check_file
from flashdiff_cli.hub.configs import check_config, read_config
from flashdiff_cli.hub.paths import within
from flashdiff_cli.hub.weights import outline
from flashdiff_cli.prompt import PromptEmbeddings

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
"""Classes of transformers that a model folder may name."""
PIPELINES = {
    "UNet2DConditionModel": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "SD3Transformer2DModel": ("StableDiffusion3Pipeline",) * 2,
    "FluxTransformer2DModel": ("FluxPipeline",) * 2,
}
"""By network: the pipeline of diffusers whose prompts it was trained on, with one text encoder and with several."""
REMEDY = "download the model again"


def encoder_folders(folder: Path) -> list[Path]:
    """Return the text encoders of a model folder, in order; empty if it has none."""
    return [folder / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if (folder / name).is_dir()]


def embed(folder: Path, network: str, text: str, index: dict[str, Any]) -> PromptEmbeddings:
    """Compute the embeddings of a prompt.

    Args:
        folder: with text_encoder/, tokenizer/ and, where the model has several, text_encoder_2/ and so on.
        network: class of the network that they are for.
        text: the prompt.
        index: the model's `model_index.json`.

    Raises:
        FlashdiffError: encoders are missing, damaged, of a class that is not on the list, or transformers is not installed.
    """
    folders = encoder_folders(folder)
    if not folders:
        raise FlashdiffError(f"{folder}: no text_encoder/ in it, which embeds the prompt that this model takes; give the whole model")
    if find_spec("transformers") is None:
        raise FlashdiffError(f'{folder}: its prompt is embedded by transformers, which is not installed: pip install "flashdiff[text]"')
    diffusers: Any = import_module("diffusers")
    parts: dict[str, Any] = {}
    for number in ("", "_2", "_3"):
        name = f"text_encoder{number}"
        parts |= _encoder(folder, name) if folder / name in folders else {name: None, f"tokenizer{number}": None}
    if network == "SD3Transformer2DModel":
        # Where there is no T5, as many zeros as the network takes stand for its words: asked of a network without memory.
        config = folder / "transformer" / "config.json"
        parts["transformer"] = outline(diffusers.SD3Transformer2DModel, read_config(within(folder, config)), config)
    pipeline_name = PIPELINES[network][folders != [folder / "text_encoder"]]
    with in_one_line(f"{folder}: prompt", f"is it a model of {pipeline_name}? {REMEDY}"), torch.no_grad():
        return _embed(getattr(diffusers, pipeline_name), parts, text, bool(index.get("force_zeros_for_empty_prompt")))


def _encoder(folder: Path, name: str) -> dict[str, Any]:
    """Load a text encoder and its tokenizer."""
    transformers: Any = import_module("transformers")
    path = within(folder, folder / name / "config.json")
    config = read_config(path)
    check_config(config, path)
    classes = config.get("architectures")
    kind = classes[0] if isinstance(classes, list) and classes else None
    if kind not in ENCODERS:
        raise FlashdiffError(f"{path}: unknown class {short(kind)} of a text encoder; flashdiff takes {', '.join(ENCODERS)}")
    tokens = name.replace("text_encoder", "tokenizer")
    for file in sorted([*(folder / name).iterdir(), *(folder / tokens).iterdir()] if (folder / tokens).is_dir() else []):
        check_file(folder, within(folder, file))
    # Newer versions have one class for what were a slow and a fast one.
    t5 = getattr(transformers, "T5TokenizerFast", transformers.T5Tokenizer)
    tokenizer = t5 if kind == "T5EncoderModel" else transformers.CLIPTokenizer
    local = {"local_files_only": True, "trust_remote_code": False}
    with _quiet(transformers.utils.logging), in_one_line(folder / name, REMEDY):
        encoder = getattr(transformers, kind).from_pretrained(folder / name, use_safetensors=True, torch_dtype=torch.float32, **local)
    with in_one_line(folder / tokens, REMEDY):
        return {name: encoder.eval(), tokens: tokenizer.from_pretrained(folder / tokens, **local)}


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers from drawing a bar of its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _embed(cls: Any, parts: dict[str, Any], text: str, zeros: bool) -> PromptEmbeddings:
    """Embed a prompt as a pipeline of diffusers does."""
    taken = inspect.signature(cls.__init__).parameters
    others = {name: None for name, p in taken.items() if name != "self" and p.default is inspect.Parameter.empty and name not in parts}
    more = {"requires_safety_checker": False} if "requires_safety_checker" in taken else {}
    pipeline = cls(**{k: v for k, v in parts.items() if k in taken}, **others, **more)
    if cls.__name__ == "StableDiffusionPipeline":
        words, _ = pipeline.encode_prompt(text, torch.device("cpu"), 1, False)
        return PromptEmbeddings.of(words, text=text)
    if cls.__name__ == "StableDiffusion3Pipeline":
        words, _, pooled, _ = pipeline.encode_prompt(text, None, None, torch.device("cpu"), do_classifier_free_guidance=False)
    elif cls.__name__ == "FluxPipeline":
        words, pooled, _ = pipeline.encode_prompt(text, None, torch.device("cpu"))
    else:
        words, _, pooled, _ = pipeline.encode_prompt(text, None, torch.device("cpu"), do_classifier_free_guidance=False)
        if zeros and not text:
            # That nothing is asked for was said in zeros while such a model was trained.
            words, pooled = torch.zeros_like(words), torch.zeros_like(pooled)
    return PromptEmbeddings.of(words, pooled, text)
