import json

import numpy as np
import pytest
from PIL import Image

from medcap.errors import UserError
from medcap.evaluation.metrics.caption import CaptionScores
from medcap.evaluation.tasks import caption
from medcap.evaluation.tasks.base import message_text
from medcap.evaluation.tasks.caption import CaptionTask

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
    (row,) = CaptionTask().load(write(tmp_path, [{"conversations": turns, "image": "a.png", "meta": ""}]))
    assert (row.id, row.references, row.image, row.problem) == ("0", ["Clear lungs."], tmp_path / "a.png", None)
    assert [message.role for message in row.messages] == ["system", "user"]
    assert row.images == [str(tmp_path / "a.png")]
    assert message_text(row.messages[1]) == row.question == "Describe."


def test_a_missing_image_is_a_problem_of_its_row_alone(tmp_path):
    answer = {"from": "gpt", "value": "b"}
    rows = [{"conversations": [HUMAN, answer], "image": name} for name in ("a.png", "lost.png")]
    loaded = CaptionTask().load(write(tmp_path, rows), "sharegpt")
    assert loaded[0].problem is None
    assert "lost.png does not exist" in loaded[1].problem


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


def test_scores_have_intervals_where_rows_can_be_drawn_anew(tmp_path, monkeypatch):
    answer = {"from": "gpt", "value": "b"}
    rows = CaptionTask().load(write(tmp_path, [{"conversations": [HUMAN, answer], "image": "a.png"}] * 2))
    names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
    counts = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 4, 4], [2, 1, 1, 1, 2, 2, 2, 2, 4, 5]], dtype=float)
    fake = CaptionScores(dict.fromkeys(names, 0.5), {name: [0.0, 1.0] for name in names}, counts, ["a notice"])
    monkeypatch.setattr(caption, "caption_metrics", lambda predictions, references: fake)
    metrics, row_scores = CaptionTask().score(rows, ["x", "y"])
    assert metrics["scores"]["CIDEr"] == 0.5
    assert set(metrics["intervals"]) == set(names) - {"METEOR"}
    assert metrics["intervals"]["CIDEr"]["low"] == 0.0
    assert metrics["notices"] == ["a notice"]
    assert [scores["CIDEr"] for scores in row_scores] == [0.0, 1.0]
