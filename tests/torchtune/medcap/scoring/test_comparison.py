import pytest

from helpers.answers import make_answer
from medcap.data.boxes.box import Box
from medcap.data.outputs import Outputs
from medcap.errors import UserError
from medcap.scoring.comparison import MCNEMAR, SIGN_FLIP, compare, pair_answers, verdict
from medcap.scoring.paired_tests import mcnemar, sign_flip_p
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.grounding.boxes import Boxes
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.question import Answer, Question
from medcap.scoring.statistics import Interval


class Equal(Protocol):
    """Right when equal; a question that starts with ``open`` has a value but no verdict, ``skip`` has neither."""

    name = "equal"
    description = "equal or not"
    headline = "accuracy"

    def score(self, answers):
        rows = []
        for answer in answers:
            value = float(answer.prediction in answer.question.references)
            decided = not answer.question.text.startswith(("open", "skip"))
            value = None if answer.question.text.startswith("skip") else value
            rows.append(
                {"question_id": answer.question.id, "value": value, "correct": bool(value) if decided else None}
            )
        values = [row["value"] for row in rows if row["value"] is not None]
        mean = sum(values) / len(values) if values else 0.0
        return ProtocolScores({"accuracy": mean}, {}, rows, {"n": len(rows), "failures": 0}, ["mind this"])


class Doubled(Equal):
    """Its headline is no mean of the rows' values."""

    def score(self, answers):
        result = super().score(answers)
        result.scores["accuracy"] *= 2
        return result


def answers(predictions, question="q", start=0):
    return [make_answer(str(start + position), question, ("yes",), text) for position, text in enumerate(predictions)]


def test_sides_are_paired_by_id_and_what_only_one_has_is_counted():
    pairs = pair_answers(answers(["a", "b", "c"]), list(reversed(answers(["x", "y", "z"], start=1))))
    assert [(one.prediction, other.prediction) for one, other in zip(pairs.first, pairs.second, strict=True)] == [
        ("b", "x"),
        ("c", "y"),
    ]
    assert (pairs.only_first, pairs.only_second) == (["0"], ["3"])
    result = compare(pairs, Equal())
    assert (result.n, result.common, result.only_first, result.only_second) == (2, 2, 1, 1)
    assert "rows only in A, not compared: 1 (the first: 0)" in result.notices


def test_no_common_row_a_double_id_and_different_questions_are_errors():
    with pytest.raises(UserError, match="no question_id in common"):
        pair_answers(answers(["a"]), answers(["a"], start=1))
    with pytest.raises(UserError, match=r"a\.jsonl: question_id '0' stands there twice"):
        pair_answers(answers(["a"]) * 2, answers(["a"]), ("a.jsonl", "b.jsonl"))
    with pytest.raises(UserError, match=r"question_id '0': its question differs: 'q' in a\.jsonl, 'other' in b\.jsonl"):
        pair_answers(answers(["a", "b"]), answers(["a", "b"], "other"), ("a.jsonl", "b.jsonl"))
    with pytest.raises(UserError, match=r"its reference differs: 'yes' in the first, 'yes \| no' in the second"):
        pair_answers(answers(["a"]), [make_answer("0", "q", ("yes", "no"), "a")])
    with pytest.raises(UserError, match="its list of options differs"):
        pair_answers(
            [make_answer("0", "q", ("yes",), "a", ("yes", "no"))],
            [make_answer("0", "q", ("yes",), "a", ("yes", "maybe"))],
        )
    assert pair_answers(
        [make_answer("0", "q", ("yes",), "a", ("yes", "no"))], [make_answer("0", "q ", ("yes",), "a")]
    ).first


def test_a_comparison_of_right_and_wrong_rows():
    first = answers(["yes"] * 40 + ["no"] * 60)
    second = answers(["no"] * 2 + ["yes"] * 50 + ["no"] * 47 + [""])
    result = compare(pair_answers(first, second), Equal())
    assert (result.first.score, result.second.score, result.n) == (0.4, 0.5, 100)
    assert (result.first_only, result.second_only, result.decided) == (2, 12, 100)
    assert result.test == MCNEMAR
    assert result.p == mcnemar(2, 12)
    assert result.difference.value == pytest.approx(0.1)
    assert 0 < result.difference.low < 0.05
    assert result.second.failures == 1
    assert result.verdict == "B is better by 10.0 points: the interval excludes 0."
    assert compare(pair_answers(second, first), Equal()).verdict.startswith("A is better by 10.0 points")
    assert compare(pair_answers(first, second), Equal()) == result
    assert result.notices == ("mind this",)


