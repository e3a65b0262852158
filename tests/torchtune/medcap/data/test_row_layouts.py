from pathlib import Path

import pytest

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.row_layouts import read_record, split_images
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
    assert parts(record) == [[("image", ImageRef("datasets/x=y/Image Folder/a.jpg"))], [("text", "Clear lungs.")]]
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
    assert record.images == [ImageRef("root/a.jpg")]
    assert [message.role for message in record.messages] == ["user", "assistant"] * 2


def test_coloninst_opens_the_file_named_by_id():
    row = {
        "id": "CVC/Train/polyp/11.png",
        "image": "11",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "polyp"}],
    }
    assert read(row).images == [ImageRef("root/CVC/Train/polyp/11.png")]


def test_torchtune_messages_with_image_parts_and_text_only_rows():
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "content": "b.png"}, {"type": "text", "content": "What?"}]},
            {"role": "assistant", "content": "CT"},
        ]
    }
    assert parts(read(row))[1] == [("image", ImageRef("root/b.png")), ("text", "What?")]
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
        ({"conversations": [{"from": "human", "value": RUN}]}, "1 image placeholder but 0 images"),
        ({"conversations": [{"from": "human", "value": "no tag"}], "image": "a.jpg"}, "0 image placeholders but 1"),
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


def talk(answer="Yes", question="Is it?", **keys):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **keys}


def chat(*contents, **keys):
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], **keys}


def part(kind, **keys):
    return [{"type": kind, **keys}]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (True, "true")],
)
def test_a_value_that_is_neither_number_nor_text_is_refused_by_name(value, shown):
    for row, name in (
        (talk(value), "value"),
        (talk(question=value), "value"),
        (chat("Is it?", value), "content"),
        (chat("Is it?", part("text", text=value)), "text"),
        (chat(part("text", content=value), "Yes"), "content"),
        (talk(system=value), "system"),
    ):
        with pytest.raises(UserError, match=f"rows.json, row 3: '{name}' must be text, not {shown}$"):
            read(row)
    for row in (chat(part("image", image=value), "Yes"), talk(image=value), talk(images=[value]), talk(meta=value)):
        with pytest.raises(UserError, match="must "):
            read(row)


@pytest.mark.parametrize(("value", "words"), [(3, "3"), (-2.5, "-2.5"), (0, "0"), ("nan", "nan"), ("true", "true")])
def test_finite_numbers_and_words_are_text(value, words):
    for row in (talk(value), chat("Is it?", value), chat("Is it?", part("text", text=value))):
        assert parts(read(row))[1] == [("text", words)]


@pytest.mark.parametrize("key", ["image", "images", "img"])
@pytest.mark.parametrize("row", [talk, lambda **keys: chat(keys.pop("question"), "Yes", **keys)])
def test_every_key_of_images_is_read(key, row):
    for named in ("a.jpg", ["a.jpg"]):
        assert read(row(question="<image>\nIs it?", **{key: named})).images == [ImageRef("root/a.jpg")]
    assert read(row(question="<image>?", image="a.jpg", images=["a.jpg"])).images == [ImageRef("root/a.jpg")]
    with pytest.raises(UserError, match="0 image placeholders but 1 image; write <image> at the start"):
        read(row(question="Is it?", **{key: "a.jpg"}))
    with pytest.raises(UserError, match="name different images: keep one of them"):
        read(row(question="<image>?", image="a.jpg", images=["b.jpg"]))


def test_system_next_to_the_turns_is_the_first_turn():
    for row in (talk(system="Be brief."), chat("Is it?", "Yes", system="Be brief.")):
        record = read(row)
        assert [(message.role, message.masked) for message in record.messages] == [
            ("system", True),
            ("user", True),
            ("assistant", False),
        ]
        assert parts(record)[0] == [("text", "Be brief.")]
    assert [message.role for message in read(talk(system="")).messages] == ["user", "assistant"]
    spoken = talk(system="Be brief.")
    spoken["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    assert len(read(spoken).messages) == 3
    with pytest.raises(UserError, match="'system' stands beside a system turn"):
        read(spoken | {"system": "Be long."})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_path": "a.jpg"}, "'image_path' beside '{}' is not read: name the images under 'image'"),
        ({"img_paths": ["a.jpg"]}, "'img_paths' beside '{}' is not read"),
        ({"videos": ["a.mp4"]}, "'videos' beside '{}' is not read: remove it"),
        ({"audio": "a.wav"}, "'audio' beside '{}' is not read"),
        ({"tools": '[{"name": "x"}]'}, "'tools' beside '{}' is not read"),
        ({"system_prompt": "Be brief."}, "'system_prompt' beside '{}' is not read: name it 'system'"),
    ],
)
def test_other_keys_that_carry_content_are_refused_by_name(keys, message):
    for row, key in ((talk(**keys), "conversations"), (chat("Is it?", "Yes", **keys), "messages")):
        with pytest.raises(UserError, match=message.format(key)):
            read(row)


