import numpy as np
import pytest
from pydicom import Dataset

from helpers.dicom_encoding import dicom_bytes, file_bytes
from helpers.dicom_files import dicom_dataset, levels, problem, write_dicom
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.errors import UserError

RAMP = np.array([[0, 100], [200, 500]], dtype=np.uint16)
BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture
def reader(tmp_path):
    return ImageReader([tmp_path])


def grey(pixels, photometric="MONOCHROME2", view=None, syntax="explicit", **elements):
    content = dicom_bytes(pixels, syntax, photometric, **elements)
    image = ImageReader([]).open_bytes(content, view) if view else ImageReader([]).open_bytes(content)
    return np.asarray(image)[..., 0].tolist()


def refusal(pixels, view=None, syntax="explicit", **elements):
    with pytest.raises(UserError) as caught:
        grey(pixels, view=view or View(), syntax=syntax, **elements)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(first, bits, data, kind="US", count=None):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data) if count is None else count, first, bits])
    item.add_new("LUTData", kind, data)
    return [item]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"RescaleSlope": -1, "RescaleIntercept": 255}, 255 - BYTES),
        ({"RescaleSlope": -1, "RescaleIntercept": 0}, 255 - BYTES),
        ({"RescaleSlope": -0.25, "RescaleIntercept": 1000}, 255 - BYTES),
        ({"RescaleSlope": 3, "RescaleIntercept": -100}, BYTES),
        ({"ModalityLUTSequence": table(0, 16, list(range(255, -1, -1)))}, 255 - BYTES),
        ({"ModalityLUTSequence": table(0, 16, [2 * min(value, 255 - value) for value in range(256)])}, None),
    ],
)
def test_eight_bits_through_any_modality_transform(elements, expected):
    if expected is None:  # rises to 254, and falls
        expected = np.round(np.minimum(BYTES, 255 - BYTES) * 2 * (255 / 254))
    assert grey(BYTES, **elements) == expected.tolist()
    assert grey(BYTES, "MONOCHROME1", **elements) == (255 - expected).tolist()


def test_a_falling_transform_of_a_frame():
    group, inner = Dataset(), Dataset()
    inner.RescaleSlope, inner.RescaleIntercept = -2, 10
    group.PixelValueTransformationSequence = [inner]
    assert grey(BYTES, PerFrameFunctionalGroupsSequence=[group]) == (255 - BYTES).tolist()


def test_a_slope_of_zero_tells_nothing_of_the_unit():
    for slope in ("0", "0.0", "nan", "inf"):
        assert grey(BYTES, RescaleSlope=("LO", slope), RescaleIntercept=5) == BYTES.tolist()
        assert grey(RAMP, RescaleSlope=("LO", slope), RescaleIntercept=5) == [[0, 51], [102, 255]]
    assert grey(RAMP, RescaleSlope=2, RescaleIntercept=("LO", "nan")) == [[0, 51], [102, 255]]


def test_a_slope_that_is_not_a_number_is_refused():
    assert "has a RescaleSlope that is not a number" in refusal(RAMP, RescaleSlope=("LO", "abc"))
    assert grey(RAMP, RescaleSlope=("LO", "-1,5")) == [[255, 204], [153, 0]]


def test_a_transform_that_makes_all_pixels_one_value_is_refused():
    assert "gives all its pixels one value" in refusal(BYTES, ModalityLUTSequence=table(0, 16, [7] * 256))
    assert "gives all its pixels one value" in refusal(RAMP, RescaleSlope=1, RescaleIntercept=1e30)


