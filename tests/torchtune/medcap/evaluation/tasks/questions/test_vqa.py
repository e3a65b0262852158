import json
import shutil

import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.row_layouts import read_record
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.questions.vqa import VqaTask


def write(tmp_path, rows, name="vqa.jsonl"):
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def load(tmp_path, rows):
    return VqaTask().load(write(tmp_path, rows)).rows


def test_questions_are_asked_exactly_as_training_records_put_them(tmp_path):
    row = {"question_id": 7, "image": "images/a.png", "question": "Is it clear?", "reference": "Yes"}
    row |= {"answer_type": "CLOSED ", "options": ["yes", "", "no"], "modality": "X-Ray", "question_type": "finding"}
    (loaded,) = load(tmp_path, [row])
    turns = [{"from": "human", "value": "<image>\nIs it clear?"}, {"from": "gpt", "value": "Yes"}]
    training = {"image": "images/a.png", "conversations": turns}
    record = read_record(training, tmp_path / "x.json", 0, lambda image, folder: tmp_path / image)
    assert loaded.messages[0].content == record.messages[0].content
    assert (loaded.id, loaded.references, loaded.image) == ("7", ("Yes",), ImageRef.of(tmp_path / "images" / "a.png"))
    assert (loaded.answer_type, loaded.options) == ("CLOSED", ("yes", "no"))
    assert dict(loaded.meta) == {"modality": "X-Ray", "question_type": "finding"}


def test_other_names_lists_of_answers_and_text_only_rows_are_read(tmp_path):
    rows = [{"id": "x", "question": "Q <image>?", "answer": ["a", "b"]}, {"question": "R", "reference": 3}]
    first, second = load(tmp_path, rows)
    assert (first.id, first.text, first.references, first.images) == ("x", "Q  ?", ("a", "b"), [])
    assert (second.id, second.references, second.options, second.answer_type) == ("1", ("3",), (), "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["Yes", None, " No ", "nan"], ("Yes", "No")),
        ("[yes, no]", ("yes", "no")),
        ("yes | no", ("yes", "no")),
        ("['left', 'right', '']", ("left", "right")),
        (["None", "NA"], ("None", "NA")),
        ([], ()),
        (None, ()),
    ],
)
def test_options_are_a_list_or_text_and_lose_what_is_empty(tmp_path, options, expected):
    (row,) = load(tmp_path, [{"question": "q", "reference": "a", "options": options}])
    assert row.options == expected


def test_options_at_the_end_of_a_question_are_taken_from_it(tmp_path):
    question = "Is it clear? Please choose from the following two options: [yes, no]"
    turns = [{"from": "human", "value": question + "\n<image>"}, {"from": "gpt", "value": "yes"}]
    (row,) = load(tmp_path, [{"image": "images/a.png", "conversations": turns}])
    assert (row.text, row.options) == (question, ("yes", "no"))


@pytest.mark.parametrize("key", ["conversations", "conversatons"])
def test_llava_med_rows_are_read_a_pair_of_turns_each(tmp_path, key):
    turns = [
        {"from": "human", "value": "Is it clear?\n<image>"},
        {"from": "gpt", "value": "yes"},
        {"from": "human", "value": "Which view?"},
        {"from": "gpt", "value": "PA"},
    ]
    row = {"id": "r1", "image": "images/a.png", key: turns, "answer_type": "OPEN"}
    first, second = load(tmp_path, [row])
    assert [(r.id, r.text, r.references) for r in (first, second)] == [
        ("r1", "Is it clear?", ("yes",)),
        ("r1#2", "Which view?", ("PA",)),
    ]
    assert first.images == second.images == [ImageRef.of(tmp_path / "images" / "a.png")]
    assert first.answer_type == second.answer_type == "OPEN"


def test_a_missing_image_is_a_problem_of_its_rows_alone(tmp_path):
    rows = [{"question": "q", "reference": "a", "image": name} for name in ("lost.png", "images/a.png", "lost.png")]
    first, second, third = load(tmp_path, rows)
    assert "lost.png does not exist" in first.problem
    assert second.problem is None
    assert third.problem == first.problem


