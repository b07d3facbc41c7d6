"""Damaged files by the hundred: no traceback, no hang, no output for a failed input, no runaway memory.

160 files are restored, or 2,000 with FLASHDIFF_LONG=1, which with the 10,000 of `test_crafted.py` is the count of the promise;
FLASHDIFF_MUTATIONS sets another. What became of them is printed (-s shows it).
"""

import io
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.commands.app import main
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.pictures.png import write_png
from flashdiff_cli.pictures.tiff import write_tiff
from flashdiff_cli.runs.entries import NAME

COUNT = int(os.environ.get("FLASHDIFF_MUTATIONS", 2000 if os.environ.get("FLASHDIFF_LONG") == "1" else 160))
MEMORY = 1_200_000_000
"""Bytes that the process may hold at most, the model and torch included (or what earlier tests have brought it to)."""


def seeds():
    """One whole file of each kind and some modes and depths."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture, found = Image.fromarray(values), []
    for ending, kind in FORMATS.items():
        for mode in ("RGB", "L", "P") if kind in ("PNG", "TIFF", "BMP") else ("RGB",):
            if ending not in (".jpeg", ".tiff", ".heif"):
                buffer = io.BytesIO()
                picture.convert(mode).save(buffer, kind)
                found.append((ending[1:], buffer.getvalue()))
    for ending, write in (("png", write_png), ("tif", write_tiff)):
        for channels in (2, 3):
            buffer = io.BytesIO()
            write(buffer, values[..., :channels] * np.uint16(257))
            found.append((ending, buffer.getvalue()))
    for compression in (None, "zlib"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values / np.float32(255), photometric="rgb", metadata=None, compression=compression)
        found.append(("tif", buffer.getvalue()))
    return found


def mutated(data: bytes, rng) -> bytes:
    """Bits flipped, cut short, bytes doubled, or a size in the header made a lie."""
    data = bytearray(data)
    way = rng.integers(5)
    if way == 0:
        for _ in range(int(rng.integers(1, 20))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif way == 1:
        data = data[: int(rng.integers(len(data)))]
    elif way == 2:
        begin = int(rng.integers(len(data)))
        data[begin:begin] = data[begin : begin + int(rng.integers(1, 200))]
    elif way == 3:
        place = int(rng.integers(min(len(data), 64) - 4))
        data[place : place + 4] = int(rng.integers(2**32)).to_bytes(4, "big" if rng.integers(2) else "little")
    else:
        begin = int(rng.integers(len(data)))
        data[begin : begin + int(rng.integers(1, 100))] = bytes(int(rng.integers(1, 100)))
    return bytes(data)


def peak() -> int:
    """Bytes that this process has held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.timeout(3000)
def test_damaged_files_do_no_harm(tmp_path, capsys):
    model = save_tiny_model(tmp_path / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})
    rng, whole = np.random.default_rng(7), seeds()
    (tmp_path / "in").mkdir()
    for i in range(COUNT):
        ending, data = whole[i % len(whole)]
        (tmp_path / "in" / f"{i:04}.{ending}").write_bytes(mutated(data, rng))
    # A lie about the size may still be decoded; what comes of it is restored in tiles.
    before = peak()
    arguments = ["restore", tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--json", "--start-step", 0, "--quiet"]
    with pytest.raises(SystemExit) as leave:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    failed = [r for r in records if r["status"] == "failed"]
    assert leave.value.code == 1 and "Traceback" not in err
    assert len(records) == COUNT and COUNT // 5 < len(failed) < COUNT
    assert all(r["error"] and Path(r["input"]).name in r["error"] for r in failed) and len(err.splitlines()) == len(failed)
    written = {p.name for p in (tmp_path / "out").iterdir()} - {NAME}
    assert written == {Path(r["output"]).name for r in records if r["status"] == "done"}
    for path in (tmp_path / "out").glob("[!.]*"):
        read_picture(path)
    assert peak() <= max(before, MEMORY)
    print(f"{COUNT} mutated files: {len(records) - len(failed)} restored, {len(failed)} refused in one line each; at most {peak() >> 20} MiB held")
