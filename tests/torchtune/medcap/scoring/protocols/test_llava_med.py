import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.llava_med import LlavaMed, LlavaMedBatch, LlavaMedStrict
from medcap.scoring.protocols.registry import make_protocol


def answer(prediction, reference, answer_type="CLOSED", name="q"):
    return make_answer(name, "", (reference,), prediction, answer_type=answer_type)


ROWS = [
    answer("the right lung", "right lung", "OPEN", "1"),
    answer("lung", "right lung", "OPEN", "2"),
    answer("normal", "no", name="3"),
    answer("yes and no", "yes", name="4"),
    answer("", "yes", name="5"),
]


def test_the_published_scores_of_a_small_file():
    result = LlavaMed().score(ROWS)
    assert result.scores == pytest.approx(
        {
            "open.exact_match": 1.0,
            "open.precision": 1.0,
            "open.recall": 0.75,
            "open.f1": 5 / 6,
            "open.bleu": 0.0,
            "open.bleu_1": (1 + 0.36787944117144233) / 2,
            "open.bleu_2": 0.5,
            "open.bleu_3": 0.0,
            "closed.accuracy": 2 / 3,
            "overall": (1 + 0.5 + 1 + 1 + 0) / 5,
        },
        abs=1e-12,
    )
    assert list(result.scores) == list(result.intervals)
    assert result.intervals["overall"] == {"low": 0.3, "high": 1.0, "level": 0.95, "draws": 10_000}
    assert result.counts == {"n": 5, "failures": 1, "open.n": 2, "closed.n": 3}
    assert [row["value"] for row in result.rows] == [1.0, 0.5, 1.0, 1.0, 0.0]
    assert [row["correct"] for row in result.rows] == [None, None, True, True, False]
    assert result.notices == []


# prediction, reference -> llava_med, llava_med_batch, llava_med_strict
@pytest.mark.parametrize(
    ("prediction", "reference", "published", "batch", "strict"),
    [
        ("Yes.", "yes", True, True, True),
        ("yes it is", "yes", True, True, False),
        ("there is nothing to note", "no", True, True, False),
        ("no", "yes", False, False, False),
        ("left", "left", False, True, True),
        ("none", "0", False, True, True),
        ("", "yes", False, False, False),
        ("", "a", False, True, False),
        ("A", "a", False, True, True),
        ("the", "A", False, True, False),
    ],
)
def test_closed_answers(prediction, reference, published, batch, strict):
    rows = [answer(prediction, reference)]
    found = [rule().score(rows).scores["closed.accuracy"] == 1.0 for rule in (LlavaMed, LlavaMedBatch, LlavaMedStrict)]
    assert found == [published, batch, strict]


@pytest.mark.parametrize(
    ("prediction", "reference", "batch", "strict"),
    [
        ("the right lung.", "right lung", 1.0, 1.0),
        ("in the right lung", "right lung", 1.0, 0.0),
        ("lung, right", "right lung", 0.0, 0.0),
        ("", "the", 1.0, 0.0),
    ],
)
def test_open_accuracy_without_retrieval(prediction, reference, batch, strict):
    rows = [answer(prediction, reference, "OPEN")]
    assert LlavaMedBatch().score(rows).scores["open.accuracy"] == batch
    scores = LlavaMedStrict().score(rows).scores
    assert (scores["open.accuracy"], scores["open.exact_match"], scores["accuracy"]) == (strict,) * 3


def test_strict_keeps_precision_recall_f1_and_bleu():
    published, strict = LlavaMed().score(ROWS).scores, LlavaMedStrict().score(ROWS).scores
    kept = ("open.precision", "open.recall", "open.f1", "open.bleu", "open.bleu_1", "open.bleu_2", "open.bleu_3")
    assert [strict[name] for name in kept] == [published[name] for name in kept]
    assert (strict["open.exact_match"], strict["closed.accuracy"], strict["accuracy"]) == (0.5, 0.0, 0.2)


