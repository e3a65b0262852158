"""10,000 random answers, malformed ones included, scored by the protocols and by transcriptions of the harnesses."""

import random
from dataclasses import replace

import pytest

from helpers import published_harnesses as published
from helpers.answers import make_answer
from medcap.scoring.protocols import summary
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.statistics import Interval

pytestmark = pytest.mark.slow

COUNT = 10_000
TEXT = """
yes no Yes No YES normal nodule none not know lung Lung left Right heart. X-ray x ray xray CT MRI (axial) 是 没有 正常
A a B. C: D) Z final answer is answer: **Answer**: **answer** 答案: boxed \\boxed{ \\boxed{yes} \\boxed{{a}b} } {
<answer> </answer> <answer>no</answer> the of 1 2.5 ß İ ， 。 （x） nan I can't process this file.
"""
WORDS = TEXT.split()
PHRASES = (
    "Cannot determine the answer",
    "Failed to obtain answer via API",
    "I can't process this file.",
    "The answer is",
    "Final answer: ",
    "**answer**answer**",
)
GAPS = [" "] * 20 + ["", "\n", "\n\n", "\t", ". ", ":"]


def random_text(rng, longest):
    parts = [
        rng.choice(PHRASES) if rng.random() < 0.04 else rng.choice(WORDS)
        for _ in range(rng.choice([0, 1, 1, 1, 2, rng.randint(0, longest)]))
    ]
    return "".join(part + rng.choice(GAPS) for part in parts)


@pytest.fixture(scope="module")
def answers():
    rng = random.Random(20_251_023)
    pool = [random_text(rng, 4).strip() or "lung" for _ in range(40)]
    found = []
    for number in range(COUNT):
        reference = rng.choice([*pool, *["yes", "no", "Yes", "No", " no "] * 6])
        options = [rng.choice(pool) for _ in range(rng.randint(1, 5))]
        right = rng.randrange(len(options))
        if reference.strip() and rng.random() < 0.9:
            options[right] = reference
        letter = "ABCDE"[right]
        hints = [letter, letter.lower(), f"{letter}. {options[right]}", f"answer is {letter}", f"{letter}\n\nIt is."]
        said = random_text(rng, 12)
        reply = rng.choice(
            [said, said, reference, reference.upper(), f"{said} {reference}", *hints, f"Answer: {letter}."]
        )
        kind = rng.choice(["OPEN", "CLOSED"])
        groups = {"modality": rng.choice(["CT", "MRI", "X-Ray"]), "question_type": rng.choice(["Organ", "Size", "KG"])}
        answer = make_answer(str(number), "", (reference,), reply, tuple(options), kind, groups)
        found.append(replace(answer, verdict=rng.choice(["RIGHT", "WRONG", "UNPARSED", ""])))
    return found


@pytest.fixture(autouse=True)
def without_intervals(monkeypatch):
    monkeypatch.setattr(summary, "bootstrap_interval", lambda values: Interval(0.0, 0.0, 0.0, 0.95, 1))


def plain_rows(answers):
    return [(a.question.references[0], a.question.answer_type, a.prediction, a.verdict == "RIGHT") for a in answers]


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("vqarad", "judge=false"),
        ("vqarad", "commit=2025-06"),
        ("vqarad", "commit=564d279"),
        ("vqarad", "commit=25676be1234567890"),
        ("slake", "judge=false"),
        ("slake", "commit=25676be"),
        ("slake", "commit=HEAD"),
        ("pathvqa", "commit=HEAD"),
    ],
)
def test_medevalkit_equals_its_counters(answers, dataset, options):
    commit = {"HEAD": "9b12e3b", "false": "9b12e3b"}.get(options.partition("=")[2], options.partition("=")[2][:7])
    expected = published.medevalkit(plain_rows(answers), dataset, commit, judged=options != "judge=false")
    result = make_protocol(f"medevalkit:dataset={dataset}:{options}").score(answers)
    assert result.scores == pytest.approx(expected, abs=1e-12)
    assert 0.02 < expected["open.accuracy"] < 0.98
    dropped = dataset == "pathvqa" or (dataset, commit) == ("vqarad", "2025-06")
    assert (expected["closed.accuracy"] == 0) == (dropped and options != "judge=false")


@pytest.mark.parametrize(("dataset", "judge"), [("vqarad", "false"), ("slake", "true"), ("pathvqa", "true")])
def test_the_corrected_twin_counts_each_answer_once(answers, dataset, judge):
    rows = without_tags(answers)
    expected = published.medevalkit(plain_rows(rows), dataset, "", judge == "true", corrected=True)
    result = make_protocol(f"medevalkit_corrected:dataset={dataset}:judge={judge}").score(rows)
    assert result.scores == pytest.approx(expected, abs=1e-12)
    assert 0.02 < expected["closed.accuracy"] < 1


