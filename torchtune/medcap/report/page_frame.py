"""The frame of a page about results: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcap.files import make_folder, write_text
from medcap.report.gallery import MOST_GROUPS
from medcap.report.sections import Section
from medcap.report.templates import render


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: title of the page.
        subtitle: a sentence below it.
        sections: sections from top to bottom; None for one that has nothing to show.
        eyebrow: a short line above the title.

    Example:
        >>> cards = Cards([Card("Accuracy", "61.2 %", bar=Bar(0.612, 0.57, 0.65))])
        >>> answers = Gallery("Answers", [Sample("yes", ["no"], images=["a.png"], correct=False)])
        >>> Page("VQA-RAD", "451 questions", [cards, answers]).write("results/report.html")
    """

    title: str
    subtitle: str = ""
    sections: Sequence[Section | None] = ()
    eyebrow: str = "medcap"

    @property
    def rows(self) -> list[list[Section]]:
        """The sections, those together that share a row."""
        rows: list[list[Section]] = []
        for section in self.sections:
            if section is None:
                continue
            if rows and not section.wide and not rows[-1][-1].wide:
                rows[-1].append(section)
            else:
                rows.append([section])
        return rows

    def html(self) -> str:
        """Return the whole page."""
        return render("page.html.j2", page=self, most_groups=MOST_GROUPS)

    def write(self, path: str | Path) -> Path:
        """Write the page, complete or not at all.

        Args:
            path: the HTML file.

        Returns:
            The same path.
        """
        path = Path(path)
        make_folder(path.parent)
        write_text(path, self.html())
        return path
