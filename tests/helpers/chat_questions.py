"""LLaVA-Med's questions about figures, drawn: files as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.downloads import picture
from medcap.datasets.published.llava_med_chat import QUESTIONS

FLAGS = ("chest_xray", "mri", "histology", "gross", "ct_scan")


def chat_row(number: int, **changes: Any) -> dict[str, Any]:
    """One row; odd numbers are detailed descriptions, domains take turns, and two rows share a figure."""
    name = f"1806389{number // 2}_F{number // 2}"
    row = {
        "question_id": number,
        "image": f"{name}.jpg",
        "pair_id": name,
        "text": f"What is seen in figure {number}?\n<image>",
        "gpt4_answer": f"The organ of figure {number}.",
        "fig_caption": f"Caption {number}.",
        "in_text_mention": [{"tokens": f"See Fig. {number} .", "entities": []}],
        "domain": {flag: flag == FLAGS[number % 5] for flag in FLAGS},
        "type": "detailed_description" if number % 2 else "conversation",
        "fig_label": f"Fig. {number}",
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


def write_chat_questions(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write ``LLaVA-Med/`` with the question file and its figures; return the question file."""
    home = folder / "LLaVA-Med"
    (home / "images").mkdir(parents=True)
    for row in rows:
        if row.get("image"):
            (home / "images" / row["image"]).write_bytes(picture())
    path = home / QUESTIONS
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
