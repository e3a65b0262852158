import json

import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError
from medcap.evaluation.tasks.captions.caption import CaptionOptions, CaptionTask
from medcap.scoring.question import message_text

HUMAN = {"from": "human", "value": "①" * 50}


def write(tmp_path, rows):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_the_first_answer_is_the_reference_and_what_precedes_it_the_prompt(tmp_path):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "①" * 50 + "\n\nDescribe."},
        {"from": "gpt", "value": " Clear lungs. "},
        {"from": "human", "value": "More?"},
        {"from": "gpt", "value": "No."},
    ]
    path = write(tmp_path, [{"conversations": turns, "image": "a.png", "meta": ""}])
    benchmark = CaptionTask().load(path)
    (row,) = benchmark.rows
    assert (row.id, row.references, row.image, row.problem) == (
        "0",
        ("Clear lungs.",),
        ImageRef.of(tmp_path / "a.png"),
        None,
    )
    assert [message.role for message in row.messages] == ["system", "user"]
    assert row.images == [ImageRef.of(tmp_path / "a.png")]
    assert message_text(row.messages[1]) == row.text == "Describe."
    assert (benchmark.source, benchmark.files, benchmark.notices) == (str(path), [path], [])
    assert tmp_path in benchmark.image_roots
    assert CaptionTask().load(tmp_path).sha256 == benchmark.sha256


def test_a_missing_image_is_a_problem_of_its_row_alone(tmp_path):
    answer = {"from": "gpt", "value": "b"}
    rows = [{"conversations": [HUMAN, answer], "image": name} for name in ("a.png", "lost.png")]
    benchmark = CaptionTask().load(write(tmp_path, rows), CaptionOptions(dataset_conversation_style="sharegpt"))
    assert benchmark.rows[0].problem is None
    assert "lost.png does not exist" in benchmark.rows[1].problem
    assert benchmark.notices[0].startswith("1 of 2 rows cannot be asked")


def test_images_may_lie_in_a_root(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pictures" / "b.png")
    path = write(tmp_path, [{"conversations": [HUMAN, {"from": "gpt", "value": "b"}], "image": "b.png"}])
    benchmark = CaptionTask().load(path, CaptionOptions(image_roots=[tmp_path / "pictures"]))
    assert benchmark.rows[0].image == ImageRef.of(tmp_path / "pictures" / "b.png")
    assert benchmark.image_roots == [tmp_path / "pictures"]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"from": "human", "value": "q"}], "no assistant turn"),
        ([{"from": "gpt", "value": "q"}], "speaks first"),
        ([{"from": "human", "value": "q"}, {"from": "gpt", "value": " "}], "reference, is empty"),
    ],
)
def test_a_row_that_cannot_be_compared_is_named(tmp_path, turns, message):
    good = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    path = write(tmp_path, [good, {"conversations": turns}])
    with pytest.raises(UserError, match=f"test.json, row 1: .*{message}"):
        CaptionTask().load(path)


def test_images_are_looked_at_as_the_row_says_and_else_the_configuration(tmp_path):
    rows = [{"conversations": [HUMAN, {"from": "gpt", "value": "Clear."}], "image": "a.png"}]
    path = write(tmp_path, [rows[0], rows[0] | {"frames": "2 even"}])
    loaded = CaptionTask().load(path, CaptionOptions(view={"fit": "pad"})).rows
    assert [row.image.view for row in loaded] == [View(fit="pad"), View(frames="2 even", fit="pad")]
