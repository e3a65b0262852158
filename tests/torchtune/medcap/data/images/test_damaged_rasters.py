"""Damaged files: the picture that was meant, or one line; and damage that is none of the picture's."""

import gzip
import io
import struct
import warnings
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.raster_files import png_bytes, png_chunk, tiff_bytes
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

READER = ImageReader([], max_pixels=100_000)
SAMPLES = np.random.default_rng(0).integers(40, 200, (14, 12, 4)).astype(np.uint16)
BYTES = SAMPLES.astype(np.uint8)


def pillow_bytes(name, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(BYTES[..., :3])).save(buffer, name, **options)
    return buffer.getvalue()


def volume():
    return nibabel.Nifti1Image(SAMPLES[..., :3].astype(np.int16), np.eye(4)).to_bytes()


# Files whose every byte of the picture is under a checksum.
SEALED = {
    "png8": png_bytes(BYTES[..., :3], 8, 2),
    "png16": png_bytes(SAMPLES, 16, 6),
    "adam7": png_bytes(SAMPLES[..., :1], 16, 0, adam7=True, transparent=struct.pack(">H", 41)),
    "palette": png_bytes(BYTES[..., 0], 8, 3, bytes(range(256)) * 3, bytes(range(255, -1, -1))),
    "nii.gz": gzip.compress(volume(), mtime=0),
}
ALL = SEALED | {
    "tiff8": tiff_bytes(BYTES[..., :3], 8, 2, compression=5),
    "tiff16": tiff_bytes(SAMPLES[..., :3], 16, 2, ">", compression=8, predictor=2, tile=(16, 16)),
    "tiff-planar": tiff_bytes(SAMPLES, 16, 2, planar=True, rows_per_strip=4, extra=(2,)),
    "tiff-float": tiff_bytes(SAMPLES[..., :1].astype(np.float32), 32, 0, big=True, compression=8, predictor=3),
    "tiff-12": tiff_bytes(SAMPLES[..., :1], 12, 1),
    "tiff-palette": tiff_bytes(BYTES[..., :1], 8, 3, compression=32773, tags={320: ("H", tuple(range(768)))}),
    "tiff-ycbcr": tiff_bytes(BYTES[..., :3], 8, 6, tags={530: ("H", (1, 1))}),
    "nii": volume(),
    "jpeg": pillow_bytes("JPEG"),
    "bmp": pillow_bytes("BMP"),
    "gif": pillow_bytes("GIF"),
    "webp": pillow_bytes("WEBP"),
}


