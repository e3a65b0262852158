"""Benchmarks of examinations, frames, structured reports, reports and captions, one or two rows each, as published."""

from __future__ import annotations

import base64
from typing import Any

import pandas

from helpers.downloads import Downloads, picture
from medcap.datasets.published.choices.mmmu import SUBJECTS

_RADRESTRUCT = "Rad-ReStruct/data/radrestruct"
_YES_NO = {"answer_type": "single_choice", "options": ["yes", "no"]}
ROWS = {
    "medxpertqa": 2,
    "medframeqa": 2,
    "mmmu_med": 5,
    "gmai_mmbench": 2,
    "radrestruct": 3,
    "iu_xray": 2,
    "rocov2": 2,
}


def write_exam_sets(downloads: Downloads) -> None:
    """Write all of them; in MedXpertQA, GMAI-MMBench, IU X-Ray and ROCOv2 the second row's image is missing."""
    choice = {"question": "Which is it?", "options": {"A": "cyst", "B": "mass"}, "label": "B"}
    downloads.images("MedXpertQA/images", "a.png", "b.png")
    rows = [choice | {"id": str(number), "images": ["a.png", name]} for number, name in enumerate(("b.png", "c.png"))]
    downloads.lines("MedXpertQA/MM/test.jsonl", rows)
    asked = {"question": "Which is it?", "options": ["cyst", "mass"], "correct_answer": "A", "video_id": "v"}
    downloads.parquet("MedFrameQA/data/test-00000-of-00001.parquet", [asked | _pictures("red", "blue")] * 2)
    for subject in SUBJECTS:
        row = {
            "id": f"validation_{subject}_1",
            "question": "See <image 1>: which is it?",
            "options": "['cyst', 'mass']",
            "answer": "B",
            "question_type": "multiple-choice",
        }
        downloads.parquet(f"MMMU/{subject}/validation-00000-of-00001.parquet", [row | _pictures("red")])
    table = {"index": [0, 1], "image": [base64.b64encode(picture()).decode(), None], "question": ["Which?"] * 2}
    table |= {"A": ["cyst"] * 2, "B": ["mass"] * 2, "answer": ["A", "B"]}
    path = downloads.folder / "GMAI-MMBench" / "GMAI_mm_bench_VAL.tsv"
    path.parent.mkdir()
    pandas.DataFrame(table).to_csv(path, sep="\t", index=False)
    _write_reports(downloads)


def _write_reports(downloads: Downloads) -> None:
    signs, attributes = (
        "Are there any signs in the lung?",
        {"answer_type": "multi_choice", "options": ["small", "large"]},
    )
    report = [
        [signs, ["yes"], [], _YES_NO | {"path": "lung_signs"}],
        ["Is there a mass?", ["yes"], [[signs, ["yes"]]], _YES_NO | {"path": "lung_signs_mass"}],
        [
            "What are the attributes?",
            ["small"],
            [[signs, ["yes"]]],
            attributes | {"path": "lung_signs_mass_attributes"},
        ],
    ]
    downloads.images(f"{_RADRESTRUCT}/images", "CXR1.png")
    downloads.array(f"{_RADRESTRUCT}/id_to_img_mapping_frontal_reports.json", {"1": ["CXR1"]})
    downloads.array(f"{_RADRESTRUCT}/test_qa_pairs/1.json", report)
    downloads.images("iu_xray/images", "CXR2/0.png", "CXR2/1.png")
    views = [["CXR2/0.png", "CXR2/1.png"], ["CXR2/2.png"]]
    rows = [{"id": f"CXR2_{number}", "report": "Clear.", "image_path": names} for number, names in enumerate(views)]
    downloads.array("iu_xray/annotation.json", {"test": rows})
    downloads.images("ROCOv2/test", "1.jpg")
    downloads.table("ROCOv2/test_captions.csv", [{"ID": name, "Caption": "A chest CT."} for name in "12"])


def _pictures(*colours: str) -> dict[str, Any]:
    frames = [{"bytes": picture(colour), "path": None} for colour in colours]
    return {f"image_{number}": frames[number - 1] if number <= len(frames) else None for number in range(1, 6)}
