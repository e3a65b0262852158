"""10,000 random pairs of texts, malformed ones among them, by the protocols and by a plain transcription."""

import random

import pytest

from helpers import published_boxes as published
from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.protocols.grounding.bird import extract_information
from medcap.scoring.protocols.registry import make_protocol

COUNT = 10_000
BREAKS = ["", "", "", "\n", "\n\n", " ", "<|endoftext|>", "<|im_end|>\n", ".<|im_end|>", "<|IM_END|>", "assistant\n"]


def corners(random_):
    box = [random_.randint(0, 40) for _ in range(4)]
    kind = random_.random()
    if kind < 0.8:  # a rectangle
        left, right = sorted(box[::2])
        top, bottom = sorted(box[1::2])
        return [left, top, right + 1, bottom + 1]
    return box if kind < 0.95 else [box[0], box[1], box[0] - 1, box[1] - 1]  # swapped, or of area 0 with both ends


def number(random_, value):
    return random_.choice([str(value)] * 12 + [f" {value} ", f"{value}.5", f"-{value}", f"0{value}", "", "x", "１２"])


def numbers(random_, box):
    count = random_.choice([4] * 12 + [0, 1, 2, 3, 5, 6, 8])
    return [number(random_, value) for value in (box * 2)[:count]]


def near(random_, box):
    return [value + random_.randint(-2, 2) for value in box]


def coloninst(random_, box, clean):
    values = [str(value) for value in box] if clean else numbers(random_, box)
    return "{" + "".join(f"<{value}>" for value in values) + "}"


def qwen(random_, box, clean):
    values = [str(value) for value in box] if clean else numbers(random_, box)
    text = ",".join(values)
    if len(values) == 4:
        text = f"({values[0]},{values[1]}),({values[2]},{values[3]})"
    tag = clean or random_.random() < 0.8
    return f"<ref>liver</ref><box>{text}</box>" if tag else text


def around(random_, text):
    words = ["", "", "", "The box is ", "polyp ", "Yes. ", "<box> ", "9 "]
    return (
        random_.choice(BREAKS) + random_.choice(words) + text + random_.choice([*words, "."]) + random_.choice(BREAKS)
    )


def pairs(write, seed):
    """Reference and prediction: near or not, whole or broken, one box, two or none."""
    random_ = random.Random(seed)
    for _ in range(COUNT):
        boxes = [corners(random_) for _ in range(random_.choice([1] * 8 + [0, 2, 3]))]
        reference = " ".join(write(random_, box, True) for box in boxes) or random_.choice(["none", "", "A polyp."])
        given = [near(random_, box) if random_.random() < 0.7 else corners(random_) for box in boxes or [[1, 2, 3, 4]]]
        given = given[: random_.choice([0, 1, 1, 1, 1, 2, 3])]
        prediction = " ".join(write(random_, box, random_.random() < 0.6) for box in given)
        yield reference, around(random_, prediction) if random_.random() < 0.5 else prediction


def answers(write, seed, task=""):
    random_ = random.Random(seed + 1)
    rows = []
    for index, (reference, prediction) in enumerate(pairs(write, seed)):
        image = f"{random_.choice(published.EIGHT)}_{index % 60}.png"
        groups = {"task": task, "patient": str(index % 60)}
        rows.append(make_answer(str(index), "", (reference,), prediction, groups=groups, image=image))
    return rows


@pytest.mark.slow
def test_colongpt_boxes():
    rows = answers(coloninst, 11, "REC")
    expected = [published.colongpt_iou(row.prediction, row.question.references[0]) for row in rows]
    result = make_protocol("colongpt").score(rows)
    assert [row["rec.mean_iou"] for row in result.rows] == expected
    assert result.scores["rec.mean_iou"] == sum(expected) / COUNT
    hits = sum(value > 0.5 for value in expected)
    assert (result.scores["rec.precision"], result.scores["rec.recall"]) == (hits / COUNT, hits / 4 / COUNT)
    assert 1_000 < hits < 7_000
    assert 2_000 < result.counts["rec.unparsed"] < 8_000


