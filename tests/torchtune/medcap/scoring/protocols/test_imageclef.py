import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.metrics import bertscore
from medcap.scoring.protocols.imageclef import ImageClefBertScore, ImageClefRouge, prepared, rouge1


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Axial CT (arrow), T2-weighted.", "axial ct arrow tnumberweighted"),
        ("A 12.5 cm mass", "a numbernumber cm mass"),
        ("Größe – 3", "größe – number"),
        ("...", ""),
    ],
)
def test_captions_are_prepared_as_the_evaluator_does(caption, expected):
    assert prepared(caption) == expected


@pytest.mark.parametrize(
    ("caption", "reference", "expected"),
    [
        ("ct of the chest", "ct of the chest", 1.0),
        ("ct of ct", "ct of the chest", 4 / 7),  # one ct and "of" of 3 and 4 words
        ("mri", "ct of the chest", 0.0),
        ("größe", "gr e", 2 * 2 / 4),  # rouge_score splits at letters other than a to z
        ("", "ct", 0.0),
    ],
)
def test_rouge1_counts_single_words(caption, reference, expected):
    assert rouge1(caption, reference) == pytest.approx(expected)


def test_an_empty_caption_scores_0_and_is_counted():
    answers = [
        make_answer("a", "", ("CT of the chest.",), "ct of the chest"),
        make_answer("b", "", ("CT of the chest.",), " "),
        make_answer("c", "", ("A mass.", "A cyst."), "a cyst"),
    ]
    result = ImageClefRouge().score(answers)
    assert result.scores == pytest.approx({"rouge1": (1 + 0 + 0.5) / 3})
    assert result.rows[1] == {"question_id": "b", "rouge1": 0.0, "correct": None, "value": 0.0}
    assert result.counts == {"n": 3, "failures": 1}
    assert result.notices == [
        "rows with several references, of which this rule takes the first: 1 of 3 (the first is c)"
    ]


def test_bertscore_without_its_package_is_refused_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr(bertscore.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"BERTScore needs the package bert-score: pip install 'medcap\[captions\]'"):
        ImageClefBertScore().check_ready()


def test_bertscore_has_prepared_captions_and_references(monkeypatch):
    asked = []

    def scores(captions, references):
        asked.append((list(captions), list(references)))
        return [(0.25, 0.5, 0.75)]

    monkeypatch.setattr(bertscore, "bert_scores", scores)
    answers = [make_answer("a", "", ("A CT.",), "An MRI, 3T"), make_answer("b", "", ("A CT.",), "")]
    result = ImageClefBertScore().score(answers)
    assert asked == [(["an mri numbert"], ["a ct"])]
    assert result.scores == {"bertscore": 0.375, "bertscore_precision": 0.125, "bertscore_recall": 0.25}
    assert [row["value"] for row in result.rows] == [0.75, 0.0]
