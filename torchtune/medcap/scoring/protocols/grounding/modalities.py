"""Med-GRIT's eight modalities, which BiRD's scores are means over."""

from __future__ import annotations

from medcap.errors import UserError
from medcap.scoring.question import Question

MODALITIES = ("ct", "mr", "x", "pet", "endoscopy", "dermoscopy", "fundus", "ultrasound")


def image_prefix(question: Question) -> str:
    """Return the part of the image's file name before its first ``_``, which is the modality in Med-GRIT."""
    return next((path.replace("\\", "/").rpartition("/")[2] for path in question.image_paths), "").split("_")[0]


def published_modality(question: Question, protocol: str) -> str:
    """Return the modality that the published evaluators take.

    Args:
        question: a row.
        protocol: name of the protocol, for messages.

    Raises:
        UserError: if the image's name begins with none of ``MODALITIES``; published, a ``KeyError``.
    """
    prefix = image_prefix(question)
    if prefix not in MODALITIES:
        raise UserError(
            f"{protocol}: row {question.id}: the name of its image begins with {prefix!r}, not with one of"
            f" {', '.join(MODALITIES)} and '_': use {protocol}_strict, which takes the row's 'modality'"
        )
    return prefix


def row_modality(question: Question) -> str:
    """Return a row's ``modality``, or else that of the image's name; "other" where neither is known."""
    named = question.meta.get("modality", "").strip()
    prefix = image_prefix(question)
    return named or (prefix if prefix in MODALITIES else "other")
