"""LLaVA-Med's conversations: questions about figures, whose answers a judge rates beside those of GPT-4."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medcap.datasets.published import llava_med_chat
from medcap.datasets.published.reading import Strict
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task
from medcap.evaluation.tasks.official import (
    NO_ANSWER,
    OPEN,
    find_benchmark,
    image_finder,
    published_benchmark,
)
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

# Li et al., LLaVA-Med, 2023 (arXiv:2306.00890), section 5.1.
PUBLISHED = {"rows": 193, "conversation": 143, "detail": 50}
_JUDGED = (
    "these scores compare words only; the published score is a judge's: tune run medcap/recipes/judge --config"
    " medcap/judge exp=eval_chat predictions=<this folder>/predictions.jsonl"
)


class ChatTask(Task):
    """The questions of ``llava_med_eval_qa50_qa.jsonl``; the figures are ``images/<pair_id>.jpg``.

    ``question_type`` is conversation or detail, ``modality`` the figure's domain (the first where it has several), and
    ``context`` what a judge reads instead of the figure. The judge recipe rates the answers with ``exp=eval_chat``.
    """

    name = "chat"
    title = "LLaVA-Med's conversations"
    protocols = ("llava_med",)

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 193 questions; see :meth:`Task.load`."""
        found = find_benchmark(
            source,
            self.title,
            llava_med_chat.LAYOUT,
            f"LLaVA-Med/{llava_med_chat.QUESTIONS} and LLaVA-Med/images (data/eval of microsoft/LLaVA-Med; the figures"
            " are those of its llava_med_test_image_urls.jsonl)",
        )
        find, roots = image_finder(found.folder, llava_med_chat.LAYOUT.images, options.image_roots, options.view)
        rows = []
        for path in found.files:
            for it in llava_med_chat.questions(path, Strict(self.title)):
                image = find.first_of(it.image) if it.image else None
                problem = find.problem if image is not None else "the file names no image"
                problem = problem or (None if it.question else "the file gives no question")
                meta = {"question_type": it.kind, "modality": it.domain, "context": it.context}
                rows.append(
                    Question(
                        it.id,
                        [user_message(image, it.question)],
                        (it.answer or NO_ANSWER,),
                        answer_type=OPEN,
                        meta={name: value for name, value in meta.items() if value},
                        problem=problem or (None if it.answer else "the file gives no answer of GPT-4"),
                    )
                )
        return published_benchmark(
            found,
            rows,
            roots=roots,
            expected=PUBLISHED,
            counted=Counter(row.meta.get("question_type", "") for row in rows),
            notices=[_JUDGED],
        )
