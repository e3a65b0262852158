"""Small stand-ins for downloaded data sets, in their official layouts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medcap.datasets.conversion.base import Converter
from medcap.datasets.conversion.run import convert
from medcap.datasets.conversion.writing import Written

PMC_OA_IMAGES = "pmc_oa/caption_T060_filtered_top4_sep_v0_subfigures"


class Downloads:
    """A folder of downloads.

    Args:
        folder: made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def text(self, name: str, content: str) -> Path:
        """Write a file; its folders are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def array(self, name: str, rows: Sequence[Any]) -> Path:
        """Write a JSON array."""
        return self.text(name, json.dumps(rows, ensure_ascii=False))

    def lines(self, name: str, rows: Iterable[Any]) -> Path:
        """Write JSONL; a row that is text stands there as it is."""
        return self.text(name, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))

    def table(self, name: str, rows: Sequence[Mapping[str, str]]) -> Path:
        """Write a CSV file with a heading."""
        content = io.StringIO()
        writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.text(name, content.getvalue())

    def images(self, folder: str, *names: str) -> Path:
        """Write small pictures."""
        path = self.folder / folder
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(picture())
        return path

    def parquet(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write a parquet file."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        return path

    def convert(self, converter: Converter, **options: Any) -> list[Written]:
        """Convert what is there to the folder ``out`` beside it."""
        return convert(converter, str(self.folder), self.folder.parent / "out", **options)


def picture(colour: str = "gray", size: tuple[int, int] = (8, 8)) -> bytes:
    """An encoded image, of 8 x 8 pixels."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, format="PNG")
    return content.getvalue()


def rows_of(written: Written) -> list[dict[str, Any]]:
    """The rows of a file that was written."""
    text = written.path.read_text(encoding="utf-8")
    return json.loads(text) if written.path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def said(row: Mapping[str, Any]) -> list[str]:
    """The words of a row's turns, its image's placeholders as one <image>."""
    return [turn["value"].replace("\u2460" * 50, "<image>") for turn in row["conversations"]]


def left_out(written: Written) -> dict[str, int]:
    """How many were left out for which reason."""
    return dict(written.tally.skipped)


def write_pmcoa(downloads: Downloads) -> None:
    """PMC-OA: two captions."""
    downloads.images(PMC_OA_IMAGES, "PMC1_a.jpg", "PMC2_b.jpg")
    downloads.lines(
        "pmc_oa/train.jsonl",
        [
            {"image": "PMC1_a.jpg", "caption": "lesion ① seen"},
            {"image": "PMC2_b.jpg", "caption": "Normal chest radiograph."},
        ],
    )


def write_vqarad_text(downloads: Downloads) -> None:
    """VQA-RAD-text: a paragraph in each part."""
    downloads.images("VQA_RAD/VQA_RAD Image Folder", "x.jpg", "y.jpg")
    downloads.array("VQA_RAD/train_text.json", [{"image_name": "x.jpg", "text": "A clear chest."}])
    downloads.array("VQA_RAD/test_text.json", [{"image_name": "y.jpg", "text": "A brain with a mass."}])


