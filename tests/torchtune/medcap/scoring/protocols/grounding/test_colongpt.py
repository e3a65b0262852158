import json

import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.grounding.colongpt import inclusive_iou
from medcap.scoring.protocols.registry import make_protocol

BOX = "{<0><0><9><10>}"


def row(name, reference, prediction, task="REC", question=""):
    return make_answer(
        name, question, (reference,), prediction, groups={"task": task} if task else {}, image=f"{name}.png"
    )


def score(protocol, *rows):
    return make_protocol(protocol).score(rows)


def test_golden_values():
    assert inclusive_iou([0, 0, 9, 9], [5, 5, 14, 14]) == pytest.approx(0.142857, abs=1e-6)
    assert inclusive_iou([0, 0, 9, 9], [10, 10, 19, 19]) == 0.0
    result = score("colongpt", row("1", "{<0><0><9><18>}", "{<0><0><9><9>}"))
    assert result.scores["rec.mean_iou"] == pytest.approx(0.526316, abs=1e-6)
    assert (result.scores["rec.precision"], result.scores["rec.recall"]) == (1.0, 0.25)


def test_words_are_compared_whole():
    rows = [
        row("1", "Polyp", "POLYP<|endoftext|>", "CLS"),
        row("2", "polyp", "polyp.", "cls"),
        row("3", "polyp", "", "REG"),
    ]
    result = score("colongpt", *rows)
    assert (result.scores["cls.accuracy"], result.scores["reg.accuracy"]) == (0.5, 0.0)
    assert (result.counts["cls.n"], result.counts["reg.n"], result.counts["failures"]) == (2, 1, 1)
    assert score("colongpt_strict", *rows).scores["cls.accuracy"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "low", "high"),
    # Wilson's of 0 of 2 and of 2 of 2, and a bootstrap of 1 of 2, each divided by four.
    [(("no", "no"), 0.0, 0.1644), ((BOX, BOX), 0.0856, 0.25), ((BOX, "no"), 0.0, 0.25)],
)
def test_the_interval_of_the_published_recall_is_divided_by_four_too(predictions, low, high):
    intervals = score("colongpt", *(row(str(n), BOX, text) for n, text in enumerate(predictions))).intervals
    assert intervals["rec.recall"]["low"] == pytest.approx(low, abs=5e-5)
    assert intervals["rec.recall"]["high"] == pytest.approx(high, abs=5e-5)
    assert intervals["rec.recall"]["draws"] == intervals["rec.precision"]["draws"]


def test_the_strict_form_has_a_real_recall_and_reads_several_boxes():
    one, two = "{<0><0><9><10>}", "{<50><50><60><60>}"
    rows = [row("1", one, one), row("2", one + two, one), row("3", one, two + one), row("4", one, "polyp")]
    published, strict = score("colongpt", *rows), score("colongpt_strict", *rows)
    assert (published.scores["rec.mean_iou"], published.scores["rec.recall"]) == (0.25, 0.0625)
    assert strict.scores["rec.mean_iou"] == (1.0 + 0.5 + 0.5) / 4
    assert strict.scores["rec.precision"] == 0.75  # 3 of 4 boxes
    assert strict.scores["rec.recall"] == 0.6  # 3 of 5
    assert strict.counts["rec.unparsed"] == 1
    assert set(strict.scores) == set(strict.intervals)
    assert published.notices == [
        "REC answers without exactly four numbers, whose IoU is 0: 2 of 4 (the first is 3)",
        "REC references without exactly four numbers, whose IoU is 0 whatever is answered: 1 of 4 (the first is 2)",
    ]


def test_an_absent_object_counts_for_the_strict_precision_only():
    box = "{<0><0><9><10>}"
    rows = [row("1", box, box), row("2", "none", box), row("3", "none", "There is none.")]
    result = score("colongpt_strict", *rows)
    assert {name: result.scores[f"rec.{name}"] for name in ("mean_iou", "precision", "recall")} == {
        "mean_iou": 1.0,
        "precision": 0.5,
        "recall": 1.0,
    }
    assert [row["value"] for row in result.rows] == [1.0, None, None]
    assert result.notices[0] == (
        "REC rows without a box in their reference, whose answers count for the precision only: 2 of 3 (the first is 2)"
    )


def test_captions_have_no_measure_and_tasks_may_be_told_from_the_templates():
    rows = [
        row("1", "{<1><2><3><4>}", "x", "", "Where is polyp located?"),
        row("2", "polyp", "polyp", "", "What is the category for {<1><2><3><4>}?"),
        row("3", "polyp", "polyp", "", "Determine the object's category."),
        row("4", "A paragraph.", "Another.", "", "Describe what you see in the image."),
        row("5", "yes", "yes", "", "Is it?"),
    ]
    result = score("colongpt", *rows)
    assert {name: result.counts[name] for name in ("rec.n", "reg.n", "cls.n", "cap.n")} == dict.fromkeys(
        ("rec.n", "reg.n", "cls.n", "cap.n"), 1
    )
    assert result.scores["overall"] == pytest.approx(2 / 3)
    assert result.notices[:3] == [
        "rows without a 'task', taken from their reference and question: 4 of 5 (the first is 1)",
        "captions (CAP), which have no measure here: use coco: 1 of 5 (the first is 4)",
        "rows in no denominator, because their task is not CLS, REG, REC or CAP: 1 of 5 (the first is 5)",
    ]
    with pytest.raises(UserError, match="colongpt: no row is of the task CLS, REG or REC"):
        score("colongpt", rows[4])


def test_its_own_prediction_files_are_read(tmp_path):
    def turns(question, answer, prediction=None):
        said = [("human", f"<image>\n{question}"), ("gpt", answer), ("prediction", prediction)]
        return {
            "id": "CVC-ClinicDB/Train/polyp/11.png",
            "image": "11",
            "conversations": [{"from": who, "value": text} for who, text in said if text is not None],
        }

    rows = [
        turns("Where is the location of polyp?", "{<40><12><160><216>}", "{<40><12><160><216>}"),
        turns("Classify the object's category.", "polyp", "Polyp"),
        turns("Classify the object's category.", "polyp"),
    ]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(rows))
    answers = read_answers(path)
    assert [answer.question.id for answer in answers] == ["0", "1", "2"]
    assert answers[0].question.text == "Where is the location of polyp?"
    assert answers[0].question.image_names == ("CVC-ClinicDB/Train/polyp/11.png",)
    result = make_protocol("colongpt").score(answers)
    assert (result.scores["rec.mean_iou"], result.scores["cls.accuracy"]) == (1.0, 0.5)
    assert (result.counts["failures"], result.counts["clusters"]) == (1, 1)
    path.write_text(json.dumps([{**rows[0], "conversations": rows[0]["conversations"] * 2}]))
    with pytest.raises(UserError, match="row 0: 'conversations' must be one question"):
        read_answers(path)
