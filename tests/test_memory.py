"""A piece that cannot fit is refused before the work; what is estimated grows as the pixels do."""

import pytest
import torch
from tiny import save_tiny_model, tiny_pipeline

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.runs import memory
from flashdiff_cli.runs.memory import bytes_per_pixel, check_memory, free_bytes
from flashdiff_cli.runs.restorer import Restorer, Settings

LARGE = Tile(0, 0, 4000, 4000)


@pytest.mark.parametrize("kind", ["dc", "kl", "vq"])
def test_the_estimate_counts_what_a_gradient_keeps(kind, monkeypatch):
    pipeline = tiny_pipeline(kind)
    small = bytes_per_pixel(pipeline)
    monkeypatch.setattr(memory, "PROBE", 128)
    large = bytes_per_pixel(pipeline)
    # The decoder keeps at least its last layer's input, of 8 channels; nothing else than pixels makes it grow.
    assert large > 8 * 4 and large == pytest.approx(small, rel=0.25)
    assert all(p.grad is None for p in pipeline.unet.parameters())


def test_only_what_cannot_fit_is_refused(monkeypatch):
    pipeline = tiny_pipeline()
    needed = memory.GUIDED * bytes_per_pixel(pipeline) * 16e6
    for free, refused in ((0.9 * needed, True), (1.1 * needed, False), (None, False)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        if refused:
            with pytest.raises(FlashdiffError, match="4000 x 4000 .*`tile`"):
                check_memory(pipeline, LARGE)
        else:
            check_memory(pipeline, LARGE)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0.9 * needed)
    check_memory(pipeline, LARGE, guided=False)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    with pytest.raises(FlashdiffError, match="`tile`"):
        check_memory(pipeline, LARGE, guided=False)
    check_memory(pipeline, Tile(0, 0, 384, 384))


def test_this_machine_says_what_is_free():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 1e15
    assert free_bytes(torch.device("meta")) is None


def test_a_large_picture_in_one_piece_is_a_failure_and_in_tiles_is_not(tmp_path, monkeypatch):
    restorer = Restorer(save_tiny_model(tmp_path / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0}))
    monkeypatch.setattr(memory, "WITHOUT_ASKING", 100 * 100)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    picture = Picture(torch.zeros(1, 3, 128, 128), digest=b"1" * 32)
    with pytest.raises(FlashdiffError, match="128 x 128"):
        restorer.restore(picture, Settings(tile=0, start_step=1))
    with pytest.raises(FlashdiffError, match="128 x 128"):
        restorer.analyse(picture, Settings(tile=0))
    restored, _ = restorer.restore(picture, Settings(tile=64, start_step=0))
    assert restored.size == (128, 128)


def test_what_is_counted_without_memory_is_what_is_there():
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    try:
        from footprint import count
    finally:
        sys.path.pop(0)
    pipe = tiny_pipeline("kl")
    here = count(pipe.unet, pipe.stage, pipe.unet, 32, torch.float32)
    with torch.device("meta"):
        networks = type(pipe.unet).from_config(pipe.unet.config), type(pipe.first_stage).from_config(pipe.first_stage.config)
    there = count(networks[0], type(pipe.stage)(networks[1]), networks[0], 32, torch.float32)
    # Attention on a processor is one call, of which less is kept, and counted, than of the formula written out.
    assert there.weights == here.weights and 0 < here.flops <= there.flops < 1.1 * here.flops
    assert there.kept >= here.kept > 0
