"""Compressed frames that are cut, lack a part or bits: refused. Whole ones of every kind: read."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

from helpers.dicom_encoding import encode_rle, file_bytes, put_compressed
from helpers.dicom_files import JPEG_BASELINE, dicom_dataset
from helpers.jpeg_lossless import encode_lossless
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

END = b"\xff\xd9"
LOSSLESS, RLE, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
GREY = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).resize((120, 90)))
COLOURS = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
DEEP = GREY.astype(np.uint16) * 200


def coded(pixels, kind="JPEG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def made(pixels, stream, syntax):
    dataset = dicom_dataset(pixels, "MONOCHROME2" if pixels.ndim == 2 else "RGB")
    put_compressed(dataset, [stream], syntax)
    return dataset, stream


def shipped(name):
    dataset = dcmread(get_testdata_file(name, download=False))
    return dataset, get_frame(dataset.PixelData, 0, number_of_frames=1)


KINDS = {
    "baseline": lambda: made(GREY, coded(GREY, quality=90), JPEG_BASELINE),
    "baseline with restarts": lambda: made(GREY, coded(GREY, restart_marker_blocks=4), JPEG_BASELINE),
    "baseline with a restart a row": lambda: made(GREY, coded(GREY, restart_marker_rows=1), JPEG_BASELINE),
    "progressive": lambda: made(GREY, coded(GREY, progressive=True), JPEG_BASELINE),
    "colours": lambda: made(COLOURS, coded(COLOURS), JPEG_BASELINE),
    "progressive colours": lambda: made(COLOURS, coded(COLOURS, progressive=True, subsampling=0), JPEG_BASELINE),
    "extended": lambda: shipped("JPGExtended.dcm"),
    "lossless": lambda: made(GREY, encode_lossless(GREY, 8), LOSSLESS),
    "lossless with restarts": lambda: made(DEEP, encode_lossless(DEEP, 16, 5), LOSSLESS),
    "lossless colours": lambda: made(COLOURS, encode_lossless(COLOURS, 8), LOSSLESS),
    "jpeg-ls": lambda: shipped("MR_small_jpeg_ls_lossless.dcm"),
    "jpeg-ls near": lambda: shipped("JPEGLSNearLossless_16.dcm"),
    "jpeg-ls colours": lambda: shipped("SC_rgb_jls_lossy_sample.dcm"),
    "jpeg 2000": lambda: made(GREY, coded(GREY, "JPEG2000", no_jp2=True), JPEG_2000),
    "jpeg 2000 with tiles": lambda: made(GREY, coded(GREY, "JPEG2000", no_jp2=True, tile_size=(64, 64)), JPEG_2000),
    "jp2": lambda: made(COLOURS, coded(COLOURS, "JPEG2000"), JPEG_2000),
    "rle": lambda: made(DEEP, encode_rle(DEEP), RLE),
}


def read(dataset, stream):
    syntax = dataset.file_meta.TransferSyntaxUID
    put_compressed(dataset, [stream], syntax)
    return np.asarray(ImageReader([]).open_bytes(file_bytes(dataset))).tolist()


def is_refused(dataset, stream):
    try:
        read(dataset, stream)
    except UserError as error:
        assert "\n" not in str(error)
        return True
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_ends_early_is_refused(kind):
    dataset, stream = KINDS[kind]()
    read(dataset, stream)
    length = len(stream.rstrip(b"\0\xff"))
    ends = {length - 3, length - 7, *np.linspace(length // 20, length - 20, 5).astype(int).tolist()}
    taken = [end for end in ends if not is_refused(dataset, stream[:end])]
    if "rle" not in kind:  # which has no end marker
        taken += [end for end in ends if not is_refused(dataset, stream[:end] + END)]
    assert taken == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jpeg-ls colours"])
def test_a_stream_that_lacks_its_middle_is_refused(kind):
    # Of a flat picture in JPEG-LS, any bits make a picture.
    dataset, stream = KINDS[kind]()
    third = len(stream) // 3
    assert is_refused(dataset, stream[:third] + stream[2 * third :])
    assert is_refused(dataset, stream[: 2 * third] + stream[2 * third + third // 2 :])


def scans(stream):
    """The places of the scans' headers, and of the end."""
    positions, position = [], 0
    while (position := stream.find(b"\xff\xda", position)) >= 0:
        positions.append(position)
        position += 2
    return [*positions, len(stream) - 2]


