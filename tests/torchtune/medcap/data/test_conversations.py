from pathlib import Path

import pytest

from medcap.data.conversations import read_record, split_images
from medcap.errors import UserError

SOURCE = Path("rows.json")
RUN = "①" * 50


def find(image, folder):
    return Path(folder or "root") / image


def read(row, style="auto"):
    return read_record(row, SOURCE, 3, find, style)


def parts(record):
    return [[(part["type"], part["content"]) for part in message.content] for message in record.messages]


def test_medcap_row_takes_its_folder_from_meta():
    row = {
        "conversations": [{"from": "human", "value": RUN}, {"from": "gpt", "value": "Clear lungs."}],
        "image": "a.jpg",
        "meta": "dir=./datasets/x=y/Image Folder",
    }
    record = read(row)
    assert parts(record) == [[("image", "datasets/x=y/Image Folder/a.jpg")], [("text", "Clear lungs.")]]
    assert [message.role for message in record.messages] == ["user", "assistant"]
    assert [message.masked for message in record.messages] == [True, False]


def test_a_run_of_any_length_is_one_image_and_words_stay_in_place():
    assert split_images("①\n\nDescribe it.") == [
        {"type": "image", "content": None},
        {"type": "text", "content": "\n\nDescribe it."},
    ]
    assert [part["type"] for part in split_images("Compare ①① with ①①①.")] == ["text", "image", "text", "image", "text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhere is this?", ["image", "\nWhere is this?"]),
        ("Where is this?\n<image>", ["Where is this?\n", "image"]),
        ("<image>\n<image>\nCompare.", ["image", "image", "\nCompare."]),
        ("<image>", ["image"]),
        ("What does <image> mean here?", ["What does <image> mean here?"]),
        ("", [""]),
    ],
)
def test_llava_tag_is_an_image_only_at_the_ends(text, expected):
    found = ["image" if part["type"] == "image" else part["content"] for part in split_images(text)]
    assert found == expected


def test_misspelt_key_numbers_and_several_turns():
    row = {
        "id": "x",
        "image": "a.jpg",
        "conversatons": [
            {"from": "human", "value": "How many?\n<image>"},
            {"from": "gpt", "value": 2},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes"},
        ],
    }
    record = read(row)
    assert parts(record)[1] == [("text", "2")]
    assert record.images == ["root/a.jpg"]
    assert [message.role for message in record.messages] == ["user", "assistant"] * 2


def test_coloninst_opens_the_file_named_by_id():
    row = {
        "id": "CVC/Train/polyp/11.png",
        "image": "11",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "polyp"}],
    }
    assert read(row).images == ["root/CVC/Train/polyp/11.png"]


def test_torchtune_messages_with_image_parts_and_text_only_rows():
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "content": "b.png"}, {"type": "text", "content": "What?"}]},
            {"role": "assistant", "content": "CT"},
        ]
    }
    assert parts(read(row))[1] == [("image", "root/b.png"), ("text", "What?")]
    text_only = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    assert read(text_only).images == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (7, "must be an object"),
        ({"image": "a.jpg"}, "no 'conversations'"),
        ({"conversations": []}, "at least one turn"),
        ({"conversations": [{"from": "human"}]}, "needs 'from' and 'value'"),
        ({"conversations": [{"from": "doctor", "value": "x"}]}, "'doctor'"),
        ({"conversations": [{"from": "human", "value": RUN}]}, "1 image placeholder(s) but 0 image(s)"),
        ({"conversations": [{"from": "human", "value": "no tag"}], "image": "a.jpg"}, "0 image placeholder(s) but 1"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]}, "two assistant turns"),
        ({"conversations": [{"from": "human", "value": RUN}], "image": 5}, "'image' must be a path"),
        ({"conversations": [{"from": "human", "value": RUN}], "image": "a", "meta": 5}, "'meta' must be text"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_number(row, message):
    with pytest.raises(UserError) as caught:
        read(row)
    assert message in str(caught.value)
    assert "rows.json, row 3" in str(caught.value)


def test_a_named_style_reads_no_other_layout():
    with pytest.raises(UserError, match="no 'messages'"):
        read({"conversations": [{"from": "human", "value": "x"}]}, style="messages")
    with pytest.raises(UserError, match="conversation_style=alpaca"):
        read({"conversations": [{"from": "human", "value": "x"}]}, style="alpaca")
