from itertools import count

import pytest

from helpers.pages import section_html
from medcap.data.boxes.box import Box
from medcap.evaluation.box_report import accuracy_charts, read_boxes
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.scored import Scored
from medcap.evaluation.threshold_charts import accuracy_curve
from medcap.scoring.protocols.base import ProtocolScores
from medcap.scoring.question import Question

NUMBERS = count()


def asking(modality, *sides):
    """A row that asks for squares of these sides, in the upper left corner of each image."""
    boxes = tuple(Box((0.0, 0.0, side, side), image=image) for image, side in enumerate(sides))
    return Question(str(next(NUMBERS)), [], ("x",), meta={"modality": modality}, boxes=boxes, image_size=(100, 100))


def scored(rows, texts):
    """These answers to these rows."""
    entries = [{"question_id": row.id, "prediction": text} for row, text in zip(rows, texts, strict=True)]
    return Scored(plan_protocols(["boxes"])[0], entries, ProtocolScores({}, {}, [], {}))


def read(rows, *texts):
    """The boxes of these answers to these rows."""
    return read_boxes(rows, {"own image": scored(rows, texts)})["own image"]


def answered(*overlaps):
    """Boxes of rows with these IoU."""
    return read([asking("CT", 0.4) for _ in overlaps], *(f"[0, 0, {round(400 * one)}, 400]" for one in overlaps))


def test_the_first_point_counts_any_overlap_and_the_others_reach_their_threshold():
    curve = dict(accuracy_curve([0.0, 0.02, 0.5, 1.0]))
    assert len(curve) == 21
    assert [curve[limit] for limit in (0.0, 0.05, 0.5, 0.55, 1.0)] == [0.75, 0.5, 0.5, 0.25, 0.25]


def test_rows_are_divided_by_modality_and_by_the_area_of_their_boxes():
    rows = [asking("CT", 0.05), asking("MR", 0.2), asking("MR", 0.3, 0.2), asking("MR", 0.5), asking("MR")]
    own = read(rows, "[0, 0, 10, 50]", "[0, 0, 80, 200]", "[0, 0, 300, 300]", "", "x")
    assert [result.overlap for result in own] == pytest.approx([0.2, 0.4, 0.5, 0.0, None])
    charts = accuracy_charts(rows, {"own image": own, "no image": own})
    assert [list(chart.series) for chart in charts] == [
        ["own image (n = 4)", "no image (n = 4)"],
        ["all rows (n = 4)", "MR (n = 3)", "CT (n = 1)"],
        ["all rows (n = 4)", "small, below 1 % (n = 1)", "medium, 1 to 10 % (n = 1)", "large, above 10 % (n = 2)"],
    ]
    assert dict(charts[1].series["MR (n = 3)"])[0.35] == 2 / 3
    drawing = charts[0].drawing()
    assert (drawing.y_ticks[0][1], drawing.y_ticks[-1][1]) == ("0", "1")
    assert "paired one to one" in section_html(charts[0])


def test_a_chart_that_would_repeat_the_first_is_left_out():
    (only,) = accuracy_charts([asking("CT", 0.4)] * 2, {"own image": answered(0.25, 0.5)})
    assert list(only.series) == ["own image (n = 2)"]
    assert accuracy_charts([asking("CT", 0.4)], {}) == []


def test_rare_modalities_are_left_out_and_counted():
    rows = [asking(f"M{number}", 0.4) for number in (*range(8), 7)]
    chart = accuracy_charts(rows, {"own image": answered(*[0.5] * 9)})[1]
    assert [name.split(" (")[0] for name in chart.series] == ["all rows", "M7", "M0", "M1", "M2", "M3"]
    assert chart.note == "The 5 most frequent of 8 modalities."


def test_the_boxes_of_a_row_are_drawn_with_their_best_overlap():
    question = asking("CT", 0.4)
    text = "[0, 0, 200, 400] [400, 400, 500, 500] [1, 2, 3, 4, 5]"
    (result,) = read([question], text)
    assert result.overlap == pytest.approx(0.5 / 3)
    assert result.drawn.expected == question.boxes and result.drawn.overlaps == pytest.approx([0.5, 0.0])
    assert result.drawn.words == (
        "1 expected",
        "2 given, 1 more that cannot be read",
    )


def test_absent_objects_and_silent_answers_are_told():
    rows = [asking("CT", 0.4), asking("CT"), asking("CT")]
    results = read(rows, "the liver", "[0, 0, 9, 9]", "none")
    assert [result.drawn.words for result in results] == [
        ("1 expected", "none given, the answer names no box"),
        ("none expected", "1 given"),
        ("none expected", "none given"),
    ]
    assert [result.overlap for result in results] == [0.0, None, None]
    assert results[1].drawn.overlaps == [None]


def test_rows_without_boxes_have_none():
    words, malformed = Question("a", [], ("A mass.",)), Question("b", [], ("[1, 2, 3, 4, 5]",))
    assert read_boxes([words, malformed], {"own image": scored([words, malformed], ["no", "x"])}) == {}
    found = read([words, malformed, asking("CT", 0.4)], "[0, 0, 9, 9]", "x", "")
    assert found[:2] == [None, None] and found[2].overlap == 0.0


def test_a_control_may_leave_rows_out():
    rows = [asking("CT", 0.4), asking("MR", 0.2)]
    own, control = scored(rows, ["[0, 0, 400, 400]", "[0, 0, 100, 200]"]), scored(rows[1:], ["[0, 0, 50, 200]"])
    results = read_boxes(rows, {"own image": own, "question exchanged": control})
    assert [result.overlap for result in results["question exchanged"]] == [0.25]
    charts = accuracy_charts(rows, results)
    assert list(charts[0].series) == ["own image (n = 2)", "question exchanged (n = 1)"]


def test_boxes_in_pixels_of_an_image_of_unknown_size_are_not_drawn():
    (result,) = read([Question("a", [], ("{<0><0><40><40>}",))], "{<0><0><20><40>}")
    assert result.drawn is None and result.overlap == pytest.approx(0.5)
