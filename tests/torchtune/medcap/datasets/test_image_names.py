import copy

import pytest

from medcap.datasets.image_names import has_turns, rename_images
from medcap.errors import UserError

TURNS = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "left"}]


def renamed(row):
    before = copy.deepcopy(row)
    seen = []
    changed = rename_images(row, lambda name, folder, keys: seen.append((name, folder)) or f"new/{len(seen)}.png")
    assert row == before
    return changed, seen


def test_llava_and_sharegpt_rows():
    row = {"id": "7", "image": "a.dcm", "conversations": TURNS, "meta": "dir=./x; split=train"}
    changed, seen = renamed(row)
    assert changed == {"id": "7", "image": "new/1.png", "conversations": TURNS, "meta": "split=train"}
    assert seen == [("a.dcm", "./x")]
    changed, seen = renamed({"image": ["a.png", "b.png"], "conversatons": TURNS, "meta": "dir=./x"})
    assert changed == {"image": ["new/1.png", "new/2.png"], "conversatons": TURNS}
    assert seen == [("a.png", "./x"), ("b.png", "./x")]


def test_coloninst_rows_stay_coloninst_rows():
    changed, seen = renamed({"id": "Train/a.jpg", "image": "a", "conversations": TURNS})
    assert changed == {"id": "new/1.png", "image": "1", "conversations": TURNS}
    assert seen == [("Train/a.jpg", None)]


def test_messages():
    part = {"type": "image", "content": "a.jpg"}
    empty = {"type": "image"}
    row = {
        "messages": [{"role": "user", "content": [part, empty, {"type": "text", "content": "a.jpg"}]}],
        "images": ["b"],
    }
    changed, seen = renamed(row)
    assert changed["images"] == ["new/1.png"]
    content = changed["messages"][0]["content"]
    assert content == [
        {"type": "image", "content": "new/2.png"},
        {"type": "image"},
        {"type": "text", "content": "a.jpg"},
    ]
    assert seen == [("b", None), ("a.jpg", None)]


@pytest.mark.parametrize("key", ["image", "image_path", "image_name", "img_name"])
def test_rows_of_benchmarks(key):
    row = {"question": "Where?", key: "a.jpg"}
    changed, _ = renamed(row)
    assert changed == {"question": "Where?", key: "new/1.png"}
    assert not has_turns(row)


def test_rows_without_images_stay():
    row = {"conversations": TURNS[1:], "image": None}
    assert renamed(row) == (row, [])
    assert has_turns(row)


@pytest.mark.parametrize("row", [[1], "text", {"image": {"a": 1}, "conversations": TURNS}, {"image": [1]}])
def test_what_names_no_image_rightly(row):
    with pytest.raises(UserError, match=r"must be|without the key 'image'"):
        rename_images(row, lambda name, folder, keys: name)
