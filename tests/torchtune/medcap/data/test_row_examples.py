from pathlib import Path

import pytest

from medcap.data.row_examples import as_conversation, is_example_row
from medcap.data.row_layouts import read_record
from medcap.errors import UserError

ROW = {
    "image": "q.png",
    "target_mask": "q_mask.png",
    "icl_examples": [{"image": "a.png", "mask": "a_mask.png"}, {"image": "b.png", "mask": "b_mask.png"}],
    "organ": "liver",
}
QUERY = "Refer to the previous examples and segment the corresponding target in this image."


def find(name, folder=None):
    return Path("/data", folder or "", name)


def read(row, mode="overlay"):
    return read_record(as_conversation(row, mode), Path("rows.json"), 0, find)


def said(record):
    parts = record.messages[0].content
    return "".join("<image>" if part["type"] == "image" else part["content"] for part in parts)


def test_overlay_rows_have_medplib_s_words_and_a_mask_drawn_on_each_example():
    record = read(ROW)
    assert said(record) == (
        "Example 1: <image>\nThe blue overlay is the reference segmentation mask.\n"
        "Example 2: <image>\nThe blue overlay is the reference segmentation mask.\n"
        f"Query: <image>\n{QUERY}"
    )
    assert [message.role for message in record.messages] == ["user", "assistant"]
    assert record.messages[1].text_content == "<SEG>"
    assert [image.path for image in record.images] == ["/data/a.png", "/data/b.png", "/data/q.png"]
    assert [image.drawing and (image.drawing.region.shape.path, image.drawing.alone) for image in record.images] == [
        ("/data/a_mask.png", False),
        ("/data/b_mask.png", False),
        None,
    ]


def test_separate_rows_show_image_and_mask_one_after_the_other():
    record = read(ROW, "separate")
    assert said(record) == (
        "Example 1 image: <image>\nExample 1 mask: <image>\nExample 2 image: <image>\nExample 2 mask: <image>\n"
        f"Query: <image>\n{QUERY}"
    )
    assert [image.path for image in record.images] == [f"/data/{name}.png" for name in "aabbq"]
    assert [image.drawing is not None and image.drawing.alone for image in record.images] == [False, True] * 2 + [False]


def test_the_answer_s_mask_is_under_masks_and_other_keys_stay():
    row = as_conversation(ROW)
    assert set(row) == {"image", "organ", "conversations", "masks"}
    assert row["masks"] == [{"mask": "q_mask.png", "image": 2}] and row["organ"] == "liver"
    absent = {"mask": None, "label": "spleen"}
    assert as_conversation(ROW | {"target_mask": absent})["masks"] == [absent | {"image": 2}]
    assert as_conversation(ROW | {"masks": ["other.png"]})["masks"] == [{"mask": "other.png", "image": 2}]


@pytest.mark.parametrize(
    "row",
    [
        {key: value for key, value in ROW.items() if key != "icl_examples"} | {"examples": ROW["icl_examples"]},
        {"image1": "a.png", "mask1": "a_mask.png", "image2": "b.png", "mask2": "b_mask.png"}
        | {"image3": "q.png", "mask3": "q_mask.png", "organ": "liver"},
        {"image1": "a.png", "mask1": "a_mask.png", "image2": "b.png", "mask2": "b_mask.png"}
        | {"image": "q.png", "target_mask": "q_mask.png", "organ": "liver"},
        {"image2": "a.png", "mask2": "a_mask.png", "image9": "b.png", "mask9": "b_mask.png"}
        | {"image10": "q.png", "mask10": "q_mask.png", "image1": "z.png", "mask1": None, "organ": "liver"},
    ],
)
def test_every_layout_means_the_same(row):
    assert as_conversation(row) == as_conversation(ROW)


def test_a_row_s_own_turns_are_kept_where_they_show_every_picture():
    own = [
        {"from": "human", "value": "See <image> and <image>, then outline it in <image>."},
        {"from": "gpt", "value": "Here: <SEG><mask>q_mask.png</mask>"},
    ]
    row = as_conversation({key: value for key, value in ROW.items() if key != "target_mask"} | {"conversations": own})
    assert "masks" not in row and row["conversations"][1] == own[1]
    assert said(read(ROW | {"conversations": own})) == "See <image> and <image>, then outline it in <image>."
    # As in MedPLIB, turns about the query alone give way to the standard ones; their mask is kept.
    alone = [{"from": "human", "value": "<image>\nOutline it."}, own[1]]
    row = as_conversation({key: value for key, value in ROW.items() if key != "target_mask"} | {"conversations": alone})
    assert row["masks"] == [{"mask": "q_mask.png", "image": 2}]
    assert row["conversations"][0]["value"].startswith("Example 1: ")


def test_other_rows_are_not_touched():
    empty = dict.fromkeys(("icl_examples", "examples", "image1", "mask1", "image2", "mask2", "target_mask"))
    assert not is_example_row({"image": "a.png", "conversations": []} | empty)
    for row in ({"image": "a.png", "mask": "b.png"}, {"examples": ["a sentence"], "image": "a.png"}, ["no row"], None):
        assert not is_example_row(row) and as_conversation(row) is row


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"icl_examples": []}, "it holds 0 examples: a row needs one to 3 under 'icl_examples'"),
        ({"icl_examples": [{"image": "a", "mask": "b"}] * 4}, "it holds 4 examples: a row needs one to 3"),
        ({"icl_examples": [{"image": "a.png"}]}, "'icl_examples.0' must hold an example's 'image' and its 'mask'"),
        ({"icl_examples": "a.png"}, "'icl_examples' must be a list"),
        ({"image": None}, "there is no query image: name it under 'image'"),
        ({"masks": ["a.png", "b.png"]}, "it has 2 masks, but an answer by example is one: name it under 'target_mask'"),
        ({"target_mask": None}, "there is no mask of the query image: name it under 'target_mask'"),
    ],
)
def test_what_is_missing_is_named(changed, message):
    with pytest.raises(UserError) as error:
        as_conversation(ROW | changed)
    assert message in str(error.value)


def test_an_image_shows_one_mask_in_one_way():
    row = {"image": {"image": "a.png", "overlay": "m.png", "mask_only": "m.png"}}
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "There."}]
    with pytest.raises(UserError, match="holds an object with overlay and mask_only: keep one of them"):
        read_record(row | {"conversations": turns}, Path("rows.json"), 0, find)
