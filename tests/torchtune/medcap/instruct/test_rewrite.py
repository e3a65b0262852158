import json

import pytest

from medcap.datasets.published.reading import Tally
from medcap.errors import UserError
from medcap.instruct.asking import Asking
from medcap.instruct.rewrite import AnswerColumns, read_answers, rewrite
from medcap.language_models.recorded import RecordedReplies

ROWS = [
    {
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nModality?"}, {"from": "gpt", "value": "CT"}],
    },
    {"image": "b.jpg", "question": "Organ?", "answer": "Lung"},
    {"image": "a.jpg", "question": "Ascites?", "answer": "no"},
    {"image": "a.jpg", "question": "Ascites?", "answer": "no"},
    {"image": "c.jpg", "question": "Organ?"},
    {"image": "d.jpg", "conversations": [{"from": "gpt", "value": "CT"}]},
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_answers_of_an_image_are_collected(tmp_path):
    tally = Tally()
    images = read_answers(write_lines(tmp_path / "a.jsonl", ROWS), AnswerColumns(), tally)
    assert [(image.image, image.pairs) for image in images] == [
        ("a.jpg", [("Modality?", "CT"), ("Ascites?", "no")]),
        ("b.jpg", [("Organ?", "Lung")]),
    ]
    assert dict(tally.skipped) == {
        "there is no 'answer'": 1,
        "'conversations' must be pairs of a question and an answer": 1,
    }
    table = tmp_path / "a.csv"
    table.write_text("img_name,q,a\nx.png,Where?,left\n")
    (only,) = read_answers(table, AnswerColumns("img_name", "q", "a"), Tally())
    assert (only.image, only.pairs) == ("x.png", [("Where?", "left")])
    with pytest.raises(UserError, match=r"not one row can be used .1: there is no 'image'.*has: img_name, q, a"):
        read_answers(table, AnswerColumns(), Tally())


def test_paragraphs_are_written_in_both_forms_and_failures_counted(tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", ROWS)
    replies = [{"id": "a.jpg", "reply": "Here is the paragraph:\nA CT scan. There is no ascites."}]
    replies += [{"id": "b.jpg", "reply": "- a lung\n- nothing else"}]
    recorded = write_lines(tmp_path / "recorded.jsonl", replies)
    out = tmp_path / "out"
    summary = rewrite(source, AnswerColumns(), RecordedReplies(recorded, progress=False), out, Asking())
    assert dict(summary.failed.skipped) == {"the reply is a list or a dialogue": 1}
    (text,) = [json.loads(line) for line in (out / "text.jsonl").read_text().splitlines()]
    assert text == {"image": "a.jpg", "text": "A CT scan. There is no ascites."}
    (row,) = [json.loads(line) for line in (out / "conversations.jsonl").read_text().splitlines()]
    assert row == {
        "id": "a.jpg",
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "A CT scan. There is no ascites."},
        ],
    }
    assert json.loads((out / "summary.json").read_text())["failed"] == {
        "the reply is a list or a dialogue": {"count": 1, "first": "b.jpg"}
    }
