"""lmms-eval's score of SLAKE: equality after its normalisation, over all rows and over the parts of the benchmark."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.summary import (
    check_answers,
    count_notice,
    one_reference_notice,
    reasoning_notice,
    row_means,
)
from medcap.scoring.question import Answer, Question

_YES = frozenset(("yes", "yeah", "yep", "true", "是", "是的", "有", "包含", "可以", "能", "会", "正常"))
_NO = frozenset(
    ("no", "nope", "false", "否", "不是", "没有", "无", "不包含", "不能", "不会", "不可以", "不正常", "异常")
)
_IN_BRACKETS = (re.compile(r"\([^)]*\)"), re.compile(r"（[^）]*）"))
# The full-width forms of ASCII's punctuation but the full stop's, and Chinese marks.
_FULL_WIDTH = "".join(chr(ord(mark) + 0xFEE0) for mark in string.punctuation if mark != ".")
_MARKS = str.maketrans(dict.fromkeys(string.punctuation + _FULL_WIDTH + "｡。、《》【】", " "))
_MODALITIES = {"ct": "ct", "mri": "mri", "x-ray": "xray"}
_CONTENTS = ("abnormality", "color", "kg", "modality", "organ", "plane", "position", "quantity", "shape", "size")


class LmmsEvalSlake(Protocol):
    """lmms-eval's task ``slake``.

    Source: EvolvingLMMs-Lab/lmms-eval, ``lmms_eval/tasks/slake/utils.py``. ``accuracy``, ``open.accuracy`` and
    ``closed.accuracy`` are its ``slake_accuracy``, ``slake_open_accuracy`` and ``slake_closed_accuracy``; the other 13
    are ``modality.ct.accuracy``, ``content.organ.accuracy`` and so on, by a row's ``modality`` and ``question_type``
    (SLAKE's ``content_type``). A part without rows, published as 0, is absent. Its tasks ``slake_en`` and ``slake_zh``
    are the same rule on the rows of one language.
    """

    name = "lmms_eval_slake"
    description = (
        "lmms-eval's SLAKE: equality in lower case without what stands in brackets and without punctuation, where words"
        " for yes and for no in English and Chinese are one each"
    )
    headline = "accuracy"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        rows: list[dict[str, Any]] = []
        for answer in answers:
            right = normalized(answer.prediction) == normalized(answer.question.references[0])
            parts = dict.fromkeys(_parts(answer.question), float(right))
            values = {"accuracy": float(right), **parts, "correct": right, "value": float(right)}
            rows.append({"question_id": answer.question.id, **values})
        names = ["accuracy", "open.accuracy", "closed.accuracy"]
        names += [f"modality.{name}.accuracy" for name in _MODALITIES.values()]
        names += [f"content.{name}.accuracy" for name in _CONTENTS]
        for kind in ("open", "closed"):
            counts[f"{kind}.n"] = sum(f"{kind}.accuracy" in row for row in rows)
        scores, intervals = row_means(rows, {name: name for name in names})
        lucky = [answer for answer, row in zip(answers, rows, strict=True) if answer.failed and row["correct"]]
        notices = one_reference_notice(answers) + reasoning_notice(answers, published=True)
        parts = ("open.accuracy", "closed.accuracy")
        unsaid = [answer for answer, row in zip(answers, rows, strict=True) if not any(part in row for part in parts)]
        notices += count_notice("rows whose answer_type is not OPEN or CLOSED, in accuracy alone", unsaid, answers)
        notices += count_notice("rows without an answer that the published rule counts as right", lucky, answers)
        return ProtocolScores(scores, intervals, rows, counts, notices)


def normalized(text: str) -> str:
    """Return an answer in the form that is compared (``normalize_answer``)."""
    text = text.strip().lower()
    for brackets in _IN_BRACKETS:
        text = brackets.sub(" ", text)
    text = re.sub(r"\s+", " ", text.translate(_MARKS)).strip()
    if text == "x ray":
        return "xray"
    return "yes" if text in _YES else "no" if text in _NO else text


def _parts(question: Question) -> list[str]:
    def value(name: str) -> str:
        return question.groups.get(name, "").strip().lower()

    parts = [f"{kind}.accuracy" for kind in ("open", "closed") if value("answer_type") == kind]
    if value("modality") in _MODALITIES:
        parts.append(f"modality.{_MODALITIES[value('modality')]}.accuracy")
    if value("question_type") in _CONTENTS:
        parts.append(f"content.{value('question_type')}.accuracy")
    return parts
