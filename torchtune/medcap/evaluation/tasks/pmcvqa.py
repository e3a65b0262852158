"""PMC-VQA: four-option questions about the figures of articles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import (
    field_text,
    find_benchmark,
    image_finder,
    official_row,
    option_texts,
    read_csv,
    require_keys,
)

# Zhang et al., PMC-VQA, 2023: the verified part of the test set, the test set, and that of version 2.
PUBLISHED = {"test_clean.csv": 2_000, "test.csv": 50_000, "test_2.csv": 33_430}
_FILES = (*PUBLISHED, "test2.csv")
_LETTERS = "ABCD"
# As the file spells them, and as its description does.
_ANSWERS = ("Answer", "Anwser")
_LABELS = ("Answer_label", "Anwser_label")
# Version 2 has its figures one by one, in a folder of another name.
_IMAGES = ("images", "figures", "images_2", "images2", "images/images", "images_2/figures", "images2/figures")


class PmcVqaTask(Task):
    """``test_clean.csv``, ``test.csv`` or ``test_2.csv`` of ``xmcmic/PMC-VQA`` (now ``RadGenome/PMC-VQA``).

    Columns ``Figure_path``, ``Question``, ``Choice A`` to ``Choice D`` (with the letter before the text, as in
    ``A:Diffuse uptake``), ``Answer`` and ``Answer_label``; in version 2 ``Answer`` is the letter. The first of the
    three files is read unless one is named.
    """

    name = "pmcvqa"
    title = "PMC-VQA"
    protocols = ("option_text", "omnimedvqa_qa")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read one of the test sets; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            ("PMC-VQA", "PMC_VQA", "pmc-vqa", "pmc_vqa", "pmcvqa"),
            {"csv": _FILES},
            "PMC-VQA/test_clean.csv and PMC-VQA/images (RadGenome/PMC-VQA on the hub, its zip files unpacked)",
        )
        path = found.files[0]
        find, roots = image_finder(found.folder, _IMAGES, options.image_roots)
        rows = []
        for index, record in read_csv(path):
            if index == 0:
                keys = ("Figure_path", "Question", *(f"Choice {letter}" for letter in _LETTERS))
                require_keys(record, keys, path, self.title)
                if not any(key in record for key in (*_ANSWERS, *_LABELS)):
                    require_keys(record, _ANSWERS[:1], path, self.title)
            choices = {letter: _choice(record[f"Choice {letter}"], letter) for letter in _LETTERS}
            image = field_text(record["Figure_path"])
            rows.append(
                official_row(
                    field_text(record.get("index")) or str(index),
                    record["Question"],
                    [_answer(record, choices)],
                    find.first_of(image) if image else None,
                    find.problem if image else None,
                    options=option_texts(choices.values()),
                )
            )
        number = PUBLISHED.get(path.name.replace("test2", "test_2"))
        others = [name for name in _FILES if name != path.name and (found.folder / name).is_file()]
        return make_benchmark(
            rows,
            found.source,
            found.files,
            found.folder,
            roots=roots,
            expected={"rows": number} if number else None,
            notices=[f"{path.name} is read; name the file to read {' or '.join(others)}"]
            if others and not found.named
            else [],
        )


def _choice(text: str, letter: str) -> str:
    return re.sub(rf"^\s*{letter}\s*:", "", text).strip()


def _answer(record: Mapping[str, str], choices: Mapping[str, str]) -> str:
    """The text of the right choice: the label's, else that of a letter in ``Answer``, else ``Answer`` itself."""
    answer = next((field_text(record[key]) for key in _ANSWERS if key in record), "")
    label = next((field_text(record[key]) for key in _LABELS if key in record), "") or answer
    letter = label.upper().rstrip(":. ")
    if letter in choices:
        return choices[letter] or (answer if answer != label else "")
    return re.sub(rf"^\s*[{_LETTERS}]\s*:", "", answer).strip()
