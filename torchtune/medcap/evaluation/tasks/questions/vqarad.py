"""VQA-RAD: radiology questions, open and closed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medcap.datasets.published import vqarad
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB
from medcap.datasets.published.reading import Strict
from medcap.evaluation.medcap_2024_tables import vqarad_table
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.official import DERIVED_TYPES, find_benchmark, published_benchmark, row_maker

# Lau et al., A dataset of clinically generated visual questions and answers about radiology images, 2018.
PUBLISHED = {"rows": 451, "test_freeform": 308, "test_para": 143}


class VqaRadTask(Task):
    """The test questions of ``VQA_RAD Dataset Public.json``, or of the hub's copy ``flaviagiammarino/vqa-rad``.

    A question of the hub's copy is closed where its answer is yes or no.
    """

    name = "vqarad"
    title = "VQA-RAD"
    protocols = ("exact", "llava_med", "llava_med_strict")
    legacy_table = staticmethod(vqarad_table)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 451 test questions; see :meth:`Task.load`."""
        layout = vqarad.layout("test")
        found = find_benchmark(
            source,
            self.title,
            layout,
            "'VQA_RAD/VQA_RAD Dataset Public.json' and 'VQA_RAD/VQA_RAD Image Folder' (Open Science Framework, node"
            " 89kps), or vqa-rad/data/test-*.parquet (flaviagiammarino/vqa-rad on the hub)",
        )
        make_row, roots = row_maker(found, layout, options)
        hub = found.kind == HUB
        questions = vqarad.questions(found, Strict(self.title))
        wanted = [it for it in questions if hub or field_text(it.meta["phrase_type"]) in vqarad.PHRASES["test"]]
        return published_benchmark(
            found,
            [make_row(question) for question in wanted],
            roots=roots,
            expected={"rows": PUBLISHED["rows"]} if hub else PUBLISHED,
            counted=Counter(field_text(question.meta["phrase_type"]) for question in wanted),
            notices=[DERIVED_TYPES] if hub else [],
        )
