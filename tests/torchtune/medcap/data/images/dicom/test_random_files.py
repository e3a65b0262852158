"""Random headers and damaged files: the levels that NumPy computes, or one line; never a picture of one level."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from helpers.dicom_encoding import SYNTAXES, dicom_bytes, file_bytes
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

QUICK = settings(derandomize=True, deadline=None, max_examples=100, database=None)
READER = ImageReader([])
NUMBERS = st.one_of(st.sampled_from(["", "AUTO", "40,5", "1,000", "nan", "-inf", "0", "1e400"]), st.floats(-4000, 4000))


def read(content):
    """The levels, or None for a file that is refused in one line."""
    try:
        return np.asarray(READER.open_bytes(content))
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("image of this request ")
        return None


def number(text):
    try:
        return float(str(text).replace("40,5", "40.5"))
    except ValueError:
        return None


@st.composite
def grey_files(draw):
    """A file with any header that does not contradict itself; its levels if it is read."""
    allocated = draw(st.sampled_from([8, 16]))
    stored = draw(st.integers(2, allocated))
    high = draw(st.integers(stored - 1, allocated - 1))
    signed = draw(st.booleans())
    inverted = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 9)))
    values = random.integers(0, 2**stored, (5, 6))
    values.flat[:2] = 0, 2**stored - 1
    low = -(2 ** (stored - 1)) if signed else 0
    values += low
    unused = random.integers(0, 2**16, values.shape) << (high + 1)
    cells = ((values & (2**stored - 1)) << (high + 1 - stored)) | unused
    cells = (cells & (2**allocated - 1)).astype(f"u{allocated // 8}").view(f"{'ui'[signed]}{allocated // 8}")
    elements = {"BitsStored": stored, "HighBit": high}

    slope, intercept = draw(st.one_of(st.just((None, None)), st.tuples(NUMBERS, NUMBERS)))
    if slope is not None:
        elements |= {"RescaleSlope": ("LO", str(slope)[:16]), "RescaleIntercept": ("LO", str(intercept)[:16])}
        slope, intercept = (number(elements[key][1]) for key in ("RescaleSlope", "RescaleIntercept"))
        empty = {key for key in ("RescaleSlope", "RescaleIntercept") if elements[key][1] == ""}
        slope, intercept = 1.0 if "RescaleSlope" in empty else slope, 0.0 if "RescaleIntercept" in empty else intercept
        if slope is None or intercept is None:
            return cells, elements, inverted, "refused"
    usable = slope and np.isfinite(slope) and np.isfinite(intercept)

    def units(numbers):
        return numbers * slope + intercept if usable else numbers.astype(float)

    result = units(values)
    if result.min() == result.max():
        return cells, elements, inverted, "refused"
    center, width = draw(st.one_of(st.just((None, None)), st.tuples(NUMBERS, NUMBERS)))
    if center is not None:
        elements |= {"WindowCenter": ("LO", str(center)[:16]), "WindowWidth": ("LO", str(width)[:16])}
        elements["VOILUTFunction"] = "LINEAR_EXACT"
        center, width = number(elements["WindowCenter"][1]), number(elements["WindowWidth"][1])
    if center is None or width is None or not (np.isfinite(center) and np.isfinite(width) and width > 0):
        center = None
    padding = draw(st.one_of(st.none(), st.sampled_from([low, low + 2**stored - 1])))
    shown = np.ones(values.shape, dtype=bool)
    if padding is not None:
        kind = draw(st.sampled_from(["US", "SS"]))
        value = (padding + 2**15) % 2**16 - 2**15 if kind == "SS" else padding % 2**16
        elements["PixelPaddingValue"] = (kind, value)
        shown = values != padding
    if center is not None:
        ends = center - width / 2, center + width / 2
    elif stored <= 8 and not signed:
        every = units(np.arange(2**stored))
        ends = every.min(), every.max()
    else:
        ends = result[shown].min(), result[shown].max()
    if ends[0] == ends[1]:
        expected = np.where(result > ends[0], 255.0, 0.0)
    else:
        expected = np.clip((result - ends[0]) / (ends[1] - ends[0]), 0, 1) * 255
    return cells, elements, inverted, np.where(shown, 255 - expected if inverted else expected, 0)


@pytest.mark.slow
@QUICK
@given(file=grey_files(), syntax=st.sampled_from(["explicit", "implicit", "big endian", "rle"]))
def test_a_random_header_is_read_as_numpy_does_or_refused(file, syntax):
    cells, elements, inverted, expected = file
    found = read(dicom_bytes(cells, syntax, "MONOCHROME1" if inverted else "MONOCHROME2", **elements))
    if isinstance(expected, str):
        assert found is None
    else:
        assert np.abs(found[..., 0] - expected).max() <= 0.5 + 1e-6


JUNK = st.one_of(
    st.tuples(st.just("US"), st.integers(0, 40)),
    st.tuples(st.just("US"), st.integers(0, 2**16 - 1)),
    st.tuples(st.just("SS"), st.integers(-(2**15), 2**15 - 1)),
    st.tuples(st.just("LO"), st.text("0123456789.,-+eE\\ naifNAO", max_size=12)),
    st.tuples(st.just("UN"), st.binary(max_size=9)),
    st.tuples(st.just("US"), st.lists(st.integers(0, 2**16 - 1), max_size=5)),
    st.tuples(st.just("SQ"), st.sampled_from([[], [Dataset()]])),
)
ELEMENTS = (
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PlanarConfiguration"),
    *("NumberOfFrames", "Rows", "Columns", "PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "VOILUTFunction", "PixelSpacing", "PixelAspectRatio"),
    *("ModalityLUTSequence", "VOILUTSequence", "PixelPresentation", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "RedPaletteColorLookupTableDescriptor"),
)


def files_to_change():
    for photometric in ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "PALETTE COLOR"):
        three = photometric in ("RGB", "YBR_FULL")
        cells = (np.arange(1600 * (3 if three else 1)) % 1600).astype(np.uint16)
        palette = {}
        for colour in ("Red", "Green", "Blue") if photometric == "PALETTE COLOR" else ():
            palette[f"{colour}PaletteColorLookupTableDescriptor"] = [1600, 0, 16]
            palette[f"{colour}PaletteColorLookupTableData"] = (cells * 40).astype("<u2").tobytes()
        cells = cells.reshape((40, 40, 3) if three else (40, 40))
        for syntax in SYNTAXES:
            if not (syntax == "jpeg 2000" and three):
                yield dicom_bytes(cells, syntax, photometric, **palette)


CHANGED = list(files_to_change())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@QUICK
@given(
    number=st.integers(0, len(CHANGED) - 1),
    elements=st.dictionaries(st.sampled_from(ELEMENTS), JUNK, min_size=1, max_size=3),
)
def test_elements_of_any_value_make_one_line_or_a_picture(number, elements):
    dataset = dcmread(io.BytesIO(CHANGED[number]))
    try:
        for key, (kind, value) in elements.items():
            if key in dataset:
                del dataset[key]
            dataset.add_new(key, kind, value)
        content = file_bytes(dataset)
    except (ValueError, TypeError, AttributeError, OSError):
        return  # pydicom does not write it
    picture = read(content)
    assert picture is None or picture.min() < picture.max()


def whole_files():
    deep = (np.random.default_rng(0).integers(0, 4096, (34, 33))).astype(np.uint16)
    colours = np.random.default_rng(0).integers(0, 256, (34, 33, 3), dtype=np.uint8)
    for syntax in SYNTAXES:
        yield dicom_bytes(deep, syntax, BitsStored=12, HighBit=11)
        yield dicom_bytes(colours, syntax, "RGB")


WHOLE = list(whole_files())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@QUICK
@given(
    number=st.integers(0, len(WHOLE) - 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
    end=st.one_of(st.none(), st.floats(0.1, 1)),
)
def test_damaged_files_make_one_line_or_a_picture(number, flips, end):
    damaged = bytearray(WHOLE[number])
    for position, change in flips:
        damaged[128 + int(position * (len(damaged) - 129))] ^= change
    if end is not None:
        damaged = damaged[: int(end * (len(damaged) - 8))]
        if not flips:
            assert read(bytes(damaged)) is None
            return
    picture = read(bytes(damaged))
    assert picture is None or picture.min() < picture.max()
