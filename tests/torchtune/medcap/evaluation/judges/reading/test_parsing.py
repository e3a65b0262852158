import pytest

from medcap.evaluation.judges.reading.parsing import PARSINGS, parse_medcap, parse_strict


@pytest.mark.parametrize(
    "reply",
    [
        "RIGHT",
        "right",
        "Right.",
        '\n  "Right!"  \n',
        "__RIGHT__",
        "---\n# RIGHT",
        "RIGHT\n\nBoth name the same finding.",
        "RIGHT\nRIGHT",
        # A reason after it.
        "RIGHT. The two answers agree.",
        "RIGHT: same",
        "RIGHT - same",
        "RIGHT — same",
        "RIGHT (same place)",
        "RIGHT because both say so",
        "RIGHT, not WRONG",
        "RIGHT. It is not wrong.",
        "Right, both name the left lung.",
        "right. both agree",
        "1. RIGHT",
        "✅ RIGHT",
        "correct",
        "Correct. Both say pneumonia.",
        # Full-width and Chinese.
        "RIGHT（正确）",
        "ＲＩＧＨＴ。",
        "【RIGHT】",
        "正确",
        # A label, a sentence, a conclusion.
        "Verdict: RIGHT",
        "**Verdict:** right",
        "Verdict - RIGHT",
        "My final verdict is: RIGHT.",
        "The two answers agree.\nFinal answer: RIGHT",
        "The prediction is RIGHT.",
        "The prediction is right.",
        "The predicted answer is correct, since both name the lung.",
        "The answer isn't wrong.",
        "Both name the left lung, so it is RIGHT.",
        "It's RIGHT.",
        "I would say RIGHT.",
        "Response: RIGHT",
        "Both say left, therefore RIGHT.",
        "Question: Which lung?\nOur answer: right\nCorrect answer: right\nVerdict: RIGHT",
        "The right lung was expected, and the right lung was named.\n\nRIGHT",
        # Markup.
        "\\boxed{RIGHT}",
        "$\\boxed{\\text{RIGHT}}$",
        "The verdict:\n\\[ \\boxed{\\textbf{RIGHT}} \\]",
        "<verdict>RIGHT</verdict>",
        "<answer>\nRIGHT\n</answer>",
        "```\nRIGHT\n```",
        "```text\nright\n```",
        "RIGHT</s>",
        "RIGHT<|eot_id|>",
        # Reasoning in tags.
        "<think>Same place, so it is not wrong.</think>\n\nRIGHT",
        "<think>WRONG? No.</think>RIGHT. Same place.",
        "It is WRONG, or is it?</think>\nRIGHT",
        "<|channel|>analysis<|message|>WRONG?<|end|><|start|>assistant<|channel|>final<|message|>RIGHT",
        # JSON.
        '{"verdict": "RIGHT"}',
        '```json\n{"verdict": "RIGHT", "reason": "It is not WRONG."}\n```',
        'Here it is:\n{"reason": "both say right", "Judgement": "Right"}',
        '{"judgment": "RIGHT: same"}',
        '{"final_verdict": "correct"}',
        '{"verdict": true}',
        '{"correct": true}',
        '{"is_correct": "true", "confidence": 0.9}',
        '{"prediction_correct": 1}',
        '{"wrong": false}',
        '{"RIGHT": "Both say left."}',
        '{"RIGHT": true, "WRONG": false}',
        '{"result": {"verdict": "RIGHT"}}',
        '[{"evaluation": "RIGHT"}]',
        '{"prediction": "left", "correct_answer": "left", "answer": "RIGHT"}',
        "{'verdict': 'RIGHT', 'reason': 'same'}",
        '{"verdict": "RIGHT", "reason": "the two answers ag',
        '{"correct": true, "reason": "the two answers ag',
        "{'is_correct': True}",
    ],
)
def test_a_reply_that_says_right(reply):
    assert parse_strict(reply) == "RIGHT"


