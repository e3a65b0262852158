"""What the protocols of boxes say about answers that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.data.boxes.box import Box
from medcap.scoring.question import Answer
from medcap.scoring.replies.box_reply import BoxReply


def is_unparsed(reply: BoxReply, wanted: Sequence[Box]) -> bool:
    """Return whether an answer is counted as unparsed.

    Args:
        reply: its boxes.
        wanted: boxes of the reference. Where the object is absent, any words without a box are an answer.
    """
    return reply.unread > 0 or (reply.silent and len(wanted) > 0)


def unread_notices(answers: Sequence[tuple[Answer, BoxReply]]) -> list[str]:
    """Name the rows whose answer has a box that cannot be read.

    Args:
        answers: the rows that ask for a box.

    Returns:
        At most one line.
    """
    bad = [(answer, reply) for answer, reply in answers if reply.unread]
    if not bad:
        return []
    named = "; ".join(f"{answer.question.id}: {reply.example}" for answer, reply in bad[:3])
    total, among = sum(reply.unread for _, reply in bad), f"{len(bad):,} of {len(answers):,} answers"
    return [f"boxes that cannot be read, each of them a miss: {total:,} in {among} ({named})"]