@pytest.mark.slow
@pytest.mark.parametrize("task", ["CLS", "REG"])
def test_colongpt_words(task):
    random_ = random.Random(5)
    words = ["polyp", "Polyp", "POLYP", "polyp.", " polyp", "polyp<|endoftext|>", "adenoma", "ß", "SS", "İ", ""]
    rows = [
        make_answer(str(i), "", (random_.choice(words),), random_.choice(words), groups={"task": task})
        for i in range(COUNT)
    ]
    expected = [published.colongpt_right(row.prediction, row.question.references[0]) for row in rows]
    result = make_protocol("colongpt").score(rows)
    assert [row["correct"] for row in result.rows] == expected
    assert result.scores[f"{task.lower()}.accuracy"] == sum(expected) / COUNT
    assert 0.1 < sum(expected) / COUNT < 0.5


@pytest.mark.slow
def test_bird_vg():
    rows = answers(qwen, 23)
    expected = [published.bird_vg_hits(row.prediction, row.question.references[0]) for row in rows]
    result = make_protocol("bird_vg").score(rows)
    assert [(row.get("hits", 0), row.get("targets", 0)) for row in result.rows] == expected
    modalities = [row.question.image_names[0].split("_")[0] for row in rows]
    mean, parts = published.mean_of_eight(modalities, *zip(*expected, strict=True))
    assert result.scores == {"recall": mean, **{f"{name}.recall": value for name, value in parts.items()}}
    assert 0.1 < mean < 0.8
    assert sum(hits > 1 for hits, _ in expected) > 30


@pytest.mark.slow
def test_bird_ro():
    random_ = random.Random(8)
    words = ["liver", "Liver", "left", "kidney", "lesion", "normal", "or", ".", "no", "the"]
    rows = []
    for index in range(COUNT):
        reference = " ".join(random_.choices(words, k=random_.randint(1, 3))) + random_.choice(["", "", " ", "\n"])
        prediction = around(random_, " ".join(random_.choices(words, k=random_.randint(0, 6))))
        image = f"{random_.choice(published.EIGHT[:5])}_{index % 40}.png"
        rows.append(make_answer(str(index), "", (reference,), prediction, image=image))
    expected = [published.bird_ro_right(row.prediction, row.question.references[0]) for row in rows]
    result = make_protocol("bird_ro").score(rows)
    assert [row["correct"] for row in result.rows] == expected
    modalities = [row.question.image_names[0].split("_")[0] for row in rows]
    mean, parts = published.mean_of_eight(modalities, expected, [1] * COUNT)
    assert result.scores["accuracy"] == mean
    assert result.scores["ct.accuracy"] == parts["ct"]
    assert "modalities without a row, which count 0 in the mean over eight: dermoscopy, fundus, ultrasound" in (
        result.notices
    )
    assert 0.1 < sum(expected) / COUNT < 0.6


def test_extract_information():
    assert extract_information("assistant\nThe answer\nmore") == "The answer"
    assert extract_information("Lesion<|endoftext|><|endoftext|>") == "Lesion"
    assert extract_information("A mass.<|im_end|>\nand more.<|im_end|>") == "A mass."
    random_ = random.Random(2)
    for _ in range(2_000):
        text = "".join(random_.choices([*BREAKS, "\n", "a", "liver", ".", "\r"], k=random_.randint(0, 9)))
        assert extract_information(text) == published.extract(text)


def test_a_target_that_is_not_made_of_numbers_ends_the_published_program_and_names_the_row_here():
    reference, box = "<box>liver</box>", "<box>(1,2),(3,4)</box>"
    with pytest.raises(ValueError, match="could not convert"):
        published.bird_vg_hits(box, reference)
    row = make_answer("q7", "", (reference,), box, image="ct_1.png")
    with pytest.raises(UserError, match="row q7: its reference holds '<box>liver</box>'"):
        make_protocol("bird_vg").score([row])
    silent = make_answer("q7", "", (reference,), "I see nothing", image="ct_1.png")
    assert make_protocol("bird_vg").score([silent]).scores["ct.recall"] == 0.0
