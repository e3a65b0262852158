from helpers.pages import section_html
from medcap.data.boxes.box import Box
from medcap.evaluation.box_charts import accuracy_charts, accuracy_curve
from medcap.scoring.question import Question


def asking(modality, *sides):
    """A row that asks for squares of these sides."""
    boxes = tuple(Box((0.0, 0.0, side, side)) for side in sides)
    return Question("id", [], ("x",), meta={"modality": modality}, boxes=boxes)


def test_the_first_point_counts_any_overlap_and_the_others_reach_their_threshold():
    curve = dict(accuracy_curve([0.0, 0.02, 0.5, 1.0]))
    assert len(curve) == 21
    assert [curve[limit] for limit in (0.0, 0.05, 0.5, 0.55, 1.0)] == [0.75, 0.5, 0.5, 0.25, 0.25]


def test_rows_are_divided_by_modality_and_by_the_area_of_their_boxes():
    rows = [asking("CT", 0.05), asking("MR", 0.2), asking("MR", 0.3, 0.2), asking("MR", 0.5), asking("MR")]
    charts = accuracy_charts(
        rows, {"own image": [0.2, 0.4, 0.6, 0.8, None], "no image": [0.1, 0.1, 0.1, 0.1, None]}, "rule"
    )
    assert [list(chart.series) for chart in charts] == [
        ["own image (n = 4)", "no image (n = 4)"],
        ["all rows (n = 4)", "MR (n = 3)", "CT (n = 1)"],
        ["all rows (n = 4)", "small, below 1 % (n = 1)", "medium, 1 to 10 % (n = 1)", "large, above 10 % (n = 2)"],
    ]
    assert dict(charts[1].series["MR (n = 3)"])[0.5] == 2 / 3
    drawing = charts[0].drawing()
    assert (drawing.y_ticks[0][1], drawing.y_ticks[-1][1]) == ("0", "1")
    assert "rule" in section_html(charts[0])


def test_a_chart_that_would_repeat_the_first_is_left_out():
    (only,) = accuracy_charts([asking("CT", 0.05)] * 2, {"own image": [0.2, 0.4]}, "")
    assert list(only.series) == ["own image (n = 2)"]
    assert accuracy_charts([asking("CT")], {"own image": [None]}, "") == []


def test_rare_modalities_are_left_out_and_counted():
    rows = [asking(f"M{number}", 0.05) for number in range(8)] + [asking("M7", 0.05)]
    chart = accuracy_charts(rows, {"own image": [0.5] * 9}, "")[1]
    assert [name.split(" (")[0] for name in chart.series] == ["all rows", "M7", "M0", "M1", "M2", "M3"]
    assert chart.note == "The 5 most frequent of 8 modalities."
