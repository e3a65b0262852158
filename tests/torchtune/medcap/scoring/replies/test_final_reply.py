import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.scoring.replies.final_reply import final_reply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # tags, whatever their name, case and brackets
        ("<think>Option A is plausible.</think>\n\nB", "B"),
        ("<thinking>\nA?\n</thinking>\nThe answer is B.", "The answer is B."),
        ("<Reasoning>A</Reasoning> B", "B"),
        ("<THINK>A</THINK>B", "B"),
        ("< think >A</ think >B", "B"),
        ("<think effort='high'>A</think>B", "B"),
        ("<thought>A</thought>B", "B"),
        ("<scratchpad>A</scratchpad>B", "B"),
        ("<analysis>A</analysis>B", "B"),
        ("<seed:think>A</seed:think>B", "B"),
        ("◁think▷A◁/think▷B", "B"),
        ("[THINK]A[/THINK]B", "B"),
        ("<|START_THINKING|>A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "B"),
        ("<|begin_of_thought|>A<|end_of_thought|>\n<|begin_of_solution|>B<|end_of_solution|>", "B"),
        ("<unused94>thought\nA is plausible.<unused95>B", "B"),
        ("<|channel>thought\nA is plausible.<channel|>B", "B"),
        ("<think></think>\n\nB", "B"),
        # several, one in the other, two names of one family, the tag as a word of the reasoning
        ("<think>A</think>B<think>C?</think>", "B"),
        ("<think>A</think><reflection>C</reflection>B", "B"),
        ("<think>a <think>b</think> c</think>B", "B"),
        ("<think>I must use <think> tags. A.</think>B", "B"),
        ("<think>A <reflection>C</reflection> A</think>B", "B"),
        ("<thinking>A</think>B", "B"),
        # only the closing tag: the prompt ended with the opening one
        ("Option A might be it, but no.</think>\n\nB", "B"),
        ("A.\nMaybe C.</thinking>B", "B"),
        ("A◁/think▷B", "B"),
        ("A<unused95>B", "B"),
        # cut off before the reply
        ("<think>The answer is A. But", ""),
        ("<think>A</think>", ""),
        ("A, surely.</think>", ""),
        ("<think>A</think> <think>The answer is C", ""),
        ("<think>A <reflection>C</reflection> The answer is C", ""),
        ("B\n<think>Is it A?", "B"),
        ("[THINK]A", ""),
        ("<unused94>thought\nA", ""),
        # gpt-oss
        ("<|channel|>analysis<|message|>A?<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>", "B"),
        ("<|channel|>analysis The answer is A. <|channel|>final<|message|>B", "B"),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}"),
        ("<|channel|>analysis<|message|>The answer is A", ""),
        ("<|start|>assistant<|channel|>commentary<|message|>A<|end|>", ""),
        ("analysisThe user asks. A?assistantfinalB", "B"),
        ("analysisThe user asks. A?", ""),
        # headings
        ("## Thinking\n\nA is plausible.\n\n## Final Response\n\nThe answer is B.", "The answer is B."),
        ("## Thinking\n\nThe answer is A", ""),
        ("Here is my thought process: A. Here is my response: B", "B"),
        # the reply's own tags and fences
        ("<think>A</think><answer>B</answer>", "B"),
        ("<think>A<answer>A</answer></think><answer>B", "B"),
        ("<answer> lung </answer>", "lung"),
        ("<SUMMARY>x</SUMMARY><REASONING>A</REASONING><CONCLUSION>B</CONCLUSION>", "B"),
        ("<think>A</think><answer><|begin_of_box|>B<|end_of_box|></answer>", "B"),
        ("Here are my steps: A.\n[BEGIN FINAL RESPONSE]\nB\n[END FINAL RESPONSE]", "B"),
        ("```\nB\n```", "B"),
        ('```json\n{"verdict": "RIGHT"}\n```', '{"verdict": "RIGHT"}'),
        ("~~~text\nB\n~~~", "B"),
        ("```B```", "B"),
        ("<think>A</think>\n```\nB", "B"),
    ],
)
def test_only_the_reply_is_left(text, expected):
    assert final_reply(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  B \n",
        "The lung.",
        "I think it is B.",
        "Thinking of it, B.",
        "p < 0.05, size > 2 cm",
        "<image> B",
        "[B] the lung",
        "[Analysis] It is air. [Conclusion] B",
        "The `lung`",
        "## Reasoning\nIt is air.\n\nThe answer is B.",
        "analysis of the image: lung",
        "{<64><49><103><101>}",
        "<ref>liver</ref><box>(178,280),(803,894)</box>",
    ],
)
def test_a_text_without_reasoning_stays_as_it_is(text):
    assert final_reply(text) == text


_TAGS = st.sampled_from(
    ["<think>", "</think>", "<reasoning>", "</reasoning>", "◁think▷", "◁/think▷", "<answer>", "```"]
)
_MARKS = st.sampled_from(
    ["<|channel|>final<|message|>", "<|channel|>analysis", "## Thinking\n", "\n## Final Response\n"]
)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(_TAGS | _MARKS | st.text(max_size=5), max_size=12).map("".join))
def test_any_text_has_a_reply_that_is_a_part_of_it(text):
    reply = final_reply(text)
    assert isinstance(reply, str) and len(reply) <= len(text)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text("AB .\n<", max_size=20), st.sampled_from(["B", "The answer is B.", "lung"]))
def test_what_is_in_the_reasoning_never_matters(thought, reply):
    for before, after in (
        ("<think>", "</think>"),
        ("", "</think>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ):
        assert final_reply(before + thought + after + reply) == reply
