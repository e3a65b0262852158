"""Writes phantoms in the official layouts of the benchmarks, so that every task can be tried without a download."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from medcap.checkpoints.atomic import atomic_folder
from medcap.datasets.phantoms.drawing import bounding_box, draw
from medcap.datasets.phantoms.folders import is_complete
from medcap.datasets.phantoms.records import Phantom, Question, conversation, make_phantom, make_questions
from medcap.datasets.phantoms.writing import SMALLEST_IMAGE
from medcap.errors import UserError

FORMAT_VERSION = 3
# Which of OmniMedVQA's modalities a made-up one resembles most, letter by letter as the benchmark writes it.
MODALITIES = {
    "korvogram": "X-Ray",
    "velotome": "CT(Computed Tomography)",
    "murmograph": "ultrasound",
    "lumascope": "Fundus Photography",
}
_ORGANS = {"korvogram": "Chest", "velotome": "Abdomen", "murmograph": "Pelvis", "lumascope": "Eye"}
_MARKER = "phantom_benchmarks.json"
_OPTION_KEYS = ("option_A", "option_B", "option_C", "option_D")
_OPTIONS_RANDOM = 100  # spawn key of the stream that draws a place question's four options

# The benchmarks' own words for what a question is about.
_OMNIMEDVQA_TYPES = {
    "modality": "Modality Recognition",
    "kind": "Disease Diagnosis",
    "size": "Lesion Grading",
    "brightness": "Other Biological Attributes",
    "place": "Anatomy Identification",
    "outline": "Other Biological Attributes",
}
_VQARAD_TYPES = {
    "modality": ("MODALITY", "test_freeform"),
    "kind_check": ("PRES", "test_freeform"),
    "finding": ("ABN", "test_freeform"),
    "place": ("POS", "test_freeform"),
    "brightness": ("ATTRIB", "test_para"),
    "size": ("SIZE", "freeform"),
    "outline": ("ATTRIB", "para"),
}
_SLAKE_TYPES = {
    "modality": "Modality",
    "kind_check": "Abnormality",
    "finding": "Abnormality",
    "place": "Position",
    "size": "Size",
    "outline": "Shape",
}
_CHINESE = {"nodule": "结节", "ring": "环", "cross": "十字", "cluster": "簇"}
_COLONINST_QUESTIONS = {
    "cls": "Categorize the object.",
    "reg": "What category does {box} belong to?",
    "rec": "Where is the location of {kind}?",
    "cap": "Describe what you see in the image.",
}
_PATHVQA_TYPES = ("modality", "kind_check", "finding", "place")
_LLAVA_MED_TYPES = ("kind_check", "finding", "size")
_CHAT_DOMAINS = {"korvogram": "chest_xray", "velotome": "ct_scan", "murmograph": "mri", "lumascope": "gross"}


@dataclass(frozen=True)
class PhantomBenchmarks:
    """The result of :func:`write_phantom_benchmarks`; ``written`` is False when everything existed.

    ``rows`` has the number of test questions by task.
    """

    folder: Path
    images: int
    rows: Mapping[str, int]
    written: bool


@dataclass(frozen=True)
class _Drawn:
    phantom: Phantom
    questions: dict[str, Question]
    png: bytes
    box: list[int]  # x1, y1, x2, y2 in pixels

    @property
    def name(self) -> str:
        return f"{self.phantom.seed}-{self.phantom.index:06d}"


def write_phantom_benchmarks(out: Path, count: int, seed: int, image_size: int = 64) -> PhantomBenchmarks:
    """Write one set of phantoms in eight layouts; the same arguments always give the same bytes.

    Questions have the words of :func:`make_questions`, so a model that knows phantoms can answer them. Beside
    ``phantom_benchmarks.json``, which says what was asked for, the folder receives:

    - ``OmniMedVQA/``: a JSON file for each made-up modality; its ``modality_type`` is the real one that it resembles
      (``MODALITIES``). Questions about brightness and outline have two options, the other keys are absent or empty.
      The first record has the misspelt key ``modality``, as one of the benchmark's has.
    - ``VQA_RAD/``: test and training phrases; ``image_organ`` is made up, ``answer_type`` is ``"CLOSED "`` here and
      there, as in the benchmark.
    - ``Slake1.0/``: English questions and a Chinese one for each image, and the lesion's box in ``detection.json``.
    - ``ColonINST/``: to classify, to name by its box, to locate and to describe, in the templates of its questions.
    - ``path-vqa/``: a parquet file with the images in it.
    - ``LLaVA-Med/``: a ``test.json`` with its images, for the task ``vqa``, and for the task ``chat`` the question file
      of LLaVA-Med's conversations, with captions and reference answers.

    Args:
        out: folder to write; new, empty, or from the same request.
        count: number of images; each is drawn once.
        seed: seed of the phantoms; not one that a model was trained on.
        image_size: width and height in pixels.

    Returns:
        The place of the benchmarks and their numbers of questions.

    Raises:
        UserError: for a number out of range, or a folder that holds anything else.
    """
    out = Path(out)
    if count < 1:
        raise UserError(f"count: must be at least 1, got {count}")
    if seed < 0:
        raise UserError(f"seed: must not be negative, got {seed}")
    if image_size < SMALLEST_IMAGE:
        raise UserError(f"image_size: a lesion needs at least {SMALLEST_IMAGE} pixels a side, got {image_size}")
    request = {"format_version": FORMAT_VERSION, "seed": seed, "count": count, "image_size": image_size}
    rows = {name: count * number for name, (_, number) in _WRITERS.items()}
    if is_complete(out, _MARKER, request):
        return PhantomBenchmarks(out, count, rows, written=False)
    indices = tqdm(range(count), desc="phantoms", unit="image", delay=2, disable=None)
    drawn = [_draw(make_phantom(seed, index), image_size) for index in indices]
    with atomic_folder(out) as folder:
        for write, _ in _WRITERS.values():
            write(folder, drawn)
        (folder / _MARKER).write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
    return PhantomBenchmarks(out, count, rows, written=True)


def _draw(phantom: Phantom, image_size: int) -> _Drawn:
    image, mask = draw(phantom, image_size)
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG", compress_level=1)
    questions = {question.question_type: question for question in make_questions(phantom)}
    return _Drawn(phantom, questions, content.getvalue(), bounding_box(mask))


def _four_options(phantom: Phantom, question: Question) -> list[str]:
    """Return a question's options in their order; of more than four, the right one and three drawn from the others."""
    options = list(question.options)
    stream = np.random.default_rng(np.random.SeedSequence(phantom.seed, spawn_key=(phantom.index, _OPTIONS_RANDOM)))
    while len(options) > len(_OPTION_KEYS):
        wrong = [option for option in options if option != question.answer]
        options.remove(wrong[int(stream.integers(len(wrong)))])
    return options


