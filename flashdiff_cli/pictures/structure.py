"""The outer structure of picture files, walked without decoding: how many pages, frames, chunks, scans and tags they claim.

Decoders believe what these numbers say: a file of a megabyte can make one read the same bytes a million times, or decode nothing a
thousand times over. What is damaged is left to the decoders; what claims more than any honest writer writes is refused here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from PIL import Image

FRAMES = 20_000
"""Pages or frames of a file."""
CHUNKS = 50_000
"""Parts of a file that hold no pixels: chunks of PNG, segments of JPEG, chunks of WebP."""
METADATA = 256 << 20
"""Bytes of EXIF, comments, profiles and the like in a JPEG file."""
SCANS, SCAN_WORK = 500, 8_000_000_000
"""Scans of a JPEG picture, and scans times pixels: each goes over the whole picture."""
TAG_VALUES = 4_000_000
"""Numbers of one TIFF tag: each becomes an object."""
TAG_SLACK = 1 << 20
"""Bytes of tags that may overlap, besides what the file holds."""
DIRECTORIES_DEEP = 4
PLAIN_TEXT = 64 << 20
"""Bytes of a PPM file whose pixels are written as decimal numbers, which are read one by one."""
PLAIN_HEADER = 1 << 20
"""Bytes within which the header of a PPM file ends, comments included."""

JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
BYTE_TYPES = (1, 2, 6, 7)
SUB_DIRECTORIES = (330, 34665, 34853, 40965)
WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323


class Refused(Exception):
    """A picture file that claims more than is read; the message says what, and what to do."""


def _most(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise Refused(f"more than {limit:,} {what}, as no camera or editor writes; save the picture anew in an editor you trust")


def check(data: bytes, pixels: int) -> None:
    """Check the structure of a file of any format.

    Args:
        data: of the file.
        pixels: that one picture may have.

    Raises:
        Refused: it claims too many parts.
        DecompressionBombError: a page or tile has too many pixels.
    """
    for magic, walk in WALKS:
        if data.startswith(magic):
            walk(data, pixels)
            return


def check_work(data: bytes, pixels: int) -> None:
    """Raise `Refused` if a JPEG file goes over its pixels, of that number, again and again."""
    if data.startswith(b"\xff\xd8"):
        count = _walk_jpeg(data)
        if count > 1 and count * pixels > SCAN_WORK:
            raise Refused(f"{count} scans over {pixels / 1e6:.0f} megapixels would take minutes; save the picture anew in an editor you trust")


def _png(data: bytes, _: int) -> None:
    place, count = 8, 0
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        # Pixels come in as many pieces as a writer likes.
        count += kind != b"IDAT"
        _most(count, CHUNKS, "chunks")
        if kind == b"acTL" and length >= 4:
            _most(struct.unpack_from(">I", data, place + 8)[0], FRAMES, "frames")
        if kind == b"IEND":
            return
        place += 12 + length


def _walk_jpeg(data: bytes) -> int:
    """Return number of scans of the first picture in a JPEG file."""
    place, segments, scans, metadata, exif = 2, 0, 0, 0, []
    while found := JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8) or place + 2 > len(data):
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if marker == 0xDA:
            scans += 1
            _most(scans, SCANS, "scans")
        else:
            segments += 1
            _most(segments, CHUNKS, "segments")
            if marker >= 0xE0:
                metadata += length
                _most(metadata, METADATA, "bytes of metadata")
            if marker == 0xE1 and data.startswith(b"Exif\0\0", place + 2):
                exif.append(data[place + 8 : place + length])
        place += max(length, 2)
    if exif:
        # Pillow joins the parts, and looks at them already while it opens the file.
        check_exif(b"".join(exif))
    return scans


def _gif(data: bytes, _: int) -> None:
    if len(data) < 13:
        return
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    frames, extensions = 0, 0
    while place < len(data):
        kind = data[place]
        if kind == 0x2C and place + 10 <= len(data):
            frames += 1
            _most(frames, FRAMES, "frames")
            flags = data[place + 9]
            # One byte more: the size of the codes.
            place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif kind == 0x21:
            extensions += 1
            _most(extensions, 2 * CHUNKS, "extensions")
            place += 2
        else:
            return
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1


def _riff(data: bytes, _: int) -> None:
    place, count, frames = 12, 0, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        count, frames = count + 1, frames + (kind == b"ANMF")
        _most(frames, FRAMES, "frames")
        _most(count, CHUNKS, "chunks")
        place += 8 + length + (length & 1)


def _ppm(data: bytes, _: int) -> None:
    if data[:2] in (b"P1", b"P2", b"P3") and len(data) > PLAIN_TEXT:
        raise Refused("pixels written as text, in a file this large; save it as PNG")
    if len(data) > PLAIN_HEADER and len(re.sub(rb"#[^\r\n]*", b"", data[:PLAIN_HEADER]).split(None, 4)) < 4:
        raise Refused("a header that is longer than any picture needs; save it as PNG")


def check_exif(data: bytes) -> None:
    """Raise `Refused` if EXIF data, with or without their "Exif" in front, claim more than they hold."""
    data = data.removeprefix(b"Exif\0\0")
    if data[:2] in (b"II", b"MM"):
        _tiff(data, 1 << 62)


def _tiff(data: bytes, pixels: int) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if len(data) < (16 if big else 8):
        return
    first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    seen: set[int] = set()
    held = 0
    waiting = [(first, 0)]
    while waiting:
        place, depth = waiting.pop()
        # A directory that was there already ends a chain that runs in a circle.
        while place and place not in seen:
            seen.add(place)
            _most(len(seen), FRAMES, "pages or directories")
            directory = _Directory(data, place, order, big)
            held += directory.bytes
            if held > len(data) + TAG_SLACK + 4096 * len(seen):
                raise Refused("tags that claim more than the whole file holds; save the picture anew in an editor you trust")
            for a, b in ((WIDTH, LENGTH), (TILE_WIDTH, TILE_LENGTH)):
                if directory.first(a) * directory.first(b) > pixels:
                    raise Image.DecompressionBombError(f"{directory.first(a)} x {directory.first(b)} pixels")
            if depth < DIRECTORIES_DEEP:
                waiting += [(below, depth + 1) for tag in SUB_DIRECTORIES for below in directory.values(tag)]
            place = directory.next


class _Directory:
    """One directory of a TIFF file: its tags as they are claimed, and where the next one is (0: nowhere)."""

    def __init__(self, data: bytes, place: int, order: str, big: bool):
        self.data, self.order, self.entries, self.bytes, self.next = data, order, {}, 0, 0
        head, entry, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        size, wide = struct.calcsize(order + head), struct.calcsize(order + entry)
        if place + size > len(data):
            return
        (count,) = struct.unpack_from(order + head, data, place)
        _most(count, 65_535, "tags of a page")
        place += size
        block = data[place : place + count * wide]
        for tag, kind, number, value in struct.iter_unpack(order + entry, block[: len(block) // wide * wide]):
            each = TYPE_SIZES.get(kind)
            if each is None:
                continue
            # A value that does not lie in the file is skipped by every decoder.
            if number * each > inline:
                (begin,) = struct.unpack_from(order + ("Q" if big else "I"), value)
                if begin + number * each > len(data):
                    continue
                if kind not in BYTE_TYPES:
                    _most(number, TAG_VALUES, "numbers in one tag")
                self.bytes += number * each
            else:
                begin = None
            self.entries.setdefault(tag, (kind, number, value if begin is None else begin))
        place += count * wide
        if place + inline <= len(data):
            (self.next,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)

    def values(self, tag: int, most: int = 64) -> list[int]:
        """Return the first whole numbers of a tag; empty if it has none."""
        kind, number, where = self.entries.get(tag, (0, 0, b""))
        code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
        if code is None:
            return []
        data, place = (where, 0) if isinstance(where, bytes) else (self.data, where)
        return list(struct.unpack_from(f"{self.order}{min(number, most)}{code}", data, place))

    def first(self, tag: int) -> int:
        """Return the first whole number of a tag, or 0."""
        return next(iter(self.values(tag, 1)), 0)


WALKS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes, int], object]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", lambda data, _: _walk_jpeg(data)),
    ((b"GIF87a", b"GIF89a"), _gif),
    (b"RIFF", _riff),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    ((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF", b"P0", b"Py"), _ppm),
)
"""How a file that begins so is walked."""
