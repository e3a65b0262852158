"""Masks in the chat. Images of the fixture are 12 x 10 pixels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.mask_rows import region_of
from medcap.chat.masks import COLOURS, draw_masks
from medcap.data.outputs import Outputs
from medcap.data.row_layouts import read_record
from medcap.data.row_masks import place_masks
from medcap.generation.request import Generation

RING = np.zeros((10, 12), bool)
RING[2:6, 3:9] = True
DISC = np.zeros((10, 12), bool)
DISC[9, 11] = True
WORDS = "ring <SEG>, left disc <SEG>, cyst not visible"


@pytest.fixture
def outline(generator, monkeypatch):
    """Has the model answer with these masks."""

    def answer_with(*masks, text=WORDS, image=0):
        regions = tuple(None if mask is None else replace(region_of(mask), image=image) for mask in masks)
        tokens = generator.tokenizer.answer(text, end_of_turn=False)

        def generate(asked, sampling, on_token):
            for token in tokens:
                on_token(0, token)
            return [Generation(text, tokens, outputs=Outputs(None, regions))]

        monkeypatch.setattr(generator, "generate", generate)

    return answer_with


def test_masks_are_told_and_saved(talk, outline, tmp_path):
    outline(RING, DISC, None)
    out, err = talk("/image 0.png", "Outline them.", "/save masks out/one", "/save it.json")
    assert out == [WORDS]
    assert err[1:] == [
        "mask 1 (ring): 24 pixels, 20.0 % of the image",
        "mask 2 (left disc): 1 pixel, 0.8 % of the image",
        "mask 3 (cyst): not there",
        "saved 2 masks and overlay.png in out/one",
        "saved 1 exchange in it.json",
    ]
    assert sorted(path.name for path in (tmp_path / "out/one").iterdir()) == [
        "mask_1_ring.png",
        "mask_2_left_disc.png",
        "overlay.png",
    ]
    assert (np.asarray(Image.open(tmp_path / "out/one/mask_1_ring.png")) == 255 * RING).all()
    assert Image.open(tmp_path / "out/one/overlay.png").size == (768, 640)
    (row,) = json.loads((tmp_path / "it.json").read_text())
    outlined = [{"mask": {"size": [10, 12], "counts": region_of(mask).shape.counts}} for mask in (RING, DISC)]
    assert row["masks"] == [*outlined, None]
    # What was saved can be trained on.
    record = read_record(row, tmp_path / "it.json", 0, lambda path, _: Path(path))
    assert len(place_masks(row, record, Path).masks) == 3


@pytest.mark.parametrize("lines", [("/save masks out",), ("/image 0.png", "/save masks out")])
def test_without_masks_there_is_nothing_to_save(talk, lines, tmp_path):
    _, err = talk(*lines)
    assert err[-1] == "the last answer has no masks" and not (tmp_path / "out").exists()


def test_a_mistake_is_one_line(talk, outline, tmp_path):
    outline(RING, text="<SEG>")
    (tmp_path / "file").write_text("")
    _, err = talk("/image 0.png", "Outline it.", "/save masks", "/save masks file", "/reset", "/save masks out")
    assert err[1:4] == [
        "mask 1: 24 pixels, 20.0 % of the image",
        "write /save masks FOLDER",
        "file cannot be written: File exists",
    ]
    assert err[-1] == "the last answer has no masks"


def test_a_row_without_a_mask_for_each_word_has_none(talk, outline, tmp_path):
    outline(RING, text="<SEG> and <SEG>")
    talk("/image 0.png", "Outline it.", "/save it.json")
    assert "masks" not in json.loads((tmp_path / "it.json").read_text())[0]


def test_masks_are_filled_outlined_and_named():
    picture = Image.new("RGB", (800, 400))
    mask = np.zeros((400, 800), bool)
    mask[100:300, 200:500] = True
    drawn = np.asarray(draw_masks(picture, [("", mask)]))
    assert drawn.shape == (400, 800, 3) and not np.asarray(picture).any()
    colour = np.array([int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5)])
    assert (drawn[~mask] == 0).all()
    rows, columns = np.nonzero((drawn == colour).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 299, 200, 499)
    assert np.abs(drawn[200, 350] - 0.4 * colour).max() <= 1
