"""Seeded hostile cases: files of models, checkpoints, recipes and protocols, changed where their structure says that it hurts."""

import copy
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

VALUES = [None, True, False, 0, -1, 3, 10**9, 10**30, 0.5, -0.5, 1e308, float("inf"), float("nan"), "", "abc", "a\nb\x1b[2J", "../../x", "x" * 50_000]
VALUES += [[], {}, [None], [10**9] * 3, [[[]]], {"a": {"b": []}}, [1, "a"], list(range(5000)), "UNet2DModel", "ldps", "gaussian-blur"]
CLASSES = [
    "DiffusionPipeline",
    "StableDiffusionPipeline",
    "os.system",
    "UNet2DConditionModel",
    "torch",
    "__init__",
    "AutoencoderKL",
    "DDIMScheduler",
    "DDPMPipeline",
]


def places(value, path=()):
    """Paths of all entries of nested dicts and lists."""
    found = [path] if path else []
    if isinstance(value, dict):
        found += [place for key, below in value.items() for place in places(below, (*path, key))]
    elif isinstance(value, list):
        found += [place for i, below in enumerate(value[:4]) for place in places(below, (*path, i))]
    return found


def changed(value, rng):
    """A copy with one or two entries replaced, removed or added, as their place allows."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 3))):
        paths = places(value)
        if not paths:
            return value
        *way, last = paths[rng.integers(len(paths))]
        here = value
        for step in way:
            here = here[step]
        act = rng.integers(6)
        if act == 0:
            del here[last]
        elif act == 1 and isinstance(here, dict):
            here[["__proto__", "extra\nline", "quantization_config", "auto_map", "_class_name"][rng.integers(5)]] = VALUES[rng.integers(len(VALUES))]
        elif act == 2 and isinstance(here[last], list):
            here[last] = here[last] * int(rng.integers(2, 400))
        elif act == 3 and isinstance(here[last], (int, float)) and not isinstance(here[last], bool):
            here[last] = here[last] * [-1, 0, 2, 1000, 10**9][rng.integers(5)]
        else:
            here[last] = VALUES[rng.integers(len(VALUES))]
    return value


def spoilt(path: Path, rng) -> None:
    """Make a file something else: cut, noise, empty, huge, a pipe, a link, a folder, deeply nested, or with bits turned."""
    data = bytearray(path.read_bytes())
    act = rng.integers(11)
    if act == 0:
        path.write_bytes(data[: rng.integers(len(data))])
    elif act == 1:
        path.write_bytes(rng.bytes(300))
    elif act == 2:
        path.write_bytes(b"")
    elif act == 3:
        with open(path, "r+b") as file:
            file.truncate(1 << 36)
    elif act == 4:
        path.write_bytes(b"\xff\xfe" + bytes(data))
    elif act == 5:
        path.write_bytes(b"[" * 200_000)
    elif act in (6, 7, 8, 9):
        path.unlink()
        if act == 6:
            os.mkfifo(path)
        elif act == 7:
            path.symlink_to(path.name)
        elif act == 8:
            path.symlink_to("/etc/passwd")
        else:
            path.mkdir()
    else:
        for _ in range(20):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)


def _tensors(path: Path, rng) -> None:
    """Tensors that are wrong: missing, more, of another shape or type, not finite, absurd."""
    tensors = load_file(path)
    name = sorted(tensors)[rng.integers(len(tensors))]
    act = rng.integers(8)
    if act == 0:
        del tensors[name]
    elif act == 1:
        tensors["more\nof it"] = torch.ones(3)
    elif act == 2:
        tensors[name] = torch.ones(*tensors[name].shape, 2)
    elif act == 3:
        tensors[name] = tensors[name].flatten()[:-1]
    elif act == 4:
        tensors[name] = torch.zeros_like(tensors[name], dtype=[torch.int8, torch.float64, torch.bool, torch.float8_e4m3fn][rng.integers(4)])
    else:
        tensors[name] = torch.full_like(tensors[name], [float("nan"), float("inf"), 1e30][act - 5])
    save_file(tensors, path, {"format": "pt"})


def _header(path: Path, rng) -> None:
    """A safetensors header that lies."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    if rng.integers(3) == 0:
        path.write_bytes(struct.pack("<Q", int(rng.choice([0, 7, length + 1, 2**31, 2**63 - 1]))) + data[8:])
        return
    header = changed(json.loads(data[8 : 8 + length]), rng)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def model(folder: Path, rng) -> None:
    """Spoil one thing in a model folder."""
    act = rng.integers(8)
    configs, weights = sorted(folder.rglob("*.json")), sorted(folder.rglob("*.safetensors"))
    config, weight = configs[rng.integers(len(configs))], weights[rng.integers(len(weights))]
    if act <= 2:
        config.write_text(json.dumps(changed(json.loads(config.read_text()), rng)))
    elif act == 3:
        values = json.loads(config.read_text())
        values["_class_name"] = CLASSES[rng.integers(len(CLASSES))]
        config.write_text(json.dumps(values))
    elif act == 4:
        spoilt((configs + weights)[rng.integers(len(configs) + len(weights))], rng)
    elif act == 5:
        _header(weight, rng)
    elif act == 6:
        _tensors(weight, rng)
    elif rng.integers(2):
        other = folder / "severity"
        for path in other.iterdir():
            path.unlink()
        other.rmdir()
        other.symlink_to(["severity", "/tmp", "unet"][rng.integers(3)])
    else:
        (folder / "SHA256SUMS").write_bytes([b"\xff\n", b"0" * 64 + b"  ../../etc/passwd\n", b"x" * 100_000][rng.integers(3)])


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def nested(depth: int) -> bytes:
    """A pickle of {nested tuple: 1}, whose hash a C stack cannot hold."""
    return b"\x80\x02})" + b"\x85" * depth + b"K\x01s."


