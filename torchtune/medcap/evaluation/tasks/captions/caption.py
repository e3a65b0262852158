"""Captions: the first answer of each conversation is the reference (medcap 2024's ``test_metrics``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcap.data.row_layouts import Record, read_record
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.medcap_2024_tables import caption_tables
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.tasks.base import (
    Benchmark,
    ImageFinder,
    LoadOptions,
    Task,
    image_reader,
    make_benchmark,
)
from medcap.evaluation.tasks.questions.vqa import data_file
from medcap.scoring.question import Question, message_text

_FILES = ("captions.json", "captions.jsonl", "test.json", "test.jsonl")


@dataclass(frozen=True)
class CaptionOptions(LoadOptions):
    """How conversations are read.

    Attributes:
        dataset_conversation_style: layout of chat rows; see ``medcap.data.row_layouts.STYLES``.
    """

    dataset_conversation_style: str = "auto"


class CaptionTask(Task):
    """Conversations as in training: everything before the first assistant turn is asked, that turn is the reference.

    Example:
        >>> rows = CaptionTask().load("datasets/medcap/vqarad_test.json").rows
    """

    name = "caption"
    title = "Captions"
    protocols = ("coco",)
    vqa_types = (Direct.name,)
    Options = CaptionOptions
    legacy_table = staticmethod(caption_tables)

    def load(self, source: str | Path, options: CaptionOptions = CaptionOptions()) -> Benchmark:
        """Read conversations; see :meth:`Task.load`."""
        path = data_file(source, _FILES)
        find = ImageFinder(image_reader(path, options.image_roots), options.view)
        rows = []
        for index, value in read_rows(path):
            find.problem = None
            record = read_record(value, path, index, find, options.dataset_conversation_style, find.view)
            rows.append(_row(record, find.problem))
        return make_benchmark(rows, path, [path], path.parent, roots=find.reader.roots)


def _row(record: Record, problem: str | None) -> Question:
    roles = [message.role for message in record.messages]
    if "assistant" not in roles:
        raise UserError(f"{record.name}: there is no assistant turn to compare with")
    answer = roles.index("assistant")
    prompt = record.messages[:answer]
    if not prompt:
        raise UserError(f"{record.name}: the assistant speaks first, so there is nothing to ask")
    reference = message_text(record.messages[answer])
    if not reference:
        raise UserError(f"{record.name}: the first assistant turn, which is the reference, is empty")
    return Question(str(record.index), prompt, (reference,), problem=problem)