def test_rows_without_a_verdict_are_tested_by_random_signs():
    first = answers(["yes"] * 5 + ["no"] * 5, "open") + answers(["yes", "no"], "closed", start=10)
    second = answers(["no"] * 10, "open") + answers(["no", "yes"], "closed", start=10)
    result = compare(pair_answers(first, second), Equal())
    assert result.test == SIGN_FLIP
    assert (result.n, result.decided, result.first_only, result.second_only) == (12, 2, 1, 1)
    assert result.p == sign_flip_p([-1.0] * 6 + [1.0])


def test_rows_outside_the_headline_are_not_compared():
    first = answers(["yes", "no"], "q") + answers(["yes"], "skip", start=2)
    result = compare(pair_answers(first, first), Equal())
    assert (result.n, result.common) == (2, 3)
    assert "common rows that do not count for accuracy: 1 of 3" in result.notices
    assert result.p == 1.0
    assert result.verdict == "A and B score the same on every row."
    skipped = answers(["yes"], "skip")
    with pytest.raises(UserError, match="no common row counts for accuracy"):
        compare(pair_answers(skipped, skipped), Equal())


def test_a_headline_that_is_not_a_mean_of_rows_is_reported():
    pairs = pair_answers(answers(["yes", "no"]), answers(["yes", "yes"]))
    result = compare(pairs, Doubled())
    assert (result.first.score, result.first.mean) == (1.0, 0.5)
    assert result.difference.value == 0.5
    assert any("no plain mean over rows" in notice for notice in result.notices)


def test_a_notice_of_one_side_names_the_side():
    class Telling(Equal):
        def score(self, answers):
            result = super().score(answers)
            result.notices.append(f"{answers[0].prediction} came first")
            return result

    result = compare(pair_answers(answers(["yes"]), answers(["no"])), Telling())
    assert result.notices == ("mind this", "A: yes came first", "B: no came first")


def test_a_headline_over_modalities_is_compared_over_modalities():
    def side(ct, mr):
        replies = [("CT", "A" if position < ct else "B") for position in range(8)]
        replies += [("MR", "A" if position < mr else "B") for position in range(2)]
        return [
            make_answer(str(position), "q", ("liver",), reply, ("liver", "aorta"), groups={"modality": modality})
            for position, (modality, reply) in enumerate(replies)
        ]

    result = compare(pair_answers(side(4, 0), side(6, 2)), make_protocol("medcap_letter"))
    assert (result.first.score, result.second.score) == (0.25, 0.875)
    assert (result.first.mean, result.second.mean) == (0.25, 0.875)
    assert result.difference.value == 0.625
    assert (result.first_only, result.second_only, result.test) == (0, 4, MCNEMAR)
    assert not any("no plain mean" in notice for notice in result.notices)


@pytest.mark.parametrize(
    ("low", "value", "high", "p", "expected"),
    [
        (0.01, 0.031, 0.05, 0.01, "B is better by 3.1 points: the interval excludes 0."),
        (-0.05, -0.031, -0.01, 0.01, "A is better by 3.1 points: the interval excludes 0."),
        (-0.01, 0.02, 0.05, 0.3, "No proof of a difference: the interval includes 0."),
        (0.0, 0.02, 0.05, 0.3, "No proof of a difference: the interval includes 0."),
        (0.001, 0.02, 0.05, 0.06, "No clear difference: the interval excludes 0, but p is 0.06."),
        (-0.001, 0.02, 0.05, 0.04, "No clear difference: p is 0.04, but the interval includes 0."),
        (0.0, 0.0, 0.0, 1.0, "A and B score the same on every row."),
    ],
)
def test_the_verdict_claims_no_more_than_interval_and_p_allow(low, value, high, p, expected):
    assert verdict(Interval(value, low, high, 0.95, 10_000), p) == expected


def test_scores_that_are_no_shares_are_not_told_in_points():
    assert verdict(Interval(0.5, 0.2, 0.8, 0.95, 10_000), 0.01, share=False).startswith("B is better by 0.500:")


def test_the_dictionary_has_everything_that_is_printed():
    values = compare(pair_answers(answers(["yes"]), answers(["no"])), Equal()).as_dict()
    assert values["a"] == {"score": 1.0, "mean": 1.0, "failures": 0}
    # Wilson's interval of 1 of 1, on the side of A.
    assert values["difference"] == {
        "value": -1.0,
        "low": -1.0,
        "high": pytest.approx(-0.2065, abs=5e-5),
        "level": 0.95,
        "draws": 0,
    }
    assert (values["a_right_b_wrong"], values["a_wrong_b_right"], values["p"], values["test"]) == (
        1,
        0,
        1.0,
        "mcnemar_exact",
    )


