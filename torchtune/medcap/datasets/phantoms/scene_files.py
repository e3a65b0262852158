"""Write scenes: drawn images with several lesions, their masks and boxes, and rows of every task about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from medcap.checkpoints.atomic import atomic_folder
from medcap.data.boxes.box import Size
from medcap.data.boxes.notations import NOTATIONS, write_box
from medcap.data.boxes.style import NOT_SEEN
from medcap.datasets.phantoms.folders import is_complete
from medcap.datasets.phantoms.records import conversation
from medcap.datasets.phantoms.scene_questions import BOX, SEG, TASKS, SceneQuestion, scene_questions
from medcap.datasets.phantoms.scenes import DrawnScene, check_lesions, draw_scene, make_scene
from medcap.datasets.phantoms.writing import SMALLEST_IMAGE
from medcap.errors import UserError

FORMAT_VERSION = 4
_MARKER = "phantom_boxes.json"


@dataclass(frozen=True)
class WrittenScenes:
    """The result of :func:`write_scenes`; ``rows`` has the number of rows by task."""

    folder: Path
    images: int
    rows: Mapping[str, int]
    written: bool


def write_scenes(
    out: Path,
    count: int,
    seed: int,
    size: Size = (64, 64),
    lesions: Sequence[int] = (2,),
    notation: str = "thousandths",
    short: bool = False,
) -> WrittenScenes:
    """Write a set of scenes; the same arguments always give the same bytes.

    Image i depends on ``(seed, i, lesions)`` and the size alone. Beside ``phantom_boxes.json``, which says what was
    asked for, the folder receives:

    - ``images/000000.png`` and ``masks/000000-ring.png`` (0 and 255) for each lesion;
    - ``records.jsonl``: the full truth, a line an image, with each lesion's box in pixels;
    - ``train_rec.jsonl`` and so on, one for each of ``TASKS``: LLaVA's records. A box in
      an answer is the word ``<BOX>``, and ``boxes`` has them in pixels, in order: none for an absent lesion. A box in
      a question is text.
    - ``test_rec.jsonl`` and so on: evaluation rows about the same questions, with ``phrase`` (what is asked for),
      ``boxes`` and ``image_size``; boxes in texts are written out.

    Args:
        out: folder to write; new, empty, or from the same request.
        count: number of images.
        seed: of the set; give training and test sets different ones.
        size: width and height in pixels.
        lesions: how many lesions an image has: each of these numbers is equally likely.
        notation: how boxes are written into texts, one of ``NOTATIONS``.
        short: write "ring <BOX>." instead of "The ring is at <BOX>."; see ``scene_questions.ask``.

    Raises:
        UserError: for a number or notation out of range, or a folder that holds anything else.
    """
    out = Path(out)
    _check(count, seed, size, lesions, notation)
    request = {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "count": count,
        "image_size": list(size),
        "lesions": list(lesions),
        "box_format": notation,
        "short_answers": short,
    }
    if is_complete(out, _MARKER, request):
        rows = {task: _count_lines(out / f"train_{task.lower()}.jsonl") for task in TASKS}
        return WrittenScenes(out, count, rows, written=False)
    training: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    evaluation: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    records = []
    with atomic_folder(out) as folder:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        for index in tqdm(range(count), desc="scenes", unit="image", delay=2, disable=None):
            drawn = draw_scene(make_scene(seed, index, lesions), size)
            _write_pictures(drawn, folder)
            records.append(_record(drawn))
            for number, question in enumerate(scene_questions(drawn.scene, short)):
                training[question.task].append(_training_row(drawn, number, question, notation))
                evaluation[question.task].append(_evaluation_row(drawn, number, question, notation))
        for task in TASKS:
            _write_lines(folder / f"train_{task.lower()}.jsonl", training[task])
            _write_lines(folder / f"test_{task.lower()}.jsonl", evaluation[task])
        _write_lines(folder / "records.jsonl", records)
        (folder / _MARKER).write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
    return WrittenScenes(out, count, {task: len(training[task]) for task in TASKS}, written=True)


def box_text(drawn: DrawnScene, text: str, kinds: Iterable[str], notation: str) -> str:
    """Write out the boxes of a text: those of these kinds instead of its words ``<BOX>``, in order.

    A ``<BOX>`` without a kind is that of an absent lesion.
    """
    for kind in kinds if BOX in text else ():
        text = text.replace(BOX, write_box(drawn.box(kind), notation, drawn.size), 1)
    return text.replace(BOX, NOT_SEEN)


def _check(count: int, seed: int, size: Size, lesions: Sequence[int], notation: str) -> None:
    if count < 1:
        raise UserError(f"count: must be at least 1, got {count}")
    if seed < 0:
        raise UserError(f"seed: must not be negative, got {seed}")
    if min(size) < SMALLEST_IMAGE:
        raise UserError(
            f"image_size: a lesion needs at least {SMALLEST_IMAGE} pixels a side, got {size[0]} x {size[1]}"
        )
    if notation not in NOTATIONS:
        raise UserError(f"notation: {notation!r} is none of {', '.join(NOTATIONS)}")
    check_lesions(lesions)


def _image_name(drawn: DrawnScene) -> str:
    return f"images/{drawn.scene.index:06d}.png"


def _mask_name(drawn: DrawnScene, kind: str) -> str:
    return f"masks/{drawn.scene.index:06d}-{kind}.png"


def _write_pictures(drawn: DrawnScene, folder: Path) -> None:
    Image.fromarray(drawn.image).save(folder / _image_name(drawn), compress_level=1)
    for kind, mask in drawn.masks.items():
        Image.fromarray(mask.astype("uint8") * 255).save(folder / _mask_name(drawn, kind))


def _record(drawn: DrawnScene) -> dict[str, Any]:
    scene = drawn.scene
    lesions = [
        asdict(lesion) | {"box": drawn.pixels(lesion.kind), "mask": _mask_name(drawn, lesion.kind)}
        for lesion in scene.lesions
    ]
    return {
        "id": f"{scene.seed}-{scene.index:06d}",
        "image": _image_name(drawn),
        "image_size": list(drawn.size),
        "modality": scene.modality,
        "lesions": lesions,
        "absent": list(scene.absent),
        "caption": scene.caption,
    }


def _row_id(drawn: DrawnScene, number: int, question: SceneQuestion) -> str:
    return f"{drawn.scene.seed}-{drawn.scene.index:06d}-{number:02d}-{question.question_type}"


def _boxes(drawn: DrawnScene, question: SceneQuestion) -> dict[str, Any]:
    if question.boxes is None:
        return {}
    return {"boxes": [{"box": drawn.pixels(kind), "label": kind} for kind in question.boxes]}


def _masks(drawn: DrawnScene, question: SceneQuestion) -> dict[str, Any]:
    if question.masks is None:
        return {}
    return {"masks": [{"mask": _mask_name(drawn, kind), "label": kind} for kind in question.masks]}


def _regions(drawn: DrawnScene, number: int, question: SceneQuestion) -> dict[str, Any]:
    """Return the regions that a question names: a mask, a box, a point or a polygon in turn."""
    if not question.regions:
        return {}
    found = []
    for place, kind in enumerate(question.regions, start=drawn.scene.index + number):
        left, top, right, bottom = drawn.pixels(kind)
        x, y = (left + right) / 2, (top + bottom) / 2
        angles = np.arange(8) * np.pi / 4
        ring = np.stack([x + np.cos(angles) * (right - left) / 2, y + np.sin(angles) * (bottom - top) / 2], axis=1)
        shapes: tuple[dict[str, Any], ...] = (
            {"mask": _mask_name(drawn, kind)},
            {"box": [left, top, right, bottom]},
            {"point": [x, y], "radius": round(min(right - left, bottom - top) / 2, 2)},
            {"polygon": ring.round(2).tolist()},
        )
        found.append(shapes[place % len(shapes)])
    return {"regions": found}


def _absent_mask(question: SceneQuestion) -> dict[str, Any]:
    """Return the mask of an absent lesion, whose answer names it by ``<SEG>``."""
    return {"masks": [{"mask": None, "label": question.kind}]} if question.masks == () else {}


def _in_words(reference: str, question: SceneQuestion) -> str:
    return reference.replace(SEG, NOT_SEEN) if question.masks == () else reference


def _absent_box(question: SceneQuestion) -> dict[str, Any]:
    """Return the box of an absent lesion whose answer names it by ``<BOX>``."""
    named = question.boxes == () and BOX in question.answer
    return {"boxes": [{"box": None, "label": question.kind}]} if named else {}


def _training_row(drawn: DrawnScene, number: int, question: SceneQuestion, notation: str) -> dict[str, Any]:
    asked = box_text(drawn, question.text, [question.kind], notation)
    return {
        "id": _row_id(drawn, number, question),
        "image": _image_name(drawn),
        "conversations": conversation(f"<image>\n{asked}", question.answer),
        **(_boxes(drawn, question) | _absent_box(question)),
        **(_masks(drawn, question) | _absent_mask(question)),
        **_regions(drawn, number, question),
    }


def _evaluation_row(drawn: DrawnScene, number: int, question: SceneQuestion, notation: str) -> dict[str, Any]:
    return {
        "question_id": _row_id(drawn, number, question),
        "image": _image_name(drawn),
        "image_size": list(drawn.size),
        "question": box_text(drawn, question.text, [question.kind], notation),
        "reference": _in_words(box_text(drawn, question.answer, question.boxes or (), notation), question),
        "task": question.task,
        "phrase": question.kind,
        **_boxes(drawn, question),
        **_masks(drawn, question),
        **_regions(drawn, number, question),
        "answer_type": "CLOSED" if question.options else "OPEN",
        "options": list(question.options),
        "modality": drawn.scene.modality,
        "question_type": question.question_type,
    }


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
