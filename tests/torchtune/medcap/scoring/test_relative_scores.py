import pytest

from medcap.scoring.relative_scores import RatedAnswer, group_scores, position_effect, relative_scores


def rated(name, *pairs, failed=False, **groups):
    return RatedAnswer(name, pairs, failed, groups)


def test_mean_of_ratios_and_ratio_of_means_are_two_numbers():
    block = relative_scores([rated("a", (10.0, 5.0)), rated("b", (5.0, 5.0))])
    # (0.5 + 1) / 2, and 5 / 7.5.
    assert block["scores"] == pytest.approx(
        {"reference_score": 7.5, "prediction_score": 5.0, "mean_of_ratios": 0.75, "ratio_of_means": 2 / 3}
    )
    assert (block["n"], block["rated"], block["failures"], block["unrated"]) == (2, 2, 0, 0)
    for name, value in block["scores"].items():
        interval = block["intervals"][name]
        assert interval["low"] <= value <= interval["high"]
        assert interval["draws"] == 10_000
    assert block["intervals"]["mean_of_ratios"]["low"] == 0.5


def test_a_missing_answer_counts_as_0_in_both():
    block = relative_scores([rated("a", (8.0, 8.0)), rated("b", failed=True)])
    assert block["scores"] == pytest.approx(
        {"reference_score": 8.0, "prediction_score": 4.0, "mean_of_ratios": 0.5, "ratio_of_means": 0.5}
    )
    assert (block["rated"], block["failures"]) == (1, 1)


def test_an_unrated_answer_is_in_no_mean_and_counted():
    block = relative_scores([rated("a", (8.0, 4.0)), rated("b")])
    assert (block["n"], block["rated"], block["unrated"]) == (2, 1, 1)
    assert block["scores"]["mean_of_ratios"] == 0.5


def test_a_group_without_ratings_has_no_scores():
    block = relative_scores([rated("a"), rated("b")])
    assert (block["scores"], block["intervals"], block["unrated"]) == ({}, {}, 2)


def test_two_orders_are_averaged_row_by_row():
    block = relative_scores([rated("a", (10.0, 5.0), (5.0, 5.0))])
    assert block["scores"] == pytest.approx(
        {"reference_score": 7.5, "prediction_score": 5.0, "mean_of_ratios": 0.75, "ratio_of_means": 2 / 3}
    )


def test_rows_of_one_image_are_drawn_together():
    rows = [RatedAnswer(str(number), ((10.0, 5.0 + number % 2),), cluster="one image") for number in range(4)]
    found = relative_scores(rows)
    assert found["scores"]["mean_of_ratios"] == pytest.approx(0.55)
    assert found["intervals"] == {}


def test_groups_have_scores_of_their_own_and_rows_without_one_too():
    rows = [
        rated("a", (10.0, 5.0), question_type="conversation", modality="CT"),
        rated("b", (10.0, 8.0), question_type="detail"),
    ]
    tables = group_scores(rows, ("question_type", "modality", "organ"))
    assert list(tables) == ["question_type", "modality"]
    found = {line["question_type"]: line["scores"]["mean_of_ratios"] for line in tables["question_type"]}
    assert found == {"conversation": 0.5, "detail": 0.8}
    assert [(line["modality"], line["n"]) for line in tables["modality"]] == [("(none)", 1), ("CT", 1)]


def test_the_place_of_an_answer_has_its_effect():
    # Published: reference first. Each text gets one more when it stands second.
    effect = position_effect(
        [rated("a", (7.0, 8.0), (8.0, 7.0)), rated("b", (5.0, 9.0), (6.0, 8.0)), rated("c", (5.0, 5.0))]
    )
    assert effect["n"] == 2
    assert effect["second_minus_first"]["value"] == 1.0
    assert effect["preference_changes"] == 0.5
    assert position_effect([rated("c", (5.0, 5.0))]) is None
