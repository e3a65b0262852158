"""VQA-RAD: radiology questions, open and closed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medcap.datasets.published.fields import field_text
from medcap.evaluation.medcap_2024_tables import vqarad_table
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

# Lau et al., A dataset of clinically generated visual questions and answers about radiology images, 2018.
PUBLISHED = {"rows": 451, "test_freeform": 308, "test_para": 143}
_PHRASES = ("test_freeform", "test_para")
_IMAGES = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")


class VqaRadTask(Task):
    """The test questions of ``VQA_RAD Dataset Public.json``, or of the hub's copy ``flaviagiammarino/vqa-rad``.

    A record of the official file has ``qid``, ``phrase_type``, ``question``, ``answer``, ``answer_type``,
    ``question_type``, ``image_organ`` and ``image_name``; its modality stands nowhere. The hub's copy has only image,
    question and answer, so a question is closed there where its answer is yes or no.
    """

    name = "vqarad"
    title = "VQA-RAD"
    protocols = ("exact", "llava_med", "llava_med_strict")
    legacy_table = staticmethod(vqarad_table)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 451 test questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            ("VQA_RAD", "VQA-RAD", "vqa-rad", "vqa_rad", "vqarad"),
            {"official": ("VQA_RAD Dataset Public.json",), "hub": TEST_FILES},
            "'VQA_RAD/VQA_RAD Dataset Public.json' and 'VQA_RAD/VQA_RAD Image Folder' (Open Science Framework, node"
            " 89kps), or vqa-rad/data/test-*.parquet (flaviagiammarino/vqa-rad on the hub)",
        )
        if found.kind == "hub":
            pairs, roots = hub_rows(found, options)
            return make_benchmark(
                [row for _, row in pairs],
                found.source,
                found.files,
                found.folder,
                roots=roots,
                expected={"rows": PUBLISHED["rows"]},
                notices=[DERIVED_TYPES],
            )
        return self._official(found, options)

    def _official(self, found: Found, options: LoadOptions) -> Benchmark:
        find, roots = image_finder(found.folder, _IMAGES, options.image_roots)
        rows = []
        phrases: Counter[str] = Counter()
        (path,) = found.files
        for index, record in read_json(path):
            if index == 0:
                require_keys(record, ("phrase_type", "question", "answer", "image_name"), path, self.title)
            phrase = field_text(record.get("phrase_type"))
            if phrase not in _PHRASES:
                continue
            phrases[phrase] += 1
            image = field_text(record.get("image_name"))
            rows.append(
                official_row(
                    field_text(record.get("qid")) or str(index),
                    record.get("question"),
                    [record.get("answer")],
                    find.first_of(image) if image else None,
                    find.problem if image else None,
                    answer_type=answer_type_of(record.get("answer_type")),
                    question_type=record.get("question_type"),
                    organ=record.get("image_organ"),
                    phrase_type=phrase,
                )
            )
        return make_benchmark(
            rows, found.source, found.files, found.folder, roots=roots, expected=PUBLISHED, counted=phrases
        )
