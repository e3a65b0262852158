import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from helpers.dicom_encoding import dicom_bytes, encode_rle, file_bytes, put_compressed
from helpers.dicom_files import JPEG_BASELINE, dicom_dataset
from helpers.jpeg_lossless import encode_lossless
from medcap.data.grey_levels import View
from medcap.data.images import ImageReader
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
    place = 2
    while stream[place + 1] != 0xDA:
        length = int.from_bytes(stream[place + 2 : place + 4], "big") + 2
        if stream[place + 1] in markers:
            stream = stream[:place] + stream[place + length :]
        else:
            place += length
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
    image = np.asarray(smooth_colours().convert("L").resize((200, 160)))
    dataset = dicom_dataset(image)
    put_compressed(dataset, [jpeg(Image.fromarray(image))], JPEG_BASELINE)
    dataset.PixelData = fragmented([jpeg(Image.fromarray(image))], 5, (missing,))
    refusal(file_bytes(dataset))
