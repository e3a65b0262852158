"""PNG and TIFF files of every kind, written byte by byte, as the readers under test must not write them."""

from __future__ import annotations

import lzma
import struct
import zlib

import numpy as np

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bytes(
    samples: np.ndarray,
    bits: int,
    colour_type: int,
    palette: bytes = b"",
    transparent: bytes = b"",
    adam7: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Write a PNG file; every row has another filter of None, Sub and Up.

    Args:
        samples: ``[height, width]`` or ``[height, width, samples of a pixel]``, whole numbers.
        bits: number of bits of a sample.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        palette: content of PLTE.
        transparent: content of tRNS.
        adam7: whether it is interlaced.
        before: chunks before the pixels.
        after: chunks after the pixels.
    """
    height, width = samples.shape[:2]
    parts = [samples[y::down, x::across] for x, y, across, down in _PASSES] if adam7 else [samples]
    pixels = b"".join(_png_rows(part, bits) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, adam7)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparent)]
    start = b"".join(png_chunk(kind, content) for kind, content in chunks if content)
    squeezed = zlib.compress(pixels)
    data = png_chunk(b"IDAT", squeezed[:40]) + png_chunk(b"IDAT", squeezed[40:])
    return b"\x89PNG\r\n\x1a\n" + start + before + data + after + png_chunk(b"IEND", b"")


def _png_rows(samples: np.ndarray, bits: int) -> bytes:
    count = int(np.prod(samples.shape[2:], dtype=int))
    distance = max(1, count * bits // 8)
    packed = pack(samples.reshape(len(samples), -1), bits, ">")
    rows, above = [], np.zeros(packed.shape[1], np.uint8)
    for number, row in enumerate(packed):
        if number % 3 == 0:
            rows.append(b"\0" + row.tobytes())
        elif number % 3 == 1:
            left = np.concatenate([np.zeros(distance, np.uint8), row[:-distance]])[: len(row)]
            rows.append(b"\1" + (row - left).tobytes())
        else:
            rows.append(b"\2" + (row - above).tobytes())
        above = row
    return b"".join(rows)


def pack(rows: np.ndarray, bits: int, order: str) -> np.ndarray:
    """Whole numbers or floats ``[rows, count]`` -> their bytes, uint8 ``[rows, bytes]``."""
    if bits in (8, 16, 32, 64):
        kind = rows.dtype.kind
        return np.ascontiguousarray(rows.astype(f"{order}{kind}{bits // 8}")).view(np.uint8).reshape(len(rows), -1)
    positions = np.arange(bits - 1, -1, -1)
    return np.packbits(
        (rows.astype(np.int64)[..., None] >> positions & 1).astype(np.uint8).reshape(len(rows), -1), axis=1
    )


def tiff_bytes(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    order: str = "<",
    big: bool = False,
    compression: int = 1,
    predictor: int = 1,
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    reversed_bits: bool = False,
    sample_format: int | None = None,
    extra: tuple[int, ...] = (),
    tags: dict[int, tuple[str, tuple[int, ...]]] | None = None,
) -> bytes:
    """Write a TIFF file of one picture.

    Args:
        samples: ``[height, width, samples of a pixel]``; its type says whether they have a sign or are floats.
        bits: number of bits of a sample.
        photometric: PhotometricInterpretation.
        order: byte order, ``<`` or ``>``.
        big: whether it is BigTIFF.
        compression: 1 none, 5 LZW, 8 and 32946 deflate, 32773 PackBits, 34925 LZMA.
        predictor: 1, 2 or 3.
        planar: whether each sample of a pixel has a plane of its own.
        tile: height and width of tiles, instead of strips.
        rows_per_strip: all by default.
        reversed_bits: whether FillOrder is 2.
        sample_format: sample format of the tag; by default the one of the type.
        extra: ExtraSamples.
        tags: further ones, or others: their type (a letter of ``struct``) and values.
    """
    height, width, count = samples.shape
    down, across = tile or (rows_per_strip or height, width)
    planes = [samples[..., position : position + 1] for position in range(count)] if planar else [samples]
    parts = []
    for plane in planes:
        for y in range(0, height, down):
            for x in range(0, width, across):
                part = plane[y : y + down, x : x + across]
                if tile:
                    missing = ((0, down - part.shape[0]), (0, across - part.shape[1]), (0, 0))
                    part = np.pad(part, missing, mode="edge")
                data = _compress(_predict(part, bits, predictor, order), compression)
                parts.append(bytes(int(f"{byte:08b}"[::-1], 2) for byte in data) if reversed_bits else data)
    kinds = {"u": 1, "i": 2, "f": 3}
    wanted: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (bits,) * count),
        259: ("H", (compression,)),
        262: ("H", (photometric,)),
        277: ("H", (count,)),
        284: ("H", (2 if planar else 1,)),
        339: ("H", (sample_format or kinds[samples.dtype.kind],) * count),
    }
    if predictor != 1:
        wanted[317] = ("H", (predictor,))
    if reversed_bits:
        wanted[266] = ("H", (2,))
    if extra:
        wanted[338] = ("H", extra)
    if tile:
        wanted |= {322: ("I", (across,)), 323: ("I", (down,))}
    else:
        wanted[278] = ("I", (down,))
    wanted |= tags or {}
    start = 16 if big else 8
    offsets = [start + sum(map(len, parts[:number])) for number in range(len(parts))]
    wanted[324 if tile else 273] = ("Q" if big else "I", tuple(offsets))
    wanted[325 if tile else 279] = ("Q" if big else "I", tuple(map(len, parts)))
    return _with_directory(b"".join(parts), wanted, order, big)


def _with_directory(data: bytes, tags: dict[int, tuple[str, tuple[int, ...]]], order: str, big: bool) -> bytes:
    codes = {"B": 1, "H": 3, "I": 4, "Q": 16}
    head = b"II" if order == "<" else b"MM"
    start = 16 if big else 8
    data += bytes(-len(data) % 2)
    position = start + len(data)
    if big:
        head += struct.pack(order + "HHHQ", 43, 8, 0, position)
    else:
        head += struct.pack(order + "HI", 42, position)
    size, inline, word = (20, 8, "Q") if big else (12, 4, "I")
    behind = position + (8 if big else 2) + size * len(tags) + inline
    entries, values = b"", b""
    for number, (kind, content) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(content)}{kind}", *content)
        if len(packed) > inline:
            packed, values = struct.pack(order + word, behind + len(values)), values + packed + bytes(len(packed) % 2)
        entries += struct.pack(f"{order}HH{word}", number, codes[kind], len(content)) + packed.ljust(inline, b"\0")
    return head + data + struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(inline) + values


def _predict(part: np.ndarray, bits: int, predictor: int, order: str) -> bytes:
    rows, count = len(part), part.shape[2]
    if predictor == 2:
        part = part.copy()
        part[:, 1:] -= part[:, :-1].copy()
    if predictor == 3:
        planes = part.reshape(rows, -1).astype(f">f{bits // 8}").view(np.uint8).reshape(rows, -1, bits // 8)
        planes = planes.transpose(0, 2, 1).reshape(rows, -1, count)
        differences = planes.copy()
        differences[:, 1:] -= planes[:, :-1]
        return differences.tobytes()
    return pack(part.reshape(rows, -1), bits, order).tobytes()


def _compress(data: bytes, compression: int) -> bytes:
    if compression in (8, 32946):
        return zlib.compress(data)
    if compression == 34925:
        return lzma.compress(data, format=lzma.FORMAT_XZ, preset=0)
    if compression == 32773:
        pieces = [data[start : start + 128] for start in range(0, len(data), 128)]
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    if compression == 5:
        return _lzw(data)
    assert compression == 1
    return data


def _lzw(data: bytes) -> bytes:
    """Codes of 9 bits alone: the table is cleared before it needs longer ones."""
    codes = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    codes.append(257)
    text = "".join(f"{code:09b}" for code in codes)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
