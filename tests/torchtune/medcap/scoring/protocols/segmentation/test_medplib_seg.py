from dataclasses import replace

import numpy as np
import pytest

from helpers.mask_rows import mask_of, mask_row
from medcap.data.outputs import Outputs
from medcap.data.regions.region import Region, RunLength
from medcap.errors import UserError
from medcap.scoring.protocols.registry import make_protocol

HALF = mask_of("##..", "##..")  # 4 pixels
LEFT = mask_of("#...", "#...")  # 2 of them
FAR = mask_of("...#", "...#")
EMPTY = mask_of("....", "....")


def score(*rows):
    return make_protocol("medplib_seg").score(rows)


def test_golden_values():
    result = score(
        mask_row("1", [HALF], [HALF], "ct_a.png"),
        mask_row("2", [HALF], [LEFT], "ct_b.png"),
        mask_row("3", [HALF], [FAR], "dir/mr_00--x.png"),
    )
    assert result.scores["miou"] == 0.5
    assert result.scores["mdice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert result.scores["giou"] == pytest.approx((4 / 4.00001 + 2 / 4.00001) / 3, abs=1e-15)
    assert result.scores["ciou"] == pytest.approx(6 / (14 + 1e-10), abs=1e-15)
    assert result.scores["per_modality.ct.miou"] == 0.75
    assert result.scores["per_modality.ct.mdice"] == 0.833333
    assert result.scores["per_modality.mr.mdice"] == 0.0
    assert (result.counts["per_modality.ct.n"], result.counts["per_modality.mr.n"]) == (2, 1)
    assert [row["value"] for row in result.rows] == [1.0, 0.5, 0.0]
    assert result.notices == []


def test_empty_masks():
    result = score(
        mask_row("both", [EMPTY], [EMPTY]),
        mask_row("said so", [EMPTY], [], words="none"),
        mask_row("1", [EMPTY], [LEFT]),
    )
    assert [row["giou"] for row in result.rows] == [1.0, 1.0, 0.0]
    assert (result.scores["miou"], result.scores["mdice"], result.scores["ciou"]) == (0.0, 0.0, 0.0)
    assert result.notices == [
        "rows whose masks are both empty, where the published program ends: 0 for IoU and Dice, 1 for gIoU: 2 of 3"
        " (the first is both)"
    ]


def test_failures_stay_in_the_denominators():
    missing, broken = mask_row("missing", [HALF], None), mask_row("broken", [HALF], [HALF])
    broken = replace(broken, bad_masks=((0, "it is damaged"),))
    lost = mask_row("lost", [EMPTY], None)
    unread = mask_row("unread", [None], [HALF])
    unread = replace(unread, question=replace(unread.question, problem="image a.png does not exist"))
    damaged = mask_row("damaged", [HALF], [HALF])
    damaged = replace(damaged, outputs=Outputs(None, (Region(RunLength((2, 4), "714")),)))
    result = score(mask_row("good", [HALF], [HALF]), missing, broken, lost, unread, damaged)
    assert result.scores["miou"] == pytest.approx(1 / 6)
    assert result.scores["giou"] == pytest.approx(4 / 4.00001 / 6)  # nothing is right because it is missing
    assert result.scores["ciou"] == pytest.approx(4 / 16)
    wanted = {"n": 6, "failures": 5, "unreadable_references": 1, "unparsed": 2}
    assert {name: result.counts[name] for name in wanted} == wanted
    assert result.notices == [
        "rows whose reference cannot be read, which count 0: 1 of 6 (unread: image a.png does not exist)",
        "rows without an answer, which count 0: 2 of 6 (the first is missing)",
        "answers with a mask that cannot be read, which counts 0: 2 of 6 (broken: it is damaged; damaged: 'mask'"
        " holds a run-length of 12 pixels, but its size [2, 4] has 8: its counts are damaged, or size is not"
        " [height, width])",
    ]


@pytest.mark.filterwarnings("error")
def test_rows_without_any_pixel():
    result = score(mask_row("1", [None], []), mask_row("2", [HALF & False], [HALF & False]))
    assert (result.scores["ciou"], result.scores["miou"], result.scores["giou"]) == (0.0, 0.0, 1.0)
    assert "ciou" not in result.intervals


def test_only_the_first_mask_counts():
    result = score(mask_row("1", [HALF, FAR], [HALF]), mask_row("2", [LEFT], [FAR, LEFT]))
    assert [row["iou"] for row in result.rows] == [1.0, 0.0]
    assert result.notices == ["rows with several masks, of which this rule takes the first: 2 of 2 (the first is 1)"]


def test_a_mask_of_another_size_is_resized():
    result = score(mask_row("1", [HALF], [np.kron(LEFT, np.ones((3, 3), bool))]), mask_row("2", [None], [LEFT]))
    assert [row["iou"] for row in result.rows] == [0.5, 0.0]
    assert result.scores["ciou"] == pytest.approx(2 / 6)
    assert result.counts["resized"] == 1


def test_names_of_images():
    rows = [
        mask_row(str(n), [HALF], [HALF], name) for n, name in enumerate(["ct_1.png", "a.b_c.png", "plain.png", "_x"])
    ]
    names = ("ct", "a_b", "other")
    assert [score(*rows).counts.get(f"per_modality.{name}.n") for name in names] == [1, 1, 2]


def test_rows_without_masks():
    text = mask_row("text", None, None, words="a lung")
    result = score(text, mask_row("1", [HALF], [HALF]))
    assert result.scores["miou"] == 1.0
    assert result.notices[0] == "rows in no denominator, because they do not ask for a mask: 1 of 2 (the first is text)"
    with pytest.raises(UserError, match="medplib_seg: no row asks for a mask"):
        score(text)


def test_intervals_draw_images_and_patients():
    single = score(*(mask_row(str(n), [HALF], [HALF if n % 2 else FAR], f"ct_{n}.png") for n in range(8)))
    rows = [mask_row(str(n), [HALF], [HALF if n % 2 else FAR], f"ct_{n}.png", patient=str(n % 2)) for n in range(8)]
    patients = score(*rows)
    assert (single.counts["clusters"], patients.counts["clusters"]) == (8, 2)
    assert patients.clustered
    for name in ("miou", "mdice", "giou", "ciou"):
        assert (patients.intervals[name]["low"], patients.intervals[name]["high"]) == pytest.approx((0, 1), abs=1e-4)
        assert single.intervals[name]["low"] > 0.05


def published(pairs):
    """MedPLIB's formulas, pixel by pixel, for pairs of nested lists; None is a missing mask."""
    ious, dices, gious, inter, union = [], [], [], 0, 0
    for truth, mask in pairs:
        flat = [value for row in truth for value in row]
        other = [False] * len(flat) if mask is None else [value for row in mask for value in row]
        common = sum(1 for one, two in zip(flat, other, strict=True) if one and two)
        either = sum(1 for one, two in zip(flat, other, strict=True) if one or two)
        iou = 0.0 if either == 0 else common / either
        ious.append(iou)
        dices.append(2 * iou / (1 + iou))
        gious.append(common / (either + 1e-5) if either else (0.0 if mask is None else 1.0))
        inter, union = inter + common, union + either
    count = len(pairs)
    return sum(ious) / count, sum(dices) / count, sum(gious) / count, inter / (union + 1e-10)


@pytest.mark.slow
def test_equal_to_the_formulas_on_thousands_of_random_pairs():
    generator = np.random.default_rng(7)
    pairs, rows = [], []
    for number in range(2000):
        shape = tuple(generator.integers(1, 9, 2))
        truth, mask = (generator.random(shape) < generator.choice([0, 0.1, 0.5, 0.9, 1]) for _ in range(2))
        gone = generator.random() < 0.1
        row = mask_row(str(number), [truth], None if gone else [mask], f"ct_{number // 3}.png")
        if not gone and generator.random() < 0.1:  # a mask that cannot be read is as good as none
            row, gone = replace(row, bad_masks=((0, "damaged"),)), True
        rows.append(row)
        pairs.append((truth.tolist(), None if gone else mask.tolist()))
    result = score(*rows)
    found = [result.scores[name] for name in ("miou", "mdice", "giou", "ciou")]
    assert found == pytest.approx(list(published(pairs)), abs=1e-12)
    assert result.counts["clusters"] == 667
