from pathlib import Path

import pytest

from helpers.downloads import Downloads, picture
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.choices.medframeqa import MedFrameQaTask

COLOURS = ("red", "green", "blue")


def frame(colour):
    return {"bytes": picture(colour), "path": f"{colour}.jpg"}


def row(*colours, **changes):
    frames = {f"image_{number}": None for number in range(1, 6)}
    frames |= {f"image_{number}": frame(colour) for number, colour in enumerate(colours, 1)}
    fields = {
        "question_id": "q1",
        "system": "digestive system",
        "organ": "liver",
        "keyword": "cirrhosis",
        "modality": "CT",
        "video_id": "v7",
        "question": "What do the frames show?",
        "options": ["Cyst", "Cirrhosis", "Abscess"],
        "correct_answer": "B",
        "reasoning_chain": "...",
    }
    return fields | frames | changes


def test_the_frames_of_a_question_stand_in_their_order_before_its_words(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.parquet("MedFrameQA/data/test-00000-of-00001.parquet", [row(*COLOURS), row("red", "green")])
    work = tmp_path / "work"
    benchmark = MedFrameQaTask().load(downloads.folder, LoadOptions(work_folder=work))
    first, second = benchmark.rows
    contents = [Path(image.path).read_bytes() for image in first.images]
    assert contents == [picture(colour) for colour in COLOURS]
    assert [part["type"] for part in first.messages[0].content] == ["image", "image", "image", "text"]
    assert (first.text, first.references) == ("What do the frames show?", ("Cirrhosis",))
    assert first.meta == {"modality": "CT", "organ": "liver", "question_type": "digestive system", "patient": "v7"}
    assert first.cluster == second.cluster == "patient v7"
    assert (second.id, second.image_paths) == ("q1#2", first.image_paths[:2])
    assert benchmark.image_roots == [work]
    assert benchmark.notices == ["read 2 rows; the published test set has 2,851"]


def test_a_frame_without_content_between_others_is_a_failure_and_counted(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    rows = [row("red", "green"), row("red", "green", question_id="gap", image_1=None)]
    downloads.parquet("MedFrameQA/data/test-00000-of-00001.parquet", rows)
    benchmark = MedFrameQaTask().load(downloads.folder, LoadOptions(work_folder=tmp_path / "work"))
    assert [question.problem for question in benchmark.rows] == [None, "the file holds no image 1"]
    assert "1 of 2 rows cannot be asked and count as failures; the first one, gap" in benchmark.notices[1]


def test_without_a_place_for_the_images_or_a_column_one_line_says_so(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    path = downloads.parquet("MedFrameQA/data/test-00000-of-00001.parquet", [row("red", "green")])
    with pytest.raises(UserError, match="its images lie inside the file and need an output_dir"):
        MedFrameQaTask().load(downloads.folder)
    downloads.parquet("MedFrameQA/data/test-00000-of-00001.parquet", [{"question": "q", "options": ["a"]}])
    with pytest.raises(UserError, match="has no column 'correct_answer'"):
        MedFrameQaTask().load(path, LoadOptions(work_folder=tmp_path / "work"))
