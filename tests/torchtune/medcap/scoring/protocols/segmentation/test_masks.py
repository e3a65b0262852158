from dataclasses import replace

import numpy as np
import pytest

from helpers.mask_rows import mask_of, mask_row
from medcap.data.regions.region import BoxShape, Region
from medcap.errors import UserError
from medcap.scoring.protocols.base import nested
from medcap.scoring.protocols.registry import make_protocol

HALF = mask_of("##..", "##..")
LEFT = mask_of("#...", "#...")
FAR = mask_of("...#", "...#")
EMPTY = mask_of("....", "....")


def score(*rows):
    return make_protocol("masks").score(rows)


def test_golden_values():
    result = score(
        mask_row("1", [HALF], [HALF]),
        mask_row("2", [HALF], [LEFT]),
        mask_row("3", [HALF], [FAR]),
        mask_row("4", [EMPTY], [EMPTY]),
        mask_row("5", [None], [LEFT]),
    )
    assert [row["mean_dice"] for row in result.rows] == [1.0, 2 / 3, 0.0, 1.0, 0.0]
    assert [row["mean_iou"] for row in result.rows] == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert result.scores["mean_dice"] == pytest.approx((1 + 2 / 3 + 1) / 5)
    assert result.scores["mean_iou"] == pytest.approx(2.5 / 5)
    assert result.scores["mean_dice_present"] == pytest.approx((1 + 2 / 3) / 3)
    assert result.scores["mean_iou_present"] == 0.5
    assert result.scores["false_positive_rate"] == 0.5
    assert result.scores["hd95"] == pytest.approx((0 + 1 + 3) / 3)
    wanted = {"n": 5, "failures": 0, "present": 3, "absent": 2, "hd95_n": 3}
    assert {name: result.counts[name] for name in wanted} == wanted
    assert [row["correct"] for row in result.rows] == [True, True, False, True, False]
    assert result.notices == []
    nested({**result.counts, **result.scores})  # no name stands for two things


def test_answers_without_a_mask():
    result = score(
        mask_row("silent", [HALF], None, words="I cannot outline it."),
        mask_row("nothing", [HALF], [], words="none"),
        mask_row("gone", [HALF], None),
        mask_row("right", [None], None, words="There is no lesion."),
        mask_row("lost", [None], None),
    )
    assert [row["mean_dice"] for row in result.rows] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert result.scores["false_positive_rate"] == 0.0
    assert (result.counts["failures"], result.counts["without_mask"]) == (2, 2)
    assert result.notices == [
        "rows without an answer, which count 0: 2 of 5 (the first is gone)",
        "answers without a mask for an object that is there, which count 0: 2 of 5 (the first is silent)",
    ]


def test_masks_that_cannot_be_read_and_masks_too_many():
    broken = replace(mask_row("broken", [HALF, FAR], [HALF, FAR]), bad_masks=((0, "it is damaged"),))
    absent = replace(mask_row("absent", [None], [HALF]), bad_masks=((0, "it is damaged"),))
    unread = mask_row("unread", [("liver", HALF)], [HALF])
    unread = replace(unread, question=replace(unread.question, problem="mask a.png does not exist"))
    result = score(broken, absent, unread, mask_row("more", [HALF], [HALF, FAR, EMPTY]))
    assert [row["mean_dice"] for row in result.rows] == [0.5, 0.0, 0.0, 0.5]
    assert result.scores["false_positive_rate"] == 1.0
    assert result.scores["per_class.liver.mean_dice"] == 0.0
    assert result.notices == [
        "rows whose reference cannot be read, which count 0: 1 of 4 (unread: mask a.png does not exist)",
        "answers with a mask that cannot be read, which counts 0: 2 of 4 (broken: it is damaged;"
        " absent: it is damaged)",
        "answers with masks that belong to no object of the row: 1 of 4 (the first is more)",
    ]


def test_masks_belong_together_by_label_or_by_order():
    both = [("liver", HALF), ("spleen", FAR)]
    by_label = mask_row("label", both, [("Spleen ", FAR), ("liver", HALF)])
    by_order = mask_row("order", both, [HALF, FAR])
    other_words = mask_row("words", both, [("first", HALF), ("second", FAR)])
    mixed = mask_row("mixed", both, [("spleen", FAR), HALF])
    assert [row["mean_dice"] for row in score(by_label, by_order, other_words, mixed).rows] == [1.0] * 4
    # A mask that is named as something else is none of the spleen, and one too many.
    kidney = mask_row("kidney", [("liver", HALF), ("spleen", None)], [("liver", HALF), ("kidney", FAR)])
    result = score(kidney)
    assert result.rows[0]["mean_dice"] == pytest.approx(2 / 3)
    assert result.scores["false_positive_rate"] == 0.0
    found = score(mask_row("found", [("liver", HALF), ("spleen", None)], [("spleen", FAR)]))
    assert found.rows[0]["mean_dice"] == 0.0
    assert found.scores["false_positive_rate"] == 1.0


