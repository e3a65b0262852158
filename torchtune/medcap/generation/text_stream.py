"""Words as they come: what of an answer is certain already, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.data.chat_tokenizer import ChatTokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns the tokens of one answer into pieces of text that make up its text when joined.

    A piece is given out once nothing that follows can change it: the bytes of an unfinished character, white space
    that may turn out to end the answer, and what may become a stop text are held back.

    Args:
        tokenizer: decodes.
        stop: texts before which the answer ends.
        prefix: tokens of words that the answer continues from; they are not returned.

    Attributes:
        stopped: whether a stop text has come; what follows it is not given out.
    """

    def __init__(self, tokenizer: ChatTokenizer, stop: Sequence[str] = (), prefix: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens = list(prefix)
        self._given = tokenizer.decode(self._tokens)
        self._num_before = len(self._given)
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token.

        Args:
            token: its id.

        Returns:
            The new piece, often empty.
        """
        if self.stopped:
            return ""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        end = self._find_stop(text)
        if end is None:
            certain = text.rstrip(_UNFINISHED)
            return self._give(certain[: len(certain) - self._may_become_stop(certain)])
        self.stopped = True
        return self._give(text[:end].rstrip())

    def finish(self) -> str:
        """End a complete answer.

        Returns:
            The text that was still held back.
        """
        return "" if self.stopped else self._give(self._tokenizer.decode(self._tokens))

    def _give(self, text: str) -> str:
        # A tokenizer may spell what went before otherwise once it sees more; then the end of the answer settles it.
        if not text.startswith(self._given):
            return ""
        piece = text[len(self._given) :]
        self._given = text
        return piece

    def _find_stop(self, text: str) -> int | None:
        positions = [
            position for position in (text.find(stop, self._num_before) for stop in self._stop) if position >= 0
        ]
        return min(positions, default=None)

    def _may_become_stop(self, text: str) -> int:
        """Characters at the end of the text that a stop text begins with."""
        text = text[self._num_before :]
        lengths = [length for stop in self._stop for length in range(1, len(stop)) if text.endswith(stop[:length])]
        return max(lengths, default=0)