def outcome(data):
    """The picture's pixels, or the line of the refusal; any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about metadata
        try:
            picture = READER.open_bytes(data)
        except UserError as error:
            assert str(error).startswith("image of this request ") and "\n" not in str(error)
            return str(error)
    assert picture.mode == "RGB"
    return picture.tobytes()


PICTURES = {name: outcome(data) for name, data in ALL.items()}


def test_the_whole_files_are_read():
    assert all(isinstance(picture, bytes) and max(picture) > 0 for picture in PICTURES.values())


@settings(max_examples=120, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(ALL)), kept=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_whole_enough_or_refused(name, kept):
    found = outcome(ALL[name][: int(len(ALL[name]) * kept)])
    assert isinstance(found, str) or found == PICTURES[name]


CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)


def changed(data, changes):
    data = bytearray(data)
    for position, difference in changes:
        data[int(position * len(data))] ^= difference
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(SEALED)), changes=CHANGES)
def test_changed_bytes_under_a_checksum_change_no_pixel(name, changes):
    found = outcome(changed(SEALED[name], changes))
    assert isinstance(found, str) or found == PICTURES[name]


@pytest.mark.slow
@settings(max_examples=250, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(ALL)), changes=CHANGES)
def test_changed_bytes_end_in_a_picture_or_in_one_line(name, changes):
    outcome(changed(ALL[name], changes))


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    name=st.sampled_from([name for name in sorted(ALL) if name.startswith("tiff")]),
    entry=st.integers(0, 15),
    value=st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 70)),
)
@example(name="tiff16", entry=13, value=1)
def test_changed_tags_end_in_a_picture_or_in_one_line(name, entry, value):
    data = bytearray(ALL[name])
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    (position,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    position += (8 if big else 2) + entry * (20 if big else 12) + (12 if big else 8)
    struct.pack_into(order + "I", data, min(position, len(data) - 4), value)
    outcome(bytes(data))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    rest=st.tuples(*[st.integers(0, 17)] * 2, *[st.integers(0, 2)] * 3),
    pixels=st.binary(max_size=600),
)
def test_random_headers_of_png(size, rest, pixels):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, *rest))
    data = header + png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    outcome(b"\x89PNG\r\n\x1a\n" + data)


def text(kind, keyword, content):
    middle = {b"tEXt": b"\0", b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0", b"iCCP": b"\0\0"}[kind]
    return png_chunk(kind, keyword + middle + (content if kind == b"tEXt" else zlib.compress(content)))


LONG = bytes(5_000_000)
GREY = BYTES[..., 0]


@pytest.mark.parametrize(
    "extra",
    [
        text(b"zTXt", b"Comment", LONG),
        text(b"iTXt", b"Comment", LONG),
        text(b"tEXt", b"Comment", LONG),
        text(b"iCCP", b"profile", LONG),
        text(b"zTXt", b"Raw profile type exif", LONG),
        text(b"iTXt", b"XML:com.adobe.xmp", LONG),
        text(b"zTXt", b"a", bytes(2**20)) * 70,
        png_chunk(b"zTXt", b"another compression\0\7words"),
        png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nnot hexadecimal"),
        png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        png_chunk(b"eXIf", b"no EXIF"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"pHYs", b"\0"),
        png_chunk(b"iCCP", b""),
        text(b"tEXt", b"Comment", b"words")[:-4] + b"\0\0\0\0",
    ],
)
def test_what_is_not_the_picture_loses_no_picture(extra):
    for positions in ({"before": extra}, {"after": extra}, {"before": extra, "after": extra}):
        found = READER.open_bytes(png_bytes(GREY, 8, 0, **positions))
        assert np.array_equal(np.asarray(found)[..., 0], GREY)


def test_the_header_alone_of_a_picture_with_a_long_text(tmp_path):
    (tmp_path / "a.png").write_bytes(png_bytes(GREY, 8, 0, before=text(b"zTXt", b"Comment", LONG)))
    header = ImageReader([tmp_path]).check(tmp_path / "a.png")
    assert (header.format, header.width, header.height) == ("PNG", 12, 14)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"eXIf"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("position", ["before", "after"])
def test_an_orientation_next_to_a_long_text_is_kept(kind, bits, position):
    exif = Image.Exif()
    exif[0x0112] = 6
    words = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode()
    if kind == b"eXIf":
        orientation = png_chunk(b"eXIf", exif.tobytes()[6:])
    elif kind == b"iTXt":
        orientation = text(kind, b"XML:com.adobe.xmp", XMP)
    else:
        orientation = text(kind, b"Raw profile type exif", words)
    samples = GREY if bits == 8 else GREY.astype(np.uint16) * 200
    data = png_bytes(samples, bits, 0, **{position: text(b"zTXt", b"Comment", LONG) + orientation})
    found = np.asarray(READER.open_bytes(data))[..., 0]
    levels = GREY if bits == 8 else np.round((GREY - GREY.min()) * (255 / (GREY.max() - GREY.min())))
    assert np.array_equal(found, np.rot90(levels, -1))


def test_bytes_after_the_end_do_not_matter():
    assert np.array_equal(np.asarray(READER.open_bytes(png_bytes(GREY, 8, 0) + bytes(99)))[..., 0], GREY)


def test_a_broken_orientation_of_a_jpeg_loses_no_picture():
    plain = outcome(pillow_bytes("JPEG"))
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\0\0",
    ):
        assert outcome(pillow_bytes("JPEG", exif=exif)) == plain
