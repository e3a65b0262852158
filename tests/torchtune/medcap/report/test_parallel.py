from xml.etree import ElementTree

from helpers.pages import section_html
from medcap.report.parallel import Axis, ParallelCoordinates

AXES = [Axis("lr", log=True), Axis("tokens <n>", ("4", "16")), Axis("loss")]


def drawn(axes, lines, best):
    return section_html(ParallelCoordinates("", axes, lines, best))


def svg(html):
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def heights(chart):
    """Tooltip -> the line's height on each axis, as a share of the way from the bottom to the top."""
    (top, bottom), *_ = [
        (float(line.get("y1")), float(line.get("y2"))) for line in chart.iter("line") if line.get("class") == "axis"
    ]
    return {
        path.findtext("title"): [
            round((bottom - float(point.split()[1])) / (bottom - top), 3) for point in path.get("d").split("L")
        ]
        for path in chart.iter("path")
    }


def test_lines_go_through_their_values():
    lines = {"a": [1e-4, "4", 2.0], "b": [1e-2, "16", 1.0], "c": [1e-3, "4", 1.5]}
    chart = svg(drawn(AXES, lines, "a"))
    # The best one is drawn last, over the others.
    assert list(heights(chart).items()) == [
        ("b: lr 0.01, tokens <n> 16, loss 1", [1.0, 1.0, 0.0]),
        ("c: lr 0.001, tokens <n> 4, loss 1.5", [0.5, 0.0, 0.5]),
        ("a: lr 0.0001, tokens <n> 4, loss 2", [0.0, 0.0, 1.0]),
    ]
    assert [group.get("class") for group in chart.iter("g")] == [None, None, "best"]
    ticks = [text.text for text in chart.iter("text") if text.get("class") == "tick"]
    assert ticks[0] == "0.0001" and ticks[4] == "0.01" and ticks[5:7] == ["4", "16"]


def test_equal_values_are_in_the_middle():
    chart = svg(drawn([Axis("a"), Axis("b")], {"x": [1, 2.0]}, "x"))
    assert heights(chart) == {"x: a 1, b 2": [0.5, 0.5]}


def test_without_a_finished_run_the_page_says_so():
    assert "There are no finished runs to draw yet." in drawn(AXES, {}, "")
