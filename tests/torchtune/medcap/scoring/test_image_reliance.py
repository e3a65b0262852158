import pytest

from medcap.scoring.image_reliance import (
    hallucinated_visual_reasoning_rate,
    image_reliance,
    image_sensitivity,
    same_answer,
    visual_claim,
    visual_reliance_score,
)


def test_the_visual_reliance_score_is_negative_where_other_images_do_better():
    score = visual_reliance_score([1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0])
    assert score.value == -0.25
    assert score.low < -0.25 < score.high


def test_sensitivity_is_the_share_that_changes():
    assert image_sensitivity([True, False, False, True, True]).value == 0.6


def test_the_hallucination_rate_is_of_all_replies():
    claims, changed = [True, True, False, True], [False, True, False, False]
    assert hallucinated_visual_reasoning_rate(claims, changed).value == 0.5


@pytest.mark.parametrize(
    "reply",
    [
        "The image shows a mass in the left lobe.",
        "Based on the chest X-ray, yes",
        "I can see an effusion",
        "A nodule is clearly visible.",
        "There is an opacity in the right lower lobe",
        "In this axial CT scan the liver is enlarged.",
        "The lesion appears hyperintense",
        "<think>Looking at the slice, the heart is big.</think>yes",
    ],
)
def test_claims_to_have_seen_something(reply):
    assert visual_claim(reply)


@pytest.mark.parametrize(
    "reply", ["yes", "Left lung", "B", "CT", "", "Pneumonia is caused by bacteria.", "x-ray", "cannot be excluded"]
)
def test_answers_that_claim_nothing(reply):
    assert not visual_claim(reply)


def test_answers_are_compared_without_reasoning_case_and_full_stop():
    assert same_answer("<think>hm</think>Yes.", "yes")
    assert not same_answer("yes", "no")


def test_all_measures_of_a_run():
    answers = ["yes", "no", "Left lung.", "", "a mass"]
    controls = {
        "shuffled_image": ["yes", "yes", "left lung", "x", "a mass"],
        "no_image": ["Yes", "no", "left lung", "x", "a cyst"],
    }
    replies = ["The image shows it. yes", "no", "It is visible in the scan: left lung", "", "a mass"]
    found = {name: one.value for name, one in image_reliance(answers, replies, controls).items()}
    assert found == {
        "image_sensitivity": 0.5,
        "image_sensitivity_by.shuffled_image": 0.25,
        "image_sensitivity_by.no_image": 0.25,
        "hallucinated_visual_reasoning_rate": 0.5,
        "visual_claims": 0.5,
    }
    assert list(image_reliance(answers, None, {"no_image": answers})) == ["image_sensitivity"]
    assert image_reliance(["", " "], None, controls) == {} and image_reliance(answers, replies, {}) == {}