def test_classes():
    result = score(
        mask_row("1", [("liver", HALF), ("C. difficile", FAR)], [LEFT]),
        mask_row("2", [("Liver", HALF)], [HALF]),
        mask_row("3", [HALF], [HALF]),
    )
    liver = (2 / 3 + 1) / 2
    assert result.scores["per_class.liver.mean_dice"] == pytest.approx(liver)
    assert result.scores["per_class.liver.mean_iou"] == 0.75
    assert result.scores["per_class.liver.hd95"] == 0.5
    assert result.scores["per_class.C_ difficile.mean_dice"] == 0.0
    assert "per_class.C_ difficile.hd95" not in result.scores
    assert result.counts["per_class.liver.n"] == 2
    assert result.scores["mean_class_dice"] == pytest.approx(liver / 2)
    assert result.scores.keys() == result.intervals.keys()


def test_a_mask_of_another_size_is_resized_to_the_reference():
    result = score(mask_row("1", [HALF], [np.kron(LEFT, np.ones((3, 2), bool))]), mask_row("2", [HALF], [HALF]))
    assert result.rows[0]["mean_iou"] == 0.5
    assert result.counts["resized"] == 1
    assert result.notices == [
        "answers with a mask of another size than its reference, resized to it by nearest neighbour: 1 of 2"
        " (the first is 1)"
    ]


def test_a_reference_has_the_size_of_its_image():
    row = mask_row("1", [HALF], [HALF])
    tall = replace(row, question=replace(row.question, image_size=(2, 4)))
    box = replace(row, question=replace(row.question, id="2", masks=(Region(BoxShape((0.0, 0.0, 2.0, 2.0))),)))
    sized = replace(box, question=replace(box.question, id="3", image_size=(4, 2)))
    result = score(tall, box, sized)
    assert [row["mean_dice"] for row in result.rows] == [0.0, 0.0, 1.0]
    assert (
        "1: the run-length of a region has 4 x 2 pixels and its image 2 x 4: a mask has the size" in result.notices[0]
    )
    assert "2: a box, a point or a polygon is drawn on its image: give the row 'image_size'" in result.notices[0]


def test_rows_without_masks():
    text = mask_row("text", None, None, words="a lung")
    result = score(text, mask_row("1", [], [], words="none"))
    assert result.rows[0] == {"question_id": "text", "correct": None, "value": None}
    assert result.scores["mean_dice"] == 1.0  # an empty list asks for something that is absent
    with pytest.raises(UserError, match="masks: no row asks for a mask"):
        score(text)


def test_intervals_draw_patients():
    rows = [mask_row(str(n), [("a", HALF)], [HALF if n % 2 else FAR], f"{n}.png", patient=str(n % 2)) for n in range(8)]
    result = score(*rows)
    assert result.counts["clusters"] == 2
    for name in ("mean_dice", "mean_iou", "mean_dice_present", "per_class.a.mean_dice", "mean_class_dice"):
        assert (result.intervals[name]["low"], result.intervals[name]["high"]) == (0.0, 1.0)


def strict(truth, mask):
    """Dice and IoU of two nested lists, as sets of pixels."""
    one, two = (
        {(y, x) for y, row in enumerate(rows) for x, value in enumerate(row) if value} for rows in (truth, mask)
    )
    if not one and not two:
        return 1.0, 1.0
    return 2 * len(one & two) / (len(one) + len(two)), len(one & two) / len(one | two)


@pytest.mark.slow
def test_equal_to_the_formulas_on_thousands_of_random_pairs():
    generator = np.random.default_rng(8)
    rows, expected, false, absent = [], [], 0, 0
    for number in range(1500):
        shape = tuple(generator.integers(1, 9, 2))
        truth, mask = (generator.random(shape) < generator.choice([0, 0.1, 0.5, 0.9, 1]) for _ in range(2))
        row = mask_row(str(number), [truth], [mask], f"ct_{number // 3}.png")
        values = strict(truth.tolist(), mask.tolist())
        given = bool(mask.any())
        if generator.random() < 0.2:
            readable = generator.random() < 0.5
            row = mask_row(str(number), [truth], None) if readable else replace(row, bad_masks=((0, "damaged"),))
            values, given = (0.0, 0.0), not readable
        rows.append(row)
        expected.append(values)
        absent += not truth.any()
        false += not truth.any() and given
    result = score(*rows)
    assert result.scores["mean_dice"] == pytest.approx(sum(dice for dice, _ in expected) / 1500, abs=1e-12)
    assert result.scores["mean_iou"] == pytest.approx(sum(iou for _, iou in expected) / 1500, abs=1e-12)
    assert result.scores["false_positive_rate"] == pytest.approx(false / absent, abs=1e-12)
