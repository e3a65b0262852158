"""SLAKE: questions about radiology images in English and Chinese, of which the English ones are asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import (
    DERIVED_TYPES,
    Found,
    answer_type_of,
    find_benchmark,
    image_finder,
    official_row,
    read_json,
    require_keys,
)
from medcap.evaluation.tasks.parquet import TEST_FILES, hub_rows

# The English part of the test set; LLaVA-Med's split into open and closed (llava_med_vqa.png of its README).
PUBLISHED = {"rows": 1_061, "OPEN": 645, "CLOSED": 416}
_LANGUAGE = "en"


class SlakeTask(Task):
    """The English questions of ``Slake1.0/test.json``, or of the hub's copies.

    A record has ``qid``, ``img_name`` (relative to ``imgs/``), ``question``, ``answer``, ``q_lang``, ``answer_type``,
    ``content_type``, ``location`` and ``modality``. ``BoKelvin/SLAKE`` holds the same files;
    ``mdwiratathya/SLAKE-vqa-english`` is a parquet file with the images in it, in which a question without an
    ``answer_type`` is closed where its answer is yes or no.
    """

    name = "slake"
    title = "SLAKE"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 1,061 English test questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            ("Slake1.0", "Slake", "SLAKE", "slake", "Slake/Slake1.0", "SLAKE-vqa-english"),
            {"official": ("test.json",), "hub": TEST_FILES},
            "Slake1.0/test.json and Slake1.0/imgs (BoKelvin/SLAKE on the hub), or"
            " SLAKE-vqa-english/data/test-*.parquet (mdwiratathya/SLAKE-vqa-english on the hub)",
        )
        return self._hub(found, options) if found.kind == "hub" else self._official(found, options)

    def _official(self, found: Found, options: LoadOptions) -> Benchmark:
        find, roots = image_finder(found.folder, ("imgs",), options.image_roots)
        rows, others = [], 0
        (path,) = found.files
        for index, record in read_json(path):
            if index == 0:
                require_keys(record, ("img_name", "question", "answer", "q_lang"), path, self.title)
            if field_text(record.get("q_lang")) != _LANGUAGE:
                others += 1
                continue
            image = field_text(record.get("img_name"))
            rows.append(
                official_row(
                    field_text(record.get("qid")) or str(index),
                    record.get("question"),
                    [record.get("answer")],
                    find.first_of(image) if image else None,
                    find.problem if image else None,
                    answer_type=answer_type_of(record.get("answer_type")),
                    **_meta(record),
                )
            )
        return make_benchmark(
            rows,
            found.source,
            found.files,
            found.folder,
            roots=roots,
            expected=PUBLISHED,
            notices=[f"{others:,} questions in other languages than English are left out"] if others else [],
        )

    def _hub(self, found: Found, options: LoadOptions) -> Benchmark:
        pairs, roots = hub_rows(found, options)
        rows = []
        for columns, row in pairs:
            if field_text(columns.get("q_lang")) not in ("", _LANGUAGE):
                continue
            meta = {key: field_text(value) for key, value in _meta(columns).items() if field_text(value)}
            rows.append(
                replace(row, meta=meta, answer_type=answer_type_of(columns.get("answer_type")) or row.answer_type)
            )
        derived = not any(answer_type_of(columns.get("answer_type")) for columns, _ in pairs)
        return make_benchmark(
            rows,
            found.source,
            found.files,
            found.folder,
            roots=roots,
            expected={"rows": PUBLISHED["rows"]} if derived else PUBLISHED,
            notices=[DERIVED_TYPES] if derived else [],
        )


def _meta(record: Any) -> dict[str, Any]:
    return {
        "modality": record.get("modality"),
        "question_type": record.get("content_type"),
        "organ": record.get("location"),
    }
