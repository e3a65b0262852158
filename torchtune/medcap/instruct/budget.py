"""What a run may use: tokens and money."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from medcap.errors import UserError
from medcap.language_models.base import Prompt, Reply

# Where a server counts no tokens: characters of English text that make a token, at the least.
_CHARACTERS = 3
_MILLION = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What all replies of an output folder together may use.

    Attributes:
        tokens: most tokens of prompts and replies together; None for any number.
        cost: most money, in the unit of the prices; None for any sum.
        price_in: price of a million tokens of prompts.
        price_out: price of a million tokens of replies.

    Raises:
        UserError: for a limit without prices.
    """

    tokens: int | None = None
    cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("--price-in and --price-out go together: give the prices of a million tokens of each")
        if self.cost is not None and self.price_in is None:
            raise UserError(
                "--max-cost needs the prices of a million tokens: give --price-in and --price-out, as the server's"
                " owner publishes them"
            )

    def price(self, prompt_tokens: int, tokens: int) -> float | None:
        """Return what tokens cost; None where no price is known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + tokens * self.price_out) / _MILLION


class Budget:
    """Keeps a run within its limits. Threads may use it at the same time.

    Before a prompt is sent, room for it and for its longest reply is set aside; when the reply is there, what it used
    takes the place of that. So the limits hold even while many prompts are on their way, as far as the length of a
    prompt can be told before it is sent: by its characters, or by the longest prompt so far, whichever is more.

    Args:
        limits: what may be used.
        max_new_tokens: most tokens of a reply.

    Attributes:
        prompt_tokens: used so far.
        tokens: used so far, of replies.
        estimated: replies whose tokens were not counted by their server; they are estimated by their characters.
    """

    def __init__(self, limits: Limits, max_new_tokens: int) -> None:
        self.limits = limits
        self.prompt_tokens = self.tokens = self.estimated = 0
        self._max_new_tokens = max_new_tokens
        self._longest = 0
        self._reserved: dict[str, int] = {}
        self._changed = threading.Condition()  # of a lock that its holder may take again
        self._counting = threading.current_thread()
        self.reached = ""

    @property
    def cost(self) -> float | None:
        """What was used so far, in money; None where no price is known."""
        return self.limits.price(self.prompt_tokens, self.tokens)

    def admit(self, prompt: Prompt) -> str:
        """Set room aside for a prompt.

        Where prompts on their way have taken the room, another thread waits until their replies have told what they
        really used. The thread that made this budget counts the replies, so it does not wait.

        Args:
            prompt: the prompt that is to be sent.

        Returns:
            "" where there is room; otherwise the reason why it is not sent.
        """
        with self._changed:
            while not self.reached:
                room = max(self._longest, _estimate(_text(prompt)))
                exceeded = self._exceeded(sum(self._reserved.values()) + room, len(self._reserved) + 1)
                if not exceeded:
                    self._reserved[prompt.id] = room
                    return ""
                if not self._reserved:
                    # Nothing more is sent: short prompts that still fit would change the mixture of domains.
                    self.reached = exceeded
                elif threading.current_thread() is self._counting:
                    return exceeded
                else:
                    self._changed.wait()
            return self.reached

    def spend(self, prompt: Prompt, reply: Reply) -> None:
        """Count what a reply used, and free the room that was set aside for it."""
        with self._changed:
            self._reserved.pop(prompt.id, None)
            if not reply.error:
                self.count(reply.num_prompt_tokens, reply.num_tokens, _text(prompt), reply.text)
            self._changed.notify_all()

    def count(self, prompt_tokens: int, tokens: int, prompt: str, reply: str) -> None:
        """Count tokens, those of an earlier run too.

        Args:
            prompt_tokens: tokens of the prompt; 0 where they are not known.
            tokens: tokens of the reply; 0 where they are not known.
            prompt: the prompt's words, from which its tokens are then estimated.
            reply: the reply's words.
        """
        with self._changed:
            if not prompt_tokens and prompt:
                self.estimated += 1
                prompt_tokens, tokens = _estimate(prompt), tokens or _estimate(reply)
            self.prompt_tokens += prompt_tokens
            self.tokens += tokens
            self._longest = max(self._longest, prompt_tokens)

    def _exceeded(self, prompt_tokens: int, replies: int) -> str:
        """Return which limit would be exceeded with so much more."""
        prompts, tokens = self.prompt_tokens + prompt_tokens, self.tokens + replies * self._max_new_tokens
        limit = self.limits
        if limit.tokens is not None and prompts + tokens > limit.tokens:
            return _full(f"{limit.tokens:,} tokens", f"{self.prompt_tokens + self.tokens:,} are", "--max-tokens-total")
        cost = limit.price(prompts, tokens)
        if limit.cost is not None and cost is not None and cost > limit.cost:
            return _full(f"{limit.cost:g}", f"{self.cost:g} is", "--max-cost")
        return ""


def _full(budget: str, used: str, option: str) -> str:
    return (
        f"the budget of {budget}, of which {used} used, has no room for another prompt and its longest reply: raise"
        f" {option} to go on"
    )


def _text(prompt: Prompt) -> str:
    return "".join(turn.content for turn in prompt.turns)


def _estimate(text: str) -> int:
    return -(-len(text) // _CHARACTERS)
