"""medcap 2024's prompts and token limits, for reproducing its numbers.

That system wrote the chat template as text and encoded the text, so its markers became ordinary tokens; its limits
count tokens of that encoding (custom_generate_func.py, lines 24-39 and 137-191, of myeongkyunkang/medcap at c8910f0).
"""

from __future__ import annotations

from collections.abc import Sequence

from medcap.data.conversations import PLACEHOLDER
from medcap.data.tokenization import Tokenizer

IMAGE = PLACEHOLDER * 50
ANSWER_LIMIT = 50
Turn = tuple[str, str]  # role and text


def plain_text(turns: Sequence[Turn]) -> str:
    """Llama 3's template written as text, the last turn left open."""
    text = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{words.strip()}<|eot_id|>" for role, words in turns)
    return text.removesuffix("<|eot_id|>")


def plain_text_tokens(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """The prompt as medcap 2024 encoded it: only the first token is special.

    Args:
        tokenizer: Llama 3's.
        turns: the conversation, the last turn the empty assistant's.

    Returns:
        The ids.
    """
    return tokenizer.encode(plain_text(turns), add_bos=True, add_eos=False)


def description_limit(
    tokenizer: Tokenizer, turns: Sequence[Turn], question: str, max_seq_len: int, max_new_tokens: int
) -> int:
    """Tokens that the description of the first stage may have.

    Room is kept for the question and its answer's header, which are asked after it.

    Args:
        tokenizer: Llama 3's.
        turns: of the first stage, the last turn the empty assistant's.
        question: of the second stage.
        max_seq_len: of both stages.
        max_new_tokens: most tokens whatever the room.

    Returns:
        The limit; medcap generates one token even where it is 0 or less.
    """
    both_stages = len(tokenizer.encode(plain_text([*turns, ("user", ""), ("assistant", "")])))
    return min(max_seq_len - (both_stages + len(tokenizer.encode(question)) + 5), max_new_tokens)


def answer_limit(max_new_tokens: int) -> int:
    """Tokens that the answer of the second stage may have."""
    return min(ANSWER_LIMIT, max_new_tokens)
