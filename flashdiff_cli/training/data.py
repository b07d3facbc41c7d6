"""Training images: folders and tar shards read as one endless, seeded, resumable sequence of crops.

The crop with index *i* depends on the seed and on *i* alone, not on the number of workers or on what was read
before, so a run that resumes at index *i* sees exactly what an undisturbed run would have seen.
"""

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from flashdiff_cli.bounded import open_regular
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures import limits
from flashdiff_cli.pictures.time_limit import in_time

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

ATTEMPTS, STRIDE = 100, 1_000_003
"""How many pictures in a row may fail to decode, and how much further in the sequence the next one is looked for."""


@dataclass(frozen=True)
class Entry:
    """Where one encoded image lies: a whole file, or `size` bytes at `offset` of a tar shard."""

    path: str
    offset: int = 0
    size: int | None = None

    def read(self) -> Image.Image:
        """Return the decoded picture, RGB, 8 bits a channel."""
        if self.size is None:
            data = limits.read_file(self.path)
        else:
            if self.size > limits.most_bytes():
                raise FlashdiffError(f"{self.path}: a member of {self.size:,} bytes is no picture; for larger ones set {limits.VARIABLE}")
            with open_regular(self.path) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        return in_time(lambda: limits.open_image(data).convert("RGB"))


def entries(path: str | Path) -> list[Entry]:
    """List the images of a folder (all levels), a tar shard or a single file, in sorted order.

    Raises:
        FlashdiffError: nothing is there, or it holds no image.
    """
    path = Path(path)
    if path.is_dir():
        found = [Entry(str(p)) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        for shard in sorted(path.rglob("*.tar")):
            found += entries(shard)
    elif path.suffix == ".tar" and path.is_file():
        try:
            # A stream of its own, for a compressed shard has no places to read its members from.
            with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES]
        except (tarfile.TarError, OSError, ValueError) as error:
            raise FlashdiffError(f"{path}: not a readable tar shard ({error}); is it complete?") from error
        found = [Entry(str(path), m.offset_data, m.size) for m in members]
    elif path.is_file():
        found = [Entry(str(path))]
    else:
        raise FlashdiffError(f"{path}: no such folder or tar shard of images")
    if not found:
        raise FlashdiffError(f"{path}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return found


@dataclass(frozen=True)
class Source:
    """A group of images and its share of the crops."""

    entries: list[Entry]
    weight: float = 1.0
    min_scale: float = 1.0

    @classmethod
    def parse(cls, spec: dict) -> "Source":
        """Build from a recipe's table: `paths` (list), `weight`, `min_scale` (smallest random downscale)."""
        found = [entry for path in spec["paths"] for entry in entries(path)]
        return cls(found, float(spec.get("weight", 1.0)), float(spec.get("min_scale", 1.0)))


class Crops(Dataset):
    """An endless dataset of square crops, float32, (3, size, size), RGB in [-1, 1].

    Within each source the images are visited in a fresh random order every epoch. A picture smaller than the
    crop is enlarged; a picture that does not decode is replaced by its successor.
    """

    def __init__(self, sources: list[Source], size: int, seed: int):
        self.sources, self.size, self.seed = sources, size, seed
        weights = np.array([s.weight for s in sources], dtype=np.float64)
        self.shares = weights / weights.sum()
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def _order(self, source: int, epoch: int) -> np.ndarray:
        key = (source, epoch)
        if key not in self._orders:
            rng = np.random.default_rng([self.seed, 1, source, epoch])
            self._orders = {k: v for k, v in self._orders.items() if k[1] >= epoch - 1}
            self._orders[key] = rng.permutation(len(self.sources[source].entries))
        return self._orders[key]

    def _locate(self, index: int, rng: np.random.Generator) -> tuple[Source, Entry]:
        chosen = int(rng.choice(len(self.sources), p=self.shares))
        source = self.sources[chosen]
        # Position within the source's own sequence: its expected share of all indices before this one.
        turn = int(index * self.shares[chosen])
        epoch, place = divmod(turn, len(source.entries))
        return source, source.entries[self._order(chosen, epoch)[place]]

    def __getitem__(self, index: int) -> torch.Tensor:
        for place in range(index, index + ATTEMPTS * STRIDE, STRIDE):
            rng = np.random.default_rng([self.seed, 0, place])
            source, entry = self._locate(place, rng)
            try:
                picture = entry.read()
            except Exception:  # decoders raise whatever their formats make them raise
                continue
            return to_tensor(self._crop(picture, source, rng))
        raise FlashdiffError(f"{entry.path}: this picture and {ATTEMPTS - 1} others could not be read; check the training data")

    def _crop(self, picture: Image.Image, source: Source, rng: np.random.Generator) -> Image.Image:
        short = min(picture.size)
        scale = rng.uniform(source.min_scale, 1.0)
        scale = max(scale, self.size / short)
        if scale != 1.0:
            size = [max(self.size, round(side * scale)) for side in picture.size]
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        left = int(rng.integers(0, picture.width - self.size + 1))
        top = int(rng.integers(0, picture.height - self.size + 1))
        picture = picture.crop((left, top, left + self.size, top + self.size))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture


class ResumableSampler(Sampler):
    """Indices from `start` on, interleaved over `world` processes, without end."""

    def __init__(self, start: int, rank: int = 0, world: int = 1):
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self):
        index = self.start + self.rank
        while True:
            yield index
            index += self.world


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Turn an RGB picture into a float32 tensor (3, H, W) in [-1, 1]."""
    array = np.asarray(picture, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def hold_out(sources: list[Source], names: list[str], limit: int, size_multiple: int) -> tuple[list[Source], dict[str, list[torch.Tensor]]]:
    """Take a tenth of each source's pictures out of its training, at least one and at most `limit`, from its end.

    Returns:
        the sources without them; and the pictures by the sources' names, as `validation_images` gives them.

    Raises:
        UsageError: a source has a single picture.
    """
    kept, held = [], {}
    for source, name in zip(sources, names, strict=True):
        count = min(limit, max(1, len(source.entries) // 10))
        if len(source.entries) <= count:
            raise UsageError(f"`data` {name}: {len(source.entries)} picture is too few to hold any out; give more, or `val` NAME=PATH")
        kept.append(replace(source, entries=source.entries[:-count]))
        held[name] = _images(source.entries[-count:], size_multiple)
    return kept, held


def validation_images(path: str | Path, limit: int, size_multiple: int = 4) -> list[torch.Tensor]:
    """Return the first `limit` images of a folder or shard, (1, 3, H, W), sides cut down to multiples of `size_multiple`; small ones are enlarged."""
    return _images(entries(path)[:limit], size_multiple)


def _images(chosen: list[Entry], size_multiple: int) -> list[torch.Tensor]:
    images = []
    for entry in chosen:
        picture = entry.read()
        if min(picture.size) < size_multiple:
            larger = [max(size_multiple, round(side * size_multiple / min(picture.size))) for side in picture.size]
            picture = picture.resize(larger, Image.Resampling.LANCZOS)
        size = (picture.width // size_multiple * size_multiple, picture.height // size_multiple * size_multiple)
        images.append(to_tensor(picture.crop((0, 0, *size)))[None])
    return images
