"""What is asked of a language model, what it says, and what such a model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

NOT_SENT = "not_sent"


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation in words.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: its words.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation whose next turn a language model writes.

    Attributes:
        turns: the turns; the last one is the user's.
        id: what the prompt is about; recorded replies are found by it.
    """

    turns: tuple[Turn, ...]
    id: str = ""


@dataclass(frozen=True)
class Reply:
    """What a language model said to one prompt.

    Attributes:
        text: "" where there is no reply.
        finish: ``stop``, ``length``, another reason of the server's, ``error``, or ``NOT_SENT``.
        num_tokens: number of tokens of the reply; 0 where it is not known.
        error: why there is no reply, one line; empty where there is one.
        num_prompt_tokens: number of tokens of the prompt; 0 where it is not known.
    """

    text: str
    finish: str = "stop"
    num_tokens: int = 0
    error: str = ""
    num_prompt_tokens: int = 0


OnReply = Callable[[int, Reply], None]
# Called with a prompt's index right before it is sent, from any thread: "" sends it, words say why it is not sent.
Admit = Callable[[int], str]


class LanguageModel(ABC):
    """A language model. It reads no weights and makes no connection before the first prompt.

    Attributes:
        kind: kind as users type it.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Which model, for people."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything that decides a reply besides the prompt, without any secret."""

    @abstractmethod
    def ask(self, prompts: Sequence[str | Prompt], on_reply: OnReply, admit: Admit | None = None) -> None:
        """Reply to prompts.

        Args:
            prompts: conversations; a text is one of one user turn.
            on_reply: called once for every prompt with its index in the list, in the order of completion, always
                from the calling thread. What concerns one prompt only (it is too long, say) is a reply with an
                ``error``.
            admit: decides before each prompt whether it is sent. One that is not has a reply with an ``error`` and
                the finish ``NOT_SENT``.

        Raises:
            UserError: if no prompt can be replied to.
        """

    @property
    def notices(self) -> Sequence[str]:
        """Lines about the replies so far that the user should see."""
        return ()


def turns_of(prompt: str | Prompt) -> tuple[Turn, ...]:
    """Return the turns of a prompt."""
    return (Turn("user", prompt),) if isinstance(prompt, str) else prompt.turns
