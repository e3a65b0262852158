"""Write phantoms: drawn images of four made-up modalities with one lesion each, and all facts about them."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from medcap.data.json_text import parse_json
from medcap.datasets.phantoms.drawing import bounding_box, draw
from medcap.datasets.phantoms.records import (
    QUESTION_TYPES,
    Phantom,
    Question,
    conversation,
    make_phantom,
    make_questions,
)
from medcap.datasets.rows.sharegpt import caption_row
from medcap.errors import UserError

FORMAT_VERSION = 1
SMALLEST_IMAGE = 32
_FREE = "description"  # has many right wordings; captions and their metrics are the test of those
_MARKER = "phantom.json"
_UNFINISHED = "phantom.json.unfinished"


@dataclass(frozen=True)
class PhantomSummary:
    """The result of :func:`write_phantoms`; ``written`` is False when the folder was already complete."""

    folder: Path
    images: int
    questions: int
    written: bool


def write_phantoms(
    out: Path,
    count: int,
    seed: int,
    image_size: int = 64,
    questions_per_image: int = len(QUESTION_TYPES),
) -> PhantomSummary:
    """Write a set of phantoms; the same arguments always give the same bytes.

    Image i depends on ``(seed, i)`` alone: a larger set begins with the smaller one of its seed, and sets of two
    seeds share no image. The folder receives ``images/*.png`` (RGB), ``masks/*.png`` (0 and 255), ``captions.json``
    (medcap 2024's sharegpt records, with ``out`` as it was given in their ``meta``), ``questions.jsonl`` (LLaVA's
    records, one a question), ``vqa.jsonl`` (an evaluation row a question, descriptions left out), ``records.jsonl``
    (the full truth, one line an image) and at last ``phantom.json``, which marks it complete.

    Args:
        out (Path): folder to write; new, empty, or from the same request.
        count (int): number of images.
        seed (int): seed of the set; give training and test sets different ones.
        image_size (int): width and height in pixels.
        questions_per_image (int): 1 to 9, each of another type.

    Returns:
        PhantomSummary: where the set lies and how much it holds.

    Raises:
        UserError: for a number out of range, or a folder that holds anything else.
    """
    out = Path(out)
    _check_numbers(count, seed, image_size, questions_per_image)
    if set("=;") & set(str(out)):
        raise UserError(f"out: {out} contains '=' or ';', which the `meta` of a caption record cannot hold; rename it")
    request = {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "count": count,
        "image_size": image_size,
        "questions_per_image": questions_per_image,
    }
    summary = PhantomSummary(out, count, count * questions_per_image, written=True)
    if _is_complete(out, request):
        return PhantomSummary(out, summary.images, summary.questions, written=False)
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")

    captions, training, evaluation, records = [], [], [], []
    for index in tqdm(range(count), desc="phantoms", unit="image", delay=2, disable=None):
        phantom = make_phantom(seed, index)
        questions = make_questions(phantom, questions_per_image)
        captions.append(_caption_record(phantom, out))
        training += [_training_record(phantom, question) for question in questions]
        evaluation += [_evaluation_row(phantom, question) for question in questions if question.question_type != _FREE]
        records.append(_draw_and_record(phantom, questions, out, image_size))
    _write_lines(out / "questions.jsonl", training)
    _write_lines(out / "vqa.jsonl", evaluation)
    _write_lines(out / "records.jsonl", records)
    rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in captions)
    (out / "captions.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    os.replace(out / _UNFINISHED, out / _MARKER)
    return summary


def check_disjoint(training: Path, test: Path) -> None:
    """Refuse two sets of phantoms that share images.

    Args:
        training (Path): folder of one complete set.
        test (Path): folder of the other.

    Raises:
        UserError: when both come from one seed, or a folder is not a complete set.
    """
    seeds = []
    for folder in (Path(training), Path(test)):
        if not (folder / _MARKER).is_file():
            raise UserError(f"{folder} is not a complete set of phantoms; write it with `medcap prepare phantom`")
        request = _read_request(folder / _MARKER)
        if "seed" not in request:
            raise UserError(f"{folder / _MARKER} is damaged: write the phantoms again with `medcap prepare phantom`")
        seeds.append(request["seed"])
    if seeds[0] == seeds[1]:
        raise UserError(f"{training} and {test} both hold the phantoms of seed {seeds[0]}; write one with another seed")


def _check_numbers(count: int, seed: int, image_size: int, questions_per_image: int) -> None:
    if count < 1:
        raise UserError(f"count: must be at least 1, got {count}")
    if seed < 0:
        raise UserError(f"seed: must not be negative, got {seed}")
    if image_size < SMALLEST_IMAGE:
        raise UserError(f"image_size: a lesion needs at least {SMALLEST_IMAGE} pixels a side, got {image_size}")
    if not 1 <= questions_per_image <= len(QUESTION_TYPES):
        raise UserError(f"questions_per_image: must be 1 to {len(QUESTION_TYPES)}, got {questions_per_image}")


def _is_complete(out: Path, request: dict[str, Any]) -> bool:
    """Return whether ``out`` already holds the whole request; raises when it holds something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out: {out} is a file; name a folder")
    for name in (_MARKER, _UNFINISHED):
        if (out / name).is_file():
            found = _read_request(out / name)
            if found != request:
                changed = ", ".join(
                    f"{key} {found.get(key)} (asked for {value})"
                    for key, value in request.items()
                    if found.get(key) != value
                )
                raise UserError(f"out: {out} holds other phantoms: {changed}; name another folder or empty this one")
            return name == _MARKER
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"out: {out} holds other files; name a new or an empty folder")
    return False


def _read_request(path: Path) -> dict[str, Any]:
    """Return the request in a marker; a marker cut short by a kill reads as an empty one and so matches no request."""
    try:
        request = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}


def _image_name(phantom: Phantom) -> str:
    return f"images/{phantom.index:06d}.png"


def _draw_and_record(phantom: Phantom, questions: list[Question], out: Path, image_size: int) -> dict[str, Any]:
    image, mask = draw(phantom, image_size)
    mask_name = f"masks/{phantom.index:06d}.png"
    Image.fromarray(image).save(out / _image_name(phantom), compress_level=1)
    Image.fromarray(mask.astype("uint8") * 255).save(out / mask_name)
    return {
        "id": f"{phantom.seed}-{phantom.index:06d}",
        "image": _image_name(phantom),
        "mask": mask_name,
        "class": phantom.kind,
        **asdict(phantom),
        "box": bounding_box(mask),
        "image_size": image_size,
        "caption": phantom.caption,
        "questions": [asdict(question) for question in questions],
    }


def _caption_record(phantom: Phantom, out: Path) -> dict[str, Any]:
    return caption_row(_image_name(phantom), phantom.caption, str(out))


def _question_id(phantom: Phantom, question: Question) -> str:
    return f"{phantom.seed}-{phantom.index:06d}-{question.question_type}"


def _training_record(phantom: Phantom, question: Question) -> dict[str, Any]:
    return {
        "id": _question_id(phantom, question),
        "image": _image_name(phantom),
        "conversations": conversation(f"<image>\n{question.text}", question.answer),
    }


def _evaluation_row(phantom: Phantom, question: Question) -> dict[str, Any]:
    return {
        "question_id": _question_id(phantom, question),
        "image": _image_name(phantom),
        "question": question.text,
        "reference": question.answer,
        "answer_type": "CLOSED" if question.closed else "OPEN",
        "options": list(question.options),
        "modality": phantom.modality,
        "question_type": question.question_type,
    }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
