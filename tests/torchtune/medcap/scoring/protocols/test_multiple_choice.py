import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.harnesses.vlmevalkit import VlmEvalKit
from medcap.scoring.protocols.multiple_choice import MedcapLetter, MedcapOption
from medcap.scoring.protocols.omnimedvqa import OmniMedVqaQa, most_similar

OPTIONS = ("Heart", "Lung", "Liver", "Kidney")


def answer(prediction, reference="Lung", options=OPTIONS, name="q", modality="CT"):
    return make_answer(
        name, "", (reference,), prediction, tuple(options), groups={"modality": modality} if modality else {}
    )


# medcap 2024's own judge: replies and verdicts.
@pytest.mark.parametrize(
    ("reply", "reference", "letter", "right"),
    [
        ("A.", "Heart", "A", True),
        ("b", "Lung", "B", True),
        ("The answer", "Lung", "T", False),
        (" C\n", "Liver", "C", True),
        ("Both", "Lung", "B", True),
        ("(B)", "Lung", "(", False),
        ("B", "Heart", "B", False),
        ("E", "Lung", "E", False),
        ("ß", "Lung", "SS", False),
        ("", "Lung", None, False),
        ("  ", "Lung", None, False),
    ],
)
def test_medcap_takes_the_first_character(reply, reference, letter, right):
    row = MedcapLetter().score([answer(reply, reference)]).rows[0]
    assert (row["choice"], row["correct"], row["value"]) == (letter, right, float(right))


def test_medcap_accuracy_is_the_mean_over_modalities():
    rows = [
        answer("B", modality="CT"),
        answer("B", modality="CT"),
        answer("A", modality="CT"),
        answer("B", modality="MR"),
    ]
    result = MedcapLetter().score(rows)
    assert result.scores == pytest.approx({"accuracy": 5 / 6, "accuracy_rows": 0.75})
    assert list(result.scores) == ["accuracy", "accuracy_rows"]


def test_of_equal_options_medcap_knows_the_first_letter_alone_and_robust_parsing_either():
    rows = [answer("B", "Lung", ("Lung", "Lung"))]
    assert MedcapLetter().score(rows).scores["accuracy"] == 0.0
    assert MedcapOption().score(rows).scores["accuracy"] == 1.0


def test_robust_parsing_reads_what_the_first_letter_misreads():
    rows = [answer("Both lobes are clear", "Lung"), answer("The answer is (B).", "Lung"), answer("the liver", "Liver")]
    assert [row["correct"] for row in MedcapLetter().score(rows).rows] == [True, False, False]
    result = MedcapOption().score(rows)
    assert [row["choice"] for row in result.rows] == [None, "Lung", "Liver"]
    assert result.scores == pytest.approx({"accuracy": 2 / 3, "accuracy_rows": 2 / 3})


RULES = [OmniMedVqaQa, MedcapLetter, MedcapOption]


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_cannot_be_right_are_wrong_counted_and_told(rule):
    rows = [
        answer("B", options=("x", "Lung"), name="1"),
        answer("B", options=(), name="2"),
        answer("B", reference="Spleen", name="3", modality=""),
    ]
    result = rule().score(rows)
    assert result.counts["n"] == 3
    assert [row["correct"] for row in result.rows[1:]] == [False, False]
    assert result.notices[:2] == [
        "rows without options, counted as wrong: 1 of 3 (the first is 2)",
        "rows whose reference is not an option, counted as wrong: 1 of 3 (the first is 3)",
    ]
    assert result.notices[2].startswith("rows without a modality, one group of accuracy")


@pytest.mark.parametrize("rule", RULES)
def test_files_without_options_are_refused(rule):
    with pytest.raises(UserError, match=r"no row has 'options' \(the first is 7\): add the list to the rows"):
        rule().score([answer("B", options=(), name="7")])


