from pathlib import Path

import pytest

from medcap.data.images.reference import ImageRef
from medcap.data.regions.region import Region, RunLength
from medcap.data.row_layouts import read_record
from medcap.data.row_masks import place_masks
from medcap.errors import UserError
from medcap.generation.conversation import Conversation

A, B, C = map(ImageRef, ("a.png", "b.png", "c.png"))


def parts(request):
    return [(message.role, [part["content"] for part in message.content]) for message in request.messages]


def two_turns():
    conversation = Conversation("Be brief.")
    conversation.ask("Is there a mass?", [A, B])
    conversation.answer("No.")
    conversation.ask("", [C])
    return conversation


def test_a_request_holds_everything_that_was_said():
    conversation = two_turns()
    assert parts(conversation.request()) == [
        ("system", ["Be brief."]),
        ("user", [A, B, "\nIs there a mass?"]),
        ("assistant", ["No."]),
        ("user", [C]),
    ]


def test_a_turn_alone_is_about_the_images_that_were_shown_last():
    conversation = two_turns()
    assert parts(conversation.request(alone=True)) == [("system", ["Be brief."]), ("user", [C])]
    conversation.answer("A lung.")
    conversation.ask("Which side?")
    assert parts(conversation.request(alone=True)) == [("system", ["Be brief."]), ("user", [C, "\nWhich side?"])]
    without = Conversation()
    without.ask("Which side?")
    assert parts(without.request(alone=True)) == [("user", ["Which side?"])]


def test_the_last_answer_is_not_part_of_what_is_asked_again():
    conversation = two_turns()
    conversation.answer("A lung.")
    assert parts(conversation.request())[-1] == ("user", [C])
    conversation.answer("Two lungs.")
    assert [exchange.answer for exchange in conversation.exchanges] == ["No.", "Two lungs."]


def test_a_saved_conversation_is_read_as_the_same_turns():
    conversation = two_turns()
    conversation.answer("A lung.")
    conversation.ask("not answered")
    record = read_record(conversation.to_row(), Path("saved.json"), 0, lambda image, folder: Path(image))
    conversation.exchanges.pop()
    asked = parts(conversation.request())
    assert [(message.role, [part["content"] for part in message.content]) for message in record.messages] == [
        *asked,
        ("assistant", ["A lung."]),
    ]


@pytest.mark.parametrize("lost", ["", " ", None, "<image>"])
def test_the_images_of_a_turn_without_an_answer_go_with_the_next(lost):
    conversation = Conversation()
    conversation.ask("Is there a mass?", [A])
    conversation.exchanges[-1].answer = lost
    conversation.ask("Please look again.", [B])
    assert parts(conversation.request()) == [("user", [A, B, "\nPlease look again."])]
    conversation.answer("No.")
    conversation.ask("Sure?")
    assert parts(conversation.request()) == [
        ("user", [A, B, "\nPlease look again."]),
        ("assistant", ["No."]),
        ("user", ["Sure?"]),
    ]
    assert conversation.to_row() == {
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nPlease look again."},
            {"from": "gpt", "value": "No."},
        ],
    }


def test_a_placeholder_that_was_asked_alone_is_left_out_of_later_turns():
    conversation = Conversation()
    conversation.ask("", [A])
    conversation.answer("A lung.")
    conversation.ask("<image> Which side?")
    assert parts(conversation.request(alone=True)) == [("user", [A, "\nWhich side?"])]
    with pytest.raises(UserError, match="1 image placeholder"):
        conversation.request()
    conversation.answer("Left.")
    conversation.ask("Sure?")
    assert parts(conversation.request())[2:] == [
        ("user", ["Which side?"]),
        ("assistant", ["Left."]),
        ("user", ["Sure?"]),
    ]


def test_markdown_shows_images_words_and_answers():
    conversation = Conversation()
    conversation.ask("", [ImageRef("my file.png")])
    conversation.answer("A chest.")
    assert conversation.to_markdown() == "![my file.png](<my file.png>)\n**You:** (describe)\n\nA chest.\n"


def test_a_row_keeps_its_masks_with_null_for_what_was_not_seen_and_is_read_again():
    conversation = Conversation()
    conversation.ask("Where is the liver?", [A])
    conversation.answer("liver <SEG>, nodule not visible.", (Region(RunLength((2, 2), "04")), None))
    row = conversation.to_row()
    assert row["conversations"][1]["value"] == "liver <SEG>, nodule <SEG>."
    assert row["masks"] == [{"mask": {"size": [2, 2], "counts": "04"}}, None]
    record = place_masks(row, read_record(row, Path("it.json"), 0, lambda name, folder: name), Path)
    assert [mask is None for mask in record.masks] == [False, True]


def test_words_that_do_not_fit_the_masks_stay_as_they_were_said():
    conversation = Conversation()
    conversation.ask("Where is the nodule?", [A])
    conversation.answer("not visible.", ())
    row = conversation.to_row()
    assert row["conversations"][1]["value"] == "not visible." and "masks" not in row
