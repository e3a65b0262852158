"""MeCoVQA: complex questions, questions about a region, and masks, each scored by its own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torchtune.data import Message

from medcap.data.regions.region import Region
from medcap.datasets.published import mecovqa
from medcap.datasets.published.fields import question_text
from medcap.datasets.published.finding import Found, find_files
from medcap.datasets.published.outlined import as_run_length
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.tasks.base import Benchmark, ImageFinder, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import NO_ANSWER, find_benchmark, image_finder, yes_no_type
from medcap.evaluation.tasks.regions.boxes import DEFAULT_BOXES, BoxOptions, Sizes, chosen, text_meta
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

_PROTOCOLS = {"medplib": ("complex", "region"), "medplib_seg": ("grounding",), "masks": ("grounding",)}


class MecovqaTask(Task):
    """The test files of MeCoVQA, one for each of complex, region and grounding (``subtasks``).

    ``medplib`` scores the words of complex and region questions, ``medplib_seg`` and ``masks`` the masks of grounding.
    Merged masks that SA-Med2D-20M lacks are made of the instances of their class. A later question of a conversation
    keeps the turns before it, with the answers of the file. ``question_type`` is the part, ``patient`` the case in the
    image's name, ``modality`` its first part.
    """

    name = "mecovqa"
    title = "MeCoVQA"
    protocols = tuple(_PROTOCOLS)
    Options = BoxOptions

    def plan(
        self, vqa_type: str, protocols: Sequence[str] | None = None, options: LoadOptions = DEFAULT_BOXES
    ) -> list[ScoringPlan]:
        """Plan as other tasks do; a protocol scores the questions of its own parts."""
        wanted = chosen(options, mecovqa.PARTS) if isinstance(options, BoxOptions) else mecovqa.PARTS
        if protocols is None:
            protocols = [name for name, parts in _PROTOCOLS.items() if set(parts) & set(wanted)]
        plans = super().plan(vqa_type, protocols, options)
        parts = {plan.protocol.name: _PROTOCOLS.get(plan.protocol.name) for plan in plans}
        return [replace(plan, tasks=own) if (own := parts[plan.protocol.name]) else plan for plan in plans]

    def load(self, source: str | Path, options: BoxOptions = DEFAULT_BOXES) -> Benchmark:
        """Read the conversations of the chosen parts; see :meth:`Task.load`."""
        wanted = chosen(options, mecovqa.PARTS)
        found = self._files(source, wanted)
        folder = found[0].folder
        folders = mecovqa.image_folders(folder)
        find, roots = image_finder(folder, (), [*folders, *(options.image_roots or ())], options.view)
        files = [path for part in found for path in part.files]
        strict = Strict(self.title)
        records = [it for path in files for it in mecovqa.conversations(path, strict) if it.part in wanted]
        named = [name for it in records for turn in it.turns for name in (*turn.masks, *turn.regions)]
        masks = mecovqa.MaskFiles(find.reader, [*folders, *map(Path, options.image_roots or ()), folder], named)
        sizes = Sizes(find)
        rows = [row for it in records for row in _rows(it, find, sizes, masks)]
        counts = Counter(row.meta["task"] for row in rows)
        notices = [f"questions: {', '.join(f'{part} {counts[part]:,}' for part in wanted)}; no count is published"]
        if masks.made:
            notices.append(
                f"masks that were made of the instances of their class, as the release lacks them: {masks.made:,}"
            )
        return make_benchmark(
            rows, found[0].source if len(files) == 1 else folder, files, folder, roots=roots, notices=notices
        )

    def _files(self, source: str | Path, wanted: Sequence[str]) -> list[Found]:
        layout = mecovqa.layout("test")
        first = find_benchmark(
            source,
            self.title,
            layout,
            "MeCoVQA/*Complex*test*.json, and likewise Region and Grounding (BlueZeros/MedPLIB on the hub), and the"
            " folder SAMed2Dv1 of SA-Med2D-20M in it or beside it",
        )
        if first.named:
            return [first]
        each = [find_files(first.folder, ("",), {part: layout.kinds[part]}) for part in wanted]
        found = [part for part in each if part is not None]
        if not found:
            raise UserError(f"{first.folder} holds no test file of {', '.join(wanted)} (subtasks)")
        return found


def _rows(it: mecovqa.Conversation, find: ImageFinder, sizes: Sizes, masks: mecovqa.MaskFiles) -> Iterator[Question]:
    image = find.first_of(*it.images)
    size, problem = None, find.problem
    if problem is None:
        try:
            size = sizes(image)
        except UserError as error:
            problem = str(error)
    meta = text_meta({**mecovqa.fields_of(it), "question_type": it.part})
    before: list[Message] = []
    for number, turn in enumerate(it.turns):
        asked, answer = question_text(turn.question), turn.answer
        own, regions, wanted = None, [], None
        try:
            regions = [_region(name, masks, size) for name in turn.regions]
            if it.part == "grounding":
                wanted = tuple(_region(name, masks, size) for name in turn.masks)
        except UserError as error:
            own = str(error)
        message = user_message(image if number == 0 else None, asked)
        if turn.regions and own is None:
            message.content = _with_regions(message, regions)
        if not asked or not (answer or wanted):
            own = own or f"the file gives no {'answer' if asked else 'question'}"
        name = f"{it.part}/{it.id}"
        yield Question(
            name if number == 0 else f"{name}#turn{number}",
            [*before, message],
            (answer or NO_ANSWER,),
            answer_type="" if it.part == "grounding" else it.answer_type or yes_no_type([answer]),
            meta=meta,
            problem=problem or own,
            image_size=size,
            masks=(wanted or (None,)) if it.part == "grounding" else None,
        )
        before += [message, Message(role="assistant", content=answer)]


def _region(name: str, masks: mecovqa.MaskFiles, size: tuple[int, int] | None) -> Region:
    """Return a mask of SA-Med2D-20M as a run-length.

    Raises:
        UserError: if it cannot be read or has another size than the image.
    """
    mask: np.ndarray = masks(name)
    if size is not None and mask.shape != (size[1], size[0]):
        raise UserError(
            f"mask {name} has {mask.shape[1]} x {mask.shape[0]} pixels and its image {size[0]} x {size[1]}: a mask has"
            " the size of the original image"
        )
    return Region(as_run_length(mask))


def _with_regions(message: Message, regions: Sequence[Region]) -> list[dict[str, object]]:
    """Return the parts of a question with a part for each region, in the place of its words."""
    left = iter(regions)
    parts: list[dict[str, object]] = []
    for part in message.content:
        if part["type"] != "text":
            parts.append(part)
            continue
        first, *others = part["content"].split(mecovqa.REGION_WORDS)
        parts.append({"type": "text", "content": first})
        for text in others:
            parts += [{"type": "region", "content": next(left)}, {"type": "text", "content": text}]
    return parts