def test_two_options_are_two_options():
    rows = [answer("D", "no", ("yes", "no")), answer("nan", "no", ("yes", "no")), answer("no", "no", ("yes", "no"))]
    assert [row["correct"] for row in MedcapOption().score(rows).rows] == [False, False, True]


def test_reasoning_is_taken_off_by_our_rules_and_told_by_the_published_one():
    rows = [answer("<think>A heart?</think>B"), answer("Heart? No.</think> b"), answer("<think>B")]
    assert [row["correct"] for row in MedcapLetter().score(rows).rows] == [True, True, False]
    result = MedcapOption().score(rows)
    assert [row["choice"] for row in result.rows] == ["Lung", "Lung", None]
    assert result.notices == [
        "replies with reasoning or tags, which are taken off: 3 of 3 (the first is q)",
        "replies that end within their reasoning, counted as wrong: 1 of 3 (the first is q)",
    ]
    published = OmniMedVqaQa().score(rows)
    assert [row["choice"] for row in published.rows] == [OPTIONS[most_similar(row.prediction, OPTIONS)] for row in rows]
    assert published.notices == [
        "replies with reasoning or tags, which the published rule reads as a whole: 3 of 3 (the first is q)"
    ]


def test_letters_are_those_of_the_columns():
    rows = [
        make_answer("1", "", ("Heart",), "B", ("Heart", "Lung"), columns=("", "Heart", "Lung")),
        make_answer("2", "", ("Lung",), "C", ("Heart", "Lung"), columns=("", "Heart", "Lung")),
        make_answer("3", "", ("Heart",), "A", ("Heart", "Lung"), columns=("", "Heart", "Lung")),
    ]
    for rule in (MedcapOption, MedcapLetter):
        assert [row["correct"] for row in rule().score(rows).rows] == [True, True, False]
    assert [row["choice"] for row in MedcapOption().score(rows).rows] == ["Heart", "Lung", None]


def test_of_equal_options_the_rule_that_knows_one_says_so():
    notices = MedcapLetter().score([answer("B", "Lung", ("Lung", "Lung", "Heart"))]).notices
    assert notices[0] == (
        "rows with one option twice, of which this rule knows the first letter alone: 1 of 1 (the first is q)"
    )


def test_an_option_and_a_reference_may_be_one_number_in_two_spellings():
    rows = [answer("B", "2.0", ("1", "2")), answer("2", "2", ("1.0", "2.0")), answer("2.0", "3", ("2", "3"))]
    assert [row["correct"] for row in MedcapOption().score(rows).rows] == [True, True, False]
    assert [row["correct"] for row in MedcapLetter().score(rows[:1]).rows] == [True]
    assert MedcapOption().score(rows).notices == []
    assert OmniMedVqaQa().score(rows).rows[0]["correct"] is False


def test_a_reference_may_be_the_letter_of_an_option():
    rows = [
        make_answer("1", "", ("B",), "B", ("Heart", "Lung")),
        make_answer("2", "", ("a",), "Heart", ("Heart", "Lung")),
        make_answer("3", "", ("C",), "C", ("Heart", "Lung")),
        # An option's text goes before its letter.
        make_answer("4", "", ("B",), "A", ("B", "A")),
        make_answer("5", "", ("B",), "B", ("Lung", "Lung")),
    ]
    scored = VlmEvalKit().score(rows)
    assert [row["correct"] for row in scored.rows] == [True, True, False, True, True]
    assert scored.notices[:2] == [
        "rows whose reference is the letter of an option: 3 of 5 (the first is 1)",
        "rows whose reference is not an option, counted as wrong: 1 of 5 (the first is 3)",
    ]
    assert [row["correct"] for row in MedcapOption().score(rows[:3]).rows] == [True, True, False]
    # The published rules compare texts alone.
    for rule, answered in ((MedcapLetter(), rows[0]), (OmniMedVqaQa(), rows[1])):
        scored = rule.score([answered])
        assert scored.scores["accuracy"] == 0
        assert any("whose reference is not an option, counted as wrong: 1 of 1" in line for line in scored.notices)
