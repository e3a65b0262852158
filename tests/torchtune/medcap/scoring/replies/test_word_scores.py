import warnings

import pytest

from helpers import published_formulas
from medcap.scoring.replies.contractions import CONTRACTIONS
from medcap.scoring.replies.word_scores import (
    WORD_SCORES,
    CandidateIndex,
    normalize_word,
    normalized,
    overlap,
    word_scores,
)


# The first seven were run through the published code.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The left-lung.", "left lung"),
        ("CT-scan (axial)", "ct scan axial"),
        ("none", "0"),
        ("1,000 ml", "1000 ml"),
        ("a 3.5 cm mass", "3.5 cm mass"),
        ("It's the patient's heart", "it's patient's heart"),
        ("dont", "don't"),
        ("left- lung x-ray", "left lung xray"),
        ("a,b", "b"),
        ("One, two; TEN", "1 2 10"),
        ("50% *x* 3:2", "50% *x* 3:2"),
        ("." * 33 + "x", ".x"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalisation(text, expected):
    assert normalized(text) == expected


def test_the_second_normalisation_shows_past_32_full_stops():
    text = "lung" + "." * 40
    assert normalize_word(text) == "lung" + "." * 8
    assert normalize_word(normalize_word(text)) == "lung"
    assert overlap(normalize_word(text), "lung") == (1.0, 1.0, 1.0, 1.0)


def test_contractions_are_the_published_ones_that_can_have_an_effect():
    published = published_formulas.CONTRACTIONS.items()
    assert {key: value for key, value in published if key == key.lower() and key != value} == CONTRACTIONS
    assert len(CONTRACTIONS) == 114


# Run through the published code.
@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (
            "the right lung",
            "right lung",
            dict.fromkeys(["exact_match", "precision", "recall", "f1", "bleu_1", "bleu_2"], 1),
        ),
        ("right right lung", "right lung", {"exact_match": 2 / 3, "f1": 1}),
        ("lung", "right lung", {"exact_match": 1, "precision": 1, "recall": 0.5, "f1": 2 / 3, "bleu_1": 0.367879}),
        (
            "there is a mass in the left upper lobe",
            "left upper lobe",
            {"exact_match": 3 / 7, "precision": 3 / 7, "recall": 1, "f1": 0.6}
            | {"bleu_1": 3 / 7, "bleu_2": 2 / 6, "bleu_3": 1 / 5},
        ),
        ("", "right lung", dict.fromkeys(WORD_SCORES, 0)),
        ("right lung", "the", dict.fromkeys(WORD_SCORES, 0)),
        ("heart", "right lung", dict.fromkeys(WORD_SCORES, 0)),
    ],
)
def test_golden_scores(prediction, reference, expected):
    scores = dict(zip(WORD_SCORES, word_scores(normalized(prediction), normalized(reference)), strict=True))
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_bleu_is_not_smoothed_and_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = word_scores("right lung", "right lung")
    assert scores[WORD_SCORES.index("bleu")] == pytest.approx(1.491668146240062e-154, rel=1e-12)
    assert 0 < scores[WORD_SCORES.index("bleu_3")] < 1e-300


CANDIDATES = ["left lung", "right lung", "heart", "mass"]


@pytest.mark.parametrize(
    ("prediction", "candidates", "expected"),
    [
        ("nothing", CANDIDATES, "left lung"),
        ("", CANDIDATES, "left lung"),
        ("right lung", CANDIDATES, "right lung"),
        ("lung", CANDIDATES, "left lung"),
        ("heart and right lung", CANDIDATES, "right lung"),
        ("lung", ["The", "lung lung mass", "lung"], "lung"),
        ("lung mass", ["lung lung", "mass"], "lung lung"),
        ("1", ["One"], "1"),
    ],
)
def test_the_nearest_candidate_is_the_first_with_the_highest_share_of_its_words(prediction, candidates, expected):
    assert CandidateIndex(candidates).nearest(prediction) == expected


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="no candidates"):
        CandidateIndex([])
