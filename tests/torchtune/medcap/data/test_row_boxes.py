import time
from dataclasses import replace
from pathlib import Path

import pytest

from medcap.data.boxes.box import AbsentBox, Box
from medcap.data.boxes.style import box_style
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.row_boxes import MAX_ROW_BOXES, place_boxes
from medcap.data.row_layouts import read_record
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess

SIZES = {"a.png": (200, 100), "b.png": (200, 100), "c.png": (400, 400)}
CUT = Preprocess(40).frame  # shows the middle 100 columns of a.png
ANSWERS = {
    "coloninst": "It is at {<100><25><140><75>}.",
    "qwen": "It is at <box>(500,250),(700,750)</box>.",
    "shares": "It is at [0.5000, 0.2500, 0.7000, 0.7500].",
    "thousandths": "It is at [500, 250, 700, 750].",
}


def placed(answer, question="Where is the ring?", images=("a.png",), keys=None, frame=CUT, view=None, **fields):
    turns = [{"from": "human", "value": "<image>" * len(images) + question}, {"from": "gpt", "value": answer}]
    row = {"image": list(images), "conversations": turns, **fields}
    opened = []

    def size_of(image):
        opened.append(image.path)
        return SIZES[image.path]

    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image, view=view)
    found = place_boxes(row, record, box_style(keys or {}, frame), size_of)
    said = ["".join(part["content"] for part in turn.content if part["type"] == "text") for turn in found.messages]
    return said, found.boxes, opened


@pytest.mark.parametrize("read", ANSWERS)
@pytest.mark.parametrize("written", ANSWERS)
def test_boxes_are_rewritten_from_any_notation_into_any(read, written):
    said, boxes, _ = placed(ANSWERS[read], f"What is at {ANSWERS[read][9:-1]}?", keys={"box_write": written})
    assert said == [f"What is at {ANSWERS[written][9:-1]}?", ANSWERS[written]]
    assert boxes == ()


@pytest.mark.parametrize("answer", ANSWERS.values())
def test_without_keys_texts_stay_and_no_header_is_read(answer):
    said, boxes, opened = placed(answer, boxes=[[1, 2, 3, 4]])
    assert (said[1], boxes, opened) == (answer, (), [])


def test_headers_are_read_for_rows_with_boxes_only():
    assert placed("Grade II, see [1, 2, 3].", keys={"box_write": "qwen"})[2] == []
    assert placed(ANSWERS["qwen"] * 3, keys={"box_write": "shares"})[2] == ["a.png"]


@pytest.mark.parametrize(
    ("fit", "written", "text"),
    [
        (None, "shares", "It is at [0.5000, 0.2500, 0.9000, 0.7500]."),
        ("pad", "shares", "It is at [0.5000, 0.3750, 0.7000, 0.6250]."),
        ("squash", "shares", "It is at [0.5000, 0.2500, 0.7000, 0.7500]."),
        ("pad", "coloninst", "It is at {<20><15><28><25>}."),
        (None, None, "It is at [500, 250, 900, 750]."),
    ],
)
def test_boxes_are_where_the_tower_is_shown_them(fit, written, text):
    keys = {"box_write": written, "box_frame": "shown"}
    assert placed(ANSWERS["thousandths"], keys=keys, view=View(fit=fit))[0][1] == text


def test_what_the_crop_cuts_off_is_cut_off_the_box():
    said, _, _ = placed("[0.1, 0.2, 0.5, 0.8]", keys={"box_frame": "shown"})
    assert said[1] == "[0.0000, 0.2000, 0.5000, 0.8000]"


def test_boxes_of_a_row_take_the_places_of_the_word():
    fields = {"boxes": [[100, 25, 140, 75], {"box": [0, 0, 20.5, 10], "label": "liver"}]}
    said, boxes, _ = placed("Ring <BOX>.", "Is it like <BOX>?", boxes=fields["boxes"][::-1])
    assert said == ["Is it like [0, 0, 102, 100]?", "Ring [500, 250, 700, 750]."]
    assert boxes == ()
    said, _, _ = placed("Ring <BOX>, liver <BOX>", keys={"box_write": "qwen"}, **fields)
    assert said[1] == "Ring <box>(500,250),(700,750)</box>, liver <box>(0,0),(102,100)</box>"


def test_an_answer_without_words_becomes_the_boxes_with_their_labels():
    fields = {"boxes": [{"box": [100, 25, 140, 75], "label": "ring"}, [0, 0, 20, 10]]}
    assert placed("", **fields)[0][1] == "ring [500, 250, 700, 750], [0, 0, 100, 100]"
    assert placed(" ", keys={"box_write": "qwen"}, **fields)[0][1] == (
        "<ref>ring</ref><box>(500,250),(700,750)</box>, <box>(0,0),(100,100)</box>"
    )
    said, boxes, _ = placed("", keys={"box_answer": "head"}, frame=None, **fields)
    assert said[1] == "ring <BOX>, <BOX>"
    assert boxes == (Box((0.5, 0.25, 0.7, 0.75), "ring"), Box((0.0, 0.0, 0.1, 0.1)))


