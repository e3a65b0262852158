"""Every way to write a grey DICOM image that is read, against pydicom's own formulas and NumPy."""

import itertools

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.pixels import apply_rescale, apply_windowing

from helpers.dicom_encoding import SYNTAXES, dicom_bytes
from medcap.data.images.reader import ImageReader

# Bits allocated, bits stored, high bit.
LAYOUTS = (
    (1, 1, 0),
    (8, 8, 7),
    (8, 6, 5),
    (8, 5, 6),
    (16, 8, 7),
    (16, 12, 11),
    (16, 12, 15),
    (16, 16, 15),
    (32, 20, 22),
)
SIGNS = ("unsigned", "signed")
COLOURS = ("MONOCHROME2", "MONOCHROME1")
MODALITIES = ("none", "rising", "falling", "falling table", "table that rises and falls")
DISPLAYS = ("none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "table", "falling table", "table of 8 bits")
PADDINGS = ("none", "value", "range", "value of the other sign")
GREYS = list(itertools.product(MODALITIES, DISPLAYS, COLOURS, PADDINGS))


def is_written(layout, sign, syntax):
    allocated, stored, high = layout
    if allocated == 1:
        return sign == "unsigned" and syntax in ("explicit", "implicit", "deflated", "big endian")
    if syntax == "jpeg 2000":
        return high == stored - 1 and allocated < 32
    return not (syntax == "jpeg lossless" and allocated == 32)


WRITTEN = [way for way in itertools.product(LAYOUTS, SIGNS, SYNTAXES) if is_written(*way)]
# All pairs of two choices, few enough to be quick.
CASES = [
    (*way, *GREYS[(number * 97 + turn * 67) % len(GREYS)]) for number, way in enumerate(WRITTEN) for turn in range(4)
]


def stored_values(layout, sign, syntax):
    """Values spread over the whole range, and from -150 or 0 on, where the tables are."""
    bits = layout[1]
    values = np.round(np.linspace(0, 2**bits - 1, 60)).astype(np.int64)
    if sign == "signed":
        values -= 2 ** (bits - 1)
    if bits > 8:
        values[10:50] = np.arange(0, 400, 10) - (150 if sign == "signed" else 0)
    values = np.random.default_rng(bits).permutation(values).reshape(6, 10)
    return np.tile(values, (6, 4)) if syntax == "jpeg 2000" else values  # its encoder wants 32 rows and columns


def cells_of(values, layout, sign, syntax):
    """The values in the bits that hold them; the unused bits above are set wherever a file may do so."""
    allocated, stored, high = layout
    if allocated == 1:
        return np.packbits(values.astype(np.uint8).reshape(1, -1), bitorder="little", axis=1)
    cells = (values & (2**stored - 1)) << (high + 1 - stored)
    above = allocated - 1 - high
    if above and syntax not in ("jpeg 2000", "jpeg lossless"):
        cells |= (np.arange(values.size).reshape(values.shape) % 2**above) << (high + 1)
    elif sign == "signed" and syntax == "jpeg 2000":
        cells = values
    cells = cells.astype(np.int64) & (2**allocated - 1)
    return cells.astype(f"u{allocated // 8}").view(f"{'i' if sign == 'signed' else 'u'}{allocated // 8}")


def table_item(first, bits, entries, kind="OW"):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    words = np.asarray(entries, dtype="<u2" if bits > 8 or kind == "US" else "u1")
    item.add_new("LUTData", kind, words.tobytes() if kind == "OW" else words.tolist())
    return [item]


def look_up(entries, first, values):
    return np.asarray(entries)[np.clip(values - first, 0, len(entries) - 1)]


def case_of(layout, sign, syntax, modality, display, colours, padding):
    """A file, and the levels it must have."""
    bits = layout[1]
    stored = stored_values(layout, sign, syntax)
    cells = cells_of(stored, layout, sign, syntax)
    low = -(2 ** (bits - 1)) if sign == "signed" else 0
    elements = {"BitsAllocated": layout[0], "BitsStored": bits, "HighBit": layout[2]}
    elements |= {"PixelRepresentation": int(sign == "signed"), "Rows": stored.shape[0], "Columns": stored.shape[1]}
    formula = Dataset()
    formula.PhotometricInterpretation = "MONOCHROME2"
    formula.BitsStored, formula.PixelRepresentation = bits, elements["PixelRepresentation"]

    whole = np.arange(2**bits) if bits <= 8 and sign == "unsigned" else None
    first, entries = 0, None
    if "table" in modality:
        count = min(2**bits, 300)
        first = max(low + (bits > 1), -140)
        entries = np.arange(count)[::-1] * 7 % 2001 if modality == "falling table" else np.abs(np.arange(count) - 9) * 3
        elements["ModalityLUTSequence"] = table_item(first, 16, entries)
        values = look_up(entries, first, stored)
        whole = None if whole is None else look_up(entries, first, whole)
    elif modality != "none":
        slope = {"rising": 2.0, "falling": -3.0}[modality]
        elements |= {"RescaleSlope": slope, "RescaleIntercept": -1000.0}
        formula.RescaleSlope, formula.RescaleIntercept = slope, -1000.0
        values = apply_rescale(stored, formula)
        whole = None if whole is None else apply_rescale(whole, formula)
    else:
        values = stored

    shown = np.ones(stored.shape, dtype=bool)
    if padding != "none":
        ends = [int(np.unique(stored)[-1])] if bits <= 16 else [60]
        if padding == "range" and bits <= 16:
            ends.append(int(np.unique(stored)[-3:][0]))
        shown = (stored < min(ends)) | (stored > max(ends))
        if not shown.any():
            shown[:] = True
        kind = "SS" if (sign == "signed") == (padding != "value of the other sign") else "US"
        for keyword, end in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=False):
            elements[keyword] = (kind, (end + 2**15) % 2**16 - 2**15 if kind == "SS" else end % 2**16)

    center, width = float(np.median(values)), float(np.ptp(values)) / 2 + 2
    if display in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        center, width = round(center, 2), round(width, 2)
        elements |= {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": display}
        formula.WindowCenter, formula.WindowWidth, formula.VOILUTFunction = center, width, display
        ends = np.array([-1e12, 1e12])
        result = apply_windowing(np.concatenate([values.ravel(), ends]).astype(float), formula)
        expected = ((result - result[-2]) / (result[-1] - result[-2]) * 255)[:-2].reshape(values.shape)
    elif "table" in display:
        count = 200
        start = int(np.clip(values.min() + 1, -32768, 32767))
        numbers = np.arange(count)
        table = {"table": numbers * 20, "falling table": 4000 - numbers * 20, "table of 8 bits": numbers}[display]
        depth = 8 if display == "table of 8 bits" else 12
        elements["VOILUTSequence"] = table_item(start, depth, table, "OW" if depth == 8 else "US")
        expected = look_up(table, start, np.round(values).astype(np.int64)) * 255 / table.max()
    else:
        known = whole if whole is not None else values[shown]
        expected = np.clip((values - known.min()) / (known.max() - known.min()), 0, 1) * 255
    if colours == "MONOCHROME1":
        expected = 255 - expected
    return cells, elements, np.where(shown, expected, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_grey_image_has_the_levels_of_the_standard(syntax):
    reader = ImageReader([])
    wrong = []
    for case in CASES:
        if case[2] == syntax:
            cells, elements, expected = case_of(*case)
            found = np.asarray(reader.open_bytes(dicom_bytes(cells, syntax, case[5], **elements)))[..., 0]
            # Half a level, and what rounding of the last digits may add.
            if np.abs(found - expected).max() > 0.5 + 1e-6:
                wrong.append(case)
    assert wrong == []


def test_every_two_choices_are_tried_together():
    for one, other in itertools.combinations(range(7), 2):
        choices = [LAYOUTS, SIGNS, SYNTAXES, MODALITIES, DISPLAYS, COLOURS, PADDINGS]
        possible = set(itertools.product(choices[one], choices[other]))
        if other < 3:
            possible &= {(way[one], way[other]) for way in WRITTEN}
        assert {(case[one], case[other]) for case in CASES} >= possible
