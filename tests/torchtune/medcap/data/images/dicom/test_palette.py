import struct

import numpy as np
import pytest
from pydicom.pixels import apply_color_lut

from helpers.dicom_encoding import dicom_bytes
from helpers.dicom_files import dicom_dataset
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

NAMES = ("Red", "Green", "Blue")
INDICES = np.arange(256, dtype=np.uint8).reshape(16, 16)
COUNT = np.arange(256)
COLOURS = np.stack([COUNT, 255 - COUNT, (COUNT * 7) % 256], axis=-1)


def palette(descriptor, tables, segmented=False, kind="OW"):
    """Elements of three palettes; a table is bytes, or numbers that become words."""
    elements = {}
    for name, table in zip(NAMES, tables, strict=True):
        data = table if isinstance(table, bytes) else np.asarray(table).astype("<u2").tobytes()
        elements[f"{name}PaletteColorLookupTableDescriptor"] = ("SS" if descriptor[1] < 0 else "US", list(descriptor))
        key = "Segmented" * segmented + f"{name}PaletteColorLookupTableData"
        elements[key] = (kind, data)
    return elements


def colours(indices, elements, syntax="explicit", **others):
    content = dicom_bytes(indices, syntax, "PALETTE COLOR", **elements, **others)
    return np.asarray(ImageReader([]).open_bytes(content))


def refusal(elements, indices=INDICES, **others):
    with pytest.raises(UserError) as caught:
        colours(indices, elements, **others)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ENTRIES = {
    "16 bits": ((256, 0, 16), COLOURS * 257),
    "16 bits, the low byte 0": ((256, 0, 16), COLOURS * 256),
    "8 bits in words": ((256, 0, 8), COLOURS),
    "8 bits in words that say 16": ((256, 0, 16), COLOURS),
    "8 bits twice in words that say 8": ((256, 0, 8), COLOURS * 257),
    "10 bits": ((256, 0, 10), COLOURS * 4),
    "12 bits": ((256, 0, 12), COLOURS * 16),
    "12 bits that say 16": ((256, 0, 16), COLOURS * 16),
    "12 bits that say 8": ((256, 0, 8), COLOURS * 16),
    "14 bits": ((256, 0, 14), COLOURS * 64),
}


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "rle", "jpeg lossless"])
@pytest.mark.parametrize("name", ENTRIES)
def test_entries_of_any_bits_make_the_same_colours(name, syntax):
    descriptor, entries = ENTRIES[name]
    found = colours(INDICES, palette(descriptor, entries.T), syntax)
    assert found.reshape(-1, 3).tolist() == COLOURS.tolist()


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
@pytest.mark.parametrize("bits", [8, 16])
def test_two_entries_of_eight_bits_in_a_word(bits, syntax):
    tables = [table.astype(np.uint8).tobytes() for table in COLOURS.T]
    found = colours(INDICES, palette((256, 0, bits), tables), syntax)
    assert found.reshape(-1, 3).tolist() == COLOURS.tolist()
    odd = [table[:255] + b"\0" for table in tables]
    found = colours(INDICES, palette((255, 0, bits), odd), syntax)
    assert found.reshape(-1, 3).tolist() == [*COLOURS[:255].tolist(), COLOURS[254].tolist()]


