"""What a judge is: a language model that is asked whether an answer is right."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from medcap.evaluation.judges.reading.parsing import PARSINGS, STRICT
from medcap.evaluation.judges.reading.verdict_words import UNPARSED, has_words
from medcap.language_models.base import OnReply, Reply
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply


@dataclass(frozen=True)
class Verdict:
    """What a judge's reply says of one answer.

    Attributes:
        value: ``RIGHT``, ``WRONG`` or ``UNPARSED``; None where there is no reply, or one that ended too early.
        reply: reply that it was taken from; it has an ``error`` where there is no value.
    """

    value: str | None
    reply: Reply


OnVerdict = Callable[[int, Verdict], None]


class Judge(ABC):
    """A language model that gives verdicts. It reads no weights and makes no connection before the first question.

    Attributes:
        kind: kind as users type it.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Which model, for people and, see :func:`file_name`, for file names."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything that decides a reply besides the prompt, without any secret."""

    @abstractmethod
    def ask(self, prompts: Sequence[str], on_reply: OnReply) -> None:
        """Reply to prompts, each a conversation of one user turn; greedily.

        Args:
            prompts: the user turns.
            on_reply: called once for every prompt with its index in the list, in the order of completion, always
                from the calling thread. What concerns one prompt only (it is too long, say) is a reply with an
                ``error``.

        Raises:
            UserError: if no prompt can be replied to.
        """

    def ask_about(self, names: Sequence[str], prompts: Sequence[str], on_reply: OnReply) -> None:
        """Reply to prompts that have names; see :meth:`ask`.

        Args:
            names: what each prompt is about, such as its question's id; for a judge that keeps replies by name.
            prompts: the user turns.
            on_reply: as in :meth:`ask`.

        Raises:
            UserError: if no prompt can be replied to.
        """
        self.ask(prompts, on_reply)

    @property
    def notices(self) -> Sequence[str]:
        """Lines about the replies so far that the user should see."""
        return ()

    def judge(self, answers: Sequence[Answer], on_verdict: OnVerdict, parsing: str = STRICT) -> None:
        """Say of each answer whether it is right.

        Args:
            answers: answers with references that did not fail.
            on_verdict: called once for every answer with its index in the list, in the order of completion.
            parsing: one of ``PARSINGS``.

        Raises:
            UserError: if no answer at all can be judged.
        """

        def on_reply(position: int, reply: Reply) -> None:
            on_verdict(position, read_verdict(reply, parsing))

        self.ask_about([answer.question.id for answer in answers], list(map(judge_prompt, answers)), on_reply)


def read_verdict(reply: Reply, parsing: str = STRICT) -> Verdict:
    """Read what a reply says.

    Args:
        reply: reply with or without an ``error``.
        parsing: one of ``PARSINGS``.

    Returns:
        The verdict. A reply without words, or one that was cut off before its verdict, has no value: its ``error``
        says why.
    """
    if reply.error:
        return Verdict(None, reply)
    cut_off = reply.finish == "length"
    value = PARSINGS[parsing](reply.text)
    # [Contract] a reasoning model that was cut off, or a content filter, has not called an answer wrong.
    if not has_words(final_reply(reply.text)):
        what = "only reasoning" if has_words(reply.text) else "no words"
        error = f"the reply has {what} (finish {reply.finish})"
    elif value == UNPARSED and cut_off:
        error = f"the reply was cut off before a verdict (finish length): {reply.text[:80]!r}"
    else:
        return Verdict(value, reply)
    remedy = "; raise max_new_tokens, and set keep_old_answers=true to keep the other verdicts" if cut_off else ""
    return Verdict(None, replace(reply, error=error + remedy))


def judge_prompt(answer: Answer) -> str:
    """Return the user turn that asks for a verdict (myeongkyunkang/medcap, chat_llama3_quant.py, exp eval_vqa).

    Args:
        answer: its final reply is shown, without a model's reasoning. Several references are joined by " or ".

    Returns:
        The text.
    """
    return _prompt(answer.question.text, final_reply(answer.prediction), " or ".join(answer.question.references))


def file_name(name: str) -> str:
    """Return a name for use in a file name: all except letters, digits, ``.``, ``+`` and ``-`` becomes ``_``."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "judge"


def _prompt(question: str, answer: str, reference: str) -> str:
    return (
        "Respond with only RIGHT or WRONG to indicate whether we predicted it correctly.\n\n"
        f"Question: {question}\nOur answer: {answer}\nCorrect answer: {reference}"
    )


PROMPT_TEMPLATE = _prompt("{question}", "{answer}", "{reference}")
PROMPT_SHA256 = hashlib.sha256(PROMPT_TEMPLATE.encode()).hexdigest()
