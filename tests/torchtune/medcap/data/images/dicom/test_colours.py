import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from helpers.dicom_encoding import dicom_bytes, file_bytes, put_compressed
from helpers.dicom_files import JPEG_BASELINE, dicom_dataset
from helpers.jpeg_lossless import encode_lossless
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

READER = ImageReader([])


def refusal(content):
    with pytest.raises(UserError) as caught:
        READER.open_bytes(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


COLOURS = np.random.default_rng(0).integers(0, 256, (32, 34, 3), dtype=np.uint8)


def rgb_of(ybr):
    """PS3.3, C.7.6.3.1.2."""
    y, b, r = (ybr[..., number].astype(float) - (number > 0) * 128 for number in range(3))
    return np.clip(np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1), 0, 255)


def colours(content):
    return np.asarray(READER.open_bytes(content)).astype(int)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "rle", "jpeg 2000", "jpeg lossless"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_of_any_bits_and_order(photometric, bits, syntax, planar):
    if syntax == "jpeg 2000" and (photometric != "RGB" or bits == 12):
        return  # not what pydicom compresses
    deep = COLOURS.astype(np.uint8 if bits == 8 else np.uint16) << (bits - 8)
    cells = deep
    if planar and syntax in ("explicit", "implicit", "big endian"):
        cells = np.moveaxis(deep, -1, 0).reshape(deep.shape)
    elif planar:
        return
    found = colours(
        dicom_bytes(cells, syntax, photometric, BitsStored=bits, HighBit=bits - 1, PlanarConfiguration=planar)
    )
    expected = COLOURS if photometric == "RGB" else rgb_of(COLOURS)
    assert np.abs(found - expected).max() <= (0 if photometric == "RGB" else 1)


def test_halved_colours_without_compression():
    ybr = COLOURS.copy()
    ybr[:, 1::2, 1:] = ybr[:, ::2, 1:]
    pairs = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
    dataset = dicom_dataset(COLOURS, "YBR_FULL_422")
    dataset.PixelData = pairs.tobytes()
    assert np.abs(colours(file_bytes(dataset)) - rgb_of(ybr)).max() <= 1
    dataset.PlanarConfiguration = 1
    assert "YBR_FULL_422 with odd columns or by planes" in refusal(file_bytes(dataset))
    dataset.PlanarConfiguration, dataset.Columns = 0, 33
    assert "YBR_FULL_422 with odd columns or by planes" in refusal(file_bytes(dataset))
    dataset = dicom_dataset(COLOURS, "YBR_FULL_422")
    assert "is damaged: " in refusal(file_bytes(dataset))


