from dataclasses import replace

import pytest

from medcap.data.boxes.box import Box
from medcap.data.boxes.frame import Frame
from medcap.data.boxes.style import BoxStyle
from medcap.data.images.reference import ImageRef
from medcap.data.outputs import Outputs
from medcap.evaluation.box_notation import ask_in_notation, entry_of_answer
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation
from medcap.scoring.question import Question

SIZE = (200, 100)
IMAGE = ImageRef("scan.png")
CROPPED = BoxStyle(written="thousandths", shown=True, frame=lambda size, fit: Frame(size, fit or "crop", 100))


def question(words, reference, boxes=None):
    return Question("one", [user_message(IMAGE, words)], (reference,), boxes=boxes, image_size=SIZE)


def asked(words, style):
    (changed,) = ask_in_notation([question(words, "polyp")], style, lambda image: SIZE)
    return changed


def test_a_box_of_a_question_is_written_as_the_run_has_it():
    words = "What is {<50><0><150><50>}?"
    assert asked(words, BoxStyle()).text == words
    assert asked(words, BoxStyle(read="shares", written="thousandths")).text == "What is [250, 0, 750, 500]?"
    # The square that is shown is the middle of the image, 100 of 200 pixels wide.
    assert asked(words, CROPPED).text == "What is [0, 0, 999, 500]?"
    assert asked(words, CROPPED).images == [IMAGE]


def test_a_question_about_what_is_not_shown_cannot_be_asked():
    assert "outside what the tower is shown" in asked("What is {<0><0><40><50>}?", CROPPED).problem


@pytest.mark.parametrize(
    ("style", "said"), [(BoxStyle(written="thousandths"), "at [250, 0, 750, 500]."), (CROPPED, "at [0, 0, 1000, 500].")]
)
def test_an_answer_is_read_as_the_run_writes_and_given_as_the_reference_is(style, said):
    where = question("Where?", "{<50><0><150><50>}", (Box((0.25, 0.0, 0.75, 0.5)),))
    entry = entry_of_answer(where, Generation(said), style, lambda image: SIZE)
    assert entry["boxes"] == (Box((0.25, 0.0, 0.75, 0.5)),)
    assert (entry["prediction"], entry["as_said"]) == ("at {<50><0><150><50>}.", said)


def test_boxes_of_a_head_stay_and_what_is_no_box_is_left_to_the_protocol():
    where = question("Where?", "{<50><0><150><50>}", ())
    style = BoxStyle(by_head=True)
    box = Box((0.25, 0.0, 0.75, 0.5))
    headed = replace(Generation("[250, 0, 750, 500]"), outputs=Outputs((box,)))
    entry = entry_of_answer(where, headed, style, lambda image: SIZE)
    assert (entry["boxes"], entry["prediction"]) == ((box,), "{<50><0><150><50>}")
    for said in ("none", "[750, 0, 250, 500]", "[1, 2, 3]"):
        entry = entry_of_answer(where, Generation(said), style, lambda image: SIZE)
        assert (entry["prediction"], "boxes" in entry, "as_said" in entry) == (said, False, False)


def test_boxes_in_reasoning_are_not_those_of_the_answer():
    where = question("Where?", "{<50><0><150><50>}", (Box((0.25, 0.0, 0.75, 0.5)),))
    style = BoxStyle(written="thousandths")
    said = "<think>Not [0, 0, 100, 100].</think>[250, 0, 750, 500]"
    entry = entry_of_answer(where, Generation(said), style, lambda image: SIZE)
    assert (entry["boxes"], entry["as_said"]) == ((Box((0.25, 0.0, 0.75, 0.5)),), said)
    entry = entry_of_answer(where, Generation("<think>[0, 0, 100, 100]"), style, lambda image: SIZE)
    assert "boxes" not in entry
