import numpy as np
import pytest

from medcap.data.boxes.box import Box
from medcap.scoring.metrics.boxes import best_pairs, giou, iou, num_hits, overlaps, pair_sum


def test_iou_of_known_rectangles():
    assert iou((0, 0, 10, 10), (5, 5, 15, 15)) == pytest.approx(25 / 175)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0  # they touch
    assert iou((0, 0, 10, 10), (2, 2, 4, 7)) == 0.1
    assert iou((1, 2, 3, 4), (1, 2, 3, 4)) == 1.0


def test_iou_does_not_change_when_an_axis_is_scaled():
    first, second = (0.1, 0.2, 0.5, 0.9), (0.3, 0.1, 0.6, 0.8)
    wide = [tuple(np.multiply(box, (640, 480, 640, 480))) for box in (first, second)]
    assert iou(*wide) == pytest.approx(iou(first, second), abs=1e-12)
    assert giou(*wide) == pytest.approx(giou(first, second), abs=1e-12)


def test_generalised_iou_falls_below_0_with_the_distance():
    assert giou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert giou((0, 0, 1, 1), (9, 0, 10, 1)) == -0.8  # of an enclosing 10 x 1, eight are covered by neither
    assert giou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7 - 2 / 9)


def test_boxes_on_other_images_do_not_overlap():
    box = Box((0.0, 0.0, 0.5, 0.5))
    table = overlaps([box], [box, Box(box.edges, image=1)])
    assert table.tolist() == [[1.0, 0.0]]
    assert overlaps([box], [Box(box.edges, image=1)], giou, -1.0).tolist() == [[-1.0]]


def test_pairs_are_one_to_one_with_the_largest_sum():
    table = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert best_pairs(table) == [(0, 1), (1, 0)]  # a greedy choice would take 0.9 and 0.1
    assert pair_sum(table) == 1.6
    assert best_pairs(np.zeros((2, 2))) == best_pairs(np.zeros((0, 3))) == []
    assert best_pairs(np.array([[0.1, 0.3, 0.2]])) == [(0, 1)]


def test_hits_are_the_most_pairs_that_reach_a_threshold():
    table = np.array([[0.9, 0.5], [0.5, 0.0]])
    assert num_hits(table, 0.5) == 2  # the largest sum would pair 0.9 alone
    assert num_hits(table, 0.5, strict=True) == 1
    assert num_hits(np.zeros((3, 0)), 0.5) == 0
