import pytest

from helpers.answers import make_answer
from medcap.evaluation.judges import JUDGES
from medcap.evaluation.judges.base import PROMPT_SHA256, Judge, Reply, file_name, judge_prompt, read_verdict


class Fixed(Judge):
    kind = "fixed"
    name = "fixed"
    settings = {}  # noqa: RUF012

    def __init__(self, replies):
        self.replies = replies
        self.prompts = []

    def ask(self, prompts, on_reply):
        self.prompts = list(prompts)
        for position in reversed(range(len(prompts))):
            on_reply(position, self.replies[position])


def test_the_user_turn_is_medcaps():
    assert judge_prompt(make_answer("1", "Is there a mass?", ("yes",), "Yes, on the left.")) == (
        "Respond with only RIGHT or WRONG to indicate whether we predicted it correctly.\n"
        "\n"
        "Question: Is there a mass?\n"
        "Our answer: Yes, on the left.\n"
        "Correct answer: yes"
    )
    assert judge_prompt(make_answer("1", "q {answer}", ("a", "b"), "{reference}")).endswith(
        "Question: q {answer}\nOur answer: {reference}\nCorrect answer: a or b"
    )
    assert PROMPT_SHA256 == "28671a5376a4702c7f91dea4081f1e1ae33dc9ea5919323d7fd4ea3625cf0986"


def test_verdicts_come_from_replies_in_the_order_of_completion():
    judge = Fixed([Reply("Right."), Reply("the right lung"), Reply("", "error", error="too long")])
    answers = [make_answer(str(position), "q", ("a",), "b") for position in range(3)]
    verdicts = []
    judge.judge(answers, lambda position, verdict: verdicts.append((position, verdict.value)))
    assert verdicts == [(2, None), (1, "UNPARSED"), (0, "RIGHT")]
    verdicts.clear()
    judge.judge(answers, lambda position, verdict: verdicts.append((position, verdict.value)), "medcap")
    assert verdicts == [(2, None), (1, "RIGHT"), (0, "RIGHT")]
    assert judge.prompts == [judge_prompt(answer) for answer in answers]


@pytest.mark.parametrize(
    ("reply", "parsing", "value", "error"),
    [
        (Reply("RIGHT", "length"), "strict", "RIGHT", ""),
        (Reply("Hm.", "stop"), "strict", "UNPARSED", ""),
        (Reply("Hm.", "length"), "medcap", "WRONG", ""),
        (Reply("Hm.", "length"), "strict", None, "the reply was cut off before a verdict (finish length): 'Hm.'"),
        (Reply("", "stop"), "strict", None, "the reply has no words (finish stop)"),
        (Reply("", "content_filter"), "medcap", None, "the reply has no words (finish content_filter)"),
        (Reply("<think>RIGHT?", "length"), "strict", None, "the reply has only reasoning (finish length)"),
        (Reply("", "error", error="busy"), "strict", None, "busy"),
    ],
)
def test_a_reply_that_ended_too_early_gives_no_verdict(reply, parsing, value, error):
    verdict = read_verdict(reply, parsing)
    assert verdict.value == value
    assert verdict.reply.error.partition("; raise max_new_tokens")[0] == error
    assert ("raise max_new_tokens" in verdict.reply.error) == (value is None and reply.finish == "length")


def test_the_registry_has_all_judges():
    assert list(JUDGES) == ["local", "self", "endpoint", "recorded"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("meta-llama/Llama-3.1-70B", "meta-llama_Llama-3.1-70B"), ("../a b", "a_b"), ("/", "judge"), ("q:4", "q_4")],
)
def test_a_judges_name_is_safe_in_a_file_name(name, expected):
    assert file_name(name) == expected
