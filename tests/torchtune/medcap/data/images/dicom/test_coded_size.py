import io

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.dicom.coded_size import coded_size


def encoded(file_format, size=(21, 13), **options):
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"x" * 300}),
        ("JPEG2000", {"no_jp2": True}),
        ("JPEG2000", {}),
    ],
)
def test_the_size_is_read_without_decoding(file_format, options):
    data = encoded(file_format, (40, 33), **options)
    assert coded_size(data) == (40, 33)


def test_jpeg_ls():
    # ISO 14495-1: SOI, then SOF55 with length 11, 8 bits, 33 rows, 40 columns, one component.
    assert coded_size(bytes.fromhex("ffd8fff7000b0800210028010111 00".replace(" ", ""))) == (40, 33)


def test_the_offset_of_a_jpeg_2000_image_is_not_a_part_of_it():
    header = bytes.fromhex("ff4fff5100290000") + np.array([100, 60, 20, 10], dtype=">u4").tobytes()
    assert coded_size(header) == (80, 50)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\x00\x00\x00\x00\x00\x00\x00\x00", b"\xff\x4f\xff\x51", b"RIFF1234"]
)
def test_what_says_no_size(data):
    assert coded_size(data) is None


def test_every_cut_gives_the_size_or_none():
    for data in (encoded("JPEG"), encoded("JPEG2000", (40, 33))):
        assert {coded_size(data[:end]) for end in range(len(data))} <= {None, (21, 13), (40, 33)}
