import math
import xml.etree.ElementTree as ElementTree

import pytest

from medcap.evaluation.report.charts import MOST_POINTS, line_chart, number, ticks


def svg(html):
    start = html.index('<svg class="chart"')
    return ElementTree.fromstring(html[start : html.index("</svg>", start) + 6])


def path_of(chart, style):
    (group,) = [group for group in chart.iter("g") if group.get("class") == f"series s{style}"]
    return group.find("path").get("d")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.31, 0.79, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (0, 2e-5, [0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
        (-3, 4, [-4, -2, 0, 2, 4]),
        (5, 5, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.25, "0.25"), (1500, "1500"), (12000, "12k"), (2.5e6, "2.5M"), (1e-5, "1e-5"), (-0.1, "-0.1")],
)
def test_numbers_on_axes_are_short(value, expected):
    assert number(value) == expected


def test_points_stand_where_they_belong():
    chart = svg(line_chart({"loss": [(0, 0.0), (5, 10.0), (10, 5.0)]}, "step", "loss"))
    assert path_of(chart, 0) == "M72.0 256.0L308.0 12.0L544.0 134.0"
    assert len(list(chart.iter("circle"))) == 3


def test_series_differ_by_more_than_colour_and_have_a_legend():
    html = line_chart({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)], "c": [(0, 0)]}, "x", "y")
    chart = svg(html)
    assert [group.get("class") for group in chart.iter("g")] == ["series s0", "series s1", "series s2"]
    assert {len(list(chart.iter(tag))) for tag in ("circle", "rect")} == {2}
    assert html.count("<li>") == 3
    assert "<li>" not in line_chart({"a": [(0, 1), (1, 2)]}, "x", "y")


def test_values_that_are_no_numbers_interrupt_the_line():
    points = [(0, 1.0), (1, math.nan), (2, 2.0), (3, 1.0), (4, None), (5, math.inf)]
    path = path_of(svg(line_chart({"a": points}, "x", "y")), 0)
    assert [letter for letter in path if letter.isalpha()] == ["M", "M", "L"]


def test_one_point_and_a_constant_can_be_drawn_and_nothing_says_so():
    svg(line_chart({"a": [(3, 0.5)]}, "x", "y"))
    svg(line_chart({"a": [(0, 0.5), (1, 0.5)]}, "x", "y"))
    assert "no points" in line_chart({"a": [], "b": [(0, math.nan)]}, "x", "y")


def test_long_series_are_averaged_and_the_page_says_so():
    html = line_chart({"a": [(step, 1.0) for step in range(10_000)]}, "x", "y")
    assert path_of(svg(html), 0).count("L") < MOST_POINTS
    assert "mean of up to 42 values" in html
