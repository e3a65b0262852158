"""Boxes in the chat: ``/box``, boxes of answers, and pictures of both. Images of the fixture are 12 x 10 pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from medcap.chat.boxes import ANSWERED, ASKED, draw_boxes, pixel_words
from medcap.chat.terminal import Chat
from medcap.data.boxes.box import Box
from medcap.data.boxes.style import box_style
from medcap.data.outputs import Outputs
from medcap.errors import UserError
from medcap.generation.request import Generation, Sampling
from medcap.models.preprocess import Preprocess


def words_of(request):
    """The words of the last turn."""
    return request[-1][1][-1]


def test_a_box_enters_the_next_question_in_the_notation_of_the_run(talk, say, generator, tmp_path):
    generator.box_style = box_style({"box_format": "coloninst"})
    requests = say("Yes", "No")
    _, err = talk(
        *("/image 0.png", "/box 3 2 9 7", "/box 0,0,12,10", "/box"),
        *("Is {box 2} or {box 1} a polyp?", "And now?", "/save it.json"),
    )
    asked = "Is {<0><0><12><10>} or {<3><2><9><7>} a polyp?"
    assert [words_of(request).strip() for request in requests] == [asked, "And now?"]
    assert err.count("{box 1} is {<3><2><9><7>}") == 3 and err.count("{box 2} is {<0><0><12><10>}") == 2
    assert f"asked: {asked}" in err
    (row,) = json.loads((tmp_path / "it.json").read_text())
    assert row["conversations"][0] == {"from": "human", "value": f"<image>\n{asked}"}


def test_boxes_follow_words_that_do_not_name_them_and_can_be_dropped(talk, say):
    requests = say("Yes", "No")
    _, err = talk("/image 0.png", "/box 1 1 2 2", "/box none", "/box 3 2 9 7", "What is it?", "/box 6 5 12 10", "")
    assert words_of(requests[0]).strip() == "What is it? [250, 200, 750, 700]"
    assert words_of(requests[1]) == "[500, 500, 999, 999]"
    assert "no box waits for your next words" in err


def test_a_box_waits_until_its_question_was_answered(talk, say):
    requests = say(UserError("out of memory"), "Yes", "No")
    _, err = talk("/image 0.png", "/box 3 2 9 7", "What is it?", "/image 1.png", "And {box}?", "Is it left?")
    assert [words_of(request).strip() for request in requests] == [
        "What is it? [250, 200, 750, 700]",
        "And [250, 200, 750, 700]?",
        "Is it left?",
    ]
    assert "boxes wait for your next words: ask, or drop them with /box none, before another image" in err


def test_a_question_that_failed_is_asked_again_with_its_box_once(talk, say):
    requests = say(UserError("out of memory"), "Yes", "No")
    talk("/image 0.png", "/box 3 2 9 7", "What is it?", "/retry", "Is it left?")
    assert requests[0] == requests[1] and words_of(requests[2]) == "Is it left?"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/box 1 2 3", "write /box x1 y1 x2 y2, in pixels of the image, as in /box 120 40 300 200"),
        ("/box 1 2 3 nan", "write /box x1 y1 x2 y2"),
        ("/box left", "write /box x1 y1 x2 y2"),
        ("/box 9 2 3 7", "/box 9 2 3 7: this box has no area, x1 must be below x2 and y1 below y2"),
        ("/box 3 2 13 7", "/box 3 2 13 7: this box is not within the image, which has 12 x 10 pixels"),
        ("/box -1 2 3 7", "this box is not within the image"),
        ("Is it in {box}?", "{box} names a box that does not exist: 0 were given"),
        ("/save it.png", "saved the image with 0 + 0 boxes in it.png"),
    ],
)
def test_a_mistake_is_one_line(talk, line, words):
    _, err = talk("/image 0.png", line)
    assert words in err[1] and len(err) == 2


def test_a_box_needs_an_image(talk):
    _, err = talk("/box 1 2 3 4", "/save it.png", "/image 0.png", "/reset", "/box 1 2 3 4")
    assert err[0] == err[4] == "show an image first, with /image FILE: a box is on the image that was shown last"
    assert err[1] == "no image was shown yet"


def test_a_box_that_the_tower_cuts_off_is_refused(talk, generator):
    # Of 12 x 10 pixels, resized to 9 x 8, the first 8 columns are shown.
    generator.box_style = box_style({"box_frame": "shown"}, Preprocess(8).frame)
    _, err = talk("/image 0.png", "/box 11 0 12 10", "/box 2 0 8 10")
    assert err[1] == "/box 11 0 12 10: the run is not shown this part of the image, which its tower cuts off"
    assert err[2] == "{box 1} is [187, 0, 750, 999]"


def test_boxes_of_an_answer_are_told_in_pixels_and_drawn(talk, say, tmp_path):
    say("<ref>liver</ref><box>(250,200),(750,700)</box> {<1><2><6><6>}")
    out, err = talk("/image 0.png", "/box 6 5 12 10", "What is it?", "/save drawn/it.png")
    assert out == ["<ref>liver</ref><box>(250,200),(750,700)</box> {<1><2><6><6>}"]
    assert [line for line in err if line.startswith("box in pixels")] == [
        "box in pixels: liver: 3, 2 to 9, 7",
        "box in pixels: 1, 2 to 6, 6",
    ]
    assert err[-1] == "saved the image with 1 + 2 boxes in drawn/it.png"
    assert Image.open(tmp_path / "drawn/it.png").size == (768, 640)


def test_boxes_of_a_box_head_are_told(talk, generator, monkeypatch):
    found = Generation("It is [0, 0, 500, 500]", outputs=Outputs((Box((0.25, 0.2, 0.5, 0.7), "ring"),)))
    monkeypatch.setattr(generator, "generate", lambda *_, **__: [found])
    _, err = talk("/image 0.png", "What is it?", chat=Chat(Sampling(6)))
    assert "box in pixels: ring: 3, 2 to 6, 7" in err


def test_boxes_are_drawn_at_their_edges():
    picture = Image.new("RGB", (400, 200))
    drawn = np.asarray(draw_boxes(picture, [Box((0.25, 0.25, 0.5, 0.5))], [Box((0.5, 0.5, 1.0, 1.0))]))
    assert drawn.shape == (400, 800, 3) and not np.asarray(picture).any()
    for colour, edges in ((ASKED, (100, 200, 200, 400)), (ANSWERED, (200, 400, 400, 800))):
        rows, columns = np.nonzero((drawn == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(axis=2))
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == edges


def test_pixels_are_told_without_needless_decimals():
    assert pixel_words(Box((0.125, 0.5, 0.25, 1.0), "polyp"), (12, 10)) == "polyp: 1.5, 5 to 3, 10"