def write_textplus(downloads: Downloads) -> None:
    """What medcap 2024's mixtures are made of, but for PMC-OA."""
    top = "PMC-VQA-text"
    downloads.images(f"{top}/images", "PMC3_1.jpg")
    downloads.array(f"{top}/train_text.json", [{"Figure_path": "PMC3_1.jpg", "text": "From PMC-VQA."}])
    downloads.images(f"{top}/train", "ROCOv2_2023_train_000001.jpg")
    downloads.table(
        f"{top}/train_captions.csv", [{"ID": "ROCOv2_2023_train_000001", "Caption": "From ROCOv2, a scan."}]
    )
    downloads.images(f"{top}/images_med60k/images", "24_F1.jpg")
    downloads.array(f"{top}/train_text_med60k.json", [{"image": "24_F1.jpg", "text": "From LLaVA-Med."}])
    downloads.images(f"{top}/images_vision", "v2.jpg", "v1.jpg")
    turns = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "From PubMedVision."}]
    later = [{"from": "human", "value": "And this?"}, {"from": "gpt", "value": "From a later record."}]
    downloads.array(
        f"{top}/PubMedVision_Alignment_VQA.json",
        [
            {"id": "a", "image": ["images/v2.jpg", "images/v1.jpg"], "conversations": turns, "modality": "CT"},
            {"id": "b", "image": ["images/v2.jpg", "images/diagram.jpg"], "conversations": later, "modality": "CT"},
        ],
    )
    downloads.images(f"{top}/release/figures", "hash_4-Figure1.png")
    downloads.lines(
        f"{top}/release/s2_full_figures_oa_nonroco_combined_medical_top4_public.jsonl",
        [
            {
                "pdf_hash": "hash",
                "fig_uri": "4-Figure1.png",
                "s2_caption": "From MedICaT.",
                "s2orc_references": ["As Figure 1 shows.", "See Figure 1."],
            },
        ],
    )
    downloads.images(f"{top}/images_patients/images", "PMC7_2.jpg", "PMC7_1.jpg", "PMC9_1.jpg")
    downloads.table(
        f"{top}/PMC-Patients.csv",
        [
            {"patient_id": "0", "file_path": "oa_comm/PMC007xxxxxx/PMC7.xml", "patient": "A man, 60."},
            {"patient_id": "1", "file_path": "oa_comm/PMC007xxxxxx/PMC7.xml", "patient": 'A woman, "45".\nShe left.'},
        ],
    )


def write_llava_med(downloads: Downloads) -> None:
    """LLaVA-Med: one record in the alignment file, one in an instruction file."""
    downloads.images("llava_med/images", "24_F1.jpg")
    turns = [
        {"from": "human", "value": "Can you briefly describe the image?\n<image>"},
        {"from": "gpt", "value": "A chest X-ray."},
        {"from": "human", "value": "How many ribs?"},
        {"from": "gpt", "value": 24},
    ]
    downloads.array(
        "llava_med/alignment/llava_med_alignment_500k.json",
        [{"id": "24_F1", "image": "24_F1.jpg", "domain": {"mri": False}, "conversatons": turns[:2]}],
    )
    downloads.array(
        "llava_med/instruct/llava_med_instruct_60k_inline_mention.json",
        [{"id": "24_F1", "image": "24_F1.jpg", "domain": {"mri": False}, "conversations": turns}],
    )


def write_pmcvqa(downloads: Downloads) -> None:
    """PMC-VQA: a question of either version."""
    downloads.images("PMC-VQA/images", "PMC1.jpg")
    downloads.images("PMC-VQA/images_2", "PMC2.jpg")
    choices = {"Choice A": " A:Cyst ", "Choice B": " B:Diffuse uptake ", "Choice C": " C:Mass ", "Choice D": " D:None "}
    question = {"Figure_path": "PMC1.jpg", "Caption": "c", "Question": " What is seen? ", "Answer": " Diffuse uptake "}
    downloads.table("PMC-VQA/train.csv", [question | choices | {"Answer_label": "B"}])
    question |= {"index": "1", "Figure_path": "PMC2.jpg", "Answer": "C", "split": "train"}
    downloads.table("PMC-VQA/train_2.csv", [question | choices])


def write_vqarad(downloads: Downloads) -> None:
    """VQA-RAD: a training and a test question."""
    downloads.images("VQA_RAD/VQA_RAD Image Folder", "x.jpg")
    record = {"qid": 1, "image_name": "x.jpg", "question": "Is it clear?", "answer": "Yes", "answer_type": "CLOSED"}
    downloads.array(
        "VQA_RAD/VQA_RAD Dataset Public.json",
        [record | {"phrase_type": "freeform"}, record | {"qid": 2, "phrase_type": "test_freeform"}],
    )


