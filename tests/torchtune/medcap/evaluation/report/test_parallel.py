from xml.etree import ElementTree

from medcap.evaluation.report.parallel import HEIGHT, SIDE, TOP, Axis, parallel_coordinates

AXES = [Axis("lr", log=True), Axis("tokens <n>", ("4", "16")), Axis("loss")]


def test_lines_go_through_their_values():
    svg = parallel_coordinates(AXES, {"a": [1e-4, "4", 2.0], "b": [1e-2, "16", 1.0], "c": [1e-3, "4", 1.5]}, "a")
    root = ElementTree.fromstring(svg)
    paths = [path.get("d") for path in root.iter("path")]
    bottom, middle = HEIGHT - 22, (TOP + HEIGHT - 22) / 2
    assert paths[0] == f"M{SIDE}.0 {TOP}.0L520.0 {TOP}.0L950.0 {bottom}.0"
    assert paths[1] == f"M{SIDE}.0 {middle:.1f}L520.0 {bottom}.0L950.0 {middle:.1f}"
    # The best one is drawn last, over the others.
    assert [group.get("class") for group in root.iter("g")] == [None, None, "best"]
    assert [title.text for title in root.iter("title")][-1] == "a: lr 0.0001, tokens <n> 4, loss 2"
    ticks = [text.text for text in root.iter("text") if text.get("class") == "tick"]
    assert ticks[0] == "0.0001" and ticks[4] == "0.01" and ticks[5:7] == ["4", "16"]


def test_equal_values_stand_in_the_middle_and_nothing_is_said():
    assert "NaN" not in parallel_coordinates([Axis("a"), Axis("b")], {"x": [1, 2.0]}, "x")
    assert parallel_coordinates(AXES, {}, "") == '<p class="empty">There are no finished runs to draw yet.</p>'
