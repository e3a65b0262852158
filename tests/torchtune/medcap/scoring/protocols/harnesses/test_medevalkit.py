from dataclasses import replace

import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.harnesses.lmms_eval_slake import LmmsEvalSlake
from medcap.scoring.protocols.harnesses.medevalkit import MedEvalKit, MedEvalKitCorrected, dataset_name
from medcap.scoring.protocols.harnesses.medevalkit_replies import after_cues, boxed, given_answer, tagged


def row(id, reference, prediction, answer_type="", verdict="", options=(), dataset=""):
    answer = make_answer(
        id, "", (reference,), prediction, options, answer_type, {"dataset": dataset} if dataset else {}
    )
    return replace(answer, verdict=verdict)


# Two open questions and two closed ones; the judge says that one answer of each kind is right.
ROWS = [
    row("1", "left lung", "left lung", "OPEN", "RIGHT"),
    row("2", "pneumonia", "an infection of the lung", "OPEN", "WRONG"),
    row("3", "Yes", "yes", "CLOSED", "RIGHT"),
    row("4", "No", "normal", "CLOSED", "WRONG"),
]


def scores(protocol, rows=ROWS):
    found = protocol.score(rows).scores
    return found["accuracy"], found["open.accuracy"], found["closed.accuracy"]


def test_by_its_rules_a_no_within_normal_is_right_and_slakes_yes_must_be_equal():
    assert scores(MedEvalKit("vqarad", judge="false")) == (0.75, 0.5, 1.0)
    assert scores(MedEvalKit("slake", judge="false")) == (0.5, 0.5, 0.5)
    rows = [*ROWS[:3], replace(ROWS[3], prediction="No, there is none.")]
    assert scores(MedEvalKit("slake", judge="false"), rows) == (0.5, 0.5, 0.5)
    assert scores(MedEvalKitCorrected("slake", judge="false"), rows) == (0.75, 0.5, 1.0)
    assert scores(MedEvalKitCorrected("vqarad", judge="false")) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("dataset", "commit", "expected"),
    [
        ("vqarad", "2025-06", (0.25, 0.5, 0.0)),
        ("vqarad", "564d279", (1.0, 0.5, 1.0)),
        ("vqarad", "25676be", (0.75, 0.5, 1.0)),
        ("vqarad", "9b12e3b", (0.75, 0.5, 1.0)),
        ("slake", "25676be", (0.5, 0.5, 0.5)),
        ("slake", "9b12e3b", (0.75, 0.5, 1.0)),
        ("pathvqa", "25676be", (0.25, 0.5, 0.0)),
        ("pathvqa", "9b12e3b", (0.25, 0.5, 0.0)),
    ],
)
def test_with_a_judge_each_commit_counts_in_its_way(dataset, commit, expected):
    assert scores(MedEvalKit(dataset, commit)) == expected


@pytest.mark.parametrize("dataset", ["vqarad", "slake", "pathvqa"])
def test_corrected_each_question_counts_once(dataset):
    assert scores(MedEvalKitCorrected(dataset)) == (0.5, 0.5, 0.5)


def test_a_closed_accuracy_above_one_is_said():
    rows = [row("1", "Liver", "Liver", "CLOSED", "RIGHT"), row("2", "lung", "lung", "OPEN", "RIGHT")]
    result = MedEvalKit("slake").score(rows)
    assert result.scores["closed.accuracy"] == 2.0
    assert "right answers that the published program counts twice: 1 of 2 (the first is 1)" in result.notices


def test_published_the_f1_stands_under_precision():
    result = MedEvalKit("vqarad", judge="false").score([row("1", "left lung", "left")])
    names = ("open.precision", "open.recall", "open.f1")
    assert [round(result.scores[name], 4) for name in names] == [0.6667, 1.0, 0.5]
    result = MedEvalKitCorrected("vqarad").score([row("1", "left lung", "left")])
    assert [round(result.scores[name], 4) for name in names] == [1.0, 0.5, 0.6667]


def test_published_an_empty_answer_is_the_first_option():
    rows = [row("1", "heart", "", options=("heart", "lung")), row("2", "lung", "B", options=("heart", "lung"))]
    result = MedEvalKit("omnimedvqa").score(rows)
    assert result.scores == {"accuracy": 1.0}
    assert [one["choice"] for one in result.rows] == ["heart", "lung"]
    assert "rows without an answer that the published rule counts as right: 1 of 2 (the first is 1)" in result.notices
    assert MedEvalKitCorrected("omnimedvqa").score(rows).scores == {"accuracy": 0.5}


def test_the_benchmark_may_be_in_the_rows():
    rows = [
        row("1", "yes", "Yes.", dataset="VQA-RAD"),
        row("2", "heart", "A", options=("heart", "lung"), dataset="PMC_VQA"),
    ]
    assert MedEvalKit().score(rows).scores["accuracy"] == 1.0
    assert [dataset_name(name) for name in ("PATH_VQA", "OmniMedVQA", "Slake", "ACRIMA", "")] == [
        *("pathvqa", "omnimedvqa", "slake", "", "")
    ]


