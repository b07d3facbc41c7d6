"""`compare`: a sheet with captions, figures against a truth, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff_cli.pictures.maps import ANCHORS, STRIP, colours, draw_map
from flashdiff_cli.pictures.side import GAP, LINE, side_by_side


@pytest.fixture
def run(cli):
    return lambda *arguments: cli("compare", *arguments)


def save(path, value, size=(40, 30)):
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def test_two_pictures_side_by_side(run, tmp_path):
    a, b = save(tmp_path / "a.png", 10), save(tmp_path / "b.png", 200, (20, 15))
    code, out, _ = run(a, b)
    sheet = Image.open(tmp_path / "b-compared.png")
    assert code == 0 and out.strip() == str(tmp_path / "b-compared.png")
    assert sheet.size == (40 + GAP + 40, 30 + LINE)
    assert sheet.getpixel((5, 5)) == (10, 10, 10) and sheet.getpixel((40 + GAP + 5, 5)) == (200, 200, 200)


def test_figures_against_the_truth(run, tmp_path):
    truth, a = save(tmp_path / "t.png", 100), save(tmp_path / "a.png", 151)
    code, out, _ = run(a, truth, "--truth", truth, "-o", tmp_path / "x.png")
    assert code == 0 and "a.png: PSNR 13.98 dB" in out and Image.open(tmp_path / "x.png").width == 3 * 40 + 2 * GAP


def test_what_is_refused(run, tmp_path):
    a, b = save(tmp_path / "a.png", 10), save(tmp_path / "b.png", 200, (20, 15))
    for arguments, code, word in (
        ((a, b, "-o", a), 2, "overwrite"),
        ((a, tmp_path / "no.png"), 1, "no such file"),
        ((a, b, "--truth", a), 2, "another size"),
        ((a, b, "-o", tmp_path / "x.doc"), 2, ".doc"),
    ):
        found, _out, err = run(*arguments)
        assert found == code and word in err and err.count("\n") == 1


def test_a_file_in_the_way_stays_unless_it_is_of_the_same_pictures(run, tmp_path):
    a, b, c = save(tmp_path / "a.png", 10), save(tmp_path / "b.png", 200), save(tmp_path / "c.png", 90)
    sheet = tmp_path / "b-compared.png"
    sheet.write_bytes(b"my own")
    code, _, err = run(a, b)
    assert code == 1 and "exists already" in err and sheet.read_bytes() == b"my own"
    assert run(a, b, "--overwrite")[0] == run(a, b)[0] == 0
    before = sheet.read_bytes()
    assert run(c, b)[0] == 1 and sheet.read_bytes() == before
    (tmp_path / "link.png").symlink_to(a)
    assert run(a, b, "-o", tmp_path / "link.png")[0] == 2


def test_long_captions_are_cut():
    sheet = side_by_side([Image.new("RGB", (60, 20))], ["a name that is much too long for sixty pixels"])
    assert sheet.size == (60, 20 + LINE)


def test_maps_show_their_ends():
    assert (colours(np.array([0.0, 1.0, -3.0, np.nan])) == ANCHORS[[0, 4, 0, 0]].round()).all()
    values = torch.tensor([[1.0, 3.0]]).repeat_interleave(120, 1).expand(50, 240)
    drawn = draw_map(values, 1.0, 3.0, "x")
    assert drawn.size == (240, 50 + STRIP)
    assert drawn.getpixel((0, 0)) == (68, 1, 84) and drawn.getpixel((239, 0)) == (253, 231, 37)
    flat = draw_map(torch.ones(10, 10), 1.0, 1.0, "x")
    assert flat.size == (200, 10 + STRIP)
