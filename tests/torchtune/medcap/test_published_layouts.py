"""A download that can be scored can be converted: converters and tasks accept the same folders and files."""

import os

import pytest

from helpers.downloads import Downloads, picture, rows_of, said
from medcap.datasets.converters.pathvqa import PathVqa
from medcap.datasets.converters.pmcvqa import PmcVqa
from medcap.datasets.converters.slake import Slake
from medcap.datasets.converters.vqamed import VqaMed
from medcap.datasets.converters.vqarad_qa import VqaRadQuestions
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.registry import TASKS

RAD = ("VQA_RAD", "VQA-RAD", "vqa-rad", "vqa_rad", "vqarad")
SLAKE = ("Slake1.0", "Slake", "SLAKE", "slake", "Slake/Slake1.0", "SLAKE-vqa-english")
PATH = ("path-vqa", "PathVQA", "pathvqa", "path_vqa", "pvqa", "pvqa/pvqa")
PMC = ("PMC-VQA", "PMC_VQA", "pmc-vqa", "pmc_vqa", "pmcvqa")
HUB = ("data/{}-00000-of-00001.parquet", "{}-00000-of-00001.parquet", "default/{}/0000.parquet", "{}.parquet")


def with_defaults(first, second, *more):
    """Each of several lists' items beside the first item of the others."""
    return list(
        dict.fromkeys([(name, second[0], *more) for name in first] + [(first[0], name, *more) for name in second])
    )


@pytest.fixture
def downloads(tmp_path):
    return Downloads(tmp_path / "datasets")


def check(downloads, converter, task, question="What is it?", answer="cyst"):
    """Convert the training split and load the test split: both hold the one question, with an image that is there."""
    (written,) = downloads.convert(converter)
    (row,) = rows_of(written)
    assert said(row) == [f"<image>\n\n{question}", answer]
    assert os.path.isfile(os.path.join(row["meta"].removeprefix("dir="), row["image"]))
    work = downloads.folder.parent / "work"
    (loaded,) = TASKS[task]().load(downloads.folder, LoadOptions(work_folder=work)).rows
    assert (loaded.text, loaded.references[0], loaded.problem) == ("What is it?", "cyst", None)
    assert os.path.isfile(loaded.image.path)


@pytest.mark.parametrize("folder", [*RAD, *SLAKE, *PATH])
@pytest.mark.parametrize("file", HUB)
def test_the_hub_s_copies(downloads, folder, file):
    row = {"image": {"bytes": picture(), "path": None}, "question": "What is it?", "answer": "cyst"}
    for split in ("train", "test"):
        downloads.parquet(f"{folder}/{file.format(split)}", [row])
    if folder in RAD:
        check(downloads, VqaRadQuestions(), "vqarad")
    else:
        check(downloads, *((Slake(), "slake") if folder in SLAKE else (PathVqa(), "pathvqa")))


@pytest.mark.parametrize(
    ("folder", "images"), with_defaults(RAD, ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images"))
)
def test_vqarad(downloads, folder, images):
    downloads.images(f"{folder}/{images}", "x.jpg")
    row = {"image_name": "x.jpg", "question": "What is it?", "answer": "cyst"}
    rows = [row | {"phrase_type": phrase} for phrase in ("freeform", "test_freeform")]
    downloads.array(f"{folder}/VQA_RAD Dataset Public.json", rows)
    check(downloads, VqaRadQuestions(), "vqarad")


@pytest.mark.parametrize("folder", SLAKE)
def test_slake(downloads, folder):
    downloads.images(f"{folder}/imgs", "x/source.jpg")
    row = {"img_name": "x/source.jpg", "question": "What is it?", "answer": "cyst", "q_lang": "en"}
    for split in ("train", "test"):
        downloads.array(f"{folder}/{split}.json", [row])
    check(downloads, Slake(), "slake")


@pytest.mark.parametrize(
    ("folder", "file", "images", "image"),
    [
        *with_defaults(PATH, ("{}.json", "{}.jsonl", "{}_qa.json", "{}_vqa.json", "qas/{}/a.json"), "images", "x"),
        *((PATH[0], "{}.json", images, "x") for images in ("images/{}", "{}", "")),
        (PATH[0], "{}.json", "images", "{}/x.jpg"),
    ],
)
@pytest.mark.parametrize("conversations", [False, True])
def test_pathvqa(downloads, folder, file, images, image, conversations):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "cyst"}]
    for split in ("train", "test"):
        name = image.format(split)
        downloads.images(f"{folder}/{images.format(split)}", f"{name.removesuffix('.jpg')}.jpg")
        own = {"conversations": turns} if conversations else {"question": "What is it?", "answer": "cyst"}
        downloads.array(f"{folder}/{file.format(split)}", [{"image": name} | own])
    check(downloads, PathVqa(), "pathvqa")


@pytest.mark.parametrize(
    ("folder", "images"),
    with_defaults(
        PMC, ("images", "figures", "images_2", "images2", "images/images", "images_2/figures", "images2/figures")
    ),
)
@pytest.mark.parametrize(("version", "files"), [("1", "{}.csv"), ("2", "{}_2.csv"), ("2", "{}2.csv")])
def test_pmcvqa(downloads, folder, images, version, files):
    downloads.images(f"{folder}/{images}", "x.jpg")
    row = {"Figure_path": "x.jpg", "Question": "What is it?", "Answer": "A"}
    choices = {"Choice A": "A:cyst", "Choice B": "B:mass", "Choice C": "C:c", "Choice D": "D:d"}
    for split in ("train", "test"):
        downloads.table(f"{folder}/{files.format(split)}", [row | choices])
    check(downloads, PmcVqa(version, "hidden"), "pmcvqa")


@pytest.mark.parametrize("train", ["VQA-Med-2019/ImageClef-2019-VQA-Med-Training", "VQA-Med-2019", ""])
@pytest.mark.parametrize("images", ["{}", "{0}/{0}", "images"])
def test_vqamed_2019(downloads, train, images):
    train = train or "ImageClef-2019-VQA-Med-Training"
    test = train.replace("ImageClef-2019-VQA-Med-Training", "VQAMed2019Test")
    downloads.images(f"{train}/{images.format('Train_images')}", "x.jpg")
    downloads.text(f"{train}/All_QA_Pairs_train.txt", "x|What is it?|cyst\n")
    downloads.images(f"{test}/{images.format('VQAMed2019_Test_Images')}", "x.jpg")
    downloads.text(f"{test}/VQAMed2019_Test_Questions_w_Ref_Answers.txt", "x|modality|What is it?|cyst#mass\n")
    check(downloads, VqaMed(), "vqamed")


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("top", ["VQA-Med-2021/", ""])
def test_vqamed_2021(downloads, inside, top):
    validation = f"{top}VQA-Med-2021-Tasks-1-2-NewValidationSets" if inside or not top else "VQA-Med-2021"
    test = f"{top}Task1-VQA-2021-TestSet-w-GroundTruth" if inside or not top else "VQA-Med-2021"
    downloads.images(f"{validation}/ImageCLEF-2021-VQA-Med-New-Validation-Images", "x.jpg")
    downloads.text(f"{validation}/VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt", "x|What is it?|cyst\n")
    downloads.images(f"{test}/VQA-500-Images", "x.jpg")
    downloads.text(f"{test}/Task1-VQA-2021-TestSet-Questions.txt", "x|What is it?\n")
    downloads.text(f"{test}/Task1-VQA-2021-TestSet-ReferenceAnswers.txt", "x|cyst|mass\n")
    check(downloads, VqaMed("2021", "validation"), "vqamed")