def test_a_dark_palette_stays_dark():
    found = colours(INDICES, palette((256, 0, 8), (COLOURS // 10).T))
    assert found.reshape(-1, 3).tolist() == (COLOURS // 10).tolist()
    assert not colours(INDICES, palette((256, 0, 16), np.zeros((3, 256)))).any()


@pytest.mark.parametrize("type_", [np.int8, np.int16, np.uint8, np.uint16])
@pytest.mark.parametrize("first", [-3, 0, 5])
def test_the_first_index_that_is_mapped(type_, first):
    low = -8 if np.dtype(type_).kind == "i" else 0
    indices = np.arange(low, low + 24).astype(type_).reshape(4, 6)
    entries = COLOURS[100:110]
    expected = entries[np.clip(indices.astype(int) - first, 0, 9)]
    for written in {first, first % 2**16 if np.dtype(type_).kind == "i" else first}:
        found = colours(indices, palette((10, written, 16), (entries * 257).T))
        assert found.tolist() == expected.tolist()
    if first >= 0:
        dataset = dicom_dataset(indices, "PALETTE COLOR")
        for key, (kind, value) in palette((10, first, 16), (entries * 257).T).items():
            dataset.add_new(key, kind, value)
        assert (apply_color_lut(indices.astype(np.int32), dataset) >> 8).tolist() == expected.tolist()


def test_65536_entries_are_written_as_0():
    indices = np.array([[0, 256], [32768, 65535]], dtype=np.uint16)
    every = np.arange(2**16)
    found = colours(indices, palette((0, 0, 16), [every, every[::-1], every]))
    assert found.tolist() == [[[0, 255, 0], [1, 254, 1]], [[128, 127, 128], [255, 0, 255]]]


def test_indices_in_part_of_their_bits():
    indices = (INDICES.astype(np.uint16) << 4) | 0xF000
    elements = palette((256, 0, 16), (COLOURS * 257).T)
    found = colours(indices, elements, BitsStored=8, HighBit=11)
    assert found.reshape(-1, 3).tolist() == COLOURS.tolist()


@pytest.mark.parametrize("length", [0, 100, 254, 510, 514, 1024])
def test_data_that_contradict_the_descriptor_are_refused(length):
    elements = palette((256, 0, 16), [bytes(length)] * 3)
    message = refusal(elements)
    expected = "has no data of its red palette" if not length else "has a red palette of 256 entries by its descriptor"
    assert expected in message


def test_palettes_that_are_not_there_are_refused():
    elements = palette((256, 0, 16), (COLOURS * 257).T)
    del elements["BluePaletteColorLookupTableDescriptor"]
    assert "has a blue palette whose descriptor has 0 values" in refusal(elements)
    elements = palette((256, 0, 16), (COLOURS * 257).T)
    del elements["GreenPaletteColorLookupTableData"]
    assert "has no data of its green palette" in refusal(elements)


RISING = np.round(np.linspace(0, 65535, 256)).astype(int)
SEGMENTS = {
    "discrete and linear": [0, 2, 0, int(RISING[1]), 1, 254, 65535],
    "two linear": [0, 1, 0, 1, 127, int(RISING[127]), 1, 128, 65535],
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("syntax", ["explicit", "big endian"])
def test_segmented_palettes(name, syntax):
    found = colours(INDICES, palette((256, 0, 16), [SEGMENTS[name]] * 3, segmented=True), syntax)
    assert np.abs(found[..., 0].ravel().astype(int) - (RISING >> 8)).max() <= 1
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[-1, -1].tolist() == [255, 255, 255]


def test_a_segmented_palette_of_bytes_and_an_indirect_segment():
    # 10, 20, 30; in seven steps up to 100; 7, 8; then once more the two segments from byte 5 on.
    segments = bytes([0, 3, 10, 20, 30, 1, 7, 100, 0, 2, 7, 8, 2, 2]) + struct.pack("<I", 5)
    expected = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 7, 8, 21, 34, 47, 61, 74, 87, 100, 7, 8]
    indices = np.arange(21, dtype=np.uint8).reshape(3, 7)
    found = colours(indices, palette((21, 0, 8), [segments] * 3, segmented=True))
    assert found[..., 0].ravel().tolist() == expected
    words = [*segments[:14], *struct.unpack("<2H", struct.pack("<I", 10))]
    found = colours(indices, palette((21, 0, 16), [words] * 3, segmented=True))
    assert found[..., 0].ravel().tolist() == expected


@pytest.mark.parametrize(
    "segments",
    [
        [1, 256, 65535],  # no value to start from
        [2, 1, 0, 0],
        [0, 255, *range(255)],  # an entry is missing
        [0, 257, *range(257)],
        [0, 256, *range(10)],
        [3, 256, 1],
        [0, 1, 0, 2, 60000, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 256, *range(256), 5, 5],
        [],
    ],
)
def test_segmented_palettes_that_are_damaged_are_refused(segments):
    message = refusal(palette((256, 0, 16), [segments] * 3, segmented=True))
    assert "red palette" in message


def test_an_indirect_segment_of_itself_ends():
    segments = [0, 1, 0, 2, 3, 4, 0]
    assert "segmented red palette" in refusal(palette((256, 0, 16), [segments] * 3, segmented=True))
