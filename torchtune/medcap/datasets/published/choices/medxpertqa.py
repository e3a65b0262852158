"""MedXpertQA's multimodal part: questions of expert examinations about one or several images.

``MM/test.jsonl`` of ``TsinghuaC3I/MedXpertQA`` (the card of the hub, and ``eval/main.py`` of the benchmark's
repository) has ``id``, ``question``, ``options`` (an object of A to E), ``label`` (a letter), ``images`` (names in
``images.zip``), ``medical_task``, ``body_system`` and ``question_type`` (Reasoning or Understanding). The question ends
with ``Answer Choices: (A) ... (B) ...``, which repeats the options and is taken off here: a way of asking shows the
options once, in its own form, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medcap.datasets.published.choices.question import ChoiceQuestion, columns_of
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.reading import Tally, json_records

LAYOUT = Layout(
    ("MedXpertQA", "medxpertqa"), {"jsonl": ("MM/test.jsonl", "test.jsonl")}, ("images", "images/images", "MM/images")
)
_REPEATED_OPTIONS = re.compile(r"\s*Answer Choices:\s*\(A\)(?!.*Answer Choices:).*\Z", re.DOTALL)


def questions(found: Found, tally: Tally) -> Iterator[ChoiceQuestion]:
    """Read the questions of a file.

    Args:
        found: the file.
        tally: counts damaged rows.
    """
    path = found.files[0]
    for index, (location, row) in enumerate(json_records(path, tally)):
        tally.check_first(path, row, ("question", "options", "label", "images"))
        listed = row.get("images")
        images = tuple(listed) if isinstance(listed, list) else ()
        named = all(isinstance(name, str) and name for name in images) and isinstance(listed, list)
        yield ChoiceQuestion(
            location,
            field_text(row.get("id")) or str(index),
            _REPEATED_OPTIONS.sub("", question_text(row.get("question"))),
            columns_of(row.get("options")),
            field_text(row.get("label")),
            images if named else (),
            meta={
                "question_type": row.get("question_type"),
                "task": row.get("medical_task"),
                "organ": row.get("body_system"),
            },
            problem=None if named else "'images' is not a list of names",
        )
