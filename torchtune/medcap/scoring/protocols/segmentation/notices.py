"""What the protocols of masks say about rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from medcap.data.regions.region import Region, RunLength
from medcap.scoring.protocols.summary import count_notice
from medcap.scoring.question import Answer

_MOST_NAMED = 3


@dataclass
class MaskNotes:
    """What was noted while rows were scored.

    Attributes:
        answers: the rows that ask for masks.
        references: rows whose reference cannot be read, with the reason.
        predictions: rows with a mask that cannot be read, with the reason.
        silent: rows that are answered and have no mask for an object that is there.
        resized: rows with a mask that was resized.
    """

    answers: list[Answer] = field(default_factory=list)
    references: list[tuple[Answer, str]] = field(default_factory=list)
    predictions: list[tuple[Answer, str]] = field(default_factory=list)
    silent: list[Answer] = field(default_factory=list)
    resized: list[Answer] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """How many rows have no answer, or a mask that cannot be read."""
        missing = {answer.question.id for answer in self.answers if answer.failed}
        bad = {answer.question.id for answer, _ in (*self.references, *self.predictions)}
        return len(missing | bad)

    def counts(self) -> dict[str, int]:
        """Return the counts of a protocol's scores."""
        return {
            "failures": self.failures,
            "unreadable_references": len(self.references),
            "unparsed": len(self.predictions),
            "without_mask": len(self.silent),
            "resized": len(self.resized),
            "several_values": len(self._mixed),
            "clusters": len({answer.question.cluster for answer in self.answers}),
        }

    def notices(self, answers: Sequence[Answer]) -> list[str]:
        """Return a line for each kind of row that was noted.

        Args:
            answers: all rows.
        """
        asked = {id(answer) for answer in self.answers}
        ignored = [answer for answer in answers if id(answer) not in asked]
        missing = [answer for answer in self.answers if answer.failed]
        return [
            *count_notice("rows in no denominator, because they do not ask for a mask", ignored, answers),
            *_named("rows whose reference cannot be read, which count 0", self.references, self.answers),
            *count_notice("rows without an answer, which count 0", missing, self.answers),
            *_named("answers with a mask that cannot be read, which counts 0", self.predictions, self.answers),
            *count_notice(
                "answers without a mask for an object that is there, which count 0", self.silent, self.answers
            ),
            *count_notice(
                "answers with a mask of another size than its reference, resized to it by nearest neighbour",
                self.resized,
                self.answers,
            ),
            *count_notice(
                "rows with a mask file of several values above 0, all of which are inside: name one by 'value' where"
                " they are classes, and save a map of probabilities as 0 and 1",
                self._mixed,
                self.answers,
            ),
        ]

    @property
    def _mixed(self) -> list[Answer]:
        return [answer for answer in self.answers if any(map(_is_mixed, _masks(answer)))]


def _masks(answer: Answer) -> Iterator[Region | None]:
    yield from answer.question.masks or ()
    yield from answer.outputs.masks or ()


def _is_mixed(region: Region | None) -> bool:
    return region is not None and isinstance(region.shape, RunLength) and region.shape.mixed


def _named(rows: str, found: Sequence[tuple[Answer, str]], answers: Sequence[Answer]) -> list[str]:
    if not found:
        return []
    named = "; ".join(f"{answer.question.id}: {reason}" for answer, reason in found[:_MOST_NAMED])
    more = "; ..." if len(found) > _MOST_NAMED else ""
    return [f"{rows}: {len(found):,} of {len(answers):,} ({named}{more})"]
