"""One record for each picture, condition and arm: `records.jsonl`, added line by line, read again after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.lines import append, appending, safe_open
from flashdiff_cli.runs.record import finite

NAME = "records.jsonl"
BEGIN = b'{"protocol": '
Record = Mapping[str, Any]
"""One line of the file, as a plain dictionary."""


@dataclass
class BenchRecord:
    """The JSON schema of `records.jsonl`; a value is None where it does not apply."""

    protocol: str
    condition: str
    arm: str
    image: str
    """Path below the folder that was given."""
    digest: str
    """SHA-256 of the picture file."""
    width: int | None = None
    """Pixels, after cutting."""
    height: int | None = None
    level: float | None = None
    """t of the degradation, 0 to 1."""
    operator: dict[str, Any] | None = None
    """The true one: `name` and parameters."""
    noise_std: float | None = None
    """The true one, on intensities in [0, 1]."""
    assumed: dict[str, Any] | None = None
    """What the arm worked with: `name`, parameters, `noise_std`, and whether they were `estimated`."""
    seed: int | None = None
    status: str = "done"
    """"done", "skipped" (the arm does not fit the condition or the model) or "failed"."""
    error: str | None = None
    solver: dict[str, Any] | None = None
    """`name`, `eta` and settings."""
    start: str | int | None = None
    """"flash", "full", "come-closer" or the fixed start step."""
    start_step: int | None = None
    schedule_steps: int | None = None
    """Length of the whole schedule."""
    steps: int | None = None
    """Reverse steps run."""
    network_evaluations: int | None = None
    severity: float | None = None
    """Estimated standard deviation of the error of the latent estimate; `variance` its square."""
    variance: float | None = None
    error_variance: float | None = None
    """The true one: mean squared difference of the latent estimate and the clean picture's latent."""
    encoder: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase and as `total`: those of the batch over its size."""
    psnr: float | None = None
    ssim: float | None = None
    ms_ssim: float | None = None
    gmsd: float | None = None
    haarpsi: float | None = None
    lpips_vgg: float | None = None
    lpips_alex: float | None = None
    gradient: float | None = None
    """Mean gradient magnitude as a share of the clean picture's."""
    fidelity: bool | None = None
    settings: str | None = None
    """Fingerprint of all that the result depends on besides the picture."""
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    version: str | None = None

    @property
    def key(self) -> tuple:
        """Which measurement and arm this is of; a later record of the same key replaces an earlier one."""
        return (self.condition, self.arm, self.image, self.level if self.arm == "severity" else None)

    def to_json(self) -> str:
        """Return one line of strict JSON."""
        return json.dumps(finite(asdict(self)), ensure_ascii=False)


class Log:
    """The records of a folder.

    Lines that a killed run left unfinished are passed over.

    Args:
        folder: made if need be.

    Raises:
        FlashdiffError: the folder cannot be made or the file not be read.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlashdiffError(f"{self.path}: cannot be used ({error.strerror}); choose another `output`") from error
        self.records = self.read(folder)

    @staticmethod
    def read(folder: str | Path) -> dict[tuple, BenchRecord]:
        """Read the latest record of each measurement and arm, by their keys; none where there is no file.

        Raises:
            FlashdiffError: the file cannot be read, or holds something else than records.
        """
        path = Path(folder) / NAME
        data = b""
        try:
            with suppress(FileNotFoundError), os.fdopen(safe_open(path), "rb") as file:
                data = file.read()
        except OSError as error:
            raise FlashdiffError(f"{path}: cannot be used ({error.strerror}); choose another `output`") from error
        found = {record.key: record for record in parse(data.decode(errors="replace").splitlines())}
        if data.strip() and not found and (b"\n" in data or not data.startswith(BEGIN)):  # a killed run leaves part of a line at most
            raise FlashdiffError(f"{path}: holds no records of a bench; choose another `output`")
        return found

    def add(self, record: BenchRecord) -> None:
        """Add a record, all of its line or nothing.

        Raises:
            FlashdiffError: the disk refuses.
        """
        text = record.to_json()
        # As it will be read again, so that a resumed bench shows the same figures.
        self.records[record.key] = parse([text])[0]
        with appending(self.path) as handle:
            append(handle, self.path, text, sync=False)


def parse(lines: Iterable[str]) -> list[BenchRecord]:
    """Return the records of JSON lines; what is no whole record is left out."""
    known = {f.name for f in fields(BenchRecord)}
    found = []
    for line in lines:
        try:
            values = json.loads(line)
            found.append(BenchRecord(**{k: v for k, v in values.items() if k in known}))
        except (ValueError, TypeError, AttributeError):
            continue
    return found


def read(folder: str | Path) -> list[BenchRecord]:
    """Return the latest record of each measurement and arm of a bench folder, in the order of their first appearance."""
    return list(Log(folder).records.values())


def image_path(folder: str | Path, condition: str, image: str, arm: str) -> Path:
    """Return where the picture of an arm lies: images/<condition>/<picture without ending>/<arm>.png."""
    return Path(folder) / "images" / condition / Path(image).with_suffix("") / f"{arm}.png"


def one(of: Mapping[str, Record]) -> Record:
    """Return any record of an arm: all tell what it is, its solver and its schedule."""
    return next(iter(of.values()))


def kind(record: Record) -> str:
    """Return what an arm is: "input", "decoded", "classical", "flash", "full", "come-closer" or "fixed"."""
    if record.get("solver") is None:
        return record["arm"] if record["arm"] in ("input", "decoded") else "classical"
    start = record.get("start")
    return start if isinstance(start, str) else "fixed"


def solver(record: Record) -> str | None:
    return (record.get("solver") or {}).get("name")


def blind(record: Record) -> bool:
    """Return whether the arm had to estimate the operator."""
    return bool((record.get("assumed") or {}).get("estimated"))
