"""The rows of other systems' prediction files as rows of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcap.datasets.published.fields import question_text
from medcap.datasets.published.llava_med_chat import TYPES, domain_of, figure_context
from medcap.errors import UserError

_TURNS = ("conversations", "conversatons")


def flat_row(row: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """Return a row with its texts under the names of our own files.

    ColonGPT appends a turn ``{"from": "prediction", "value": ...}`` to a row of ColonINST, whose ``id`` is the image's
    path; a row without that turn is a failure. BiRD writes ``annotation`` and ``response``; LLaVA-Med's score files of
    conversations have ``ans1`` (the reference), ``ans2``, ``type``, ``domain`` and the figure's caption.

    Args:
        row: as it is in the file.
        index: its number in the file, which is the id of a row of ColonGPT's.

    Returns:
        The same row where it has no such turns or names.

    Raises:
        UserError: if turns are not those of one question.
    """
    key = next((name for name in _TURNS if isinstance(row.get(name), list)), None)
    if key is None:
        if "annotation" in row and "response" in row:
            return {"reference": row["annotation"], "prediction": row["response"], **row}
        return _scored_conversation(row) if "ans1" in row and "ans2" in row else row
    turns = {str(turn.get("from")): turn.get("value") for turn in row[key] if isinstance(turn, Mapping)}
    if len(turns) != len(row[key]) or "human" not in turns or "gpt" not in turns or len(turns) > 3:
        raise UserError(f"'{key}' must be one question: a turn from human, one from gpt and one from prediction")
    question = turns["human"]
    if isinstance(question, str):
        question = question.replace("<image>", "").strip()
    facts = {name: value for name, value in row.items() if name not in (key, "id", "image")}
    image = row.get("id", row.get("image"))
    return {
        "question_id": str(index),
        "image": image,
        "question": question,
        "reference": turns["gpt"],
        "prediction": turns.get("prediction"),
        **facts,
    }


def _scored_conversation(row: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = row.get("type")
    return {
        "question_id": row.get("question_id"),
        "image": row.get("image"),
        "question": question_text(row.get("question") or row.get("text")),
        "reference": row["ans1"],
        "prediction": row["ans2"],
        "question_type": TYPES.get(str(kind), kind),
        "modality": domain_of(row.get("domain")) or None,
        "context": figure_context(row) or None,
    }
