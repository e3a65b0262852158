import json

import numpy as np
import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.metrics.caption import CaptionScores
from medcap.scoring.protocols import coco
from medcap.scoring.protocols.registry import make_protocol

BOX = "<ref>liver</ref><box>(100,100),(300,300)</box>"
OTHER = "<box>(600,600),(700,700)</box>"


def row(name, reference, prediction, image="ct_1.png", **groups):
    return make_answer(name, "", (reference,), prediction, groups=groups, image=image)


def score(protocol, *rows):
    return make_protocol(protocol).score(rows)


def test_the_published_recall_is_a_mean_over_eight_modalities():
    rows = [row("1", BOX, BOX), row("2", BOX, "(100,100),(300,300)", "mr_1.png"), row("3", BOX, "nothing", "mr_2.png")]
    result = score("bird_vg", *rows)
    assert result.scores["recall"] == pytest.approx((1 + 0.5) / 8, abs=1e-7)
    assert result.scores["mr.recall"] == 1 / (2 + 1e-8)
    assert (result.counts["ct.n"], result.counts["mr.targets"], result.counts["clusters"]) == (1, 2, 3)
    assert result.intervals["recall"]["high"] <= 2 / 8
    strict = score("bird_vg_strict", *rows)
    assert strict.scores == {"recall": 0.5, "ct.recall": 1.0, "mr.recall": 0.0, "precision": 0.5}


def test_one_box_may_serve_several_targets_only_as_published():
    rows = [row("1", BOX + BOX, BOX)]
    assert score("bird_vg", *rows).scores["ct.recall"] == pytest.approx(1.0)
    assert score("bird_vg_strict", *rows).scores["ct.recall"] == 0.5


def test_the_strict_form_takes_the_rows_modality_and_counts_every_box():
    rows = [row("1", BOX, BOX + OTHER, "scan.png", modality="CT"), row("2", BOX, OTHER, "scan2.png", modality="MR")]
    strict = score("bird_vg_strict", *rows)
    assert strict.scores == {"recall": 0.5, "CT.recall": 1.0, "MR.recall": 0.0, "precision": 1 / 3}
    assert set(strict.intervals) == set(strict.scores)
    with pytest.raises(UserError, match=r"bird_vg: row 1: .* image begins with 'scan.png'.*bird_vg_strict"):
        score("bird_vg", *rows)


def test_words_as_substrings_and_as_equal_texts():
    rows = [
        row("1", "Left kidney", "assistant\nThe left kidneys.\nmore", "folder/x_1.png"),
        row("2", "or", "normal", "x_2.png"),
        row("3", "liver", "", "x_3.png"),
    ]
    result = score("bird_ro", *rows)
    assert result.scores["accuracy"] == pytest.approx(2 / 3 / 8, abs=1e-7)
    assert result.counts["failures"] == 1
    assert score("bird_ro_strict", *rows).scores["accuracy"] == 0.0
    assert score("bird_ro_strict", row("1", "liver", "a\nLiver.\nb")).scores["accuracy"] == 1.0


def test_rows_without_a_box_are_passed_over():
    result = score("bird_vg", row("1", BOX, BOX), row("2", "none", "none", "unknown.png"))
    assert (result.rows[1]["value"], result.counts["ct.n"]) == (None, 1)
    assert result.notices[-1] == "rows in no denominator, because they do not ask for a box: 1 of 2 (the first is 2)"


@pytest.fixture
def captions(monkeypatch):
    """A metric that is 1 for an equal caption, and remembers what it was given."""
    seen = []

    def metrics(predictions, references):
        seen.append((predictions, references))
        values = [float(text == texts[0]) for text, texts in zip(predictions, references, strict=True)]
        counts = np.zeros((len(values), 10))
        counts[:, :4] = np.array(values)[:, None] * 8
        counts[:, 4:] = 8
        mean = sum(values) / len(values) + 1e-8
        scores = dict.fromkeys(("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE"), mean)
        return CaptionScores(scores, dict.fromkeys(scores, values), counts)

    monkeypatch.setattr(coco, "caption_metrics", metrics)
    return seen


def test_captions_are_scored_modality_by_modality(captions):
    rows = [
        row("1", "a liver", "assistant\na liver\nmore"),
        row("2", "a lung", "nothing", "x_1.png"),
        row("3", "a lung", "a lung", "x_2.png"),
        row("4", "a lung", "a lung", "other.png"),
    ]
    result = score("bird_gc", *rows)
    assert captions[0] == (["a liver"], [["a liver"]])
    assert result.scores["CIDEr"] == 0.75  # rounded to six digits, as published
    assert (result.scores["x.Bleu_1"], result.scores["SPICE"]) == (0.5, 0.75)
    assert (result.counts["ct.n"], result.counts["x.n"], result.counts["clusters"]) == (1, 2, 3)
    assert {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", "SPICE"} == set(result.intervals)
    assert result.intervals["Bleu_1"]["low"] < 0.75 < result.intervals["Bleu_1"]["high"]
    assert [row["value"] for row in result.rows] == [1.0, 0.0, 1.0, None]
    assert result.notices[:2] == [
        "modalities without a row, left out of the mean: 6 (mr, pet, endoscopy, dermoscopy, fundus, ultrasound)",
        "rows in no denominator, because of their image's name: 1 of 4 (the first is 4)",
    ]
    assert "SPICE" not in score("bird_mii", *rows).scores
    strict = score("bird_mii_strict", *rows)
    assert strict.scores["CIDEr"] == pytest.approx((1 + 0.5 + 1) / 3, abs=1e-7)
    assert strict.counts["other.n"] == 1


def test_its_own_prediction_files_are_read(tmp_path):
    path = tmp_path / "predictions.jsonl"
    rows = [{"id": i, "image": "ct_1.png", "question": "q", "annotation": BOX, "response": BOX} for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = read_answers(path)
    assert [answer.question.id for answer in answers] == ["0", "1"]
    assert make_protocol("bird_vg").score(answers).scores["ct.recall"] == 2 / (2 + 1e-8)
