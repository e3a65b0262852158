"""Files of answers, our own and anybody's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import size_from_json
from medcap.data.json_text import parse_json
from medcap.data.outputs import NOTHING, Outputs
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.scoring.answer_layouts import flat_row
from medcap.scoring.answer_masks import MASK_KEYS, REFERENCE_MASK_KEYS, row_masks
from medcap.scoring.question import FACTS, GROUPS, Answer, Question
from medcap.scoring.replies.box_reply import boxes_on_image, good_boxes
from medcap.scoring.replies.numbers import number_text

if TYPE_CHECKING:
    from medcap.data.images.reader import ImageReader

_PREDICTION_KEYS = ("prediction", "text")
_REFERENCE_KEYS = ("reference", "gt", "answer")
_TABLES = (".csv", ".tsv", ".tab", ".xls", ".xlsx", ".parquet", ".feather")
_SETTINGS_SUFFIX = ".settings.json"  # of the file that a run writes beside its answers
_IMAGE_KEYS = ("images", "image", "image_path")  # the last is MedPLIB's
_ID_KEYS = ("question_id", "id")


def read_answers(path: str | Path) -> list[Answer]:
    """Read answers that are to be scored.

    A row is an object with ``question_id``, ``reference`` (text, a number, or a list of them) and ``prediction``, and
    may have ``question``, ``options`` (a list), ``answer_type``, ``image`` (or ``images``, or MedPLIB's
    ``image_path``), ``modality``, ``question_type`` and ``organ``; other keys are ignored. LLaVA's and MedPLIB's names
    ``text`` for the prediction and ``gt`` or ``answer`` for the reference are read too, and ColonGPT's and BiRD's
    prediction files as they are. A prediction that is null or absent is a failure. An empty option is dropped, and the
    others keep the letters of their places in the list. The number 2.0 is read as 2 is.

    Boxes may be in the texts or in ``boxes`` and ``reference_boxes`` (lists of ``[x1, y1, x2, y2]`` in pixels, empty
    for an absent object), with the image's ``image_size`` ``[width, height]``; then the texts may be absent. ``task``,
    ``patient`` and ``phrase`` are read too. A bad box of a prediction is kept as one that cannot be read.

    Masks are in ``masks`` and ``reference_masks`` (lists of regions) or in ``prediction_mask`` and ``reference_mask``
    (one file or run-length each); files are found beside the file of answers. A bad mask is kept as one that cannot be
    read.

    ``verdict`` is what a judge said of the answer, as in our ``verdicts.jsonl`` (true and false are read too), and
    ``dataset`` the benchmark; only protocols that need them look at them.

    In our own files rows have a ``fingerprint``: there the last row of a ``question_id`` counts, for a failure may have
    been fixed since, and a last line that was cut off is skipped.

    Args:
        path: JSON or JSONL.

    Returns:
        The answers in the order of the file.

    Raises:
        UserError: if the file cannot be read, a row has no reference or a value of the wrong type, a reference holds a
            bad box, two rows have one ``question_id``, or not one row has a prediction.

    Example:
        >>> answers = read_answers("results/run/vqarad/predictions.jsonl")
    """
    path = Path(path)
    rows: dict[Any, tuple[int, Mapping[str, Any]]] = {}
    for index, value in _rows(path):
        if not isinstance(value, Mapping):
            raise UserError(f"{path}, row {index}: a row must be an object, not {type(value).__name__}")
        fingerprint = value.get("fingerprint")
        try:
            rows[index if fingerprint is None else str(value.get("question_id", fingerprint))] = (
                index,
                flat_row(value, index),
            )
        except UserError as error:
            raise UserError(f"{path}, row {index}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    if not any(key in value for _, value in rows.values() for key in (*_PREDICTION_KEYS, "boxes", *MASK_KEYS)):
        raise UserError(f"{path}: no row has a 'prediction' (or 'text'): is this a file of answers?")
    answers = []
    seen: dict[str, int] = {}

    @cache
    def reader() -> ImageReader:
        from medcap.data.images.reader import ImageReader
        from medcap.data.images.roots import LimitKeys

        return ImageReader([path.parent], keys=LimitKeys(None, None))

    for index, value in rows.values():
        try:
            answer = _answer(value, index, reader)
        except UserError as error:
            raise UserError(f"{path}, row {index}: {error}") from None
        name = answer.question.id
        if name in seen:
            raise UserError(
                f"{path}: rows {seen[name]} and {index} have the same question_id {name!r}: give each row an id of its"
                " own"
            )
        seen[name] = index
        answers.append(answer)
    if all(
        answer.question.problem and answer.question.boxes is None and not answer.question.reference
        for answer in answers
    ):
        raise UserError(f"{path}: no reference can be read; row 0: {answers[0].question.problem}")
    return answers


def task_of_answers(path: str | Path) -> str:
    """Return the task that a predictions file of ours was made by, from the settings beside it.

    Args:
        path: any file of answers.

    Returns:
        The task's name, such as ``slake``; "" where it is not known.
    """
    try:
        settings = parse_json(Path(path).with_suffix(_SETTINGS_SUFFIX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    task = settings.get("task") if isinstance(settings, Mapping) else None
    return task if isinstance(task, str) else ""


def read_candidates(path: str | Path) -> list[str]:
    """Read LLaVA-Med's candidate answers: ``{"0": ["answer", ...]}``, or a plain list.

    Args:
        path: JSON.

    Returns:
        The answers as text.

    Raises:
        UserError: if the file cannot be read or holds something else.
    """
    try:
        values = parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"candidates {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"candidates {path} is not JSON: {error}") from error
    if isinstance(values, Mapping):
        values = values.get("0")
    if not isinstance(values, list) or not values:
        raise UserError(f'{path}: candidates must be {{"0": ["answer", ...]}} or a list of answers')
    try:
        return _texts(values, "a candidate")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _rows(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        return list(read_rows(path))
    except UserError:
        whole = _whole_lines(path)
        if whole is not None:
            return enumerate(whole)
        if path.is_file() and _not_json(path):
            raise UserError(
                f"{path} is neither JSON nor JSONL, and score reads JSON and JSONL: turn a table into JSONL with"
                " pandas: read_csv(...).to_json('answers.jsonl', orient='records', lines=True)"
            ) from None
        raise


def _not_json(path: Path) -> bool:
    """Return whether a file is a table by its name, or no JSON from its first character on."""
    if path.suffix.lower() in _TABLES:
        return True
    start = path.read_bytes()[:4096].decode("utf-8-sig", errors="replace").lstrip()
    try:
        json.JSONDecoder().raw_decode(start)
    except json.JSONDecodeError as error:
        return bool(start) and error.pos == 0
    except (ValueError, RecursionError):  # JSON that is too large for Python
        return False
    return False


def _whole_lines(path: Path) -> list[Any] | None:
    """Return the rows of a file of ours without its last line, if it was that line alone which a kill cut off."""
    if not path.is_file():
        return None
    *lines, last = path.read_bytes().split(b"\n")
    try:
        rows = [parse_json(line) for line in lines if line.strip()]
    except ValueError:
        return None
    ours = rows and all(isinstance(row, Mapping) and row.get("fingerprint") for row in rows)
    return rows if last and ours else None


def _answer(value: Mapping[str, Any], index: int, reader: Callable[[], ImageReader]) -> Answer:
    size = size_from_json(value.get("image_size"))
    boxes = value.get("reference_boxes")
    wanted = None if boxes is None else boxes_on_image(boxes, size, "reference_boxes")
    masks = row_masks(value, reader)
    of_masks = any(key in value for key in (*MASK_KEYS, *REFERENCE_MASK_KEYS))
    without_words = None if wanted is None and not of_masks else ""
    reference = next((value[key] for key in _REFERENCE_KEYS if not _missing(value.get(key))), without_words)
    if reference is None or reference == []:
        raise UserError(f"there is no 'reference' to compare with (the row has: {', '.join(map(str, value))})")
    if masks.wanted is None and wanted is None and of_masks and reference == "":
        masks = replace(masks, wanted=(None,), problem="there is no 'reference_mask' to compare with")
    prediction = next((value[key] for key in _PREDICTION_KEYS if key in value), None)
    given, bad = (None, ()) if value.get("boxes") is None else good_boxes(value["boxes"], size)
    options = [] if _missing(value.get("options")) else value["options"]
    if not isinstance(options, list):
        raise UserError("'options' must be a list of texts")
    facts = {name: _text(value[name], name).strip() for name in (*GROUPS, *FACTS) if not _missing(value.get(name))}
    if isinstance(value.get("dataset"), str):
        facts["dataset"] = value["dataset"].strip()
    columns = ["" if _missing(option) else _text(option, "an option") for option in options]
    columns = tuple(option if option.strip() else "" for option in columns)
    filled = tuple(option for option in columns if option)
    named = next((value[key] for key in _IMAGE_KEYS if not _missing(value.get(key))), None)
    images = named if isinstance(named, list) else [named]
    question = Question(
        id=next((_text(value[key], key) for key in _ID_KEYS if not _missing(value.get(key))), str(index)),
        messages=(),
        references=tuple(_texts(reference if isinstance(reference, list) else [reference], "'reference'")),
        options=filled,
        answer_type="" if _missing(value.get("answer_type")) else _text(value["answer_type"], "answer_type"),
        meta=facts,
        words="" if _missing(value.get("question")) else _text(value["question"], "question"),
        columns=columns if len(filled) < len(columns) else (),
        image_names=tuple(image for image in images if isinstance(image, str) and image),
        boxes=wanted,
        image_size=size,
        problem=masks.problem,
        masks=masks.wanted,
        mask_labels=masks.labels,
    )
    text = "" if _missing(prediction) else _text(prediction, "prediction")
    outputs = NOTHING if given is None and masks.given is None else Outputs(given, masks.given)
    verdict = value.get("verdict")
    said = verdict if isinstance(verdict, str) else str(verdict).lower() if isinstance(verdict, bool) else ""
    return Answer(question, text, outputs, bad, masks.bad, said)


def _texts(values: Sequence[Any], name: str) -> list[str]:
    return [_text(value, name) for value in values]


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if finite and not isinstance(value, bool):
        return number_text(value)
    raise UserError(f"{name} must be text or a number, not {json.dumps(value)[:60]}")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