def _answer_type(question: Question) -> str:
    return "CLOSED" if question.closed else "OPEN"


def _write_omnimedvqa(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "OmniMedVQA"
    sets: dict[str, list[dict[str, Any]]] = {}
    for item in drawn:
        kind = item.phantom.modality
        image = f"Images/Phantom {kind}/{item.name}.png"
        _write_bytes(root / image, item.png)
        for question_type, title in _OMNIMEDVQA_TYPES.items():
            question = item.questions[question_type]
            options = _four_options(item.phantom, question)
            # An absent option is absent in some of the benchmark's files and empty in others.
            options += [""] * (len(_OPTION_KEYS) - len(options)) if question_type == "outline" else []
            records = sets.setdefault(kind, [])
            records.append(
                {
                    "dataset": f"Phantom {kind}",
                    "question_id": f"Phantom_{kind}_{len(records):04d}",
                    "question_type": title,
                    "question": question.text,
                    "gt_answer": question.answer,
                    "image_path": image,
                    **dict(zip(_OPTION_KEYS, options, strict=False)),
                    "modality_type": MODALITIES[kind],
                }
            )
    first = next(iter(sets.values()))[0]
    first["modality"] = first.pop("modality_type")
    for kind, records in sets.items():
        _write_json(root / "QA_information" / "Open-access" / f"Phantom {kind}.json", records)


def _write_vqarad(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "VQA_RAD"
    records = []
    for item in drawn:
        _write_bytes(root / "VQA_RAD Image Folder" / f"{item.name}.png", item.png)
        for question_type, (title, phrase) in _VQARAD_TYPES.items():
            question = item.questions[question_type]
            answer_type = _answer_type(question)
            records.append(
                {
                    "qid": len(records),
                    "phrase_type": phrase,
                    "image_name": f"{item.name}.png",
                    "image_organ": _ORGANS[item.phantom.modality].upper(),
                    "question": question.text,
                    "question_type": title,
                    "answer": question.answer,
                    "answer_type": f"{answer_type} " if phrase == "test_para" else answer_type,
                }
            )
    _write_json(root / "VQA_RAD Dataset Public.json", records)


def _write_slake(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "Slake1.0"
    records: list[dict[str, Any]] = []
    for item in drawn:
        image = f"xmlab{item.phantom.index}/source.png"
        _write_bytes(root / "imgs" / image, item.png)
        asked = [("en", title, item.questions[question_type]) for question_type, title in _SLAKE_TYPES.items()]
        asked.append(("zh", "Abnormality", Question("finding", "病灶是什么？", _CHINESE[item.phantom.kind])))
        for language, title, question in asked:
            records.append(
                {
                    "img_id": item.phantom.index,
                    "img_name": image,
                    "question": question.text,
                    "answer": question.answer,
                    "q_lang": language,
                    "location": _ORGANS[item.phantom.modality],
                    "modality": item.phantom.modality,
                    "answer_type": _answer_type(question),
                    "base_type": "vqa",
                    "content_type": title,
                    "triple": ["vhead", "_", "_"],
                    "qid": len(records),
                }
            )
    _write_json(root / "test.json", records)


def _write_slake_boxes(out: Path, drawn: Sequence[_Drawn]) -> None:
    for item in drawn:
        left, top, right, bottom = item.box
        path = out / "Slake1.0" / "imgs" / f"xmlab{item.phantom.index}" / "detection.json"
        _write_bytes(path, json.dumps([{item.phantom.kind: [left, top, right - left, bottom - top]}]).encode())


def _write_coloninst(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "ColonINST"
    files: dict[str, list[dict[str, Any]]] = {part: [] for part in _COLONINST_QUESTIONS}
    for item in drawn:
        kind, box = item.phantom.kind, "{" + "".join(f"<{edge}>" for edge in item.box) + "}"
        image = f"Phantom/Test/{kind}/{item.name}.png"
        _write_bytes(root / "Positive-images" / image, item.png)
        answers = {"cls": kind, "reg": kind, "rec": box, "cap": item.phantom.caption}
        for part, question in _COLONINST_QUESTIONS.items():
            turns = conversation(f"<image>\n{question.format(box=box, kind=kind)}", answers[part])
            files[part].append({"id": image, "image": item.name, "conversations": turns})
    for part, records in files.items():
        _write_json(root / "Json-file" / "test" / f"ColonINST-test-{part}.json", records)


def _write_pathvqa(out: Path, drawn: Sequence[_Drawn]) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "image": {"bytes": item.png, "path": None},
            "question": item.questions[question_type].text,
            "answer": item.questions[question_type].answer,
        }
        for item in drawn
        for question_type in _PATHVQA_TYPES
    ]
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("question", pyarrow.string()), ("answer", pyarrow.string())])
    path = out / "path-vqa" / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def _write_llava_med(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "LLaVA-Med"
    records = []
    for item in drawn:
        image = f"images/{item.name}.png"
        _write_bytes(root / image, item.png)
        for question_type in _LLAVA_MED_TYPES:
            question = item.questions[question_type]
            records.append(
                {
                    "id": len(records),
                    "image": image,
                    "answer_type": _answer_type(question),
                    "question_type": question_type,
                    "conversations": conversation(f"{question.text}\n<image>", question.answer),
                }
            )
    _write_json(root / "test.json", records)


def _write_chat(out: Path, drawn: Sequence[_Drawn]) -> None:
    root = out / "LLaVA-Med"
    records: list[dict[str, Any]] = []
    for item in drawn:
        _write_bytes(root / "images" / f"{item.name}.png", item.png)
        finding = item.questions["finding"]
        own = _CHAT_DOMAINS[item.phantom.modality]
        for kind, question, answer in (
            ("conversation", finding.text, finding.answer),
            ("detailed_description", "Describe the following image in detail.", item.phantom.caption),
        ):
            records.append(
                {
                    "question_id": len(records),
                    "image": f"{item.name}.png",
                    "pair_id": item.name,
                    "text": f"{question}\n<image>",
                    "gpt4_answer": answer,
                    "fig_caption": item.phantom.caption,
                    "in_text_mention": [{"tokens": f"The figure shows a {item.phantom.modality} .", "entities": []}],
                    "domain": {domain: domain == own for domain in ("histology", *_CHAT_DOMAINS.values())},
                    "type": kind,
                    "fig_label": f"Figure {item.phantom.index}",
                }
            )
    rows = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    _write_bytes(root / "llava_med_eval_qa50_qa.jsonl", rows.encode())


# Task -> what writes its layout, and how many test questions it has for each image.
_WRITERS: dict[str, tuple[Callable[[Path, Sequence[_Drawn]], None], int]] = {
    "omnimedvqa": (_write_omnimedvqa, len(_OMNIMEDVQA_TYPES)),
    "vqarad": (_write_vqarad, sum(phrase.startswith("test_") for _, phrase in _VQARAD_TYPES.values())),
    "slake": (_write_slake, len(_SLAKE_TYPES)),
    "pathvqa": (_write_pathvqa, len(_PATHVQA_TYPES)),
    "vqa": (_write_llava_med, len(_LLAVA_MED_TYPES)),
    "coloninst": (_write_coloninst, len(_COLONINST_QUESTIONS)),
    "slake_boxes": (_write_slake_boxes, 1),
    "chat": (_write_chat, 2),
}


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_json(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    _write_bytes(path, f"[\n{rows}\n]\n".encode())
