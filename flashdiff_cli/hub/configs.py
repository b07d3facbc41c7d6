"""Configurations of strangers: JSON of bounded size, with numbers that networks have."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from flashdiff_cli.bounded import parse_json, read_text, short
from flashdiff_cli.errors import FlashdiffError

TEXT, NAMES = 2000, 500
"""Characters of a text, and entries of an object."""
NUMBER, LAYERS, WIDTH, BLOCKS, LIST = 10_000_000, 64, 65_536, 16, 64
"""Of any number; of layers in a block; of channels, heads and groups; of blocks; of any other list."""
LONG = {"trained_betas": 100_000, "degradations": 200, "denoiser_gain": 10_000, "ids": 100_000}
"""Lists that may be longer, by name."""
CAPS = (
    (re.compile(r"layers|depth|rounds|blocks$"), LAYERS),
    (re.compile(r"channels|groups|heads?(_|$)|_dim$|width|multiscales|model_channels"), WIDTH),
    (re.compile(r"num_train_timesteps|^timesteps$"), 100_000),
)
"""What a number may be at most, by a part of its name."""


def read_config(path: Path) -> dict[str, Any]:
    """Return a JSON configuration.

    Raises:
        FlashdiffError: it is missing, too large, or no JSON object.
    """
    try:
        config = parse_json(read_text(path))
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot read ({error.strerror or error}); is the model folder complete?") from error
    except ValueError as error:
        raise FlashdiffError(f"{path}: not valid JSON ({error}); download or convert the model again") from error
    if not isinstance(config, dict):
        raise FlashdiffError(f"{path}: not a configuration; download or convert the model again")
    return config


def check_config(config: Any, where: str | Path, name: str = "") -> None:
    """Check that no number, list or text of a configuration is larger than that of any network.

    Args:
        config: a value of JSON or YAML, of bounded depth.
        where: file, for messages.
        name: of the value.

    Raises:
        FlashdiffError: one is; the message names it.
    """
    what = f"{where}: {name or 'configuration'} = {short(config)}"
    if isinstance(config, dict):
        if len(config) > NAMES:
            raise FlashdiffError(f"{where}: {name or 'configuration'} has {len(config):,} entries; is it a model's?")
        for key, value in config.items():
            check_config(value, where, str(key)[:100])
    elif isinstance(config, (list, tuple)):
        most = LONG.get(name, BLOCKS if re.search("block|ch_mult|^channels$", name) else LIST)
        if len(config) > most:
            raise FlashdiffError(f"{where}: {name} has {len(config):,} entries, more than {most:,}; is it a model's?")
        for value in config:
            check_config(value, where, name)
    elif isinstance(config, str):
        if len(config) > TEXT:
            raise FlashdiffError(f"{what} is too long; is it a model's?")
    elif isinstance(config, (int, float)) and not isinstance(config, bool):
        most = next((cap for pattern, cap in CAPS if pattern.search(name)), NUMBER)
        if not (math.isfinite(config) and abs(config) <= most):
            raise FlashdiffError(f"{what} is beyond {most:,}, which no model needs; download or convert the model again")
