"""Placeholders in words that a person typed: each stands for one of the images of the turn, as in a training row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError
from medcap.plurals import counted

_FOUND = re.compile(f"<image>|{PLACEHOLDER}+")
_RUN = re.compile(f"{PLACEHOLDER}+")


@dataclass(frozen=True)
class Placed:
    """Typed words, taken apart.

    A run of medcap 2024's character is a placeholder anywhere; ``<image>`` is one at the beginning and the end of a
    turn, elsewhere it is a word.

    Attributes:
        before: placeholders before the words.
        words: words, perhaps with placeholders between them.
        after: placeholders after the words.
    """

    before: int
    words: str
    after: int

    @property
    def count(self) -> int:
        """All placeholders."""
        return self.before + len(_RUN.findall(self.words)) + self.after

    @property
    def pieces(self) -> list[str | None]:
        """The words, cut at the placeholders between them; None stands for an image."""
        pieces: list[str | None] = []
        for words in _RUN.split(self.words) if self.words else []:
            pieces += [words, None]
        return pieces[:-1]


def find_placeholders(text: str) -> Placed:
    """Take typed words apart.

    Args:
        text: one turn.

    Returns:
        The words without white space around them, and the placeholders before and after them.
    """
    found = list(_FOUND.finditer(text))
    start, before = 0, 0
    for match in found:
        if text[start : match.start()].strip():
            break
        start, before = match.end(), before + 1
    end, after = len(text), 0
    for match in reversed(found[before:]):
        if text[match.end() : end].strip():
            break
        end, after = match.start(), after + 1
    return Placed(before, text[start:end].strip(), after)


def place_images(text: str, images: Sequence[Any]) -> list[dict[str, Any]]:
    """Put the images of a turn where its words name them, and the others before the words.

    Args:
        text: what was typed.
        images: images of the turn, in order.

    Returns:
        Content parts, as a training row of :func:`row_text` has them.

    Raises:
        UserError: if the words name more images than there are.
    """
    placed = _checked(text, len(images))
    left = iter(images)
    num_first = len(images) - placed.count + placed.before
    parts: list[dict[str, Any]] = [{"type": "image", "content": next(left)} for _ in range(num_first)]
    pieces = placed.pieces
    for index, piece in enumerate(pieces):
        if piece is None:
            parts.append({"type": "image", "content": next(left)})
            continue
        words = f"\n{piece}" if index == 0 and num_first else piece
        last = index == len(pieces) - 1
        parts.append({"type": "text", "content": f"{words}\n" if last and placed.after else words})
    parts += [{"type": "image", "content": image} for image in left]
    return parts


def row_text(text: str, num_images: int) -> str:
    """Write a turn for a training row.

    Args:
        text: what was typed.
        num_images: number of images of the turn.

    Returns:
        The words with a placeholder for each image, where :func:`place_images` puts it.

    Raises:
        UserError: if the words name more images than there are.
    """
    placed = _checked(text, num_images)
    first = ["<image>"] * (num_images - placed.count + placed.before)
    return "\n".join([*first, *([placed.words] if placed.words else []), *["<image>"] * placed.after])


def without_placeholders(text: str) -> str:
    """Keep only the words of a text where a placeholder would ask for an image that does not exist.

    Args:
        text: an answer, or an earlier turn.

    Returns:
        The words; none if there were only placeholders.
    """
    return find_placeholders(_RUN.sub("", text)).words


def fitting(text: str, num_images: int) -> str:
    """Keep the placeholders of an earlier turn only where it has the images for them.

    A question without its earlier turns may name an image that is in a turn before it.

    Args:
        text: what was typed.
        num_images: number of images of the turn.

    Returns:
        The text, without its placeholders if they are too many.
    """
    return text if find_placeholders(text).count <= num_images else without_placeholders(text)


def _checked(text: str, num_images: int) -> Placed:
    placed = find_placeholders(text)
    if placed.count > num_images:
        raise UserError(
            f"{counted(placed.count, 'image placeholder')} (<image> or {PLACEHOLDER}) but"
            f" {counted(num_images, 'new image')}: show an image for each, or leave the placeholder out; images of"
            " earlier turns are still seen"
        )
    return placed
