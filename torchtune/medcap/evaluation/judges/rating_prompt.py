"""The prompt that asks a judge to rate two answers to one question."""

from __future__ import annotations

import hashlib
import re

from medcap.scoring.question import Answer

PUBLISHED, SWAPPED = "published", "swapped"
_INSTRUCTION = (
    "Above are a user's question about a medical image and the answers of two assistants. You do not see the image;"
    " the context describes it. Judge each answer by how helpful, relevant, accurate and detailed it is, and give each"
    " assistant one overall score from 1 to 10; higher is better. The order in which the answers stand must not"
    " influence you.\n"
    "Write the two scores on the first line, that of Assistant 1 first, as two numbers with one space between them and"
    " nothing else. Explain your judgement from the second line on."
)
# An answer that spells the frame's marks must not end its own part.
_FRAME = re.compile(r"\[(?=\s*(?:/|end of\b|context\b|question\b|assistant\b|system\b))", re.IGNORECASE)


def rating_prompt(answer: Answer, order: str = PUBLISHED) -> str:
    """Return the user turn, in the shape of LLaVA-Med's prompt (llava/eval/eval_multimodal_chat_gpt_score.py, v1.0.0).

    The parts and their marks are LLaVA-Med's; the instruction is in our words, and the sentence of its system turn
    stands first, because judges are asked in one user turn.

    Args:
        answer: ``question.meta["context"]`` describes the image; the first reference is the answer to compare with.
        order: ``published``: the reference is Assistant 1; ``swapped``: the reference is Assistant 2.

    Returns:
        The text.
    """
    question = answer.question
    texts = question.references[0], answer.prediction
    first, second = texts if order == PUBLISHED else texts[::-1]
    return _prompt(question.meta.get("context") or "(none)", question.text, first, second)


def prompt_name(question_id: str, order: str = PUBLISHED) -> str:
    """Return the name of a prompt: the question's id, with the order unless it is the published one."""
    return question_id if order == PUBLISHED else f"{question_id} {order}"


def _prompt(context: str, question: str, first: str, second: str) -> str:
    parts = [("Context", _harmless(context)), ("Question", _harmless(question))]
    head = "".join(f"[{name}]\n{text}\n\n" for name, text in parts)
    answers = "".join(
        f"[Assistant {number}]\n{_harmless(text)}\n\n[End of Assistant {number}]\n\n"
        for number, text in ((1, first), (2, second))
    )
    opening = "You check the quality of answers and are helpful and precise.\n\n"
    return f"{opening}{head}{answers}[System]\n{_INSTRUCTION}"


def _harmless(text: str) -> str:
    return _FRAME.sub("(", text)


RATING_TEMPLATE = _prompt("{context}", "{question}", "{first answer}", "{second answer}")
RATING_SHA256 = hashlib.sha256(RATING_TEMPLATE.encode()).hexdigest()