def test_a_modality_table_is_not_cut_to_the_bits_of_its_descriptor():
    values = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    for bits in (8, 10, 16):
        assert grey(values, ModalityLUTSequence=table(0, bits, [4000, 3000, 1000, 0])) == [[255, 191], [64, 0]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_voi_table_goes_up_to_its_own_largest_entry(bits):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = np.round(values * (255 / 4095)).tolist()
    assert grey(values, VOILUTSequence=table(0, bits, list(range(4096)))) == expected
    falling = table(0, bits, np.arange(4095, -1, -1, dtype="<u2").tobytes(), "OW", 4096)
    assert grey(values, VOILUTSequence=falling) == (255 - np.array(expected)).tolist()


@pytest.mark.parametrize(
    "data",
    [
        ("OW", bytes([0, 50, 120, 200])),
        ("OW", np.array([0, 50, 120, 200], dtype="<u2").tobytes()),
        ("US", [0, 50, 120, 200]),
        ("US", [50 * 256, 200 * 256 + 120]),
        ("SS", [0, 50, 120, 200]),
        ("OB", bytes([0, 50, 120, 200])),
    ],
)
@pytest.mark.parametrize("syntax", ["explicit", "big endian"])
def test_a_voi_table_of_eight_bits_in_bytes_or_words(data, syntax):
    values = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    assert grey(values, syntax=syntax, VOILUTSequence=table(0, 8, data[1], data[0], 4)) == [[0, 64], [153, 255]]


def test_a_voi_table_with_signed_words():
    # 40000 and 60000, written as if they had a sign.
    item = table(0, 16, [0, 20000, 40000 - 2**16, 60000 - 2**16], "SS")
    assert grey(np.array([[0, 1], [2, 3]], dtype=np.uint16), VOILUTSequence=item) == [[0, 85], [170, 255]]


@pytest.mark.parametrize(("kind", "first"), [("SS", -1024), ("US", 2**16 - 1024)])
def test_the_first_number_of_a_table_has_the_sign_of_the_values(kind, first):
    item = table(0, 12, [0, 1000, 2000, 4000])
    item[0].add_new("LUTDescriptor", kind, [4, first, 12])
    values = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTSequence": item}
    assert grey(values, **rescaled) == [[0, 64], [128, 255]]
    assert grey(values.astype(np.int16) - 1024, VOILUTSequence=item) == [[0, 64], [128, 255]]


def test_the_first_number_of_a_table_of_large_values():
    item = table(0, 12, [0, 1000, 2000, 4000])
    item[0].add_new("LUTDescriptor", "SS", [4, 40000 - 2**16, 12])
    values = np.array([[40000, 40001], [40002, 40003]], dtype=np.uint16)
    assert grey(values, VOILUTSequence=item) == [[0, 64], [128, 255]]
    assert grey(values, ModalityLUTSequence=item) == [[0, 64], [128, 255]]


def test_65536_entries_are_written_as_0():
    data = np.arange(2**16, dtype="<u2").tobytes()
    values = np.array([[0, 20000], [40000, 65535]], dtype=np.uint16)
    assert grey(values, VOILUTSequence=table(0, 16, data, "OW", 0)) == [[0, 78], [156, 255]]


def test_empty_items_are_passed_over():
    window = {"WindowCenter": 250.5, "WindowWidth": 501}
    for key in ("VOILUTSequence", "ModalityLUTSequence"):
        assert grey(RAMP, **{key: [Dataset()]}) == [[0, 51], [102, 255]]
        assert grey(RAMP, **{key: []}) == [[0, 51], [102, 255]]
        assert grey(RAMP, **{key: [Dataset()]}, **window) == [[0, 51], [102, 255]]
        assert grey(RAMP, **{key: [Dataset(), *table(0, 8, [0] * 200 + [100] * 301)]})[0] == [0, 0]


def broken_tables():
    without, short = table(0, 16, [0, 1, 2]), table(0, 16, [0, 1, 2], count=400)
    del without[0].LUTDescriptor
    long, flat = table(0, 8, [0, 1, 2, 3, 4], count=2), table(0, 16, [9, 9, 9])
    return {
        "whose descriptor has 0 values": without,
        "of 400 entries by its descriptor, but 6 bytes": short,
        "of 2 entries by its descriptor, but 10 bytes": long,
        "makes all pixels one level": flat,
    }


@pytest.mark.parametrize("words", broken_tables())
def test_a_voi_table_that_cannot_be_used(words):
    tables = broken_tables()[words]
    message = refusal(RAMP, VOILUTSequence=tables)
    assert words in message
    assert "give --window CENTER WIDTH" in message
    window = {"WindowCenter": 250.5, "WindowWidth": 501}
    assert grey(RAMP, VOILUTSequence=tables, **window) == [[0, 51], [102, 255]]
    assert grey(RAMP, view=View(window=(250.5, 501)), VOILUTSequence=tables) == [[0, 51], [102, 255]]
    usable = [*tables, *table(0, 16, list(range(501)))]
    assert grey(RAMP, VOILUTSequence=usable) == [[0, 51], [102, 255]]


def test_a_modality_table_without_descriptor_is_refused():
    assert "has a modality LUT whose descriptor has 0 values" in refusal(
        RAMP, ModalityLUTSequence=broken_tables()["whose descriptor has 0 values"]
    )


@pytest.mark.parametrize(
    ("center", "width", "expected"),
    [
        ("250,5", "501", [[0, 51], [102, 255]]),
        ("AUTO", "AUTO", [[0, 51], [102, 255]]),
        ("AUTO", "501", [[0, 51], [102, 255]]),
        ("1,000", "2,000", [[0, 51], [102, 255]]),
        ("", "", [[0, 51], [102, 255]]),
        ("AUTO\\50.5", "1\\101", [[0, 255], [255, 255]]),
        ("50,5\\300", "101\\1", [[0, 255], [255, 255]]),
        ("nan", "100", [[0, 51], [102, 255]]),
        ("100", "inf", [[0, 51], [102, 255]]),
    ],
)
def test_windows_that_are_not_numbers(center, width, expected):
    # Written as text without checks: pydicom would not write them as decimal numbers.
    window = {"WindowCenter": ("LO", center), "WindowWidth": ("LO", width)}
    content = dicom_bytes(RAMP, "explicit", **window)
    content = content.replace(b"\x28\0\x50\x10LO", b"\x28\0\x50\x10DS").replace(
        b"\x28\0\x51\x10LO", b"\x28\0\x51\x10DS"
    )
    assert np.asarray(ImageReader([]).open_bytes(content))[..., 0].tolist() == expected


CIRCLE = np.hypot(*np.mgrid[-8:8, -8:8]) < 7
RAMP_16 = np.tile(np.arange(16) * 100, (16, 1))


@pytest.mark.parametrize(
    ("type_", "elements"),
    [
        ("i2", {"PixelPaddingValue": ("SS", -2000)}),
        ("i2", {"PixelPaddingValue": ("US", 63536)}),
        ("i2", {"PixelPaddingValue": ("OW", b"\x30\xf8")}),
        ("i2", {"PixelPaddingValue": ("SS", -2048), "PixelPaddingRangeLimit": ("SS", -1900)}),
        ("i2", {"PixelPaddingValue": ("US", 63488), "PixelPaddingRangeLimit": ("US", 63636)}),
        ("i2", {"PixelPaddingValue": ("US", 63636), "PixelPaddingRangeLimit": ("SS", -2048)}),
        ("u2", {"PixelPaddingValue": ("SS", -1)}),
        ("u2", {"PixelPaddingValue": ("US", 65535)}),
        ("u2", {"PixelPaddingValue": ("SS", -10), "PixelPaddingRangeLimit": ("SS", -1)}),
        ("u2", {"PixelPaddingValue": ("UL", 65535)}),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "rle", "jpeg lossless"])
def test_padding_is_black_and_not_part_of_the_range(type_, elements, photometric, syntax):
    if syntax == "big endian" and elements["PixelPaddingValue"][0] == "OW":
        return
    values = np.where(CIRCLE, RAMP_16, -2000 if type_ == "i2" else 65535).astype(type_)
    found = np.array(grey(values, photometric, syntax=syntax, **elements))
    inside = np.round((RAMP_16 - 200) * (255 / 1200))
    inside = inside if photometric == "MONOCHROME2" else 255 - inside
    assert found.tolist() == np.where(CIRCLE, inside, 0).tolist()


@pytest.mark.parametrize(
    ("signed", "cell", "kind", "value"),
    [
        (True, 0x0830, "US", 0x0830),  # only the stored 12 bits of -2000
        (True, 0xF830, "US", 0x0830),
        (True, 0x0830, "SS", -2000),
        (False, 0x0FFF, "SS", -1),
        (False, 0xF830, "SS", -2000),  # outside the stored bits
        (False, 0xF830, "US", 0xF830),
    ],
)
def test_padding_of_twelve_bits(signed, cell, kind, value):
    values = np.where(CIRCLE, RAMP_16, cell).astype(np.uint16).view(np.int16 if signed else np.uint16)
    found = grey(values, BitsStored=12, HighBit=11, PixelPaddingValue=(kind, value))
    assert found == np.where(CIRCLE, np.round((RAMP_16 - 200) * (255 / 1200)), 0).tolist()


def test_padding_of_a_picture_of_padding_only():
    assert grey(RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=500) == [[0, 51], [102, 255]]
    assert grey(np.zeros((2, 2), np.uint16), PixelPaddingValue=0) == [[0, 0], [0, 0]]


@pytest.mark.parametrize("type_", [np.uint8, np.uint16])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 64, "WindowWidth": 128}])
def test_padding_of_monochrome1_is_black(type_, window):
    values = np.array([[0, 1], [100, 200]], dtype=type_)
    found = grey(values, "MONOCHROME1", PixelPaddingValue=0, **window)
    assert found[0][0] == 0
    assert found[0][1] > found[1][0] >= found[1][1]