def test_keys_that_carry_nothing_more_are_passed_over():
    more = {"id": 7, "tools": "[]", "videos": [], "system_prompt": None, "type": "x", "image_path": "/data/a.jpg"}
    assert read(talk(question="<image>?", image="a.jpg", **more)).images == [ImageRef("root/a.jpg")]
    assert read(chat([*part("image", image="a.jpg"), *part("text", text="?")], "Yes", **more)).images == [
        ImageRef("root/a.jpg")
    ]


@pytest.mark.parametrize("key", ["image", "images", "img_path", "video"])
def test_content_in_a_turn_next_to_its_words_is_refused(key):
    for row in (talk(), chat("Is it?", "Yes")):
        row[next(iter(row))][0][key] = "a.jpg"
        with pytest.raises(UserError, match=f"'{key}' in a turn is not read"):
            read(row)


def test_turns_under_two_keys_are_refused():
    with pytest.raises(UserError, match="turns under 'conversations' and under 'messages': keep one"):
        read(talk() | chat("Is it?", "No"))
    assert parts(read(talk() | {"messages": []}))[1] == [("text", "Yes")]
    assert parts(read(talk() | chat("Is it?", "No"), style="openai"))[1] == [("text", "No")]


@pytest.mark.parametrize("answer", ["<image>", "It is <image>", RUN, "see ① there"])
def test_an_answer_holds_no_image(answer):
    for row in (talk(answer, image="a.jpg"), chat("Is it?", answer, image="a.jpg")):
        with pytest.raises(UserError, match="turn 2, the assistant's, holds an image or a placeholder"):
            read(row)


def test_an_answer_holds_no_image_part():
    with pytest.raises(UserError, match="turn 2, the assistant's, holds an image"):
        read(chat("Is it?", [*part("text", text="See"), *part("image", image="a.jpg")]))
    assert parts(read(talk("The word <image> is a word.")))[1] == [("text", "The word <image> is a word.")]


def test_a_part_of_a_table_has_null_under_the_other_keys():
    row = chat(
        [*part("image", text=None, image="a.jpg"), *part("text", content=None, text="Is it?", image=None)], "Yes"
    )
    assert parts(read(row))[0] == [("image", ImageRef("root/a.jpg")), ("text", "Is it?")]
    with pytest.raises(UserError, match="'text' must be text, not NoneType"):
        read(chat(part("text", text=None), "Yes"))


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (talk(question="See <image> here", image="a.jpg"), "<image> counts only at the start or the end of a turn"),
        (talk(question="Is it?", image=["a.jpg"]), "write <image> at the start of the turn"),
        (talk(question="<image>Is it?"), "name the images under 'image'"),
    ],
)
def test_a_wrong_number_of_placeholders_says_why(row, hint):
    with pytest.raises(UserError, match=rf"image placeholders? but \d images?; {hint}"):
        read(row)


TURNS = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "left"}]


def views(row, default=None):
    return [image.view for image in read_record(row, SOURCE, 3, find, "auto", default).images]


def test_an_image_is_looked_at_as_it_says_itself_then_as_its_row_then_as_the_default():
    default = View(fit="pad", axis="coronal")
    assert views({"image": "a", "conversations": TURNS}, default) == [default]
    assert views({"image": "a", "axis": None, "conversations": TURNS}, default) == [default]
    assert views({"image": "a", "axis": "axial", "conversations": TURNS}, default) == [View(fit="pad")]
    own = {"image": "a", "frames": "2 even", "axis": None}
    assert views({"image": own, "window": 1, "conversations": TURNS}) == [View(1, "2 even")]
    assert views({"images": [own], "image": [own], "conversations": TURNS}) == [View(frames="2 even")]
    part = {"type": "image", "content": "a", "text": None, "fit": "squash"}
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "left"}]
    assert views({"messages": messages, "axis": "sagittal"}, default) == [View(fit="squash", axis="sagittal")]


def test_keys_of_a_row_of_text_alone_may_mean_anything():
    row = {"frames": "many", "axis": 3, "conversations": [{"from": "human", "value": "Yes?"}, TURNS[1]]}
    assert read(row).images == []


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([{"image": "a", "frame": 1}], "unknown key images.frame: did you mean images.frames?"),
        ([{"frames": 1}], "'images' holds an object without the key 'image', which is the path"),
        ([["a"]], "'images' must be a path or a list of paths"),
        ([{"image": "a", "frames": "x"}], "frames='x' must be middle, all"),
        ([{"image": "a"}, "a"], "1 image placeholder"),
    ],
)
def test_an_object_that_is_no_image(images, words):
    with pytest.raises(UserError, match=words):
        read({"images": images, "conversations": TURNS})


def test_the_same_images_under_two_names_must_have_the_same_keys():
    row = {"image": "a", "images": [{"image": "a", "frames": 2}], "conversations": TURNS}
    with pytest.raises(UserError, match="name different images"):
        read(row)
