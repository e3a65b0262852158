"""Every combination that PNG and TIFF allow and that is said to be read, against NumPy, pixel for pixel."""

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.raster_files import png_bytes, tiff_bytes
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.errors import UserError

HEIGHT, WIDTH = 11, 18
READER = ImageReader([])


def read(data, view=None):
    return np.asarray(READER.open_bytes(data, *([view] if view else [])))


def random_samples(bits, count, kind="u", seed=0):
    """Samples that use neither the smallest nor the largest value there is; ``[HEIGHT, WIDTH, count]``."""
    generator = np.random.default_rng([seed, bits, count])
    size = max(8, 1 << (bits - 1).bit_length())
    if kind == "f":
        return generator.normal(3, 100, (HEIGHT, WIDTH, count)).astype(f"f{size // 8}")
    low, high = (-(2 ** (bits - 1)) // 3, 2 ** (bits - 1) // 2) if kind == "i" else (0, 2**bits * 5 // 8)
    return generator.integers(
        low, max(high, low + 2), (HEIGHT, WIDTH, count), dtype=np.int64 if kind == "i" else np.uint64
    ).astype(f"{kind}{size // 8}")


def stretched(colours, visible=None):
    values = colours.astype(np.float64)
    seen = values if visible is None else values[visible]
    return np.round(np.clip((values - seen.min()) * (255.0 / (seen.max() - seen.min())), 0, 255))


def rgb(levels):
    return np.broadcast_to(levels, (*levels.shape[:2], 3)).astype(np.uint8)


def on_white(levels, alpha):
    return np.round(levels * alpha[..., None] + 255 * (1 - alpha[..., None]))


GREY_DEPTHS = [
    *((kind, bits) for kind in "ui" for bits in (8, 16, 32, 64)),
    *(("f", bits) for bits in (16, 32, 64)),
    *(("u", bits) for bits in (1, 2, 4, 5, 10, 12, 14)),
    ("i", 12),
]
LAYOUTS = [{}, {"rows_per_strip": 4}, {"tile": (16, 16)}]
STORED = [(1, 1), (5, 1), (5, 2), (8, 2), (8, 3), (32946, 1), (32773, 1), (34925, 1)]  # compression, predictor


@pytest.mark.parametrize(("kind", "bits"), GREY_DEPTHS)
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_tiff(kind, bits, photometric):
    samples = random_samples(bits, 1, kind)
    for order, big, layout, (compression, predictor) in itertools.product("<>", (False, True), LAYOUTS, STORED):
        whole = bits in (8, 16, 32, 64)
        if (predictor == 2 and (kind == "f" or not whole)) or (predictor == 3 and kind != "f"):
            continue
        data = tiff_bytes(samples, bits, photometric, order, big, compression, predictor, **layout)
        levels = np.round(samples * (255 / (2**bits - 1))) if kind == "u" and bits <= 8 else stretched(samples)
        expected = rgb(255 - levels if photometric == 0 else levels)
        assert np.array_equal(read(data), expected), (order, big, layout, compression, predictor)


@pytest.mark.parametrize(("kind", "bits"), [*itertools.product("ui", (8, 16, 32)), ("f", 32), ("u", 12), ("u", 4)])
def test_rgb_tiff_has_one_range_for_its_colours(kind, bits):
    samples = random_samples(bits, 3, kind)
    levels = np.round(samples * (255 / (2**bits - 1))) if kind == "u" and bits <= 8 else stretched(samples)
    for order, planar, layout, (compression, predictor) in itertools.product("<>", (False, True), LAYOUTS, STORED):
        if (predictor == 2 and (kind == "f" or bits in (4, 12))) or (predictor == 3 and kind != "f"):
            continue
        data = tiff_bytes(samples, bits, 2, order, False, compression, predictor, planar, **layout)
        assert np.array_equal(read(data), rgb(levels)), (order, planar, layout, compression, predictor)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("photometric", "count"), [(0, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("extra", [(0,), (1,), (2,), (0, 2), (2, 0)])
def test_extra_samples_of_tiff(bits, photometric, count, extra):
    samples = random_samples(bits, count + len(extra))
    position = next((count + index for index, meaning in enumerate(extra) if meaning), None)
    if position is not None:
        samples[3:6, 2:9, position] = 0
        samples[9, 2:9, position] = 2**bits - 1
    if extra == (1,):
        samples[..., :count] = samples[..., :count] // 2 * (samples[..., position:] / (2**bits - 1))
    colours = samples[..., :count].astype(np.float64)
    if position is None:
        levels = colours if bits == 8 else stretched(colours)
        expected = 255 - levels if photometric == 0 else levels
    else:
        alpha = samples[..., position] / (2**bits - 1)
        if extra == (1,) and (bits == 16 or photometric == 0):
            colours = np.divide(colours, alpha[..., None], out=np.zeros_like(colours), where=alpha[..., None] > 0)
        levels = np.clip(np.round(colours), 0, 255) if bits == 8 else stretched(colours, alpha > 0)
        levels = 255 - levels if photometric == 0 else levels
        whitened = extra == (1,) and bits == 8 and photometric != 0
        expected = (
            np.clip(colours + 255 * (1 - alpha[..., None]), 0, 255).round() if whitened else on_white(levels, alpha)
        )
    for order, planar, layout, compression in itertools.product("<>", (False, True), LAYOUTS, (1, 5, 8)):
        data = tiff_bytes(samples, bits, photometric, order, False, compression, 1, planar, extra=extra, **layout)
        assert np.array_equal(read(data), rgb(expected)), (order, planar, layout, compression)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_tiff(bits):
    samples = random_samples(bits, 1)
    table = np.random.default_rng(bits).integers(0, 256, (3, 2**bits))
    table[0, 0] = 255
    for order, compression, eight_bits, layout in itertools.product("<>", (1, 5, 8), (False, True), LAYOUTS):
        written = table if eight_bits else table * 257
        tags = {320: ("H", tuple(written.ravel().tolist()))}
        data = tiff_bytes(samples, bits, 3, order, False, compression, tags=tags, **layout)
        assert np.array_equal(read(data), table.T[samples[..., 0]]), (order, compression, eight_bits, layout)


def test_palette_tiff_with_alpha():
    samples = random_samples(8, 2)
    table = np.random.default_rng(0).integers(0, 256, (3, 256))
    expected = on_white(table.T[samples[..., 0]], samples[..., 1] / 255)
    for written in (table, table * 257):
        tags = {320: ("H", tuple(written.ravel().tolist()))}
        assert np.array_equal(read(tiff_bytes(samples, 8, 3, extra=(2,), tags=tags)), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_tiff(bits):
    samples = random_samples(bits, 4)
    full = 2**bits - 1
    paper = full - samples.astype(np.float64)
    colours = paper[..., :3] * paper[..., 3:] / full
    expected = rgb(np.round(colours) if bits == 8 else stretched(colours))
    for order, planar, compression in itertools.product("<>", (False, True), (1, 5, 8)):
        data = tiff_bytes(samples, bits, 5, order, False, compression, 1, planar)
        assert np.array_equal(read(data), expected), (order, planar, compression)
    with pytest.raises(UserError, match="of other inks than CMYK, which is not read"):
        read(tiff_bytes(samples, bits, 5, tags={332: ("H", (2,))}))


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("order", "<>")
def test_ycbcr_tiff(compression, order):
    samples = random_samples(8, 3)
    y, blue, red = (samples[..., position].astype(np.float64) - (128 if position else 0) for position in range(3))
    expected = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    found = read(tiff_bytes(samples, 8, 6, order, compression=compression, tags={530: ("H", (1, 1))}))
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 1


def test_ycbcr_tiff_of_which_four_pixels_share_their_colour():
    brightness = np.array([[10, 20, 30, 40], [50, 60, 70, 77]])
    block = [*brightness[:, :2].ravel(), 128, 128, *brightness[:, 2:].ravel(), 128, 255]
    tags = {
        256: ("I", (4,)),
        257: ("I", (2,)),
        258: ("H", (8, 8, 8)),
        277: ("H", (3,)),
        278: ("I", (2,)),
        339: ("H", (1, 1, 1)),
    }
    data = tiff_bytes(np.array(block, np.uint8).reshape(1, 12, 1), 8, 6, tags=tags | {530: ("H", (2, 2))})
    found = read(data).astype(int)
    assert np.abs(found[:, :2] - brightness[:, :2, None]).max() <= 1
    assert np.abs(found[:, 2:, 0] - (brightness[:, 2:] + 178)).max() <= 1
    assert np.abs(found[:, 2:, 2] - brightness[:, 2:]).max() <= 1


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_tiff_whose_lowest_bit_comes_first(bits, compression):
    samples = random_samples(bits, 1)
    levels = np.round(samples * (255 / (2**bits - 1))) if bits <= 8 else stretched(samples)
    for order in "<>":
        data = tiff_bytes(samples, bits, 1, order, compression=compression, reversed_bits=True)
        assert np.array_equal(read(data), rgb(levels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_orientation_of_tiff(orientation, bits):
    samples = random_samples(bits, 1)
    levels = samples[..., 0] if bits == 8 else stretched(samples)[..., 0]
    turns = (
        lambda image: image,
        np.fliplr,
        lambda image: image[::-1, ::-1],
        np.flipud,
        np.transpose,
        lambda image: np.rot90(image, -1),
        lambda image: image[::-1, ::-1].T,
        np.rot90,
    )
    data = tiff_bytes(samples, bits, 1, tags={274: ("H", (orientation,))})
    assert np.array_equal(read(data)[..., 0], turns[orientation - 1](levels))


def test_of_a_tiff_file_with_several_pages_the_first_is_read():
    pages = random_samples(16, 2).transpose(2, 0, 1)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, photometric="minisblack")
    assert np.array_equal(read(buffer.getvalue()), rgb(stretched(pages[0][..., None])))


def test_a_window_is_of_the_stored_values_of_deep_pictures():
    grey = np.array([[0, 100, 180, 300]], np.uint16)[..., None]
    expected = [0, 0, 102, 255]
    view = View(window=(200, 200))
    assert read(tiff_bytes(grey, 16, 1), view)[0, :, 0].tolist() == expected
    assert read(tiff_bytes(grey, 16, 0), view)[0, :, 0].tolist() == [255, 255, 153, 0]
    assert read(png_bytes(grey, 16, 0), view)[0, :, 0].tolist() == expected
    assert read(png_bytes(grey.repeat(3, axis=2), 16, 2), view)[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff_bytes(random_samples(16, 3), 16, 6), "16 bits a sample and the photometric interpretation 6"),
        (tiff_bytes(random_samples(8, 3), 8, 8), "the photometric interpretation 8"),
        (
            tiff_bytes(random_samples(16, 1), 16, 3, tags={320: ("H", (0, 1) * 98_304)}),
            "16 bits a sample and the photometric interpretation 3",
        ),
        (tiff_bytes(random_samples(32, 1), 32, 1, sample_format=6), "32 bits a sample and the sample format complex"),
        (
            tiff_bytes(random_samples(16, 3), 16, 2, tags={258: ("H", (5, 6, 5))}),
            "samples of different bits or formats",
        ),
        (tiff_bytes(random_samples(16, 1), 16, 1, tags={259: ("H", (7,))}), "16 bits a sample and the compression 7"),
        (
            tiff_bytes(random_samples(12, 1), 12, 1, compression=8, tags={317: ("H", (2,))}),
            "12 bits .* the predictor 2",
        ),
    ],
)
def test_tiff_that_is_not_read(data, words):
    with pytest.raises(UserError, match=f"is a TIFF file of {words}, which is not read: save it as"):
        read(data)


def test_grey_tiff_of_several_channels_is_refused():
    with pytest.raises(UserError, match="of 3 samples a pixel, 0 of them extra, which does not fit"):
        read(tiff_bytes(random_samples(16, 3), 16, 1))


@pytest.mark.parametrize(
    ("colour_type", "bits"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)],
)
@pytest.mark.parametrize("adam7", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_png(colour_type, bits, adam7, keyed):
    count = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    samples = random_samples(bits, count)
    colours, alpha, transparent = samples, np.ones((HEIGHT, WIDTH)), b""
    if colour_type in (4, 6):
        samples[3:6, 2:9, -1] = 0
        colours, alpha = samples[..., :-1], samples[..., -1] / (2**bits - 1)
    elif keyed:
        key = samples[7, 7]
        transparent = struct.pack(f">{count}H", *key.tolist())
        alpha = 1.0 - (samples == key).all(axis=2)
    levels = stretched(colours, alpha > 0) if bits == 16 else np.round(colours * (255 / (2**bits - 1)))
    data = png_bytes(samples, bits, colour_type, transparent=transparent, adam7=adam7)
    assert np.array_equal(read(data), rgb(on_white(levels, alpha)))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("adam7", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_palette_png(bits, adam7, keyed):
    samples = random_samples(bits, 1)[..., 0]
    generator = np.random.default_rng(bits)
    table, opacity = generator.integers(0, 256, (2**bits, 3)), generator.integers(0, 256, 2**bits)
    alpha = opacity[samples] / 255 if keyed else np.ones(samples.shape)
    transparent = bytes(opacity.tolist()) if keyed else b""
    data = png_bytes(samples, bits, 3, bytes(table.ravel().tolist()), transparent, adam7)
    assert np.array_equal(read(data), on_white(table[samples], alpha))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type", [4, 6])
def test_an_alpha_of_zero_everywhere_hides_nothing(colour_type, bits):
    samples = random_samples(bits, 2 if colour_type == 4 else 4)
    samples[..., -1] = 0
    colours = samples[..., :-1]
    expected = rgb(colours if bits == 8 else stretched(colours))
    assert np.array_equal(read(png_bytes(samples, bits, colour_type)), expected)
    for extra in ((1,), (2,)):
        data = tiff_bytes(samples, bits, 1 if colour_type == 4 else 2, extra=extra)
        assert np.array_equal(read(data), expected)
    samples[0, 0, -1] = 2**bits - 1
    found = read(png_bytes(samples, bits, colour_type))
    assert found[1:].min() == 255


def test_an_alpha_of_zero_in_other_formats():
    picture = Image.new("RGBA", (4, 4), (200, 30, 10, 0))
    for options in ({"format": "WEBP", "lossless": True, "exact": True}, {"format": "PNG"}, {"format": "TIFF"}):
        buffer = io.BytesIO()
        picture.save(buffer, **options)
        assert read(buffer.getvalue())[0, 0].tolist() == [200, 30, 10]
    palette = png_bytes(random_samples(2, 1)[..., 0], 2, 3, bytes(range(12)), bytes(4))
    assert read(palette).max() < 12