def test_sides_that_are_equal_on_every_row_have_an_interval_with_a_width():
    pairs = pair_answers(answers(["yes"] * 6), answers(["yes"] * 6))
    result = compare(pairs, Equal())
    found = result.difference
    assert (found.value, found.low, found.high, found.draws) == (0.0, pytest.approx(-0.3903, abs=5e-5), -found.low, 0)
    assert result.verdict == "A and B score the same on every row."
    better = compare(pair_answers(answers(["no"] * 6), answers(["yes"] * 6)), Equal())
    assert (better.difference.low, better.difference.high) == (pytest.approx(0.6097, abs=5e-5), 1.0)
    assert better.verdict == "B is better by 100.0 points: the interval excludes 0."


def test_a_difference_over_modalities_has_a_width_too():
    side = [
        make_answer(str(position), "q", ("liver",), "A", ("liver", "aorta"), groups={"modality": modality})
        for position, modality in enumerate(["CT"] * 8 + ["MR"] * 2)
    ]
    # Two means of 8 and 2 rows tell as much as one of 4 / (1/8 + 1/2) = 6.4 rows.
    assert compare(pair_answers(side, side), make_protocol("medcap_letter")).difference.high == pytest.approx(
        0.3751, abs=5e-5
    )


def test_scores_without_bounds_keep_the_interval_that_they_have():
    class Unbounded(Equal):
        share = False

    result = compare(pair_answers(answers(["yes"] * 3), answers(["yes"] * 3)), Unbounded())
    assert (result.difference.low, result.difference.high, result.share) == (0.0, 0.0, False)
    assert result.verdict == "A and B score the same on every row."


def test_rows_that_are_open_on_one_side_and_closed_on_the_other_are_reported():
    first = [
        make_answer("0", "q", ("yes",), "yes", answer_type="OPEN"),
        make_answer("1", "q", ("yes",), "yes", answer_type="CLOSED"),
    ]
    second = [
        make_answer("0", "q", ("yes",), "no", answer_type="CLOSED"),
        make_answer("1", "q", ("yes",), "no", answer_type="closed "),
    ]
    result = compare(pair_answers(first, second), Equal())
    assert (
        "common rows whose answer_type differs, each side scored by its own: 1 (the first: 0, OPEN in A, CLOSED in B)"
    ) in result.notices
    assert not any("answer_type" in notice for notice in compare(pair_answers(first, first), Equal()).notices)


def test_an_answer_type_that_one_side_leaves_out_is_the_other_sides():
    first = [make_answer("0", "q", ("yes",), "yes", answer_type="CLOSED")]
    pairs = pair_answers(first, [make_answer("0", "q", ("yes",), "no")])
    assert [answers[0].question.answer_type for answers in (pairs.first, pairs.second)] == ["CLOSED", "CLOSED"]
    result = compare(pairs, make_protocol("llava_med"))
    assert (result.n, result.first_only) == (1, 1)
    assert not any("answer_type" in notice for notice in result.notices)


def test_references_may_be_one_number_in_two_spellings_and_options_keep_their_letters():
    assert pair_answers([make_answer("0", "q", ("2",), "a")], [make_answer("0", "q", ("2.0",), "a")]).first
    first = make_answer("0", "q", ("yes",), "a", ("yes", "no"), columns=("", "yes", "no"))
    with pytest.raises(UserError, match="its list of options differs"):
        pair_answers([first], [make_answer("0", "q", ("yes",), "a", ("yes", "no"))])


def pointed(name, given, wanted=((0.0, 0.0, 0.5, 0.5),), image="a.png"):
    boxes = tuple(Box(edges) for edges in wanted)
    question = Question(name, (), ("",), boxes=boxes, image_names=(image,))
    return Answer(question, "", Outputs((Box(given),)))


def test_boxes_are_compared_by_image():
    right, wrong = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    first = [pointed(str(i), wrong, image=f"{i // 3}.png") for i in range(6)]
    second = [pointed(str(i), right, image=f"{i // 3}.png") for i in range(6)]
    result = compare(pair_answers(first, second), Boxes())
    assert (result.difference.value, result.test, result.n) == (1.0, SIGN_FLIP, 6)
    # Two images and not six rows: Wilson's interval of 2 of 2, and half of all signs are as far.
    assert result.difference.low == pytest.approx(0.3424, abs=5e-5)
    assert result.p == pytest.approx(0.5, abs=0.02)
    other = [pointed("0", right, wanted=(wrong,))]
    with pytest.raises(UserError, match="question_id '0': its list of boxes differs"):
        pair_answers(first, other)
