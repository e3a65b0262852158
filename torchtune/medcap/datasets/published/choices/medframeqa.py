"""MedFrameQA: questions about two to five frames of a medical teaching video.

``data/test-*.parquet`` of ``SuhaoYu1020/MedFrameQA`` has ``question_id``, ``question``, ``options`` (a list),
``correct_answer`` (a letter), ``image_1`` to ``image_5`` (null behind the last), ``system``, ``organ``, ``modality``,
``keyword``, ``video_id`` and ``reasoning_chain`` (``src/eval_process.py`` of haojinw0027/MedFrameQA, and
``utils/MedFrameQA`` of MedEvalKit, which reads the hub's columns).
"""

from __future__ import annotations

from collections.abc import Iterator

from medcap.datasets.published.choices.question import ChoiceQuestion, columns_of
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.reading import Tally, parquet_records
from medcap.datasets.rows.parquet_rows import image_content

LAYOUT = Layout(("MedFrameQA", "medframeqa"), {HUB: hub_files("test")})
_FRAMES = tuple(f"image_{number}" for number in range(1, 6))


def questions(found: Found, tally: Tally) -> Iterator[ChoiceQuestion]:
    """Read the questions; ``patient`` is the video, so that intervals draw the questions of one together.

    Args:
        found: the files.
        tally: counts rows.
    """
    rows = parquet_records(found.files, ("question", "options", "correct_answer", *_FRAMES[:2]), tally)
    for index, (location, row) in enumerate(rows):
        # A frame between two others that has no content is damaged; behind the last one there is none.
        frames = [image_content(row.get(name)) for name in _FRAMES]
        last = max((number for number, frame in enumerate(frames) if frame is not None), default=-1)
        yield ChoiceQuestion(
            location,
            field_text(row.get("question_id")) or str(index),
            question_text(row.get("question")),
            columns_of(row.get("options")),
            field_text(row.get("correct_answer")),
            tuple(frames[: last + 1]),
            meta={
                "modality": row.get("modality"),
                "organ": row.get("organ"),
                "question_type": row.get("system"),
                "patient": row.get("video_id"),
            },
        )