def test_the_presentation_lut_shape_changes_nothing():
    for shape in ("INVERSE", "IDENTITY"):
        assert grey(RAMP, PresentationLUTShape=shape) == [[0, 51], [102, 255]]
        assert grey(RAMP, "MONOCHROME1", PresentationLUTShape=shape) == [[255, 204], [153, 0]]


def float_bytes(values, photometric="MONOCHROME2", **elements):
    """A file with Float or Double Float Pixel Data, without the attributes of integers."""
    dataset = dicom_dataset(np.zeros(values.shape, np.uint8), photometric, BitsAllocated=values.dtype.itemsize * 8)
    for key in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, key)
    if values.dtype.itemsize == 4:
        dataset.add_new("FloatPixelData", "OF", values.tobytes())
    else:
        dataset.add_new("DoubleFloatPixelData", "OD", values.tobytes())
    for key, value in elements.items():
        setattr(dataset, key, value)
    return file_bytes(dataset)


def float_levels(values, photometric="MONOCHROME2", view=None, **elements):
    content = float_bytes(values, photometric, **elements)
    image = ImageReader([]).open_bytes(content, view) if view else ImageReader([]).open_bytes(content)
    return np.asarray(image)[..., 0].tolist()


@pytest.mark.parametrize("type_", [np.float32, np.float64])
def test_float_pixel_data(type_):
    values = np.array([[-0.5, 0.5], [1.5, 4.5]], dtype=type_)
    assert float_levels(values) == [[0, 51], [102, 255]]
    assert float_levels(values, "MONOCHROME1") == [[255, 204], [153, 0]]
    assert float_levels(values, RescaleSlope=-2, RescaleIntercept=7) == [[255, 204], [153, 0]]
    window = {"WindowCenter": 2, "WindowWidth": 5, "VOILUTFunction": "LINEAR_EXACT"}
    assert float_levels(values, **window) == [[0, 51], [102, 255]]
    assert float_levels(values, view=View(window=(100, 10))) == [[0, 0], [0, 0]]
    assert float_levels(values * 1000, VOILUTSequence=table(-500, 16, list(range(5001)))) == [[0, 51], [102, 255]]