@pytest.mark.parametrize(
    "reply",
    [
        "WRONG",
        "**WRONG**",
        "`wrong`",
        "WRONG\n\nThe right lung was expected.",
        "WRONG\n\nThe mass is in the left lung.",
        "WRONG\nIt is the right lung.",
        "WRONG, it is the right lung",
        "WRONG. The RIGHT lung was expected.",
        "WRONG. The lesion is on the RIGHT.",
        "WRONG. The correct answer is RIGHT.",
        "WRONG - expected RIGHT.",
        "Verdict: WRONG (expected: right)",
        "WRONG; left, not right.",
        "WRONG. It may be left or right lung.",
        "WRONG. The correct answer is left.",
        "WRONG\nCorrect: left lung",
        "WRONG（错误）",
        "Explanation:\nWRONG",
        "Incorrect. The right lung was expected.",
        "不正确",
        "Final Verdict: **WRONG** - the side differs",
        "The prediction is not correct.",
        "So the answer is WRONG because the side differs.",
        "\\boxed{WRONG}",
        "<thinking>The right lung. RIGHT.</thinking>WRONG",
        '{"verdict": "WRONG", "reason": "RIGHT lung"}',
        '{"correct": false}',
        '{"is_correct": "no"}',
        '{"RIGHT": false, "WRONG": true}',
        '{"WRONG": "The right lung was expected."}',
        '{"question": "Which?", "answer": "right", "verdict": "incorrect"}',
        '{"correct": "left lung", "verdict": "WRONG"}',
    ],
)
def test_a_reply_that_says_wrong(reply):
    assert parse_strict(reply) == "WRONG"


@pytest.mark.parametrize(
    "reply",
    [
        # Both.
        "RIGHT or WRONG?",
        "RIGHT/WRONG",
        "RIGHT and WRONG",
        "RIGHT\nWRONG",
        "RIGHT\nor _wrong_",
        "RIGHT. Or wrong?",
        "WRONG, right?",
        "RIGHT. Hmm, wait. WRONG.",
        "RIGHT. No: the answer is wrong.",
        "RIGHT. Hmm, it should be WRONG.",
        "RIGHT. No, it's WRONG.",
        "Verdict: RIGHT\nVerdict: WRONG",
        'RIGHT {"verdict": "WRONG"}',
        '{"verdict": "RIGHT"} {"verdict": "WRONG"}',
        '{"verdict": "RIGHT", "verdict": "WRONG"}',
        '{"RIGHT": true, "WRONG": true}',
        "RIGHT: if they agree; WRONG: if not",
        "RIGHT（错误）",
        # A side, or no verdict.
        "The right lung is affected.",
        "Right lung",
        "right, upper lobe",
        "right-sided pneumonia",
        "The lesion is on the RIGHT.",
        "Question: Which lung?\nOur answer: right\nCorrect answer: right",
        "Correct answer: right",
        "The correct answer is RIGHT.",
        "The prediction is right, the reference is left.",
        "Is it RIGHT?",
        "I must say whether the prediction is correct.",
        "partially RIGHT",
        "bright",
        "not right",
        "R I G H T",
        "Yes",
        '{"correct": "right"}',
        '{"answer": "right"}',
        '{"prediction": "RIGHT", "reference": "left"}',
        '{"verdict": null}',
        '{"verdict": "unsure"}',
        "<think>The right lung. RIGHT.",
        "",
        " **\n",
    ],
)
def test_a_reply_with_both_or_none_is_not_read(reply):
    assert parse_strict(reply) == "UNPARSED"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("bright", "RIGHT"),
        ("WRONG, it is the right lung", "RIGHT"),
        ("R I G H T", "WRONG"),
        ("", "WRONG"),
        ("<think>the right lung?</think>WRONG", "WRONG"),
    ],
)
def test_medcaps_rule_looks_for_the_letters(reply, verdict):
    assert parse_medcap(reply) == verdict


def test_strict_comes_first():
    assert list(PARSINGS) == ["strict", "medcap"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["{", '{"a":', ".", "=>", "RIGHT\n", "<a", "\\boxed{", "wrong, ", "so ", " ", "(", "\n"]
)
def test_a_reply_without_end_is_read_in_time(piece):
    assert parse_strict(piece * 20_000) in ("RIGHT", "WRONG", "UNPARSED")
