"""10,000 random answers, scored by the protocols and by a plain transcription of the published formulas."""

import random
from dataclasses import replace

import pytest

from helpers import published_formulas as published
from helpers.answers import make_answer
from medcap.scoring.protocols import summary
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.replies.word_scores import normalize_word
from medcap.scoring.statistics import Interval

COUNT = 10_000
TEXT = """
the a an The A AN no NO yes Yes none zero one Two three ten eleven normal note know lung lungs left right upper lobe
heart mass x-ray X-Ray CT MRI T2 dont Dont don't cant couldn'tve isnt it's thats patient's y'allll Id've im 'ows'at
1 2 3.5 0.75 1,000 1,000,000 2.5cm .5 5. U.S. e.g. 50% * a,an o,ne t-w-o lung/heart (axial) [3] {x} a=b c+d \\n _x_ <b>
@home `q` why? stop! well; so: "quoted" and or of in with ... . , - ? ! ; / ( ) ß ẞ İ ΑΣ é ２ ٣,٤ 日本 ½ ﬀ no. yes, NO!
"""
WORDS = TEXT.split()
SPACES = [" "] * 30 + ["", "  ", "\t", "\n", " . ", ", ", "\u00a0", "\u2028"]


def text(random_, longest):
    length = random_.choice([0, 1, 1, 2, 2, 3, random_.randint(0, longest)])
    result = "".join(random_.choice(WORDS) + random_.choice(SPACES) for _ in range(length))
    if random_.random() < 0.03:
        result += (
            "." * random_.randint(20, 70) + random_.choice(["", " the", "a.", "4"]) + ".x" * random_.randint(0, 40)
        )
    return result


def near(random_, reference):
    """A text that has something to do with the reference, as answers do."""
    words = reference.split()
    random_.shuffle(words)
    extra = [random_.choice(WORDS) for _ in range(random_.randint(0, 3))]
    return random_.choice([" ".join, ", ".join])(words[: random_.randint(0, 6)] + extra)


@pytest.fixture(scope="module")
def answers():
    random_ = random.Random(20240611)
    pool = [text(random_, 8) for _ in range(60)]
    rows = []
    for index in range(COUNT):
        reference = random_.choice([*pool, "yes", "no", "Yes.", "none", "a", ""])
        prediction = random_.choice([text(random_, 30), near(random_, reference), reference, reference.upper()])
        options = [random_.choice(pool) or "x" for _ in range(random_.randint(1, 5))]
        if random_.random() < 0.8:
            options[random_.randrange(len(options))] = reference or "x"
        rows.append(
            make_answer(
                str(index),
                "",
                (reference,),
                prediction,
                tuple(options),
                random_.choice(["OPEN", "CLOSED"]),
                {"modality": random_.choice(["CT", "MR", "X-Ray", "US"])},
            )
        )
    return rows


@pytest.fixture(autouse=True)
def without_intervals(monkeypatch):
    monkeypatch.setattr(summary, "bootstrap_interval", lambda values: Interval(0.0, 0.0, 0.0, 0.95, 1))


def check(answers, protocol, expected):
    result = protocol.score(answers)
    for answer, row, values in zip(answers, result.rows, expected, strict=True):
        found = {name: value for name, value in row.items() if name in values or "." in name}
        assert found == values, (answer, row)
    for name in dict.fromkeys(name for values in expected for name in values):
        column = [values[name] for values in expected if name in values]
        assert result.scores[name] == sum(column) / len(column), name
    assert result.counts["n"] == COUNT
    assert result.counts["failures"] == sum(not answer.prediction.strip() for answer in answers)
    return result


def test_the_random_texts_reach_the_quirks(answers):
    texts = {answer.prediction for answer in answers}
    assert sum(text.count(".") > 32 for text in texts) > 50
    assert sum(normalize_word(text) != normalize_word(normalize_word(text)) for text in texts) > 50
    assert {normalize_word(text) for text in texts} >= {"", "0", "don't", "lung heart"}


@pytest.mark.slow
def test_normalisation(answers):
    for answer in answers:
        once = published.norm(answer.prediction)
        assert normalize_word(answer.prediction) == once
        assert normalize_word(once) == published.norm(once)


@pytest.mark.slow
def test_llava_med(answers):
    candidates = list(dict.fromkeys(answer.question.references[0] for answer in answers))[:40]
    expected = [
        published.llava_med(a.question.answer_type, a.prediction, a.question.references[0], candidates) for a in answers
    ]
    check(answers, make_protocol("llava_med", candidates), expected)


@pytest.mark.slow
def test_llava_med_batch(answers):
    expected = [
        published.llava_med_batch(a.question.answer_type, a.prediction, a.question.references[0]) for a in answers
    ]
    check(answers, make_protocol("llava_med_batch"), expected)


@pytest.mark.slow
def test_medplib(answers):
    # Among equal candidates only the first can be taken, so leaving out the others changes nothing.
    references = list(dict.fromkeys(answer.question.references[0] for answer in answers))
    types = {"OPEN": ["OPEN", "open", "Other", "number"], "CLOSED": ["CLOSED", "yes/no", "Yes/No", "closed"]}
    asked = [
        replace(a, question=replace(a.question, answer_type=types[a.question.answer_type][index % 4]))
        for index, a in enumerate(answers)
    ]
    expected = [
        published.medplib(a.question.answer_type, a.prediction, a.question.references[0], references) for a in asked
    ]
    check(asked, make_protocol("medplib"), expected)


def mean_over_modalities(answers, hits):
    groups = {}
    for answer, hit in zip(answers, hits, strict=True):
        groups.setdefault(answer.question.groups["modality"], []).append(hit)
    return sum(sum(hits) / len(hits) for hits in groups.values()) / len(groups)


@pytest.mark.slow
def test_omnimedvqa_qa(answers):
    hits = [published.omnimedvqa_qa(a.prediction, a.question.references[0], a.question.options) for a in answers]
    result = check(answers, make_protocol("omnimedvqa_qa"), [{"accuracy": float(hit)} for hit in hits])
    assert result.scores["accuracy_by_modality"] == pytest.approx(mean_over_modalities(answers, hits), abs=1e-12)
    assert 0.2 < result.scores["accuracy"] < 0.8


@pytest.mark.slow
def test_medcap_letter(answers):
    replies = ["A", "b.", " C", "(D)", "the", "ABCD", "E", "", "\n", "ß", "d) x", "Because", "１"]
    random_ = random.Random(7)
    asked = [
        make_answer(
            a.question.id,
            "",
            a.question.references,
            random_.choice([*replies, a.prediction]),
            a.question.options,
            "",
            a.question.groups,
        )
        for a in answers
    ]
    hits = [published.medcap_letter(a.prediction, a.question.references[0], list(a.question.options)) for a in asked]
    result = make_protocol("medcap_letter").score(asked)
    assert [row["correct"] for row in result.rows] == hits
    assert result.scores["accuracy"] == pytest.approx(mean_over_modalities(asked, hits), abs=1e-12)
    assert result.scores["accuracy_rows"] == sum(hits) / COUNT
    assert 0.02 < result.scores["accuracy"] < 0.5
