"""The experts that answer: the choice for a whole question, and the shares of an answer's tokens."""

from __future__ import annotations

from collections import abc
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torchtune.data import Message

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.generation.decoding.prefix_tree import Prompt
from medcap.models.lora_experts import RoutedAdapters, routed_adapters
from medcap.models.vision_language_model import VisionLanguageModel


@contextmanager
def answering(model: VisionLanguageModel, prompt: Prompt) -> abc.Generator[None]:
    """Let the model compute as a prompt wants it while the block lasts.

    Args:
        model: the model.
        prompt: any of those that ``by_components`` puts together.
    """
    experts = routed_adapters(model.components)
    with model.without(prompt.without):
        if experts is None:
            yield
            return
        with experts.following(prompt.route):
            yield


def choose_route(
    model: VisionLanguageModel, tokenizer: ChatTokenizer, messages: Sequence[Message], without: Sequence[str]
) -> tuple[float, ...]:
    """Choose the experts of a conversation by its first question, as training does.

    Args:
        model: the model.
        tokenizer: tokenizer of the request.
        messages: all turns, with their images as parts.
        without: components that the request does without.

    Returns:
        The weights of the experts; none where each token chooses, or the model has none.
    """
    experts = routed_adapters(model.components)
    if experts is None or experts.chooses_by_token or experts.name in without:
        return ()
    ends = [number for number, message in enumerate(messages) if message.role == "assistant"]
    question = tokenizer.prompt(list(messages[: ends[0]] if ends else messages))
    words = torch.tensor([token for token in question.tokens if token != tokenizer.image_token_id], device=model.device)
    with torch.no_grad(), model.without(without):
        return experts.route(model.embed(words[None], None, None)[0])


class AnswerExperts:
    """Counts which experts take part in answers, at the tokens that predict the answer's.

    Args:
        experts: experts of the model.
    """

    def __init__(self, experts: RoutedAdapters) -> None:
        self._experts = experts
        self._sums: dict[Prompt, Tensor] = {}  # [E]

    def begin(self, prompts: Sequence[Prompt], last: Sequence[int]) -> None:
        """Take in prompts that were just computed.

        Args:
            prompts: prompts of the pass.
            last: flat position of each one's last token.
        """
        if all(prompt.route or self._is_without(prompt) for prompt in prompts):
            return
        shares = self._experts.shares(torch.tensor(last, device=self._experts.device))  # [n, E]
        self._sums |= dict(zip(prompts, shares, strict=True))

    def look(self, rows: Sequence[Prompt | None]) -> None:
        """Count a token of each row, which was just computed."""
        counted = [(row, prompt) for row, prompt in enumerate(rows) if prompt is not None and prompt in self._sums]
        if counted:
            shares = self._experts.shares(torch.arange(len(rows), device=self._experts.device))  # [R, E]
            for row, prompt in counted:
                self._sums[prompt] = self._sums[prompt] + shares[row]

    def end(self, prompt: Prompt) -> tuple[float, ...] | None:
        """Return each expert's share of an answer; None where it was given without them."""
        if prompt.route or self._is_without(prompt):
            return prompt.route or None
        sums = self._sums.pop(prompt)
        return tuple((sums / sums.sum()).tolist())

    def drop(self, prompt: Prompt) -> None:
        """Forget an answer that was given up."""
        self._sums.pop(prompt, None)

    def _is_without(self, prompt: Prompt) -> bool:
        return self._experts.name in prompt.without


def answer_experts(model: VisionLanguageModel, wanted: bool) -> AnswerExperts | None:
    """Return what counts the experts of answers; None where nobody asks for it or the model has none."""
    experts = routed_adapters(model.components)
    return None if experts is None or not wanted else AnswerExperts(experts)
