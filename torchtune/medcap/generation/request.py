"""What goes into the generator and what comes out: plain values without a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor
from torchtune.data import Message

from medcap.data.boxes.box import Size
from medcap.data.images.reference import ImageRef
from medcap.data.outputs import NOTHING, Outputs
from medcap.errors import UserError


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image in memory that is decoded and resized already; from ``Generator.prepare``.

    Args:
        pixels: ``[3, H, W]`` uint8, of the tower's size; ``[n, 3, H, W]`` if it is shown in n pictures.
        key: names the content: images with one key are encoded once.
        size: width and height in pixels before it was resized; None where nothing asks for its boxes.
        fit: how it was made square, as ``View.fit``.
        own: ``[3, S, S]`` uint8, as what looks at another picture than the tower is shown it; None without such.
    """

    pixels: Tensor
    key: str
    size: Size | None = None
    fit: str | None = None
    own: Tensor | None = None


RequestImage = ImageRef | Image.Image | PreparedImage


@dataclass(frozen=True)
class Request:
    """One conversation that wants an answer.

    Args:
        messages: all turns up to and including the user's last one; an image is a content part
            ``{"type": "image", "content": RequestImage}``; a path counts as a reference in the default view. A region
            is one ``{"type": "region", "content": Region}``.
        id: name of the request in messages and files; with a seed it fixes what is sampled.
        max_new_tokens: most tokens of this answer; None leaves it to the sampling.
        answer_prefix: words that the answer begins with; they are given, not generated and not scored.
        without: components that this request does without, such as ``llm_lora``.
    """

    messages: list[Message]
    id: str = ""
    max_new_tokens: int | None = None
    answer_prefix: str = ""
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        max_new_tokens: most tokens of one answer.
        temperature: 0 takes the most likely token; above 0 samples from the tempered distribution.
        top_k: sample among the k most likely tokens only; None for all.
        top_p: sample among the smallest set of tokens whose probabilities reach p; None for all.
        seed: start of the random numbers; the same seed, messages and id (without an id, place in the list) give
            the same answer, whatever else is in the batch.

    Raises:
        UserError: if a value is outside its range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: it must be 0 (the most likely token) or above")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: it must be at least 1, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: it must be above 0 and at most 1, or null for all tokens")


GREEDY = Sampling()


@dataclass(frozen=True)
class Generation:
    """One answer.

    Args:
        text: decoded answer without special tokens.
        tokens: token ids of the answer, without the stop token.
        finish: ``"stop"`` when the model ended its turn, ``"length"`` when the token limit did, ``"error"`` when
            there is no answer.
        error: what went wrong, one line; empty except for ``"error"``.
        outputs: results of the model beside its words, such as boxes.
    """

    text: str
    tokens: list[int] = field(default_factory=list)
    finish: str = "stop"
    error: str = ""
    outputs: Outputs = NOTHING


@dataclass(frozen=True)
class CandidateScores:
    """How likely each candidate is as the answer to one request.

    Args:
        sums: the log-probability of each candidate, natural logarithm, summed over its tokens.
        num_tokens: number of tokens of each candidate.
        error: what went wrong, one line; then ``sums`` and ``num_tokens`` are empty.
    """

    sums: list[float] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    error: str = ""

    @property
    def means(self) -> list[float]:
        """The log-probability of each candidate per token."""
        return [total / count for total, count in zip(self.sums, self.num_tokens, strict=True)]
