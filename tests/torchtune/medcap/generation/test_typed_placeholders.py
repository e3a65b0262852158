from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.data.row_layouts import read_record
from medcap.errors import UserError
from medcap.generation.typed_placeholders import (
    find_placeholders,
    fitting,
    place_images,
    row_text,
    without_placeholders,
)

PIECES = st.sampled_from(
    ["<image>", "\u2460", "\u2460\u2460", " ", "\n", "lung", "<IMAGE>", "<|image|>", "\u2461", "\x1c"]
)
TYPED = st.lists(PIECES, max_size=8).map("".join)
FEW = settings(max_examples=300, deadline=None, derandomize=True)


def contents(text, *images):
    return [part["content"] for part in place_images(text, images)]


def trained(value, images):
    """The parts that a training row with these words has."""
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "Yes"}]
    record = read_record({"image": images, "conversations": turns}, Path("row.json"), 0, lambda image, folder: image)
    return [str(part["content"]) for part in record.messages[0].content]


@pytest.mark.parametrize(
    ("text", "images", "parts", "row"),
    [
        ("Is it left?", [], ["Is it left?"], "Is it left?"),
        ("Is it left?", ["a"], ["a", "\nIs it left?"], "<image>\nIs it left?"),
        ("", ["a", "b"], ["a", "b"], "<image>\n<image>"),
        ("<image> Is it left?", ["a"], ["a", "\nIs it left?"], "<image>\nIs it left?"),
        ("\u2460Is it left?", ["a"], ["a", "\nIs it left?"], "<image>\nIs it left?"),
        ("Is it left? <image>", ["a"], ["Is it left?\n", "a"], "Is it left?\n<image>"),
        ("<image>", ["a"], ["a"], "<image>"),
        ("<image> Or this? <image>", ["a", "b"], ["a", "\nOr this?\n", "b"], "<image>\nOr this?\n<image>"),
        ("And this? \u2460\u2460", ["a", "b"], ["a", "\nAnd this?\n", "b"], "<image>\nAnd this?\n<image>"),
        ("Is \u2460 left of \u2460?", ["a", "b"], ["Is ", "a", " left of ", "b", "?"], "Is \u2460 left of \u2460?"),
        ("Is \u2460 the last?", ["a", "b"], ["a", "\nIs ", "b", " the last?"], "<image>\nIs \u2460 the last?"),
        ("\u2460 <image> What?", ["a", "b"], ["a", "b", "\nWhat?"], "<image>\n<image>\nWhat?"),
        ("What is the <image> tag?", ["a"], ["a", "\nWhat is the <image> tag?"], "<image>\nWhat is the <image> tag?"),
        ("<|image|> What?", ["a"], ["a", "\n<|image|> What?"], "<image>\n<|image|> What?"),
        ("<IMAGE> What? \u2461", [], ["<IMAGE> What? \u2461"], "<IMAGE> What? \u2461"),
    ],
)
def test_images_stand_where_the_words_name_them_as_in_a_training_row(text, images, parts, row):
    assert contents(text, *images) == parts == trained(row, images)
    assert row_text(text, len(images)) == row


@pytest.mark.parametrize(("text", "count"), [("<image> What?", 1), ("What? \u2460", 1), ("<image>\n<image>", 2)])
def test_more_placeholders_than_images_are_refused(text, count):
    with pytest.raises(UserError, match=rf"^{count} image placeholders? \(<image> or \u2460\) but 0 new image"):
        place_images(text, [])
    with pytest.raises(UserError):
        row_text(text, 0)


@pytest.mark.slow
@FEW
@given(text=TYPED, more=st.integers(0, 2))
def test_a_row_of_any_typed_words_has_the_parts_that_were_asked(text, more):
    images = [f"{number}.png" for number in range(find_placeholders(text).count + more)]
    if images or text.strip():
        assert trained(row_text(text, len(images)), images) == (contents(text, *images) or [""])


@pytest.mark.slow
@FEW
@given(text=TYPED)
def test_words_without_placeholders_ask_for_no_image(text):
    assert find_placeholders(without_placeholders(text)).count == 0
    assert find_placeholders(fitting(text, 1)).count <= 1
    assert "lung" in without_placeholders(text) or "lung" not in text


@pytest.mark.slow
def test_a_turn_of_very_many_placeholders_takes_no_time():
    assert find_placeholders("\u2460 " * 100_000 + "x" + " <image>" * 100_000 + "x").count == 100_000
