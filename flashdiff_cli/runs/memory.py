"""Will a piece of this size fit into memory? Said before the work and not by the system that kills it."""

from __future__ import annotations

from pathlib import Path

import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.pipeline import FlashDiffusionPipeline

WITHOUT_ASKING = 1024 * 1024
"""Pixels of a piece below which nothing is estimated."""
PROBE = 64
"""Side of the image that the estimate is made with; rounded up to the model's size_multiple."""
MOST_TOGETHER, SHARE = 64, 0.8
"""Pieces of a batch, and of the free memory that they may take, at most."""
GUIDED, LOOKING = 1.8, 0.25
"""Bytes that restoring, and only looking at, a piece holds at its peak for each that a step keeps for its gradient: gradients,
workspace, copies (measured on photos: 1.86 and 0.23)."""


def bytes_per_pixel(pipeline: FlashDiffusionPipeline) -> float:
    """Return the bytes that one guided step keeps for its gradient, for each pixel of the image: through UNet and decoder."""
    side = -(-PROBE // pipeline.size_multiple) * pipeline.size_multiple
    weights = {p.untyped_storage().data_ptr() for p in (*pipeline.unet.parameters(), *pipeline.stage.model.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    stage = pipeline.stage
    latent = torch.zeros(1, stage.channels, side // stage.size_multiple, side // stage.size_multiple)
    latent = latent.to(pipeline.unet.device, pipeline.unet.dtype).requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        noise = pipeline.denoiser(latent, torch.zeros(1, dtype=torch.long)).sample
        image = stage.decode(latent - noise)
    # As long as the image lives, no storage that was counted is given to another tensor.
    total = sum(kept.values())
    del image
    return total / side**2


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        # What torch has taken and does not use at present can be had too.
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        # What a container may have is said by its control group; files that the system only remembers do not count.
        lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(lines["inactive_file"])
        return min(free, int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):
        return free


def check_memory(pipeline: FlashDiffusionPipeline, tile: Tile, guided: bool = True) -> None:
    """Refuse a piece that cannot fit.

    Args:
        pipeline: that restores it.
        tile: the largest piece.
        guided: whether steps are run; otherwise it is only looked at.

    Raises:
        FlashdiffError: it needs more than there is.
    """
    pixels = tile.height * tile.width
    if pixels <= WITHOUT_ASKING:
        return
    free = free_bytes(pipeline.unet.device)
    if free is None:
        return
    needed = (GUIDED if guided else LOOKING) * bytes_per_pixel(pipeline) * pixels
    if needed > free:
        raise FlashdiffError(
            f"{tile.width} x {tile.height} pixels in one piece need about {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free; "
            "use tiles (`tile` 384)"
        )


def most_together(device: torch.device) -> int:
    """Return what `pieces_together` is at the most, on a device."""
    return MOST_TOGETHER if device.type == "cuda" else 1


def pieces_together(pipeline: FlashDiffusionPipeline, tile: Tile, guided: bool = True) -> int:
    """Return how many pictures, or tiles of pictures, of one size are restored together: what fits into the free memory of a GPU.

    A processor is busy with one: of 64 faces of 128 x 128 pixels, eight at once took as much of its time (`benchmarks/batches.py`). And a result is
    then the same, bit for bit, whatever else is in the run.
    """
    device = pipeline.unet.device
    if most_together(device) == 1:
        return 1
    free = free_bytes(device)
    if free is None:
        return 1
    needed = (GUIDED if guided else LOOKING) * bytes_per_pixel(pipeline) * tile.height * tile.width
    return max(1, min(MOST_TOGETHER, int(SHARE * free / needed)))