def test_a_progressive_stream_that_lacks_a_scan_is_refused():
    stream = coded(COLOURS, progressive=True)
    dataset, _ = made(COLOURS, stream, JPEG_BASELINE)
    read(dataset, stream)
    positions = scans(stream)
    assert len(positions) > 5
    for start, end in itertools.pairwise(positions[1:]):
        assert is_refused(dataset, stream[:start] + END)
        assert is_refused(dataset, stream[:start] + stream[end:])


@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_stream_that_lacks_restart_intervals_is_refused(step):
    for pixels, stream, syntax in (
        (GREY, coded(GREY, restart_marker_blocks=4), JPEG_BASELINE),
        (DEEP, encode_lossless(DEEP, 16, 5), LOSSLESS),
    ):
        dataset, _ = made(pixels, stream, syntax)
        restarts = [
            position
            for position in range(len(stream) - 1)
            if stream[position] == 0xFF and stream[position + 1] >> 3 == 26
        ]
        assert len(restarts) > 16
        assert is_refused(dataset, stream[: restarts[4]] + stream[restarts[4 + step] :])
        assert is_refused(dataset, stream[: restarts[-step]] + END)


@pytest.mark.slow
@pytest.mark.parametrize("tail", [b"", b"\0", b"\0\0\0\0", b"\xff", b"\xff\xff\xff", b"anything"])
def test_what_is_after_the_end_is_ignored(tail):
    for kind in ("baseline", "lossless", "jpeg 2000", "jpeg-ls"):
        dataset, stream = KINDS[kind]()
        assert read(dataset, stream.rstrip(b"\0") + tail) == read(dataset, stream)


@pytest.mark.slow
def test_flat_pictures_are_read():
    for level in (0, 7, 128, 255):
        for options in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 100}):
            flat = np.full((70, 90), level, dtype=np.uint8)
            dataset, stream = made(flat, coded(flat, **options), JPEG_BASELINE)
            assert read(dataset, stream)[0][0] == [level] * 3


def test_kinds_of_jpeg_that_dicom_does_not_know_are_refused():
    stream = coded(GREY)
    dataset, _ = made(GREY, stream, JPEG_BASELINE)
    arithmetic = stream.replace(b"\xff\xc0\0\x0b", b"\xff\xc9\0\x0b")
    with pytest.raises(UserError, match="has JPEG data of a kind \\(SOF9\\) that DICOM does not know"):
        read(dataset, arithmetic)


def test_a_transform_of_colours_in_jpeg_ls_is_refused():
    dataset, stream = shipped("SC_rgb_jls_lossy_line.dcm")
    read(dataset, stream)
    marked = stream[:2] + b"\xff\xe8\0\x07mrfx\1" + stream[2:]
    with pytest.raises(UserError, match="is a JPEG-LS with a transform of its colours"):
        read(dataset, marked)


def test_segments_of_another_size_in_rle_are_refused():
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    dataset, stream = made(values, encode_rle(values), RLE)
    assert read(dataset, stream)[0][1] == [1, 1, 1]
    run = bytes([63, *range(64)])
    good = stream[:64] + run
    assert read(dataset, good + b"\x80")[0][1] == [1, 1, 1]
    for data in (
        stream[:64] + bytes([62, *range(63)]),  # a byte is missing
        good + bytes([0, 9, 9]),
        stream[:64] + bytes([127, *range(64), *range(64)]),
        stream[:64] + bytes([2 - 64 + 256, 5]),
        b"\2" + stream[1:],
        stream[:4] + b"\x3e" + stream[5:],
        stream[:40],
    ):
        assert is_refused(dataset, data)
