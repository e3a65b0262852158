import pytest

from medcap.data.images.reference import ImageRef
from medcap.data.row_layouts import read_record
from medcap.datasets.rows.sharegpt import caption_row, conversation_row, plain_words


def test_the_published_row():
    assert caption_row("x.jpg", "lesion ① seen", "./d") == {
        "conversations": [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": "lesion (1) seen"}],
        "image": "x.jpg",
        "meta": "dir=./d",
    }


def test_an_instruction_comes_after_the_image():
    row = caption_row("x.jpg", "a", "./d", "Describe this image.")
    assert row["conversations"][0]["value"] == "①" * 50 + "\n\nDescribe this image."


@pytest.mark.parametrize(("last", "value"), [(False, "①" * 50 + "\n\nq (1)"), (True, "q (1)\n" + "①" * 50)])
def test_the_image_is_in_the_first_turn_alone(last, value):
    row = conversation_row([("<image> q ①", "a <image>"), ("r", "b")], "x.jpg", "d", image_last=last)
    assert [turn["value"] for turn in row["conversations"]] == [value, "a", "r", "b"]
    record = read_record(row, "file", 0, lambda image, folder: f"{folder}/{image}")
    assert record.images == [ImageRef("d/x.jpg")]


def test_a_row_of_words_names_no_image():
    assert list(conversation_row([("q", "a")])) == ["conversations"]


def test_a_tag_within_a_sentence_is_a_word():
    assert plain_words(" <image>\n the <image> tag<image> ") == "the <image> tag"
