"""Med-GRIT-270k: where an object is, what lies in a box, what a region shows, and what the image shows at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torchtune.data import Message

from medcap.data.boxes.notations import find_boxes
from medcap.datasets.published import medgrit
from medcap.datasets.published.finding import Found, find_files
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.tasks.base import Benchmark, ImageFinder, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import NO_ANSWER, find_benchmark, image_finder
from medcap.evaluation.tasks.regions.boxes import DEFAULT_BOXES, BoxOptions, Sizes, chosen, text_meta
from medcap.generation.prompt import user_message
from medcap.plurals import counted
from medcap.scoring.question import Question
from medcap.scoring.replies.box_reply import boxes_in_text

_PROTOCOLS = {
    "VG": ("bird_vg", "bird_vg_strict", "boxes"),
    "ROC": ("bird_ro", "bird_ro_strict"),
    "RC": ("bird_gc", "bird_gc_strict"),
    "MIA": ("bird_mii", "bird_mii_strict"),
}
_TASK_OF = {protocol: task for task, protocols in _PROTOCOLS.items() for protocol in protocols}


class MedGritTask(Task):
    """The test files of Med-GRIT-270k, one for each of VG, ROC, RC and MIA (``subtasks``).

    A question keeps the turns before it, with the answers of the file. BiRD asks the first questions alone; its test
    files (``OneConv``) have no others. ``patient`` is the case in the image's name, ``modality`` its first part.
    """

    name = "medgrit"
    title = "Med-GRIT-270k"
    protocols = ("bird_vg", "bird_vg_strict", "boxes", "bird_ro", "bird_ro_strict", "bird_gc", "bird_mii")
    Options = BoxOptions

    def plan(
        self, vqa_type: str, protocols: Sequence[str] | None = None, options: LoadOptions = DEFAULT_BOXES
    ) -> list[ScoringPlan]:
        """Plan as other tasks do; a protocol of BiRD scores the questions of its own kind."""
        if protocols is None and isinstance(options, BoxOptions) and options.wanted:
            wanted = chosen(options, medgrit.TASKS)
            protocols = [name for name in self.protocols if _TASK_OF[name] in wanted]
        plans = super().plan(vqa_type, protocols, options)
        tasks = {plan.protocol.name: _TASK_OF.get(plan.protocol.name) for plan in plans}
        return [replace(plan, tasks=(task,)) if (task := tasks[plan.protocol.name]) else plan for plan in plans]

    def load(self, source: str | Path, options: BoxOptions = DEFAULT_BOXES) -> Benchmark:
        """Read the conversations of the chosen kinds; see :meth:`Task.load`."""
        wanted = chosen(options, medgrit.TASKS)
        found = self._files(source, wanted)
        folder = found[0].folder
        beside = folder.parent / "SAMed2Dv1" / "images"
        further = [*(options.image_roots or ()), *([beside] if beside.is_dir() else [])]
        find, roots = image_finder(folder, medgrit.IMAGES, further, options.view)
        sizes, strict = Sizes(find), Strict(self.title)
        files = [path for part in found for path in part.files]
        rows = [
            row
            for path in files
            for conversation in medgrit.conversations(path, strict)
            for row in _rows(path, conversation, find, sizes)
            if row.meta["task"] in wanted
        ]
        later = Counter("#" in row.id for row in rows)[True]
        turns = counted(later, "question is a later turn", "questions are later turns")
        notices = [f"{turns}, which BiRD does not ask"] if later else []
        return make_benchmark(
            rows, found[0].source if len(files) == 1 else folder, files, folder, roots=roots, notices=notices
        )

    def _files(self, source: str | Path, wanted: Sequence[str]) -> list[Found]:
        layout = medgrit.layout("test")
        first = find_benchmark(
            source,
            self.title,
            layout,
            "Med-GRIT-270k/*test*_VG_*.json, and likewise _RO_, _GC_ and _MII_, and Med-GRIT-270k/images"
            " (ShawnHuang497/BiRD, on request)",
        )
        if first.named:
            return [first]
        each = [find_files(first.folder, ("",), {task: layout.kinds[task]}) for task in wanted]
        found = [part for part in each if part is not None]
        if not found:
            raise UserError(f"{first.folder} holds no test file of {', '.join(wanted)} (subtasks)")
        return found


def _rows(path: Path, it: medgrit.Conversation, find: ImageFinder, sizes: Sizes) -> Iterator[Question]:
    image = find.first_of(*it.images)
    size, problem = None, find.problem
    if problem is None:
        try:
            size = sizes(image)
        except UserError as error:
            problem = str(error)
    before: list[Message] = []
    for turn, (asked, answered) in enumerate(it.turns):
        task = medgrit.task_of(path, asked, answered)
        message = user_message(image, asked) if turn == 0 else user_message(None, asked)
        meta = {
            "task": task,
            "phrase": medgrit.phrase_of(asked) if task == "VG" else "",
            "modality": medgrit.modality_of(it.images[0]),
            "patient": medgrit.patient_of(it.images[0]),
        }
        boxes = tuple(find_boxes(answered, *(size or (1000, 1000)))) if task == "VG" else ()
        name = f"{task.lower()}/{it.id}"
        yield Question(
            name if turn == 0 else f"{name}#turn{turn}",
            [*before, message],
            (answered or NO_ANSWER,),
            meta=text_meta(meta),
            problem=problem or _problem(asked, answered, task),
            boxes=boxes or None,
            image_size=size,
        )
        before += [message, Message(role="assistant", content=answered)]


def _problem(asked: str, answered: str, task: str) -> str | None:
    if not asked:
        return "the file gives no question"
    if not answered:
        return "the file gives no answer"
    bad = boxes_in_text(answered, None) if task == "VG" else None
    return f"the file's answer holds {bad.example!r}, which is no box" if bad is not None and bad.unread else None