def test_a_folder_s_file_is_found_by_its_name(tmp_path):
    path = write(tmp_path, [{"question": "q", "reference": "a"}])
    assert VqaTask().load(tmp_path).files == [path]
    assert VqaTask().load(tmp_path).expected is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "must be an object"),
        ({"reference": "a"}, "no 'question'"),
        ({"question": "q"}, "no 'reference'"),
        ({"question": " ", "reference": "a"}, "question is empty"),
        ({"question": "q", "reference": []}, "reference is empty"),
        ({"question": "q", "reference": "a", "image": 3}, "'image' must be a path"),
        ({"question": "q", "reference": "a", "options": 3}, "'options' must be a list"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "pairs"),
        ({"conversations": [{"from": "gpt", "value": "q"}, {"from": "human", "value": "a"}]}, "alternate"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = write(tmp_path, [{"question": "q", "reference": "a"}, row])
    with pytest.raises(UserError, match=f"vqa.jsonl, row 1: .*{message}"):
        VqaTask().load(path)


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (True, "true")])
def test_something_that_is_not_a_word_is_refused_by_name(tmp_path, value, shown):
    question = {"question": "Where?", "answer": "left"}
    for row, name in (
        (question | {"answer": value}, "answer"),
        (question | {"answer": ["left", value]}, "answer"),
        ({"question": "Where?", "reference": value}, "reference"),
        (question | {"question": value}, "question"),
    ):
        with pytest.raises(UserError, match=f"vqa.jsonl, row 0: '{name}' must be text, not {shown}$"):
            load(tmp_path, [row])
    for value_of in ({"from": "human", "value": value}, {"from": "gpt", "value": value}):
        turns = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "left"}]
        turns[value_of["from"] == "gpt"] = value_of
        with pytest.raises(UserError, match=r"vqa.jsonl, row 0: the (question|reference) is empty"):
            load(tmp_path, [{"conversations": turns}])


@pytest.mark.parametrize(
    ("options", "shown"), [(["a", True], "true"), ([float("inf")], "Infinity"), ([["a"]], "list"), ([{}], "dict")]
)
def test_an_option_that_is_not_a_word_is_refused_by_name(tmp_path, options, shown):
    with pytest.raises(UserError, match=f"row 0: 'options' must be text, not {shown}"):
        load(tmp_path, [{"question": "q", "answer": "a", "options": options}])
    (row,) = load(tmp_path, [{"question": "q", "answer": "a", "options": [1, 2.5, float("nan"), None]}])
    assert row.options == ("1", "2.5")


@pytest.mark.parametrize("key", ["img", "image_path"])
def test_an_image_under_another_key_is_not_passed_over(tmp_path, key):
    with pytest.raises(UserError, match=f"row 0: '{key}' is not read: name the image under 'image'"):
        load(tmp_path, [{"question": "q", "answer": "a", key: "images/a.png"}])
    (row,) = load(tmp_path, [{"question": "q", "answer": "a", "image": "images/a.png", key: "images/a.png"}])
    assert row.image == ImageRef.of(tmp_path / "images" / "a.png")


def test_a_question_may_be_about_several_images(tmp_path):
    paths = ["images/a.png", "images/b.png"]
    write(tmp_path, [])
    shutil.copy(tmp_path / paths[0], tmp_path / paths[1])
    first, second = (ImageRef.of(tmp_path / path) for path in paths)
    rows = load(
        tmp_path,
        [
            {"question": "Which is larger?", "answer": "a", "image": paths},
            {"question": "<image>\n<image>\nWhich is larger?", "answer": "a", "images": paths},
            {"question": "<image> or\n<image>", "answer": "a", "images": paths, "image": paths},
            {"question": "Is a larger than b?", "answer": "a", "images": [paths[0], "images/none.png"]},
        ],
    )
    picture = {"type": "image", "content": first}
    other = {"type": "image", "content": second}
    before = [picture, other, {"type": "text", "content": "\nWhich is larger?"}]
    assert [row.messages[0].content for row in rows[:3]] == [
        before,
        before,
        [picture, {"type": "text", "content": "\nor\n"}, other],
    ]
    assert "none.png" in rows[3].problem
    with pytest.raises(UserError, match="row 0: 'image' and 'images' name different images"):
        load(tmp_path, [{"question": "q", "answer": "a", "images": paths, "image": paths[0]}])


def test_a_view_is_that_of_the_row_and_else_of_the_configuration(tmp_path):
    row = {"image": "images/a.png", "question": "Is it clear?", "reference": "Yes"}
    path = write(tmp_path, [row, {**row, "window": [40, 400], "frames": 3}])
    options = LoadOptions.of_keys({"view": {"axis": "coronal", "window": 0}, "temperature": 0})
    views = [question.image.view for question in VqaTask().load(path, options).rows]
    assert views == [View(window=0, axis="coronal"), View((40.0, 400.0), 3, "coronal")]
    with pytest.raises(UserError, match=r"row 0: window=\[40, 0\] must have a width above 0"):
        load(tmp_path, [{**row, "window": [40, 0]}])
