"""Questions about regions from a file, their failures, and the controls that exchange images and regions."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from helpers.recorded_engine import fake_engine
from medcap.data.regions.region import BoxShape, PointShape, Region, RunLength
from medcap.data.row_regions import regions_of
from medcap.errors import UserError
from medcap.evaluation.control_runs import chosen_controls
from medcap.evaluation.controls import exchanged_regions, no_image, shuffled_images
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.regions.region_vqa import RegionVqaTask
from medcap.generation.request import Generation

ASK = "What is <region></region>?"
LEFT, RIGHT = Region(BoxShape((0.0, 0.0, 4.0, 4.0))), Region(BoxShape((4.0, 0.0, 8.0, 4.0)))


def row(image, region, reference, question=ASK):
    return {"image": image, "question": question, "regions": [region], "reference": reference, "options": ["a", "b"]}


ROWS = [
    row("wide.png", [0, 0, 4, 4], "a"),
    row("wide.png", [4, 0, 8, 4], "b"),
    row("tall.png", {"mask": "half.png"}, "b"),
    row("tall.png", {"point": [1, 2], "radius": 2}, "a"),
    row("tall.png", [0, 0, 2, 2], "a", "And <region></region>?"),
]


@pytest.fixture
def load(tmp_path):
    Image.new("L", (8, 4)).save(tmp_path / "wide.png")
    Image.new("L", (4, 16)).save(tmp_path / "tall.png")
    half = np.zeros((16, 4), np.uint8)
    Image.fromarray(half).save(tmp_path / "empty.png")
    half[:8] = 1
    Image.fromarray(half).save(tmp_path / "half.png")

    def of(rows):
        (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return RegionVqaTask().load(tmp_path / "test.jsonl")

    return of


def test_regions_are_parts_of_the_question_and_masks_are_read(load):
    rows = load(ROWS).rows
    assert [question.problem for question in rows] == [None] * 5
    assert regions_of(rows[1].messages) == [RIGHT] and rows[1].image_size == (8, 4)
    assert rows[0].text == ASK and rows[4].text == "And <region></region>?"
    assert regions_of(rows[2].messages)[0].shape == RunLength((16, 4), regions_of(rows[2].messages)[0].shape.counts)
    medplib = {"image": "tall.png", "question": "What is <region>half.png</region>?", "reference": "b"}
    assert regions_of(load([medplib]).rows[0].messages) == regions_of(rows[2].messages)
    turns = [{"from": "human", "value": "<image>\n" + ASK}, {"from": "gpt", "value": "a"}]
    both = {"image": "wide.png", "conversations": turns * 2, "regions": [[0, 0, 4, 4], [4, 0, 8, 4]]}
    assert [regions_of(question.messages) for question in load([both]).rows] == [[LEFT], [RIGHT]]


def test_a_region_that_cannot_be_used_is_a_failure_and_no_region_is_an_error(load):
    bad = [
        row("wide.png", {"mask": "half.png"}, "a"),
        row("tall.png", {"mask": "empty.png"}, "a"),
        row("tall.png", {"mask": "none.png"}, "a"),
        row("wide.png", {"box": [0, 0, 4, 4], "image": 1}, "a"),
        row("none.png", [0, 0, 4, 4], "a"),
    ]
    problems = [question.problem for question in load([*ROWS, *bad]).rows[5:]]
    for problem, words in zip(
        problems,
        ("a mask has the size of the original image", "holds no pixel", "none.png", "region on image 1", "none.png"),
        strict=True,
    ):
        assert words in problem
    with pytest.raises(UserError, match="row 0: a question names no region: write <region></region>"):
        load([{"image": "wide.png", "question": "What is it?", "reference": "a"}])
    with pytest.raises(UserError, match="row 0: 1 <region></region> in its questions but 2 regions under 'regions'"):
        load([{**ROWS[0], "regions": [[0, 0, 4, 4]] * 2}])


def test_the_control_asks_about_another_region_of_the_image(load):
    rows = load(ROWS).rows
    exchanged = exchanged_regions(rows)
    assert [regions_of(one.messages) for one in exchanged[:2]] == [[RIGHT], [LEFT]]
    assert [one.text for one in exchanged] == [question.text for question in rows]
    assert [one.references for one in exchanged] == [question.references for question in rows]
    assert [regions_of(one.messages) for one in exchanged[2:]] == [
        regions_of(rows[number].messages) for number in (3, 4, 2)
    ]
    with pytest.raises(UserError, match="regions cannot be exchanged: no image has questions about two regions"):
        exchanged_regions(load([ROWS[0], ROWS[2]]).rows)


def test_on_another_image_a_region_covers_the_same_share_and_without_one_it_is_words(load):
    rows = load(ROWS).rows
    shuffled = shuffled_images(rows)
    assert regions_of(shuffled[0].messages) == [Region(BoxShape((0.0, 0.0, 2.0, 16.0)))]
    assert regions_of(shuffled[3].messages) == [Region(PointShape(2.0, 0.5, 2 * 0.5**0.5))]
    assert regions_of(shuffled[2].messages)[0].shape.size == (4, 8)
    assert regions_of(no_image(rows)[0].messages) == [] and no_image(rows)[0].text == ASK


@pytest.mark.slow
def test_the_task_is_scored_beside_its_controls(load, tmp_path):
    def generate(requests, on_result):
        for index, request in enumerate(requests):
            regions = regions_of(request.messages)
            on_result(index, Generation("b" if regions and regions[0] in (RIGHT, mask) else "a", [1]))

    benchmark = load(ROWS)
    (mask,) = regions_of(benchmark.rows[2].messages)
    plans = plan_protocols(["exact"])
    wanted = chosen_controls(True, benchmark.rows, plans)
    options = RunOptions(tmp_path / "out", {"seed": 1}, controls=wanted)
    result = run_task(RegionVqaTask(), benchmark, plans, fake_engine(generate), options)
    assert result["scores"]["accuracy"] == 1.0
    assert list(result["controls"]) == ["shuffled_image", "no_image", "exchanged_region"]
    assert result["controls"]["exchanged_region"]["scores"]["accuracy"] == 0.2
    asked = Counter(json.loads(line)["question"] for line in (tmp_path / "out/region_vqa/predictions.jsonl").open())
    assert asked == {ASK: 4, "And <region></region>?": 1}


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What is <region>?", "<region>"),
        ("What is <REGION></REGION>?", "<REGION>"),
        ("What is </region><region>?", "</region>"),
        ("Is <region></region> like <region>?", "<region>"),
        ("What is <regions></regions>?", "<regions>"),
    ],
)
def test_half_a_tag_and_a_misspelt_one_are_named(load, question, named):
    with pytest.raises(
        UserError, match=f"row 0: a question holds '{named}', which is no <region></region>: write both"
    ):
        load([row("wide.png", [0, 0, 4, 4], "a", question)])
