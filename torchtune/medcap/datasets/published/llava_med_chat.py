"""LLaVA-Med's evaluation of conversations: 193 questions about 50 figures, with the answers of GPT-4.

``llava_med_eval_qa50_qa.jsonl`` (microsoft/LLaVA-Med, data/eval) has ``question_id``, ``image``, ``pair_id``, ``text``
(the question and ``<image>``), ``gpt4_answer``, ``fig_label``, ``fig_caption``, ``in_text_mention`` (sentences, or
objects with ``tokens``), ``type`` and ``domain`` (five flags). Where a row has no caption, it is that of the same
``pair_id`` in ``llava_med_eval_qa50_fig_captions.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.reading import Tally, json_records

QUESTIONS = "llava_med_eval_qa50_qa.jsonl"
CAPTIONS = "llava_med_eval_qa50_fig_captions.json"
_SUBFOLDERS = ("", "data/eval/", "eval/", "data/")
LAYOUT = Layout(
    ("LLaVA-Med", "llava-med"),
    {"jsonl": tuple(folder + QUESTIONS for folder in _SUBFOLDERS)},
    ("images", "data/images"),
)
# A figure of several kinds belongs to the first of them (llava/eval/summarize_gpt_review.py, get_domain).
DOMAINS = {"chest_xray": "CXR", "mri": "MRI", "histology": "Histology", "gross": "Gross", "ct_scan": "CT"}
TYPES = {"conversation": "conversation", "detailed_description": "detail"}


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """A question about a figure.

    Attributes:
        location: the file and row.
        id: ``question_id`` as text.
        image: name of the figure's file; "" where the file names none.
        question: without what stands for the image.
        answer: GPT-4's, made from caption and text alone; "" where there is none.
        kind: ``conversation`` or ``detail``, or what else the file says.
        domain: a value of ``DOMAINS``; "" where no flag is set.
        context: what a judge reads in the figure's place, see :func:`figure_context`; "" without a caption.
    """

    location: str
    id: str
    image: str
    question: str
    answer: str
    kind: str
    domain: str
    context: str


def questions(path: Path, tally: Tally) -> Iterator[ChatQuestion]:
    """Read the questions of a file.

    Args:
        path: the file; captions are looked for beside it.
        tally: counts rows that are damaged.

    Yields:
        A question for each row.

    Raises:
        UserError: if a file cannot be read.
    """
    captions: dict[str, Mapping[str, Any]] | None = None
    for location, record in json_records(path, tally):
        tally.check_first(path, record, ("text", "type"))
        figure = record
        if not field_text(record.get("fig_caption")):
            captions = _captions(path.with_name(CAPTIONS)) if captions is None else captions
            figure = captions.get(_pair(record), record)
        kind = field_text(record.get("type"))
        yield ChatQuestion(
            location,
            field_text(record.get("question_id")) or location.rpartition(" ")[2],
            field_text(record.get("image")),
            question_text(record.get("text")),
            field_text(record.get("gpt4_answer")),
            TYPES.get(kind, kind),
            domain_of(record.get("domain") or figure.get("domain")),
            figure_context(figure),
        )


def domain_of(flags: Any) -> str:
    """Return the domain of a record's flags; "" where none is set."""
    if not isinstance(flags, Mapping):
        return field_text(flags) if isinstance(flags, str) else ""
    return next((name for flag, name in DOMAINS.items() if flags.get(flag)), "")


def figure_context(figure: Mapping[str, Any]) -> str:
    """Return a figure's caption and the sentences that mention it, in the form of LLaVA-Med's prompts.

    Args:
        figure: record with ``fig_label``, ``fig_caption`` and ``in_text_mention``, each of which may be missing.

    Returns:
        ``Figure Caption:`` and, where there are sentences, ``Figure Context:`` (llava/instruct of v1.0.0; the code of
        v1.5 prints the list as Python shows it); "" without a caption and sentences.
    """
    caption = ": ".join(filter(None, (field_text(figure.get("fig_label")), field_text(figure.get("fig_caption")))))
    mentions = figure.get("in_text_mention")
    mentions = mentions if isinstance(mentions, list) else [mentions]
    sentences = [field_text(item.get("tokens") if isinstance(item, Mapping) else item) for item in mentions]
    lines = "".join(f"\n\t- {sentence}" for sentence in sentences if sentence)
    parts = [f"Figure Caption:\n{caption}" if caption else "", f"Figure Context:{lines}" if lines else ""]
    return "\n\n".join(filter(None, parts))


def _pair(record: Mapping[str, Any]) -> str:
    return field_text(record.get("pair_id")) or PurePosixPath(field_text(record.get("image"))).stem


def _captions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Read captions by ``pair_id``; empty where there is no such file. A record may be a list of a domain's figures."""
    if not path.is_file():
        return {}
    figures: dict[str, Mapping[str, Any]] = {}
    for _, record in json_records(path, Tally()):
        for figure in (record, *(item for value in record.values() if isinstance(value, list) for item in value)):
            if isinstance(figure, Mapping) and "fig_caption" in figure:
                figures[_pair(figure)] = figure
    return figures
