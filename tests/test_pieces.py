"""Tiles in batches: the same result as one by one, smaller batches where memory runs out, nothing done twice."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.operators import GaussianBlur, Identity, Operator
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.runs.memory import tiles_together
from flashdiff_cli.runs.pieces import Piece, in_batches
from flashdiff_cli.runs.restorer import Restorer, Settings


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    return Restorer(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 20, "eta": 0.0}))


def picture():
    # Left half smooth, right half rough, so that tiles differ.
    pixels = np.random.default_rng(0).integers(0, 256, (96, 150, 3), dtype=np.uint8)
    pixels[:, :70] = 120
    return from_pil(Image.fromarray(pixels))


BLUR = {"operator": "gaussian-blur", "operator_options": {"blur_std": 1.0}, "noise_std": 0.03}


@pytest.mark.parametrize("given", [BLUR, {"operator": "random-inpainting", "operator_options": {"kept_fraction": 0.3}, "start_step": 3}, {}])
def test_tiles_together_give_what_they_give_one_by_one(restorer, given):
    settings = Settings(tile=64, **{"start_step": 3} | given)
    alone, one = restorer.restore(picture(), settings)
    restorer.batch = 4
    try:
        together, all_ = restorer.restore(picture(), settings)
    finally:
        restorer.batch = None
    assert len(one.tiles) == len(all_.tiles) > 4
    torch.testing.assert_close(together.image, alone.image, rtol=0, atol=2e-3)
    assert [t["start_step"] for t in one.tiles] == [t["start_step"] for t in all_.tiles]
    assert one.network_evaluations == all_.network_evaluations


def test_a_batch_that_runs_out_of_memory_is_halved_and_what_is_done_is_kept(restorer, monkeypatch):
    settings, call, sizes = Settings(tile=64, start_step=2, **BLUR), type(restorer.pipeline).__call__, []
    alone, _ = restorer.restore(picture(), settings)

    def limited(self, measurement, *given, **named):
        sizes.append(len(measurement))
        result = call(self, measurement, *given, **named)
        if len(measurement) > 2 and len(sizes) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")  # after its noise was drawn
        return result

    monkeypatch.setattr(type(restorer.pipeline), "__call__", limited)
    monkeypatch.setattr(restorer, "batch", 4)
    together, record = restorer.restore(picture(), settings)
    # The first four are kept; four more fail, and go on by twos.
    assert sizes == [4, 4, 2, 2] and len(record.tiles) == 8
    torch.testing.assert_close(together.image, alone.image, rtol=0, atol=2e-3)


def pieces(started, operators):
    state = torch.Generator().get_state()
    tile = Tile(0, 0, 8, 8)
    return [Piece(i, tile, o, torch.zeros(1, 4, 2, 2), state, s) for i, (s, o) in enumerate(zip(started, operators, strict=True))]


def test_only_neighbours_that_go_together_share_a_batch():
    blur, plain = GaussianBlur(1.0), Identity()
    made = pieces([True, True, False, False, True], [blur, blur, blur, plain, plain])
    seen = [([p.index for p in batch], type(result)) for batch, result in in_batches(made, 3, lambda batch, operator: operator)]
    assert seen == [([0, 1], GaussianBlur), ([2], GaussianBlur), ([3], Identity), ([4], Identity)]
    with pytest.raises(RuntimeError, match="size"):
        list(in_batches(made, 3, lambda batch, operator: torch.zeros(2) @ torch.zeros(3)))

    def never(batch: list[Piece], operator: Operator) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(in_batches(made, 3, never))


def test_a_processor_takes_tiles_one_by_one(restorer):
    assert tiles_together(restorer.pipeline, [Tile(0, 0, 64, 64)] * 9) == 1
