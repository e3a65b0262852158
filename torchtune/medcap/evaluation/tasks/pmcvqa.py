"""PMC-VQA: four-option questions about the figures of articles."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published.fields import field_text, option_texts
from medcap.datasets.published.pmcvqa import IMAGE_FOLDERS, choices_of, missing_columns, right_answer
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import (
    find_benchmark,
    image_finder,
    official_row,
    read_csv,
    require_keys,
)

# Zhang et al., PMC-VQA, 2023: the verified part of the test set, the test set, and that of version 2.
PUBLISHED = {"test_clean.csv": 2_000, "test.csv": 50_000, "test_2.csv": 33_430}
_FILES = (*PUBLISHED, "test2.csv")


class PmcVqaTask(Task):
    """``test_clean.csv``, ``test.csv`` or ``test_2.csv`` of ``xmcmic/PMC-VQA`` (now ``RadGenome/PMC-VQA``).

    Columns ``Figure_path``, ``Question``, ``Choice A`` to ``Choice D`` (with the letter before the text, as in
    ``A:Diffuse uptake``), ``Answer`` and ``Answer_label``; in version 2 ``Answer`` is the letter. The first of the
    three files is read unless one is named.
    """

    name = "pmcvqa"
    title = "PMC-VQA"
    protocols = ("option_text", "omnimedvqa_qa")
    mode_protocols = ("medcap_option", "medcap_letter")

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
        find, roots = image_finder(found.folder, IMAGE_FOLDERS, options.image_roots)
        rows = []
        for index, record in read_csv(path):
            if index == 0:
                require_keys(record, missing_columns(record), path, self.title)
            choices = choices_of(record)
            image = field_text(record["Figure_path"])
            rows.append(
                official_row(
                    field_text(record.get("index")) or str(index),
                    record["Question"],
                    [right_answer(record, choices)],
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
