"""Properties of the reading of verdicts, on texts that Hypothesis makes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.evaluation.judges.reading.parsing import parse_medcap, parse_strict

bounded = settings(derandomize=True, deadline=None, max_examples=150)

# Pieces that verdicts are made of, so that the rules are met and not only passed over.
PIECES = st.sampled_from(
    [
        *(
            "RIGHT",
            "WRONG",
            "right",
            "wrong",
            "Correct",
            "正确",
            "Verdict: ",
            "the ",
            "is ",
            "not ",
            " or ",
            ". ",
            "\n",
        ),
        *(
            "{",
            "}",
            '"verdict"',
            '"correct"',
            ": true",
            "```json\n",
            "```",
            "**",
            "\\boxed{",
            "<think>",
            "</think>",
            "（",
        ),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=20).map("".join)
WORDS = st.sampled_from(["RIGHT", "WRONG"])
# Words that say nothing of a verdict.
REASONS = st.lists(st.sampled_from(["both", "name", "a", "mass", "lung", "left", "in"]), min_size=1, max_size=6)
WRAPPINGS = st.sampled_from(
    [
        "{}",
        "**{}**",
        '"{}"',
        "“{}”",
        "`{}`",
        "# {}",
        "- {}",
        "```\n{}\n```",
        "```text\n{}\n```",
        "\\boxed{{{}}}",
        "<think>The right lung, so it is WRONG? It is RIGHT.</think>\n\n{}",
        "Verdict: {}",
        '{{"verdict": "{}"}}',
        '```json\n{{"verdict": "{}"}}\n```',
        "（{}）",
        "{}.",
        " \n{}\n",
    ]
)


@pytest.mark.slow
@bounded
@given(TEXTS)
def test_any_text_is_right_wrong_or_not_read(text):
    assert parse_strict(text) in ("RIGHT", "WRONG", "UNPARSED")
    assert parse_medcap(text) in ("RIGHT", "WRONG")


@bounded
@given(WORDS, WRAPPINGS, REASONS)
def test_a_wrapped_verdict_stays_the_same(word, wrapping, reason):
    wrapped = wrapping.format(word)
    assert parse_strict(wrapped) == word
    assert parse_strict(f"{wrapped}\n\n{' '.join(reason).capitalize()}.") == word


@pytest.mark.slow
@bounded
@given(WORDS, WRAPPINGS, WRAPPINGS, REASONS, st.sampled_from(["\n", "\n\n", ". "]))
def test_a_text_with_both_verdicts_is_not_read(word, first, second, reason, between):
    other = "WRONG" if word == "RIGHT" else "RIGHT"
    second = second.rpartition("</think>")[2]  # what comes before it would be reasoning
    text = f"{first.format(word)}{between}{' '.join(reason)}{between}{second.format(other)}"
    assert parse_strict(text) == "UNPARSED"


@pytest.mark.slow
@bounded
@given(WORDS, REASONS)
def test_a_reason_with_the_right_lung_changes_nothing(word, reason):
    sentence = f"The right lung was expected, {' '.join(reason)}."
    assert parse_strict(f"{word}. {sentence}") == word
    assert parse_strict(f"{sentence}\n\n{word}") == word
    assert parse_strict(sentence) == "UNPARSED"