def test_colours_of_few_bits_and_of_a_header_with_too_many():
    few = (COLOURS >> 4).astype(np.uint8)
    assert colours(dicom_bytes(few, "explicit", "RGB", BitsStored=4, HighBit=3)).tolist() == (few * 17).tolist()
    assert "YCbCr colours of 4 bits" in refusal(dicom_bytes(few, "explicit", "YBR_FULL", BitsStored=4, HighBit=3))
    assert colours(dicom_bytes(COLOURS.astype(np.uint16), "explicit", "RGB")).tolist() == COLOURS.tolist()
    dataset = dicom_dataset(COLOURS.astype(np.uint16), "RGB")
    put_compressed(dataset, [encode_lossless(COLOURS // 9, 8)], JPEGLosslessSV1)
    assert colours(file_bytes(dataset)).tolist() == (COLOURS // 9).tolist()


def test_colours_have_no_sign():
    assert colours(dicom_bytes(COLOURS, "explicit", "RGB", PixelRepresentation=1)).tolist() == COLOURS.tolist()
    deep = COLOURS.astype(np.uint16) * 257
    assert colours(dicom_bytes(deep, "explicit", "RGB", PixelRepresentation=1)).tolist() == COLOURS.tolist()


def test_colours_of_jpeg_2000_without_it():
    assert "has the colours YBR_RCT without JPEG 2000" in refusal(
        dicom_bytes(COLOURS, "explicit", "RGB", PhotometricInterpretation="YBR_RCT")
    )


def smooth_colours():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((64, 48), Image.Resampling.BICUBIC)


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def jpeg_2000(pixels, transform):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, mct=transform)
    return stream.getvalue()


def without_segments(stream, *markers):
    position = 2
    while stream[position + 1] != 0xDA:
        length = int.from_bytes(stream[position + 2 : position + 4], "big") + 2
        if stream[position + 1] in markers:
            stream = stream[:position] + stream[position + length :]
        else:
            position += length
    return stream


ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
YCBCR = jpeg(smooth_colours(), subsampling=0)
HALVED = jpeg(smooth_colours(), subsampling=2)
RGB = jpeg(smooth_colours(), keep_rgb=True)


def marked(stream, transform):
    bare = without_segments(stream, 0xE0, 0xEE)
    return bare[:2] + ADOBE + bytes([transform]) + bare[2:]


def renumbered(stream):
    """The components called 1, 2 and 3."""
    return stream.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0").replace(
        b"\3R\0G\0B\0", b"\3\1\0\2\0\3\0"
    )


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [
        (YCBCR, "YBR_FULL"),
        (YCBCR, "YBR_FULL_422"),
        (YCBCR, "RGB"),  # JFIF says YCbCr
        (without_segments(YCBCR, 0xE0), "YBR_FULL"),
        (marked(YCBCR, 1), "RGB"),
        (marked(YCBCR, 1), "YBR_FULL_422"),
        (HALVED, "YBR_FULL_422"),
        (HALVED, "RGB"),
        (without_segments(HALVED, 0xE0), "YBR_FULL_422"),
        (without_segments(HALVED, 0xE0), "RGB"),  # halved colours cannot be RGB
        (marked(HALVED, 1), "RGB"),
        (RGB, "RGB"),
        (RGB, "YBR_FULL_422"),  # Adobe's mark and the names of the components say RGB
        (without_segments(RGB, 0xEE), "YBR_FULL"),  # their names alone
        (without_segments(RGB, 0xEE), "RGB"),
        (renumbered(RGB), "YBR_FULL"),  # Adobe's mark alone
        (without_segments(renumbered(RGB), 0xEE), "RGB"),
    ],
)
def test_colours_of_a_jpeg_that_the_header_contradicts(stream, photometric):
    dataset = dicom_dataset(np.asarray(smooth_colours()), photometric)
    put_compressed(dataset, [stream], JPEG_BASELINE)
    assert np.abs(colours(file_bytes(dataset)) - np.asarray(smooth_colours()).astype(int)).mean() < 4


def test_a_jpeg_that_says_nothing_of_its_colours_has_those_of_the_header():
    dataset = dicom_dataset(np.asarray(smooth_colours()), "RGB")
    put_compressed(dataset, [without_segments(YCBCR, 0xE0)], JPEG_BASELINE)
    ycbcr = np.asarray(smooth_colours().convert("YCbCr")).astype(int)
    assert np.abs(colours(file_bytes(dataset)) - ycbcr).mean() < 4


def test_a_jpeg_that_contradicts_itself_is_refused():
    dataset = dicom_dataset(np.asarray(smooth_colours()), "RGB")
    put_compressed(dataset, [marked(HALVED, 0)], JPEG_BASELINE)
    assert "say both RGB and YCbCr" in refusal(file_bytes(dataset))


@pytest.mark.parametrize(("photometric", "transform"), [("RGB", 0), ("RGB", 1), ("YBR_RCT", 1), ("YBR_ICT", 1)])
def test_colours_of_a_jpeg_2000(photometric, transform):
    dataset = dicom_dataset(COLOURS, "RGB", PhotometricInterpretation=photometric)
    put_compressed(dataset, [jpeg_2000(COLOURS, transform)], JPEG2000Lossless)
    assert colours(file_bytes(dataset)).tolist() == COLOURS.tolist()


@pytest.mark.parametrize(("photometric", "transform"), [("YBR_FULL", 1), ("YBR_RCT", 0), ("YBR_ICT", 0)])
def test_a_jpeg_2000_that_the_header_contradicts_is_refused(photometric, transform):
    dataset = dicom_dataset(COLOURS, "RGB", PhotometricInterpretation=photometric)
    put_compressed(dataset, [jpeg_2000(COLOURS, transform)], JPEG2000Lossless)
    assert f"has the colours {photometric}, which its JPEG 2000 data contradict" in refusal(file_bytes(dataset))


def test_ycbcr_in_a_jpeg_2000():
    dataset = dicom_dataset(COLOURS, "YBR_FULL")
    put_compressed(dataset, [jpeg_2000(COLOURS, 0)], JPEG2000Lossless)
    assert np.abs(colours(file_bytes(dataset)) - rgb_of(COLOURS)).max() <= 1


def test_samples_that_the_header_contradicts_are_refused():
    dataset = dicom_dataset(COLOURS[..., 0])
    put_compressed(dataset, [encode_lossless(COLOURS, 8)], JPEGLosslessSV1)
    assert "has 1 samples a pixel by its header, but 3 in its compressed data" in refusal(file_bytes(dataset))
    dataset = dicom_dataset(COLOURS, "RGB")
    put_compressed(dataset, [encode_lossless(COLOURS[..., 0], 8)], JPEGLosslessSV1)
    assert "has 3 samples a pixel by its header, but 1 in its compressed data" in refusal(file_bytes(dataset))