def test_for_a_head_the_boxes_of_answers_are_targets_and_those_of_questions_text():
    said, boxes, _ = placed(
        "<ref>ring</ref><box>(500,250),(700,750)</box> and {<100><0><140><10>}",
        "Compare [0.5, 0, 0.75, 0.5].",
        keys={"box_answer": "head", "box_write": "thousandths", "box_frame": "shown"},
    )
    assert said == ["Compare [500, 0, 999, 500].", "ring <BOX> and <BOX>"]
    assert boxes == (Box((0.5, 0.25, 0.7, 0.75), "ring"), Box((0.5, 0.0, 0.7, 0.1)))
    absent, boxes, _ = placed("There is no ring.", keys={"box_answer": "head"}, boxes=[])
    assert (absent[1], boxes) == ("There is no ring.", ())


def test_null_is_the_box_of_what_is_absent():
    fields = {"boxes": [{"box": None, "label": "ring"}, [0, 0, 20, 10]]}
    said, boxes, _ = placed("Ring <BOX>, dot <BOX>.", keys={"box_answer": "head"}, frame=None, **fields)
    assert (said[1], boxes) == ("Ring <BOX>, dot <BOX>.", (AbsentBox("ring"), Box((0.0, 0.0, 0.1, 0.1))))
    assert placed("Ring <BOX>, dot <BOX>.", **fields)[0][1] == "Ring not visible, dot [0, 0, 100, 100]."
    assert placed("", **fields)[0][1] == "ring not visible, [0, 0, 100, 100]"


def test_the_marks_of_a_notation_go_and_its_words_stay():
    question, answer = "Where is the <ref>liver</ref>?", "<ref>liver</ref><box>(500,250),(700,750)</box>"
    assert placed(answer, question, keys={"box_write": "shares"})[0] == [
        "Where is the liver?",
        "liver [0.5000, 0.2500, 0.7000, 0.7500]",
    ]
    assert placed(answer, question, keys={"box_write": "qwen"})[0] == [question, answer]
    assert placed(answer, question, keys={"box_answer": "head"})[0] == [question, "<ref>liver</ref><BOX>"]


@pytest.mark.parametrize(
    ("answer", "keys", "fields", "words"),
    [
        (
            "{<300><25><340><75>}",
            {"box_write": "qwen"},
            {},
            r"\{<300><25><340><75>\} has no area on its image of 200 x 100",
        ),
        ("[500, 250, 500, 750]", {"box_write": "qwen"}, {}, "read as thousandths"),
        ("[700, 250, 500, 750]", {"box_write": "qwen"}, {}, "has no area"),
        ("[100, 25, 1140, 75]", {"box_format": "thousandths"}, {}, "holds 1140, more than thousandths can"),
        ("[0.1, 0.2, 14, 1]", {"box_format": "shares"}, {}, "name the notation of this file by dataset.box_format"),
        ("[0.0, 0.2, 0.1, 0.8]", {"box_frame": "shown"}, {}, r"\(0, 20, 20, 80 in pixels\) is outside what the tower"),
        ("[0.0, 0.2, 0.1, 0.8]", {"box_answer": "head"}, {}, "dataset.view.fit=pad shows all of an image"),
        ("<BOX>", {}, {"boxes": [[0, 0, 9, 9], [0, 0, 9, 9]]}, "1 <BOX> in its turns but 2 under 'boxes'"),
        ("<BOX>", {}, {"boxes": []}, "1 <BOX> in its turns but 0 under 'boxes'"),
        ("<BOX>", {"box_answer": "head"}, {}, "1 <BOX> in its turns but 0 under 'boxes'"),
        ("There.", {"box_answer": "head"}, {"boxes": [[0, 0, 9, 9]]}, "0 <BOX> in its turns but 1 under 'boxes'"),
        ("<BOX>", {}, {"boxes": [[0, 0, float("nan"), 9]]}, "a box is four numbers"),
        ("<BOX>", {}, {"boxes": [[0, 0, 0, 9]]}, "has no area"),
        ("<BOX>", {}, {"boxes": [[200, 0, 300, 9]]}, "outside its image of 200 x 100"),
        ("<BOX>", {}, {"boxes": [{"box": [0, 0, 9, 9], "image": 1}]}, "on image 1, but the row has 1 images"),
        ("<BOX>", {}, {"boxes": [{"box": [0, 0, 9, 9], "image": -1}]}, "whole numbers from 0"),
        ("<BOX>", {}, {"boxes": {"box": [0, 0, 9, 9]}}, "must be a list"),
        ("<BOX>", {}, {"boxes": [[0, 0, 9, 9]], "images": ()}, "the row has 0 images"),
    ],
)
def test_a_row_whose_box_cannot_be_used_says_why(answer, keys, fields, words):
    with pytest.raises(UserError, match=words):
        placed(answer, keys=keys, **fields)