def test_batch_adds_the_recall_of_closed_answers():
    scores = LlavaMedBatch().score([answer("the left side", "left kidney"), answer("no", "no")]).scores
    assert (scores["closed.recall"], scores["closed.accuracy"]) == (0.75, 0.5)


def test_retrieval_decides_open_questions_and_leaves_recall_the_headline():
    candidates = ["left lung", "right lung", "heart", "mass"]
    rows = [answer("nothing", "left lung", "OPEN"), answer("lung", "right lung", "OPEN")]
    result = make_protocol("llava_med", candidates).score(rows)
    assert result.scores["open.accuracy"] == 0.5
    assert [(row["correct"], row["value"]) for row in result.rows] == [(True, 0.0), (False, 0.5)]


def test_a_failure_that_the_published_rule_counts_as_right_is_reported():
    result = LlavaMedBatch().score([answer("", "A"), answer("no", "no")])
    assert result.notices == ["rows without an answer that the published rule counts as right: 1 of 2 (the first is q)"]
    assert LlavaMedStrict().score([answer("", "A"), answer("no", "no")]).notices == []


def test_other_answer_types_are_in_no_denominator_and_told():
    rows = [answer("yes", "yes"), answer("no", "yes", "CLOSED ", "odd"), answer("no", "yes", "", "bare")]
    result = LlavaMed().score(rows)
    assert result.counts == {"n": 3, "failures": 0, "open.n": 0, "closed.n": 1, "ignored": 2}
    assert result.scores == {"closed.accuracy": 1.0, "overall": 1.0}
    assert result.rows[1] == {"question_id": "odd", "correct": None, "value": None}
    assert result.notices == [
        "rows in no denominator, because their answer_type is not OPEN or CLOSED: 2 of 3 (the first, odd, has"
        " 'CLOSED ')"
    ]
    assert LlavaMedStrict().score(rows).counts["closed.n"] == 2


def test_only_the_first_of_several_references_counts_and_that_is_reported():
    result = LlavaMed().score([make_answer("q", "", ("no", "yes"), "yes", answer_type="CLOSED")])
    assert result.scores["closed.accuracy"] == 0.0
    assert result.notices == [
        "rows with several references, of which this rule takes the first: 1 of 1 (the first is q)"
    ]


@pytest.mark.parametrize("rule", [LlavaMed, LlavaMedBatch, LlavaMedStrict])
def test_what_cannot_be_scored_is_refused(rule):
    with pytest.raises(UserError, match="there are no answers"):
        rule().score([])
    with pytest.raises(
        UserError, match=r"no row has an 'answer_type' of OPEN or CLOSED \(the first, q, has 'open question'\)"
    ):
        rule().score([answer("yes", "yes", "open question")])


def test_an_empty_list_of_candidates_is_refused():
    with pytest.raises(UserError, match="list of candidate answers is empty"):
        LlavaMed([])


def test_the_strict_rule_takes_reasoning_off_and_the_published_ones_read_it():
    rows = [
        make_answer("1", "", ("yes",), "<think>no sign of it</think>Yes.", answer_type="CLOSED"),
        make_answer("2", "", ("2",), "<think>3?</think>2.0", answer_type="OPEN"),
        make_answer("3", "", ("yes",), "<think>yes", answer_type="CLOSED"),
    ]
    strict = LlavaMedStrict().score(rows)
    assert [row["correct"] for row in strict.rows] == [True, True, False]
    assert strict.notices == [
        "replies with reasoning or tags, which are taken off: 3 of 3 (the first is 1)",
        "replies that end within their reasoning, counted as wrong: 1 of 3 (the first is 3)",
    ]
    told = "replies with reasoning or tags, which the published rule reads as a whole: 3 of 3 (the first is 1)"
    for rule in (LlavaMed, LlavaMedBatch):
        result = rule().score(rows)
        assert result.rows[2]["correct"] is True
        assert told in result.notices
