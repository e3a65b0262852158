import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGLosslessSV1, RLELossless

from helpers.dicom_encoding import dicom_bytes, encode_rle, file_bytes, put_compressed
from helpers.dicom_files import JPEG_BASELINE, dicom_dataset
from helpers.jpeg_lossless import encode_lossless
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.errors import UserError

VALUES = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
LEVELS = np.round(VALUES * (255 / 4080)).tolist()
READER = ImageReader([])


def levels(content, view=None):
    image = READER.open_bytes(content, view) if view else READER.open_bytes(content)
    return np.asarray(image)[..., 0].tolist()


def refusal(content, view=None):
    with pytest.raises(UserError) as caught:
        levels(content, view)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_overlay(dataset, bit):
    dataset.add_new((0x6000, 0x0010), "US", 16)
    dataset.add_new((0x6000, 0x0011), "US", 16)
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", bit)
    return file_bytes(dataset)


@pytest.mark.parametrize("syntax", ["explicit", "big endian", "rle", "jpeg lossless"])
def test_twelve_bits_at_the_top(syntax):
    assert levels(dicom_bytes(VALUES << 4, syntax, BitsStored=12, HighBit=15)) == LEVELS
    signed = (VALUES.astype(np.int16) - 2048) << 4
    assert levels(dicom_bytes(signed, syntax, BitsStored=12, HighBit=15)) == LEVELS


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_twelve_bits_in_the_middle_and_overlays_above(syntax):
    cells = ((VALUES << 2) | 0xC000).astype(np.uint16)
    assert levels(dicom_bytes(cells, syntax, BitsStored=12, HighBit=13)) == LEVELS
    assert levels(dicom_bytes(cells.view(np.int16), syntax, BitsStored=12, HighBit=13, PixelRepresentation=0)) == LEVELS


@pytest.mark.parametrize("syntax", ["explicit", "jpeg lossless"])
def test_a_high_bit_that_the_pixels_contradict_is_refused(syntax):
    message = refusal(dicom_bytes(VALUES | 1, syntax, BitsStored=12, HighBit=15))
    assert "HighBit 15" in message


def test_bits_below_that_are_an_overlay():
    dataset = dicom_dataset((VALUES << 4) | 1, BitsStored=12, HighBit=15)
    assert levels(with_overlay(dataset, 0)) == LEVELS


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"BitsStored": 12, "HighBit": 7}, "says that bit 7 of 16 is the highest of 12"),
        ({"BitsStored": 12, "HighBit": 16}, "says that bit 16 of 16 is the highest of 12"),
        ({"BitsStored": 17}, "says that 17 of 16 bits are stored"),
        ({"BitsStored": 0}, "says that 0 of 16 bits are stored"),
        ({"BitsAllocated": 12, "BitsStored": 12}, "has 12 bits allocated"),
        ({"BitsAllocated": 24}, "has 24 bits allocated"),
        ({"PixelRepresentation": 2}, "has the Pixel Representation 2"),
        ({"BitsAllocated": 8, "BitsStored": 8}, "has 512 bytes of pixels, its header says 256"),
        ({"BitsAllocated": 32}, "is damaged: "),
        ({"PhotometricInterpretation": "RGB"}, "has 1 samples a pixel, which contradicts its colours RGB"),
        ({"PhotometricInterpretation": "HSV"}, "has the colours HSV, which are not read"),
        ({"PhotometricInterpretation": ""}, "does not say its Photometric Interpretation"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "has the colours YBR_PARTIAL_420, which are not read"),
        ({"SamplesPerPixel": 3}, "has 3 samples a pixel, which contradicts its colours MONOCHROME2"),
        ({"BitsAllocated": 1, "BitsStored": 1, "PixelRepresentation": 1}, "has the Pixel Representation 1"),
    ],
)
def test_headers_that_contradict_themselves(elements, words):
    assert words in refusal(dicom_bytes(VALUES, "explicit", **elements))


@pytest.mark.parametrize("key", ["BitsAllocated", "BitsStored", "PixelRepresentation"])
def test_elements_that_must_be_there(key):
    dataset = dicom_dataset(VALUES)
    delattr(dataset, key)
    assert f"does not say its {key}" in refusal(file_bytes(dataset))


def test_a_high_bit_says_nothing_where_all_bits_are_stored():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for high in (0, 7, 11, 15):
        assert levels(dicom_bytes(values, "explicit", HighBit=high)) == values.tolist()
    dataset = dicom_dataset(VALUES, BitsStored=12)
    del dataset.HighBit
    assert levels(file_bytes(dataset)) == LEVELS


def test_more_frames_than_the_header_says_are_refused():
    frames = np.stack([VALUES, VALUES])
    assert "has 1,024 bytes of pixels, its header says 512" in refusal(
        dicom_bytes(frames, "explicit", NumberOfFrames=1)
    )
    dataset = dicom_dataset(VALUES)
    dataset.PixelData += bytes(128)
    assert levels(file_bytes(dataset)) == LEVELS


