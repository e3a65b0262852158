import math
import xml.etree.ElementTree as ElementTree

import pytest

from helpers.pages import section_html
from medcap.report.charts import MOST_POINTS, LineChart, number, ticks


def drawn(series):
    return section_html(LineChart("", series, "x", "y"))


def svg(html):
    start = html.index('<svg class="chart"')
    return ElementTree.fromstring(html[start : html.index("</svg>", start) + 6])


def ticks_of(chart):
    """Text -> position, of the ticks of either axis."""
    texts = [text for text in chart.iter("text") if text.get("class") == "tick"]
    down = {text.text: float(text.get("y")) for text in texts if text.get("dy")}
    return {text.text: float(text.get("x")) for text in texts if not text.get("dy")}, down


def marks_of(chart):
    """Tooltip -> position of its mark."""
    marks = [mark for mark in chart.iter() if mark.get("class") == "mark"]
    return {
        mark.findtext("title"): tuple(map(float, mark.get("transform")[len("translate(") : -1].split()))
        for mark in marks
    }


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


def test_points_stand_where_their_values_stand_on_the_axes():
    chart = svg(drawn({"loss": [(0, 0.0), (5, 10.0), (10, 5.0)]}))
    across, down = ticks_of(chart)
    (first, second, third) = (marks_of(chart)[f"loss: {words}"] for words in ("0 at 0", "10 at 5", "5 at 10"))
    assert first == (across["0"], down["0"])
    assert second == pytest.approx(((across["4"] + across["6"]) / 2, down["10"]))
    assert third == pytest.approx((across["10"], (down["4"] + down["6"]) / 2))
    # The line goes through them.
    points = [tuple(map(float, point.split())) for point in path_of(chart, 0).lstrip("M").split("L")]
    assert points == [first, second, third]


def test_series_differ_by_more_than_colour_and_have_a_legend():
    html = drawn({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)], "c": [(0, 0)]})
    chart = svg(html)
    assert [group.get("class") for group in chart.iter("g")] == ["series s0", "series s1", "series s2"]
    assert {len(list(chart.iter(tag))) for tag in ("circle", "rect")} == {2}
    assert html.count("<li>") == 3
    assert "<li>" not in drawn({"a": [(0, 1), (1, 2)]})


def test_values_that_are_not_numbers_interrupt_the_line():
    points = [(0, 1.0), (1, math.nan), (2, 2.0), (3, 1.0), (4, None), (5, math.inf)]
    path = path_of(svg(drawn({"a": points})), 0)
    assert [letter for letter in path if letter.isalpha()] == ["M", "M", "L"]


def test_one_point_and_a_constant_can_be_drawn_and_nothing_says_so():
    svg(drawn({"a": [(3, 0.5)]}))
    svg(drawn({"a": [(0, 0.5), (1, 0.5)]}))
    assert "no points" in drawn({"a": [], "b": [(0, math.nan)]})


def test_long_series_are_averaged_and_the_page_says_so():
    html = drawn({"a": [(step, 1.0) for step in range(10_000)]})
    assert path_of(svg(html), 0).count("L") < MOST_POINTS
    assert "mean of up to 42 values" in html
    assert "mean of" not in drawn({"a": [(step, 1.0) for step in range(MOST_POINTS)]})