def test_float_values_that_are_not_numbers_are_black():
    values = np.array([[np.nan, 0], [np.inf, 5], [-np.inf, 1]], dtype=np.float32)
    assert float_levels(values) == [[0, 0], [0, 255], [0, 51]]
    assert float_levels(values, "MONOCHROME1") == [[0, 255], [0, 0], [0, 204]]
    with pytest.raises(UserError, match="has no pixel with a finite value"):
        float_levels(np.full((2, 2), np.nan, dtype=np.float32))


def test_float_padding():
    values = np.array([[-1e9, 0], [1, 5]], dtype=np.float32)
    assert float_levels(values, FloatPixelPaddingValue=-1e9) == [[0, 0], [51, 255]]
    assert float_levels(values, "MONOCHROME1", FloatPixelPaddingValue=-1e9) == [[0, 255], [204, 0]]
    limits = {"FloatPixelPaddingValue": -2e9, "FloatPixelPaddingRangeLimit": -1.0}
    assert float_levels(values, **limits) == [[0, 0], [51, 255]]
    # 0.1 in 32 bits is not 0.1 in 64 bits.
    assert float_levels(np.array([[0.1, 1], [2, 6]], np.float32), FloatPixelPaddingValue=0.1) == [[0, 0], [51, 255]]
    assert float_levels(values.astype(float), DoubleFloatPixelPaddingValue=-1e9) == [[0, 0], [51, 255]]


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1.0, 1e307])
def test_floats_of_any_size(scale):
    assert float_levels(np.array([[-5, 0], [5, 10]]) * scale) == [[0, 85], [170, 255]]


def test_colours_over_greys_are_refused(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PixelPresentation="MIXED")
    assert "shows colours over its greys" in problem(reader, path)
    path = write_dicom(tmp_path / "b.dcm", RAMP, PixelPresentation="MONOCHROME")
    assert levels(reader, path) == [[0, 51], [102, 255]]
