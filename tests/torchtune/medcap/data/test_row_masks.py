"""Masks of rows: under their field and in MedPLIB's tags; what does not belong together is refused."""

from pathlib import Path

import pytest

from medcap.data.regions.region import BoxShape, MaskFile, Region
from medcap.data.row_layouts import read_record
from medcap.data.row_masks import place_masks
from medcap.errors import UserError


def placed(*answers, images=("a.png",), **fields):
    turns = []
    for number, answer in enumerate(answers):
        shown = "<image>" * len(images) if number == 0 else ""
        turns += [{"from": "human", "value": f"{shown}Segment it."}, {"from": "gpt", "value": answer}]
    row = {"image": list(images), "conversations": turns, **fields}
    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
    found = place_masks(row, record, lambda path: Path("/data") / path)
    said = [message.text_content for message in found.messages if message.role == "assistant"]
    return said, found.masks


def test_masks_of_a_row_belong_to_its_words_in_order():
    fields = {"masks": [{"mask": "m/a.png", "label": "ring"}, None, [1, 2, 3, 4]]}
    said, masks = placed("Ring <SEG>, dot <SEG>.", "Bar <SEG>.", **fields)
    assert said == ["Ring <SEG>, dot <SEG>.", "Bar <SEG>."]
    assert masks == (Region(MaskFile("/data/m/a.png"), "ring"), None, Region(BoxShape((1.0, 2.0, 3.0, 4.0))))


def test_medplibs_file_names_go_from_the_text_and_are_its_masks():
    said, masks = placed("<SEG><mask> m/a.png</mask>", "It is <SEG><mask>m/b.png</mask>.")
    assert said == ["<SEG>", "It is <SEG>."]
    assert masks == (Region(MaskFile("/data/m/a.png")), Region(MaskFile("/data/m/b.png")))


def test_an_answer_without_words_becomes_the_masks_with_their_labels():
    fields = {"masks": [{"mask": "a.png", "label": "ring"}, {"mask": None, "label": "dot"}]}
    said, masks = placed("", **fields)
    assert said == ["ring <SEG>, dot <SEG>"] and masks[1] is None


def test_masks_without_a_place_are_facts_about_a_row():
    assert placed("A ring.", masks=["a.png"]) == (["A ring."], ())
    assert placed("A ring.") == (["A ring."], ())


@pytest.mark.parametrize(
    ("answer", "fields", "message"),
    [
        ("<SEG> and <SEG>", {"masks": ["a.png"]}, "2 <SEG> in its answers but 1 mask under 'masks'"),
        ("It <mask>a.png</mask>", {}, "0 <SEG> in its answers but 1 mask behind them"),
        ("<SEG><mask>a.png</mask>", {"masks": ["a.png"]}, "give masks in one of the two ways"),
        ("<SEG>", {"masks": [{"mask": "a.png", "image": 1}]}, "mask on image 1, but the row has 1 images"),
        ("<SEG>", {"masks": "a.png"}, "'masks' must be a list of regions"),
        ("<SEG>", {"masks": [3]}, "'masks' holds 3"),
        ("<SEG>" * 101, {"masks": ["a.png"] * 101}, "it has 101 masks, more than 100"),
    ],
)
def test_what_does_not_belong_together_is_refused(answer, fields, message):
    with pytest.raises(UserError, match=message):
        placed(answer, **fields)
