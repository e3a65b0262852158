"""Masks of answers: drawn over the image, faded, and saved. The image of the masks has 6 x 4 pixels."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers.browser import COUNT_PIXELS, DISC, RING
from medcap.data.regions.draw import read_mask

# The colour of the middle of a pixel of the image, of 6 x 4.
PIXEL = """
([x, y]) => {
  const canvas = document.getElementById("picture");
  const place = [(x + 0.5) / 6 * canvas.width, (y + 0.5) / 4 * canvas.height];
  return [...canvas.getContext("2d").getImageData(...place, 1, 1).data];
}
"""


@pytest.fixture
def outlined(visit):
    """A visit with an answer that has masks."""
    visit.upload("scan.png", 6, 4)
    visit.tick("outlining")
    before = visit.page.evaluate(PIXEL, [1, 1])
    visit.ask("Outline them.")
    visit.page.wait_for_selector("#masks:visible")
    visit.page.wait_for_function(f"before => String(({PIXEL})([1, 1])) !== String(before)", arg=before)
    return visit


def saved(visit, words):
    """A picture that a button saves."""
    with visit.page.expect_download() as download:
        visit.page.click(f"text={words}")
    data = download.value.path().read_bytes()
    return download.value.suggested_filename, np.asarray(Image.open(io.BytesIO(data)).convert("L"))


@pytest.mark.slow
def test_masks_are_drawn_faded_and_saved(outlined):
    page = outlined.page
    names = page.locator(".answer footer button").all_inner_texts()
    assert names == ["Good", "Bad", "mask 1 ring ↓", "mask 2 disc ↓"]
    colour = "#1a7f4b"  # of the fourth run
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    assert page.evaluate(PIXEL, [0, 0]) != [red, green, blue, 255]
    page.fill("#opacity", "100")
    page.wait_for_function(f"colour => String(({PIXEL})([1, 1])) === String(colour)", arg=[red, green, blue, 255])
    # The names stand above their masks; the ring's left half is not under one.
    assert page.evaluate(PIXEL, [4, 3]) == [red, green, blue, 255]
    page.fill("#opacity", "0")
    page.wait_for_function(f"colour => ({COUNT_PIXELS})(colour).rows[0] === null", arg=colour)
    for words, name, region in (("mask 1 ring", "mask_1_ring.png", RING), ("mask 2 disc", "mask_2_disc.png", DISC)):
        file, pixels = saved(outlined, words)
        assert file == name and set(np.unique(pixels)) == {0, 255}
        assert ((pixels > 0) == read_mask(region.shape)).all()
    with page.expect_download() as download:
        page.click("#save")
    (row,) = json.loads(download.value.path().read_text(encoding="utf-8"))["rows"]
    assert [entry["mask"]["counts"] for entry in row["masks"]] == [RING.shape.counts, DISC.shape.counts]


@pytest.mark.slow
def test_a_mask_is_drawn_on_its_slice_and_the_slider_goes_with_it(visit):
    nibabel = pytest.importorskip("nibabel")
    values = np.broadcast_to(60 * np.arange(4, dtype=np.int16), (6, 4, 4))
    page = visit.page
    content = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
    page.set_input_files("#file", {"name": "ct.nii", "mimeType": "", "buffer": content})
    page.wait_for_selector("#volume:visible")
    visit.tick("outlining")
    page.select_option("#frames", "this")
    page.fill("#slice", "3")
    visit.ask("Outline them.")
    page.wait_for_selector("#masks:visible")
    page.fill("#slice", "1")
    page.wait_for_selector("#masks", state="hidden")
