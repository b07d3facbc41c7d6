"""Crafted pictures: changed chunk by chunk, segment by segment, tag by tag, with their checksums mended, so that decoders believe them.

Reading ends in a picture or in one line. 240 files, or 10,000 with FLASHDIFF_LONG=1; each is made from its number alone.
"""

import io
import os
import signal
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from test_hostile import TooLong, peak
from test_mutated import mutated, seeds

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import read_picture

COUNT = 10_000 if os.environ.get("FLASHDIFF_LONG") == "1" else 240
PROCESSOR_SECONDS = 10
MEMORY = 3 << 30
SIZES = [0, 1, 2, 7, 255, 256, 4097, 20_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1]


def more_seeds():
    """Kinds beside those of `seeds`: animations, pages, progressive and interlaced files, metadata."""
    frames = [Image.effect_noise((20, 14), 40 + 40 * i).convert("RGB") for i in range(3)]
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a caption", 6
    ways = [("gif", "GIF", {"save_all": True, "append_images": frames[1:]}), ("webp", "WEBP", {"save_all": True, "append_images": frames[1:]})]
    ways += [("png", "PNG", {"save_all": True, "append_images": frames[1:]}), ("tif", "TIFF", {"save_all": True, "append_images": frames[1:]})]
    ways += [("jpg", "JPEG", {"progressive": True, "exif": exif, "comment": b"c" * 100}), ("tif", "TIFF", {"compression": "tiff_lzw", "exif": exif})]
    ways += [
        ("tif", "TIFF", {"compression": "jpeg"}),
        ("tif", "TIFF", {"compression": "tiff_deflate", "tile": (16, 16)}),
        ("png", "PNG", {"exif": exif}),
    ]
    ways += [("ppm", "PPM", {}), ("ico", "ICO", {}), ("jp2", "JPEG2000", {})]
    found = []
    for ending, kind, settings in ways:
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, **{k: v for k, v in settings.items() if k != "tile"})
        found.append((ending, buffer.getvalue()))
    return found


def parts_of(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of chunks, segments or blocks of a file."""
    found, place = [], 8
    if data[:4] == b"\x89PNG":
        while place + 12 <= len(data):
            end = place + 12 + struct.unpack_from(">I", data, place)[0]
            found.append((place, end))
            place = end
    elif data[:2] == b"\xff\xd8":
        place = 2
        while place + 4 <= len(data) and data[place] == 0xFF:
            end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
            found.append((place, end))
            if data[place + 1] == 0xDA:
                break
            place = end
    elif data[:4] == b"RIFF":
        place = 12
        while place + 8 <= len(data):
            length = struct.unpack_from("<I", data, place + 4)[0]
            found.append((place, place + 8 + length + (length & 1)))
            place = found[-1][1]
    else:
        found = [(i, min(i + 12, len(data))) for i in range(0, len(data), 12)]
    return [(a, b) for a, b in found if b <= len(data)]


def mend(data: bytes) -> bytes:
    """A PNG file with the checksums of its chunks made right."""
    if data[:4] != b"\x89PNG":
        return data
    data = bytearray(data)
    for begin, end in parts_of(bytes(data)):
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[begin + 4 : end - 4]))
    return bytes(data)


def crafted(data: bytes, rng) -> bytes:
    """One file changed where its structure is: a part left out, doubled, moved, or its numbers made extreme."""
    act = rng.integers(7)
    if data[:4] in (b"II*\0", b"MM\0*") and act < 5:
        return tagged(data, rng)
    if act == 6:
        return mutated(data, rng)
    parts = parts_of(data)
    begin, end = parts[rng.integers(len(parts))] if parts else (0, len(data))
    part, here = data[begin:end], bytearray(data)
    if act == 0:
        return data[:begin] + data[end:]
    if act == 1:
        return data[:end] + part * int(rng.integers(1, 300)) + data[end:]
    if act == 2:
        other, stop = parts[rng.integers(len(parts))] if parts else (0, 0)
        return mend(data[:other] + part + data[other:begin] + data[end:] if other < begin else data[:stop] + part + data[stop:])
    size = int(rng.choice(SIZES))
    if act == 3 and end - begin >= 16:
        # A number within the part: sizes, offsets, counts.
        place = begin + 8 + int(rng.integers(end - begin - 12))
        here[place : place + 4] = size.to_bytes(4, "big" if rng.integers(2) else "little")
        return mend(bytes(here))
    if act == 4 and end - begin >= 8:
        here[begin + int(rng.integers(end - begin))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        return mend(bytes(here))
    # The length of the part itself.
    place = begin + (2 if data[:2] == b"\xff\xd8" else 4 if data[:4] == b"RIFF" else 0)
    here[place : place + 2] = (size & 0xFFFF).to_bytes(2, "big")
    return bytes(here)


def tagged(data: bytes, rng) -> bytes:
    """A TIFF file with an extreme entry in one of its directories, or a directory that leads back to another."""
    here, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    directories, place = [], struct.unpack_from(order + "I", data, 4)[0]
    while place and place + 2 <= len(data) and place not in directories:
        directories.append(place)
        (count,) = struct.unpack_from(order + "H", data, place)
        place = struct.unpack_from(order + "I", data, place + 2 + 12 * count)[0]
    place = directories[rng.integers(len(directories))]
    (count,) = struct.unpack_from(order + "H", data, place)
    entry = place + 2 + 12 * int(rng.integers(count))
    act, size = rng.integers(6), int(rng.choice(SIZES))
    if act == 0:
        struct.pack_into(order + "I", here, place + 2 + 12 * count, int(rng.choice([*directories, 1, 8, len(data) - 1, 2**32 - 1])))
    elif act == 1:
        struct.pack_into(order + "H", here, entry + 2, int(rng.integers(20)))
    elif act == 2:
        struct.pack_into(order + "I", here, entry + 4, size)
    elif act == 3:
        struct.pack_into(order + "I", here, entry + 8, size)
    elif act == 4:
        struct.pack_into(
            order + "H", here, entry, int(rng.choice([256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 330, 338, 339, 34665, 347]))
        )
    else:
        struct.pack_into(order + "H", here, place, int(rng.choice([0, 1, count + 1, 5000, 65_535])))
    return bytes(here)


def ring(*_):
    raise TooLong


@pytest.mark.timeout(0)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits the processor's time")
def test_crafted_pictures_are_read_or_refused_in_one_line(tmp_path):
    whole, before, read, faults, slowest = seeds() + more_seeds(), peak(), 0, [], 0.0
    kept = signal.signal(signal.SIGPROF, ring)
    try:
        for case in range(COUNT):
            rng = np.random.default_rng([21, case])
            ending, data = whole[case % len(whole)]
            path = tmp_path / f"x.{ending}"
            path.write_bytes(crafted(data, rng))
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
            try:
                picture = read_picture(path)
                read += 1
                assert picture.image.ndim == 4 and picture.image.shape[1] == 3 and min(picture.size) > 0
            except FlashdiffError as error:
                if not str(error).isprintable() or str(path) not in str(error):
                    faults.append((case, ending, str(error)))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                faults.append((case, ending, f"{type(error).__name__}: {error}"[:200]))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - began)
    finally:
        signal.signal(signal.SIGPROF, kept)
    assert not faults, (len(faults), faults[:20])
    assert COUNT // 10 < read < COUNT and peak() - before < MEMORY
    print(f"{COUNT} files: {read} read, {COUNT - read} refused; the slowest took {slowest:.2f} s of the processor")
