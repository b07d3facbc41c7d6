"""Tiles in batches: the same result as one by one, smaller batches where memory runs out, nothing done twice."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.operators import Downsampling, GaussianBlur, Identity
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.pictures.tiles import Tile
from flashdiff_cli.runs import memory
from flashdiff_cli.runs import pieces as pieces_module
from flashdiff_cli.runs.memory import pieces_together
from flashdiff_cli.runs.pieces import Piece, Pool
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


class Owner:
    error = None


def pieces(started, operators, owner=None):
    state = torch.Generator().get_state()
    tile, measured, noise = Tile(0, 0, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 2, 2)
    made = zip(started, operators, strict=True)
    return [Piece(i, tile, o, measured, 0.1, noise, state, s, "severity", None, owner or Owner()) for i, (s, o) in enumerate(made)]


def restored(made, most, restore=lambda batch, operator: operator):
    """What a pool yields, of all pieces in turn."""
    pool = Pool(lambda piece: most, restore)
    return [*(one for piece in made for one in pool.add(piece)), *pool.rest()]


def test_only_pieces_that_go_together_share_a_batch():
    blur, plain = GaussianBlur(1.0), Identity()
    made = pieces([True, True, False, False, True], [blur, blur, blur, plain, plain])
    seen = [([p.index for p in batch], type(result)) for batch, result in restored(made, 3)]
    assert seen == [([0, 1], GaussianBlur), ([2], GaussianBlur), ([3], Identity), ([4], Identity)]


def test_pieces_wait_for_their_like_but_not_for_ever():
    blur, plain = GaussianBlur(1.0), Identity()
    made = pieces([True] * 12, [plain, *[blur] * 11])
    seen = [[p.index for p in batch] for batch, _ in restored(made, 2)]
    # After four batches' worth the one that is alone of its kind is run; the last one waits for nobody once no more come.
    assert seen == [[1, 2], [3, 4], [5, 6], [0], [7, 8], [9, 10], [11]]


def test_large_pieces_wait_for_fewer(monkeypatch):
    blur, plain = GaussianBlur(1.0), Identity()
    made = pieces([True] * 6, [plain, blur, plain, blur, plain, blur])
    for most, expected in ((3 * 64, [[0, 2], [1, 3, 5], [4]]), (6 * 64, [[0, 2, 4], [1, 3, 5]])):
        monkeypatch.setattr(pieces_module, "MOST_PIXELS", most)
        assert [[p.index for p in batch] for batch, _ in restored(made, 9)] == expected, "what came first is run first"


def test_operators_of_one_class_that_cannot_be_stacked_are_run_one_by_one():
    made = pieces([True] * 3, [Downsampling(factor, (8, 8)) for factor in (2, 2, 4)])
    assert [len(batch) for batch, _ in restored(made, 3)] == [1, 1, 1]
    assert [len(batch) for batch, _ in restored(made[:2], 3)] == [2]


@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("no such luck")])
def test_one_piece_s_failure_is_its_own(error):
    bad, good = Owner(), Owner()
    made = pieces([True] * 4, [Identity()] * 4, good)
    made[1] = dataclasses.replace(made[1], owner=bad)

    def restore(batch, operator):
        if made[1] in batch:
            raise error
        return "done"

    seen = {p.index: result for batch, result in restored(made, 4, restore) for p in batch}
    assert seen == {0: "done", 1: error, 2: "done", 3: "done"}


def test_what_is_left_of_a_picture_that_failed_is_left_out():
    owner = Owner()
    made = pieces([True] * 3, [Identity()] * 3, owner)
    pool = Pool(lambda piece: 4, lambda batch, operator: "done")
    assert not [one for piece in made for one in pool.add(piece)]
    owner.error = FlashdiffError("no such luck")
    assert list(pool.rest()) == []


def test_a_processor_takes_pieces_one_by_one(restorer):
    assert pieces_together(restorer.pipeline, Tile(0, 0, 64, 64)) == 1


@pytest.mark.parametrize(("free", "expected"), [(None, 1), (0, 1), (7.3, 7), (1e6, memory.MOST_TOGETHER)])
def test_a_gpu_takes_as_many_pieces_as_fit_into_its_free_memory(monkeypatch, free, expected):
    pipeline, needed = SimpleNamespace(unet=SimpleNamespace(device=torch.device("cuda"))), memory.GUIDED * 1000 * 64 * 48
    monkeypatch.setattr(memory, "bytes_per_pixel", lambda pipeline: 1000)
    monkeypatch.setattr(memory, "free_bytes", lambda device: None if free is None else free * needed / memory.SHARE)
    assert pieces_together(pipeline, Tile(0, 0, 64, 48)) == expected
    assert pieces_together(pipeline, Tile(0, 0, 64, 48), guided=False) >= expected
