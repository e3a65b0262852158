"""The example that a converter makes of one record, and the reason if it can make none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from medcap.datasets.published.reading import Tally

Value = TypeVar("Value")


class SkipRecord(Exception):
    """This record becomes no row; the message is the reason, the same words for all records of a kind."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training row before it is written.

    Attributes:
        turns: what is asked and what is answered, without placeholders.
        images: names that the image may have in ``folder``, of which the first that exists is taken; none for text.
        folder: what the names are relative to.
        prompts: instructions to use where nothing is asked, for captions; None where ``turns`` has questions.
        image_last: the image comes after the first question.
        further: names of the images that come after it, in ``folder``; the row is left out where one does not exist.
        fields: further fields of the row, such as ``boxes``.
    """

    turns: Sequence[tuple[str, str]]
    images: tuple[str, ...] = ()
    folder: str = ""
    prompts: Sequence[str] | None = None
    image_last: bool = False
    further: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def each(
    records: Iterable[tuple[str, Value]], convert: Callable[[Value], Iterable[Example]], tally: Tally
) -> Iterator[tuple[str, Example]]:
    """Convert records one by one, and count those that cannot be.

    Args:
        records: the location of each, and the record.
        convert: returns its examples, or raises ``SkipRecord``.
        tally: counts.

    Yields:
        The location of each example and the example.
    """
    for location, record in records:
        try:
            examples = list(convert(record))
        except SkipRecord as reason:
            tally.skip(str(reason), location)
            continue
        for example in examples:
            yield location, example
