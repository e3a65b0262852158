"""Conversations about pictures, to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcap.data.images.reader import ImageReader
from medcap.report.pictures import Pictures, PictureStore, spread
from medcap.report.sections import Section

MOST_SHOWN = 40


@dataclass(frozen=True)
class Talk:
    """A conversation.

    Attributes:
        name: what to call it.
        pairs: questions and answers.
        image: path of its picture; None for a conversation in words.
        note: a short line above it.
    """

    name: str
    pairs: Sequence[tuple[str, str]]
    image: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Conversations(Section):
    """Conversations beside their pictures, evenly spaced over the file.

    Attributes:
        title: above them.
        talks: all conversations.
        note: a sentence below the title.
        reader: opens the pictures.
    """

    template = "conversations.html.j2"

    title: str
    talks: Sequence[Talk]
    note: str = ""
    reader: ImageReader | None = None

    def shown(self) -> list[tuple[Talk, Pictures]]:
        """Choose the conversations and read their pictures."""
        store = PictureStore(self.reader)
        chosen = [self.talks[number] for number in spread(list(range(len(self.talks))), MOST_SHOWN)]
        return [(talk, store.read([] if talk.image is None else [talk.image])) for talk in chosen]