@pytest.mark.parametrize("kind", ["OB", "OW"])
@pytest.mark.parametrize("syntax", ["explicit", "big endian"])
def test_single_bits(syntax, kind):
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, 7))
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset = dicom_dataset(np.zeros((3, 5, 7), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    if syntax == "big endian":
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
        data = np.frombuffer(data, "<u2").astype(">u2").tobytes() if kind == "OW" else data
    dataset.add_new("PixelData", kind, data)
    for frame in range(3):
        assert levels(file_bytes(dataset), View(frames=frame)) == (bits[frame] * 255).tolist()


@pytest.mark.parametrize("kind", ["OB", "OW"])
def test_bytes_in_big_endian_words(kind):
    values = np.random.default_rng(0).integers(0, 256, (3, 3, 5), dtype=np.uint8)
    dataset = dicom_dataset(values)
    dataset["PixelData"].VR = kind
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    if kind == "OW":
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    for frame in range(3):
        assert levels(file_bytes(dataset), View(frames=frame)) == values[frame].tolist()


@pytest.mark.parametrize("precision", [12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_samples_with_more_bits_than_the_header_says(precision, signed):
    values = VALUES.astype(np.int64) - 2048 * signed
    dataset = dicom_dataset(values.astype(np.int16 if signed else np.uint16), BitsStored=12, HighBit=11)
    for samples in {(values % 2**precision).tobytes(), (values % 2**12).tobytes()}:
        stream = encode_lossless(np.frombuffer(samples, np.int64).reshape(16, 16), precision)
        put_compressed(dataset, [stream], JPEGLosslessSV1)
        assert levels(file_bytes(dataset)) == LEVELS


def test_compressed_samples_beyond_the_bits_of_the_header():
    dataset = dicom_dataset(VALUES, BitsStored=10, HighBit=9)
    put_compressed(dataset, [encode_lossless(VALUES, 12)], JPEGLosslessSV1)
    assert "has values of more than 10 bits in its compressed data" in refusal(file_bytes(dataset))
    # Lossy compression may go a little beyond: 1023 stays white.
    values = np.array([[0, 1023], [1030, 500]])
    dataset = dicom_dataset(values.astype(np.uint16), BitsStored=10, HighBit=9)
    put_compressed(dataset, [encode_lossless(values, 12)], JPEGLosslessSV1)
    assert levels(file_bytes(dataset)) == [[0, 255], [255, 125]]


@pytest.mark.parametrize(("precision", "signed"), [(8, False), (8, True), (12, True)])
def test_compressed_samples_with_fewer_bits_than_the_header_says(precision, signed):
    dataset = dicom_dataset(VALUES.astype(np.int16) if signed else VALUES)
    put_compressed(dataset, [encode_lossless(VALUES >> (12 - precision), precision)], JPEGLosslessSV1)
    assert f"has 16 bits by its header, but {precision} in its compressed data" in refusal(file_bytes(dataset))


def test_eight_bits_compressed_for_cells_of_sixteen():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    dataset = dicom_dataset(values, BitsStored=8, HighBit=7)
    put_compressed(dataset, [encode_lossless(values, 8)], JPEGLosslessSV1)
    assert levels(file_bytes(dataset)) == values.tolist()


FRAMES = np.stack([np.full((8, 8), 40 * number, np.uint8) + np.arange(8, dtype=np.uint8) for number in range(4)])


@pytest.mark.parametrize("offsets", [True, False])
def test_only_the_frame_that_is_asked_for_must_be_whole(offsets):
    streams = [encode_lossless(frame, 8) for frame in FRAMES]
    dataset = dicom_dataset(FRAMES)
    put_compressed(dataset, [streams[0], streams[1][:-30], *streams[2:]], JPEGLosslessSV1, offsets)
    for frame in (0, 2, 3):
        assert levels(file_bytes(dataset), View(frames=frame)) == FRAMES[frame].tolist()
    assert "is damaged: cut off" in refusal(file_bytes(dataset), View(frames=1))


@pytest.mark.parametrize(("encode", "syntax"), [(encode_lossless, JPEGLosslessSV1), (encode_rle, RLELossless)])
@pytest.mark.parametrize("offsets", [True, False])
def test_a_frame_that_is_missing_moves_no_other(encode, syntax, offsets):
    streams = [encode(frame, 8) if encode is encode_lossless else encode(frame) for frame in FRAMES]
    dataset = dicom_dataset(FRAMES)
    put_compressed(dataset, [streams[0], *streams[2:]], syntax, offsets)
    for frame in range(1, 4):
        try:
            assert levels(file_bytes(dataset), View(frames=frame)) == FRAMES[frame].tolist()
        except UserError as error:
            assert "is damaged: " in str(error)


def fragmented(streams, parts, missing):
    """Frames in several fragments without a table of offsets; some fragments are left out."""
    from pydicom.encaps import fragment_frame, itemize_fragment

    fragments = [part for stream in streams for part in fragment_frame(stream, parts)]
    kept = [part for number, part in enumerate(fragments) if number not in missing]
    return b"\xfe\xff\x00\xe0\0\0\0\0" + b"".join(itemize_fragment(part) for part in kept)


@pytest.mark.parametrize("missing", [(), (0,), (1,), (2,), (3,), (5,), (11,), (3, 4, 5)])
def test_frames_in_fragments(missing):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    dataset = dicom_dataset(frames)
    streams = [encode_lossless(frame, 8) for frame in frames]
    put_compressed(dataset, streams, JPEGLosslessSV1)
    dataset.PixelData = fragmented(streams, 3, missing)
    for frame in range(4):
        try:
            assert levels(file_bytes(dataset), View(frames=frame)) == frames[frame].tolist()
        except UserError as error:
            assert missing
            assert "\n" not in str(error)


@pytest.mark.parametrize("missing", range(5))
def test_a_frame_that_lacks_a_fragment(missing):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    image, stream = small.resize((200, 160), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    dataset = dicom_dataset(np.asarray(image))
    put_compressed(dataset, [stream.getvalue()], JPEG_BASELINE)
    assert levels(file_bytes(dataset))
    dataset.PixelData = fragmented([stream.getvalue()], 5, (missing,))
    refusal(file_bytes(dataset))
