"""Phantoms: the drawing, the truth beside it, and the files."""

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcap.datasets.phantoms.drawing import bounding_box, draw
from medcap.datasets.phantoms.records import (
    CENTRES,
    KINDS,
    MODALITIES,
    OPTIONS,
    OUTLINES,
    QUESTION_TYPES,
    RADII,
    SIZES,
    make_phantom,
    make_questions,
    text_records,
)
from medcap.datasets.phantoms.writing import check_disjoint, write_phantoms
from medcap.errors import UserError


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "train"
    write_phantoms(folder, count=6, seed=3)
    return folder


def test_a_phantom_depends_on_its_seed_and_index_alone():
    assert make_phantom(3, 4) == make_phantom(3, 4)
    assert len({make_phantom(seed, index).centre for seed in range(4) for index in range(50)}) == 200


def test_the_caption_names_every_attribute():
    phantom = dataclasses.replace(
        make_phantom(0, 0),
        modality="korvogram",
        kind="nodule",
        size="large",
        brightness="bright",
        outline="spiky",
        place="upper left",
    )
    assert phantom.caption == "A korvogram showing a large bright nodule with a spiky outline in the upper left."


def test_questions_hold_each_type_once_and_answer_with_one_of_their_options():
    for index in range(30):
        questions = make_questions(make_phantom(1, index))
        assert tuple(question.question_type for question in questions) == QUESTION_TYPES
        for question in questions:
            assert not question.closed or question.answer in question.options
            if question.question_type in OPTIONS:
                assert all(option in question.text for option in question.options)


def test_yes_and_no_questions_are_true_and_even():
    answers = Counter()
    for index in range(400):
        phantom = make_phantom(2, index)
        for question in make_questions(phantom):
            if question.question_type == "kind_check":
                assert (phantom.kind in question.text) == (question.answer == "yes")
                answers[question.answer] += 1
    assert 160 < answers["yes"] < 240


def test_fewer_questions_are_of_different_types():
    questions = make_questions(make_phantom(1, 5), 3)
    assert len({question.question_type for question in questions}) == 3


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("brightness", ["bright", "dark"])
def test_the_lesion_stands_out_from_its_surroundings_in_every_modality(modality, brightness):
    for index in range(6):
        phantom = dataclasses.replace(make_phantom(5, index), modality=modality, brightness=brightness)
        image, mask = draw(phantom, 64)
        x1, y1, x2, y2 = bounding_box(mask)
        around = np.zeros_like(mask)
        around[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
        difference = image[mask].mean() - image[around & ~mask].mean()
        assert difference > 60 if brightness == "bright" else difference < -45


@pytest.mark.parametrize("position", list(CENTRES))
def test_every_lesion_lies_inside_the_image_and_around_its_place(position):
    for kind in KINDS:
        for outline in OUTLINES:
            phantom = dataclasses.replace(
                make_phantom(0, 0),
                kind=kind,
                outline=outline,
                size="large",
                place=position,
                centre=CENTRES[position],
                radius=RADII["large"],
            )
            mask = draw(phantom, 96)[1]
            x1, y1, x2, y2 = bounding_box(mask)
            assert x1 > 0 and y1 > 0 and x2 < 96 and y2 < 96
            assert abs((x1 + x2) / 2 / 96 - CENTRES[position][0]) < 0.03
            assert abs((y1 + y2) / 2 / 96 - CENTRES[position][1]) < 0.06


def test_the_same_scene_appears_at_every_resolution():
    for index in range(8):
        phantom = make_phantom(9, index)
        small, small_mask = draw(phantom, 64)
        large, large_mask = draw(phantom, 256)
        shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(shrunk - small).mean() < 6
        # A spike's tip is thinner than a pixel of the small image, whose mask ends that much earlier.
        assert np.allclose(np.array(bounding_box(large_mask)) / 4, bounding_box(small_mask), atol=3)


@pytest.mark.slow
def test_sizes_do_not_overlap():
    areas = {size: [] for size in SIZES}
    for index in range(200):
        phantom = dataclasses.replace(make_phantom(1, index), kind="nodule", outline="smooth")
        areas[phantom.size].append(int(draw(phantom, 64)[1].sum()))
    assert max(areas["small"]) < min(areas["medium"]) and max(areas["medium"]) < min(areas["large"])


def test_the_box_is_half_open():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:5, 3:9] = True
    assert bounding_box(mask) == [3, 2, 9, 5]