def test_a_box_partly_outside_is_cut():
    assert placed("{<150><0><260><50>}", keys={"box_format": "coloninst"})[0][1] == "{<150><0><200><50>}"
    assert placed("<BOX>", boxes=[[-5, -5, 100, 50]])[0][1] == "[0, 0, 500, 500]"


def test_pixels_are_those_of_an_image_of_image_size():
    fields = {"image_size": [400, 200]}  # the file is half as large
    assert placed("<BOX>", boxes=[[100, 50, 200, 100]], **fields)[0][1] == "[250, 250, 500, 500]"
    assert placed("<BOX>", boxes=[100, 50, 200, 100], **fields)[0][1] == "[250, 250, 500, 500]"
    assert placed("{<100><50><200><100>}", keys={"box_write": "coloninst"}, **fields)[0][1] == "{<50><25><100><50>}"
    assert placed("{<100><50><200><100>}", keys={"box_answer": "head"}, **fields)[1] == (Box((0.25, 0.25, 0.5, 0.5)),)
    assert (
        placed("[250, 250, 500, 500]", keys={"box_write": "qwen"}, **fields)[0][1] == "<box>(250,250),(500,500)</box>"
    )
    with pytest.raises(
        UserError, match="'image_size' is 300 x 300, but the image is 200 x 100, which is another shape"
    ):
        placed("<BOX>", boxes=[[0, 0, 9, 9]], image_size=[300, 300])
    with pytest.raises(UserError, match=r"'image_size' must be \[width, height\] in pixels, not big"):
        placed("<BOX>", boxes=[[0, 0, 9, 9]], image_size="big")


def test_of_several_images_a_box_says_which():
    fields = {"images": ("a.png", "c.png"), "boxes": [{"box": [100, 50, 200, 100], "image": 1}]}
    assert placed("On the second: <BOX>", **fields)[0][1] == "On the second: [250, 125, 500, 250]"
    assert placed("<BOX>", keys={"box_answer": "head"}, **fields)[1] == (Box((0.25, 0.125, 0.5, 0.25), "", 1),)
    with pytest.raises(UserError, match="may be on any of 2 images"):
        placed(ANSWERS["qwen"], images=("a.png", "c.png"), keys={"box_write": "shares"})
    # Images of one size need not be told apart to write text, but to point at one.
    said, _, _ = placed(ANSWERS["qwen"], images=("a.png", "b.png"), keys={"box_write": "shares"})
    assert said[1] == ANSWERS["shares"]
    with pytest.raises(UserError, match="may be on any of 2 images"):
        placed(ANSWERS["qwen"], images=("a.png", "b.png"), keys={"box_answer": "head"})


def test_a_box_lies_on_the_image_before_it():
    turns = [
        {"from": "human", "value": "<image>First?"},
        {"from": "gpt", "value": "{<100><25><140><75>}"},
        {"from": "human", "value": "Second?<image>"},
        {"from": "gpt", "value": "fine"},
    ]
    row = {"image": ["a.png", "c.png"], "conversations": turns}
    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
    found = place_boxes(row, record, box_style({"box_answer": "head"}), lambda image: SIZES[image.path])
    assert found.boxes == (Box((0.5, 0.25, 0.7, 0.75)),)


def test_words_without_an_image_stay_as_they_are():
    text = "ring at [500, 250, 700, 750], disc at {<1><2><3><4>}"
    assert placed(text, images=(), keys={"box_write": "qwen"})[0][1] == text


def test_hundreds_of_boxes_are_written_and_thousands_refused():
    started = time.monotonic()
    said, _, opened = placed(ANSWERS["qwen"] * 900, keys={"box_write": "thousandths"})
    assert said[1] == ANSWERS["thousandths"] * 900
    assert opened == ["a.png"]
    with pytest.raises(UserError, match="more than 1,000 boxes"):
        placed("<BOX>" * (MAX_ROW_BOXES + 1), boxes=[[0, 0, 9, 9]] * (MAX_ROW_BOXES + 1))
    assert time.monotonic() - started < 20


def test_all_slices_of_a_volume_are_read_once():
    opened = []

    def size_of(image):
        opened.append(image)
        return 10, 10

    row = {
        "image": "a.nii",
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "[0.1, 0.1, 0.5, 0.5]"}],
    }
    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
    slices = [{"type": "image", "content": ImageRef("a.nii", View(frames=number))} for number in range(5)]
    record.messages[0].content = slices
    found = place_boxes(row, replace(record), box_style({"box_write": "qwen"}), size_of)
    assert found.messages[1].content[0]["content"] == "<box>(100,100),(500,500)</box>"
    assert len(opened) == 1
