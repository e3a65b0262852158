"""Every data type, byte order and scale of NIfTI, against NumPy."""

import gzip
import io

import nibabel
import numpy as np
import pytest

from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.errors import UserError

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
READER = ImageReader([])


def nifti(values, kind=nibabel.Nifti1Image, order="<", **fields):
    """A volume of one slice whose rows, read from the bottom, are the lines of ``values``: ``[4, 5]``."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    image = kind(values.T[..., None], np.diag([-1, 1, 1, 1]), header, dtype=values.dtype)
    for key, value in fields.items():
        image.header[key] = value
    buffer = io.BytesIO()
    # The header as it is: nibabel's own writing would choose the scale.
    image.header.write_to(buffer)
    buffer.write(
        bytes(int(image.header["vox_offset"] or (352 if kind is nibabel.Nifti1Image else 544)) - buffer.tell())
    )
    buffer.write(values.astype(values.dtype.newbyteorder(order)).tobytes())
    return buffer.getvalue()


def read(data, **view):
    return np.asarray(READER.open_bytes(data, View(**view)))[::-1]


def expected(values):
    values = values.astype(np.float64)
    return np.round((values - values.min()) * (255 / (values.max() - values.min())))


def values_of(kind):
    if np.dtype(kind).kind == "f":
        return np.random.default_rng(0).normal(0, 5, (4, 5)).astype(kind)
    bounds = np.iinfo(kind)
    return np.linspace(float(bounds.min) * 0.9, float(bounds.max) * 0.7, 20).astype(kind).reshape(4, 5)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_types_and_byte_orders(kind, order):
    values = values_of(kind)
    for version in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        data = nifti(values, version, order, magic=b"n+1" if version is nibabel.Nifti1Image else b"n+2\0\r\n\x1a\n")
        for stored in (data, gzip.compress(data)):
            assert np.array_equal(read(stored)[..., 0], expected(values))


@pytest.mark.parametrize(
    ("slope", "intercept", "scale"),
    [(0, 5, (1, 0)), (float("nan"), float("nan"), (1, 0)), (2, -60, (2, -60)), (-1, 0, (-1, 0)), (0.5, 0, (0.5, 0))],
)
def test_scales(slope, intercept, scale):
    values = values_of("i2")
    data = nifti(values, magic=b"n+1", scl_slope=slope, scl_inter=intercept)
    scaled = values * float(scale[0]) + scale[1]
    assert np.array_equal(read(data)[..., 0], expected(scaled))
    window = np.clip((scaled + 5000) * (255 / 10_000), 0, 255)
    assert np.array_equal(read(data, window=(0, 10_000))[..., 0], np.round(window))


@pytest.mark.parametrize("order", "<>")
def test_colours(order):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    colours = np.ascontiguousarray(pixels[..., :3])
    assert np.array_equal(read(nifti(colours.view(RGB)[..., 0], order=order, magic=b"n+1")), colours)
    alpha = pixels[..., 3:] / 255
    found = read(nifti(pixels.view(RGBA)[..., 0], order=order, magic=b"n+1"))
    assert np.array_equal(found, np.round(colours * alpha + 255 * (1 - alpha)))
    pixels[..., 3] = 0
    assert np.array_equal(read(nifti(pixels.view(RGBA)[..., 0], order=order, magic=b"n+1")), colours)


@pytest.mark.parametrize("kind", ["c8", "c16"])
def test_complex_numbers_are_refused(kind):
    with pytest.raises(UserError, match="is a NIfTI file of complex numbers, which have no brightness"):
        read(nifti(np.ones((4, 5), kind), magic=b"n+1"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_volume_without_a_finite_value_is_refused(value):
    with pytest.raises(UserError, match="holds not one finite value"):
        read(nifti(np.full((4, 5), value, np.float32), magic=b"n+1"))


def test_the_checksum_of_a_compressed_volume_is_looked_at():
    data = bytearray(gzip.compress(nifti(np.arange(2000, dtype=np.int16).reshape(40, 50), magic=b"n+1")))
    data[-6] ^= 1
    with pytest.raises(UserError, match="is damaged: CRC check failed"):
        read(bytes(data))