def test_the_files_hold_the_truth_of_the_pictures(small_set):
    records, captions = _lines(small_set / "records.jsonl"), json.loads((small_set / "captions.json").read_text())
    assert len(records) == len(captions) == 6
    for record, caption in zip(records, captions, strict=True):
        phantom = make_phantom(3, record["index"])
        image, mask = draw(phantom, 64)
        assert np.array_equal(np.asarray(Image.open(small_set / record["image"])), image)
        assert np.array_equal(np.asarray(Image.open(small_set / record["mask"])) == 255, mask)
        assert record["box"] == bounding_box(mask) and record["class"] == phantom.kind
        assert caption == {
            "conversations": [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": phantom.caption}],
            "image": record["image"],
            "meta": f"dir={small_set}",
        }
    assert json.loads((small_set / "phantom.json").read_text()) == {
        "format_version": 1,
        "seed": 3,
        "count": 6,
        "image_size": 64,
        "questions_per_image": 9,
    }


def test_training_and_evaluation_files_ask_the_same_questions(small_set):
    training, evaluation = _lines(small_set / "questions.jsonl"), _lines(small_set / "vqa.jsonl")
    assert len(training) == 54
    # A description has many right wordings, so it is no row of an exact-match test.
    training = [record for record in training if not record["id"].endswith("-description")]
    assert len(training) == len(evaluation) == 48
    for record, row in zip(training, evaluation, strict=True):
        human, answer = record["conversations"]
        assert human["value"] == f"<image>\n{row['question']}" and answer["value"] == row["reference"]
        assert record["id"] == row["question_id"] and record["image"] == row["image"]
        assert row["answer_type"] == ("CLOSED" if row["options"] else "OPEN")
        assert (small_set / row["image"]).is_file()


def test_the_same_request_writes_the_same_bytes_and_then_nothing(small_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        assert write_phantoms(Path(name) / "set", count=3, seed=8, questions_per_image=4).written
    a, b = _digest(Path("a/set")), _digest(Path("b/set"))
    assert {name for name in a if a[name] != b[name]} == {"captions.json"}
    before = (tmp_path / "a/set/vqa.jsonl").stat().st_mtime_ns
    again = write_phantoms(Path("a/set"), count=3, seed=8, questions_per_image=4)
    assert not again.written and again.questions == 12
    assert (tmp_path / "a/set/vqa.jsonl").stat().st_mtime_ns == before


def test_a_larger_set_begins_with_the_smaller_one(small_set, tmp_path):
    write_phantoms(tmp_path / "set", count=2, seed=3)
    for name in ("images/000001.png", "masks/000001.png"):
        assert (tmp_path / "set" / name).read_bytes() == (small_set / name).read_bytes()


def test_an_interrupted_set_is_taken_up_again(small_set, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "phantom.json.unfinished").write_text((small_set / "phantom.json").read_text())
    assert write_phantoms(folder, count=6, seed=3).written
    assert (folder / "phantom.json").is_file() and not (folder / "phantom.json.unfinished").exists()


def test_a_folder_with_other_phantoms_or_files_is_refused(small_set, tmp_path):
    with pytest.raises(UserError, match=r"seed 3 \(asked for 4\)"):
        write_phantoms(small_set, count=6, seed=4)
    with pytest.raises(UserError, match=r"count 6 \(asked for 7\)"):
        write_phantoms(small_set, count=7, seed=3)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        write_phantoms(tmp_path, count=1, seed=0)
    with pytest.raises(UserError, match="is a file"):
        write_phantoms(tmp_path / "mine.txt", count=1, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"image_size": 8}, "image_size"),
        ({"questions_per_image": 11}, "questions_per_image"),
        ({"out": "a;b"}, "out"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, key):
    arguments = {"out": "set", "count": 1, "seed": 0, **arguments}
    with pytest.raises(UserError, match=f"^{key}:"):
        write_phantoms(tmp_path / arguments.pop("out"), **arguments)


def test_training_and_test_sets_of_one_seed_are_refused(small_set, tmp_path):
    write_phantoms(tmp_path / "other", count=1, seed=4)
    check_disjoint(small_set, tmp_path / "other")
    write_phantoms(tmp_path / "same", count=1, seed=3)
    with pytest.raises(UserError, match="seed 3"):
        check_disjoint(small_set, tmp_path / "same")
    with pytest.raises(UserError, match="not a complete set"):
        check_disjoint(small_set, tmp_path / "none")


def test_text_records_describe_every_attribute_and_ask_in_the_words_of_the_questions():
    asked = set()
    for record in text_records(300, seed=6):
        human, gpt = (turn["value"] for turn in record["conversations"])
        phantom = make_phantom(6, int(record["id"].split("-")[-1]))
        assert all(value in human for value in phantom.attributes.values())
        if gpt != phantom.caption:
            asked.add(human.endswith(("?", ".")) and gpt)
    assert {"yes", "no", "korvogram", "ring", "upper left", "spiky"} <= asked


@pytest.mark.slow
def test_a_blind_guesser_finds_about_thirty_seven_percent():
    seen, guessed = {}, []
    for index in range(1500):
        for question in make_questions(make_phantom(0, index)):
            if question.closed:
                seen.setdefault(question.text, Counter())[question.answer] += 1
    for answers in seen.values():
        guessed.append((max(answers.values()), sum(answers.values())))
    right, total = (sum(column) for column in zip(*guessed, strict=True))
    assert 0.35 < right / total < 0.43