def test_reasoning_is_taken_off_by_the_twin_alone():
    said = "<think>There is no lesion? Yes, there is.</think>yes"
    rows = [row("1", "yes", said), row("2", "yes", "yes")]
    assert MedEvalKit("vqarad").score(rows).scores["accuracy"] == 0.5
    result = MedEvalKitCorrected("vqarad").score(rows)
    assert result.scores["accuracy"] == 1.0 and result.counts["reasoning"] == 1
    assert result.notices == ["replies with reasoning or tags, which are taken off: 1 of 2 (the first is 1)"]


def test_a_missing_verdict_is_wrong_and_counted():
    result = MedEvalKitCorrected("vqarad").score([*ROWS[:1], replace(ROWS[1], verdict="")])
    assert result.scores["open.accuracy"] == 0.5
    assert result.notices == [
        "the judge's verdicts decide 2 of 2 rows",
        "rows without a verdict of the judge, counted as wrong: 1 of 2 (the first is 2)",
    ]


def test_rows_that_name_no_benchmark_are_read_as_those_of_vqarad_and_a_notice_says_so():
    bare = [replace(row, verdict="") for row in ROWS]
    found, named = MedEvalKit().score(bare), MedEvalKit("vqarad").score(bare)
    assert found.scores == named.scores
    assert [line for line in found.notices if line not in named.notices] == [
        "rows that name no benchmark, read as vqarad's, with options as omnimedvqa's; to name it:"
        f" medevalkit:dataset=slake, or a field 'dataset' of each row: {len(ROWS)} of {len(ROWS)} (the first is 1)"
    ]
    lettered = row("9", "ring", "B", options=("disc", "ring"))
    assert MedEvalKit().score([lettered]).scores == MedEvalKit("omnimedvqa").score([lettered]).scores


def test_what_cannot_be_scored_is_one_line():
    for make, message in (
        (lambda: MedEvalKit("radvqa"), "medevalkit: dataset=radvqa is unknown; there are vqarad, slake, pathvqa"),
        (lambda: MedEvalKit(commit="abc"), "medevalkit: commit=abc is unknown; there are 2025-06, 564d279"),
        (lambda: MedEvalKit(judge="gpt"), "medevalkit: judge=gpt is unknown; it is true or false"),
        (
            lambda: MedEvalKit("slake", judge="true").score([replace(ROWS[0], verdict="")]),
            "judge=true, but no row has a 'verdict'",
        ),
        (
            lambda: MedEvalKit("slake").score([replace(ROWS[0], verdict="maybe")]),
            "row 1 has the verdict 'maybe': it is RIGHT, WRONG",
        ),
    ):
        with pytest.raises(UserError, match=message):
            make()


@pytest.mark.parametrize(
    ("text", "box", "given", "cued"),
    [
        (r"so \boxed{a {b} c} }", "a {b} c", "a {b} c", "a {b} c"),
        (r"\boxed{No} \boxed{Yes}", "Yes", "Yes", "yes"),
        (r"\boxed{open", "None", r"\boxed{open", "None"),
        ("it is boxed", "None", "it is boxed", "None"),
        ("<answer>A</answer> or <answer>B</answer>", "None", "A B", "a b"),
        ("<answer></answer>x", "None", "<answer></answer>x", "<answer></answer>x"),
        ("The answer is: No", "None", "The answer is: No", ": no"),
        ("**answer**answer** no", "None", "**answer**answer** no", "answer** no"),
        ("", "None", "", ""),
    ],
)
def test_parts_of_replies(text, box, given, cued):
    assert boxed(text) == box
    assert given_answer(text) == given
    assert after_cues(text) == cued


def test_an_unclosed_tag_ends_the_search():
    assert tagged("<answer>a</answer><answer>b", "answer") == "a"


def test_slakes_answer_types_are_read_in_any_case_and_their_absence_is_said():
    rows = [replace(one, question=replace(one.question, answer_type=one.question.answer_type.lower())) for one in ROWS]
    assert scores(MedEvalKit("slake", judge="false"), rows) == scores(MedEvalKit("slake", judge="false"))
    rows = [replace(one, question=replace(one.question, answer_type="")) for one in ROWS]
    assert (
        "rows whose answer_type is not OPEN or CLOSED, read as closed: 4 of 4 (the first is 1)"
        in MedEvalKit("slake", judge="false").score(rows).notices
    )
    assert (
        "rows whose answer_type is not OPEN or CLOSED, in accuracy alone: 4 of 4 (the first is 1)"
        in LmmsEvalSlake().score(rows).notices
    )