def write_slake(downloads: Downloads) -> None:
    """SLAKE: an English and a Chinese question, and one for validation."""
    downloads.images("Slake1.0/imgs", "xmlab0/source.jpg")
    record = {"img_name": "xmlab0/source.jpg", "question": "Which organ?", "answer": "Liver", "q_lang": "en", "qid": 0}
    chinese = record | {"question": "什么器官？", "answer": "肝脏", "q_lang": "zh"}
    downloads.array("Slake1.0/train.json", [record, chinese])
    downloads.array("Slake1.0/validate.json", [record | {"answer": "Spleen"}])


def write_slake_boxes(downloads: Downloads, *boxes: Any) -> None:
    """SLAKE: an image of 100 x 50 pixels for each ``detection.json``, in every split."""
    rows = []
    for number, content in enumerate(boxes):
        folder = f"Slake1.0/imgs/xmlab{number}"
        downloads.text(f"{folder}/source.jpg", "").write_bytes(picture(size=(100, 50)))
        downloads.array(f"{folder}/detection.json", content)
        rows.append({"img_name": f"xmlab{number}/source.jpg", "question": "Which?", "answer": "CT", "q_lang": "en"})
    for name in ("train", "validate", "test"):
        downloads.array(f"Slake1.0/{name}.json", [row | {"modality": "CT", "location": "Lung"} for row in rows])


def write_pathvqa(downloads: Downloads) -> None:
    """PathVQA: the hub's copy with one picture and two questions."""
    image = {"bytes": picture("purple"), "path": None}
    downloads.parquet(
        "path-vqa/data/train-00000-of-00001.parquet",
        [
            {"image": image, "question": "where are the cells?", "answer": "in the lumen"},
            {"image": image, "question": "is it benign?", "answer": "no"},
        ],
    )


def write_vqamed(downloads: Downloads) -> None:
    """VQA-Med: training questions of 2019 and 2020."""
    top = "VQA-Med-2019/ImageClef-2019-VQA-Med-Training"
    downloads.images(f"{top}/Train_images", "synpic1.jpg")
    downloads.text(f"{top}/All_QA_Pairs_train.txt", "synpic1|what plane is this?|axial\n")
    top = (
        "VQA-Med-2020/VQA-Med-2020-Task1-VQAnswering-TrainVal-Sets/VQAMed2020-VQAnswering-TrainingSet/"
        "VQAnswering_2020_Train_"
    )
    downloads.images(f"{top}images", "synpic2.png")
    downloads.text(f"{top}QA_pairs.txt", "synpic2|what is abnormal?|cyst | left\n")


def write_coloninst(downloads: Downloads) -> None:
    """ColonINST: a record of each training file."""
    downloads.images("ColonINST/Positive-images", "CVC-ClinicDB/Train/polyp/11.png")
    image = downloads.folder / "ColonINST/Positive-images/CVC-ClinicDB/Train/polyp/11.png"
    image.write_bytes(picture(size=(200, 220)))
    record = {"id": "CVC-ClinicDB/Train/polyp/11.png", "image": "11"}
    for task, asked, answered in (
        ("cap", "Interpret what the image shows.", "A polyp in the colon."),
        ("3tasks", "Where is the location of polyp?", "{<40><12><160><216>}"),
    ):
        turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answered}]
        file = f"ColonINST/Json-file/train/ColonINST-train-{task}.json"
        downloads.array(file, [record | {"conversations": turns}])


def write_own(downloads: Downloads) -> None:
    """A CSV file and folders of a user's own."""
    downloads.images("mine", "a.png", "b.png")
    downloads.table("mine/rows.csv", [{"image": "a.png", "text": "A, clear."}, {"image": "b.png", "text": "B."}])
    downloads.text("mine/a.txt", "A caption.\n")
    downloads.images("classes", "no_finding/1.png", "nodule/2.PNG")


def write_all(folder: Path) -> None:
    """All stand-ins in one folder."""
    downloads = Downloads(folder)
    for write in (
        write_pmcoa,
        write_vqarad_text,
        write_textplus,
        write_llava_med,
        write_pmcvqa,
        write_vqarad,
        write_slake,
        write_pathvqa,
        write_vqamed,
        write_coloninst,
        write_own,
    ):
        write(downloads)