def without_tags(answers):
    """The answers without the tags that the twin takes off: the transcription knows nothing of reasoning."""
    return [replace(a, prediction=a.prediction.replace("<answer>", "").replace("</answer>", "")) for a in answers]


def test_the_twin_differs_from_the_published_rule_only_where_a_defect_is(answers):
    rows = without_tags(answers[:3000])
    for dataset in ("vqarad", "slake"):
        old = make_protocol(f"medevalkit:dataset={dataset}:judge=false").score(rows).rows
        new = make_protocol(f"medevalkit_corrected:dataset={dataset}:judge=false").score(rows).rows
        changed = [a for a, mine, other in zip(rows, old, new, strict=True) if mine["correct"] != other["correct"]]
        assert len(changed) > 10
        assert all(a.question.references[0].strip().lower() in ("yes", "no") for a in changed)
        if dataset == "slake":
            assert {a.question.answer_type for a in changed} == {"CLOSED"}
    for dataset in ("pmcvqa", "omnimedvqa"):
        old = make_protocol(f"medevalkit:dataset={dataset}").score(rows).rows
        new = make_protocol(f"medevalkit_corrected:dataset={dataset}").score(rows).rows
        changed = [other for mine, other in zip(old, new, strict=True) if mine["correct"] != other["correct"]]
        assert len(changed) > 5
        assert all(row["choice"] is None and not row["correct"] for row in changed)


@pytest.mark.parametrize(
    ("dataset", "mark"), [("pmcvqa", ":"), ("omnimedvqa", ". "), ("medxpertqa", ". "), ("medframeqa", ".")]
)
@pytest.mark.parametrize("corrected", [False, True])
def test_medevalkit_reads_options_as_its_function_does(answers, dataset, mark, corrected):
    rows = without_tags(answers) if corrected else answers
    hits = []
    for answer in rows:
        options, reference = answer.question.options, answer.question.references[0]
        letters = [letter for letter, option in zip("ABCDE", options, strict=False) if option == reference]
        right = letters[-1 if dataset == "omnimedvqa" else 0] if letters else reference
        reply = answer.prediction
        if dataset in ("omnimedvqa", "medxpertqa"):
            reply = published.between_answer_tags(reply)
        choices = [f"{letter}{mark}{option}" for letter, option in zip("ABCDE", options, strict=False)]
        hits.append(published.choice_is_right(choices, right, reply, corrected))
    name = "medevalkit_corrected" if corrected else "medevalkit"
    result = make_protocol(f"{name}:dataset={dataset}").score(rows)
    assert [row["correct"] for row in result.rows] == hits
    assert result.scores == {"accuracy": sum(hits) / COUNT}
    assert 0.2 < result.scores["accuracy"] < 0.9


@pytest.mark.parametrize("verbose", [False, True])
def test_vlmevalkit(answers, verbose):
    result = make_protocol(f"vlmevalkit:verbose={str(verbose).lower()}").score(answers)
    found = set()
    for answer, row in zip(answers, result.rows, strict=True):
        choices = dict(zip("ABCDE", answer.question.options, strict=False))
        letter = published.vlmevalkit(answer.prediction, choices, verbose)
        reference = answer.question.references[0]
        right = next((own for own, text in choices.items() if text == reference), None)
        # The benchmark's own answers are letters.
        right = right or (reference.strip().upper() if reference.strip().upper() in choices else None)
        assert (row["choice"], row["correct"]) == (choices.get(letter), bool(letter) and letter == right), answer
        found.add(letter)
    assert found == {"A", "B", "C", "D", "E", "Z", ""}


def test_lmms_eval_slake(answers):
    result = make_protocol("lmms_eval_slake").score(answers)
    hits = [
        published.lmms_eval_slake(a.prediction) == published.lmms_eval_slake(a.question.references[0]) for a in answers
    ]
    assert [row["correct"] for row in result.rows] == hits
    assert result.scores["accuracy"] == sum(hits) / COUNT

    def share(test):
        kept = [hit for answer, hit in zip(answers, hits, strict=True) if test(answer.question)]
        return sum(kept) / len(kept)

    assert result.scores["closed.accuracy"] == share(lambda q: q.answer_type == "CLOSED")
    assert result.scores["modality.xray.accuracy"] == share(lambda q: q.groups["modality"] == "X-Ray")
    assert result.scores["content.kg.accuracy"] == share(lambda q: q.groups["question_type"] == "KG")
    assert len(result.scores) == 9