def pickles(mark: Path) -> list[bytes]:
    """Whole pickles that want to do harm."""
    made = [pickle.dumps({"state_dict": {"a": Call(os.system, f"touch {mark}")}}, protocol) for protocol in (0, 2, 4)]
    made += [nested(300_000), nested(1000), b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x40\x85R."]
    made += [
        b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x05\0\0\0\0\x40\x85R\x85R.",
        b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\0\0\0\0\x40\x85R.",
    ]
    made += [b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", b"(" * 100_000, b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x01ab."]
    return made


def packed(data: bytes, path: Path) -> None:
    """A zip as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def checkpoint(path: Path, settings: Path | None, mark: Path, rng) -> None:
    """Spoil a checkpoint, or the configuration beside it."""
    act = rng.integers(9)
    if settings is not None and act <= 2:
        settings.write_text(yaml.safe_dump(changed(yaml.safe_load(settings.read_text()), rng)))
    elif settings is not None and act == 3:
        bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
        texts = [bomb, "model: &m {params: *m}", "a: 2020-99-99", "!!python/object/apply:os.system [ls]", "[" * 5000, "a: !!int ''", "1: {2: 3}"]
        settings.write_text(texts[rng.integers(len(texts))])
    elif act in (0, 4):
        spoilt(settings if settings is not None and rng.integers(2) else path, rng)
    elif act in (1, 5):
        tricks = pickles(mark)
        trick = tricks[rng.integers(len(tricks))]
        if rng.integers(2):
            packed(trick, path)
        else:
            path.write_bytes(trick)
    elif act in (2, 6) and rng.integers(4) == 0:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(8 << 20))
    else:
        found = torch.load(path, weights_only=False)
        state = found["state_dict"]
        name = sorted(state)[rng.integers(len(state))]
        wrong = [lambda t: t * float("nan"), lambda t: t[..., None], lambda t: t.flatten()[:-1], lambda t: "text", lambda t: t.to(torch.complex64)]
        wrong += [
            lambda t: t.to_sparse(),
            lambda t: torch.ones(1).expand(10**6, 10**6),
            lambda t: t * 0 + 1e30,
            lambda t: t.to(torch.int64),
            lambda t: None,
        ]
        if rng.integers(3) and "hyper_parameters" in found:
            found["hyper_parameters"] = changed(found["hyper_parameters"], rng)
        elif rng.integers(4) == 0:
            state[f"more\n{name}"] = torch.ones(2)
        else:
            state[name] = wrong[rng.integers(len(wrong))](state[name].float())
        torch.save(found, path)


def toml(value) -> str:
    """A value as inline TOML; None becomes a word that is none, which is one more kind of damage."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}.get(json.dumps(value), repr(value))
    return {True: "true", False: "false", None: "nothing"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def document(path: Path, values: dict, rng) -> None:
    """Write a TOML file with something wrong in it."""
    wrong = changed(values, rng) if rng.integers(6) else values
    path.write_text("".join(f"{json.dumps(str(k))} = {toml(v)}\n" for k, v in wrong.items()))
    if wrong is values:
        spoilt(path, rng)


def journal(path: Path, rng) -> None:
    """Spoil a journal: its lines changed, in another order, doubled or joined, or the whole file."""
    act = rng.integers(5)
    if act == 0:
        spoilt(path, rng)
        return
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    made = [json.dumps(changed(line, rng)) if rng.integers(4) else json.dumps(line) for line in lines for _ in range(int(rng.integers(1, 4)))]
    rng.shuffle(made)
    path.write_text(("" if act == 1 else "\n").join(made) + ("" if act == 2 else "\n"))


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))
