"""A conversation that grows turn by turn, with images at any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torchtune.data import Message

from medcap.generation.prompt import user_message
from medcap.generation.request import Request


@dataclass
class Exchange:
    """What the user said, and the answer to it.

    Attributes:
        text: the user's words; none asks for a caption.
        images: paths, shown at the beginning of the turn.
        answer: None until there is one.
    """

    text: str
    images: list[str] = field(default_factory=list)
    answer: str | None = None


@dataclass
class Conversation:
    """All exchanges so far.

    Attributes:
        system: what the model is told before everything; none by default, as in training.
        exchanges: the last one may lack its answer.
    """

    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def ask(self, text: str, images: Sequence[str] = ()) -> None:
        """Add a user's turn.

        Args:
            text: the words.
            images: paths.
        """
        self.exchanges.append(Exchange(text, list(images)))

    def answer(self, text: str) -> None:
        """Add the answer to the last turn, or replace it."""
        self.exchanges[-1].answer = text

    def request(self) -> Request:
        """Ask for the answer to the last turn, whether it has one already or not.

        Returns:
            The request; its id is always the same, so that a seed gives the same answer again.
        """
        messages = [Message(role="system", content=self.system, masked=True)] if self.system else []
        for place, exchange in enumerate(self.exchanges, start=1):
            messages.append(user_message(exchange.images, exchange.text))
            if place < len(self.exchanges):
                messages.append(Message(role="assistant", content=exchange.answer or "", masked=False))
        return Request(messages, id="conversation")

    def to_row(self) -> dict[str, Any]:
        """As a row that can be trained on (medcap's and LLaVA's layout).

        Returns:
            ``image`` and ``conversations``; without an answer the last turn is left out.
        """
        turns = [{"from": "system", "value": self.system}] if self.system else []
        images: list[str] = []
        for exchange in self.exchanges:
            if exchange.answer is None:
                continue
            tags = ["<image>"] * len(exchange.images)
            images += exchange.images
            turns.append({"from": "human", "value": "\n".join([*tags, *([exchange.text] if exchange.text else [])])})
            turns.append({"from": "gpt", "value": exchange.answer})
        return {"image": images, "conversations": turns} if images else {"conversations": turns}

    def to_markdown(self) -> str:
        """For people to read."""
        lines = [f"*{self.system}*", ""] if self.system else []
        for exchange in self.exchanges:
            lines += [f"![{image}](<{image}>)" for image in exchange.images]
            lines += [f"**You:** {exchange.text or '(describe)'}", ""]
            lines += [exchange.answer or "", ""]
        return "\n".join(lines)
