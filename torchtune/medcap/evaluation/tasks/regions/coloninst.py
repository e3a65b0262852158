"""ColonINST: classify what a colonoscopy image shows, name what lies in a box, locate a thing, describe the image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medcap.data.boxes.notations import find_boxes
from medcap.datasets.published import coloninst
from medcap.datasets.published.finding import Found, Layout, find_files
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.tasks.base import Benchmark, Task, make_benchmark
from medcap.evaluation.tasks.official import find_benchmark, image_finder, official_row
from medcap.evaluation.tasks.regions.boxes import DEFAULT_BOXES, BoxOptions, Sizes, chosen, with_boxes
from medcap.scoring.question import Question

_PARTS = ("cls", "reg", "rec", "3tasks", "cap")


class ColonInstTask(Task):
    """``ColonINST-test-cls.json``, ``-reg``, ``-rec`` and ``-cap``, or those of the validation set (``split``).

    The published evaluation calls the validation set "seen" and the test set "unseen". A question's ``task`` is CLS,
    REG, REC or CAP. The answer to REC is one box; where the file has several, the box around them.
    """

    name = "coloninst"
    title = "ColonINST"
    protocols = ("colongpt", "colongpt_strict", "boxes")
    Options = BoxOptions

    def folder(self, options: BoxOptions) -> str:
        """Return the name of its result folder; the validation set has its own."""
        return self.name if options.split == "test" else f"{self.name}-{options.split}"

    def load(self, source: str | Path, options: BoxOptions = DEFAULT_BOXES) -> Benchmark:
        """Read the questions of the chosen tasks; see :meth:`Task.load`."""
        tasks = chosen(options, coloninst.TASKS)
        parts = self._files(source, options.split)
        folder = parts[0].folder
        find, roots = image_finder(folder, (coloninst.IMAGES,), options.image_roots, options.view)
        sizes, strict = Sizes(find), Strict(self.title)

        def make_row(question: PublishedQuestion) -> Question:
            image = find.first_of(question.image) if question.image else None
            row = official_row(question, image, find.problem if image else None)
            if question.meta["task"] != "REC" or image is None or row.problem:
                return row
            try:
                size = sizes(image)
            except UserError as error:
                return official_row(question, image, str(error))
            return with_boxes(row, find_boxes(row.references[0], *size) or None, size)

        rows = [
            make_row(question)
            for part in parts
            for question in coloninst.questions(part.files[0], strict)
            if question.meta["task"] in tasks
        ]
        counted = Counter(row.meta["task"] for row in rows)
        published = {task: coloninst.PUBLISHED[options.split][task] for task in tasks}
        return make_benchmark(
            rows,
            parts[0].source if len(parts) == 1 else folder,
            [file for part in parts for file in part.files],
            folder,
            roots=roots,
            expected=None if parts[0].named else {"rows": sum(published.values()), **published},
            counted=counted,
        )

    def _files(self, source: str | Path, split: str) -> list[Found]:
        """Return the files of a split; the file of three tasks only where it is alone."""
        if split not in coloninst.PUBLISHED:
            raise UserError(f"split={split} of ColonINST must be {' or '.join(coloninst.PUBLISHED)}")
        layouts = [coloninst.layout(split, part) for part in _PARTS]
        kinds = {part: layout.kinds[part] for part, layout in zip(_PARTS, layouts, strict=True)}
        name = coloninst.SPLITS[split]
        found = find_benchmark(
            source,
            self.title,
            Layout(layouts[0].folders, kinds, layouts[0].images),
            f"ColonINST/Json-file/{name}/ColonINST-{name}-cls.json, -reg.json, -rec.json, -cap.json and"
            " ColonINST/Positive-images (ai4colonoscopy/ColonINST-v1 on the hub)",
        )
        if found.named:
            return [found]
        each = {part: find_files(found.folder, ("",), {part: kinds[part]}) for part in _PARTS}
        if any(each[part] for part in ("cls", "reg", "rec")):
            each["3tasks"] = None
        return [part for part in each.values() if part is not None]
