import xml.etree.ElementTree as ElementTree

from helpers.pages import section_html
from medcap.report.confusion import Confusion, ConfusionMaps, confusion


def heat_map(matrix, name):
    html = section_html(ConfusionMaps("", {name: matrix}))
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def cells(chart):
    """(kind, tooltip, printed count) of each cell."""
    return [
        (group.get("class").removeprefix("cell "), group.find("title").text, group.findtext("text"))
        for group in chart.iter("g")
    ]


def test_answers_are_counted_with_a_last_column_for_those_that_are_missing():
    pairs = [("Yes", "Yes"), ("Yes", "no"), ("No", "no"), ("no", "NO "), ("No", ""), ("Yes", " yes")]
    matrix = confusion(pairs)
    assert matrix == Confusion(("No", "Yes"), ((2, 0, 1), (1, 2, 0)))
    assert (matrix.n, matrix.right, matrix.unanswered) == (6, 4, 1)


def test_an_answer_that_is_right_nowhere_is_a_class_after_the_others():
    assert confusion([("a", "b"), ("a", "b"), ("c", "c")]) == Confusion(
        ("a", "c", "b"), ((0, 0, 2, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    )


def test_rare_answers_are_summed_with_the_right_ones_among_them_known():
    pairs = [("a", "a")] * 5 + [("b", "c")] * 4 + [("c", "c")] * 3 + [("d", "c")] * 2 + [("d", "a"), ("e", "")]
    matrix = confusion(pairs, most=2)
    assert matrix == Confusion(("a", "b"), ((5, 0, 0, 0), (0, 0, 4, 0), (1, 0, 5, 1)), merged=3, merged_right=3)
    assert (matrix.n, matrix.right, matrix.unanswered) == (16, 8, 1)


def test_a_single_rare_answer_keeps_its_own_row():
    pairs = [("a", "a"), ("a", "b"), ("b", "c"), ("c", "c")]
    assert confusion(pairs, most=2).merged == 0
    assert confusion([*pairs, ("d", "d")], most=2).merged == 2
    assert len(confusion([(str(position), "0") for position in range(30)]).labels) == 8


def test_an_empty_right_answer_is_a_class_and_not_taken_for_a_missing_one():
    assert confusion([(" ", ""), ("a", "a"), ("a", "")]) == Confusion(("a", "(empty)"), ((1, 0, 1), (0, 0, 1)))


def test_each_cell_prints_its_count_and_is_shaded_by_the_share_of_its_row():
    chart = heat_map(Confusion(("Yes", "No"), ((3, 1, 0), (0, 2, 0))), "CT")
    assert chart.get("aria-label") == "CT: 2 right answers by 3 given answers; 5 of 6 right"
    assert chart.get("role") == "img"
    assert cells(chart) == [
        ("right", "right answer: Yes; given: Yes: 3 of 4 (75 %)", "3"),
        ("wrong", "right answer: Yes; given: No: 1 of 4 (25 %)", "1"),
        ("wrong", "right answer: Yes; given: no answer, or none of these: 0 of 4 (0 %)", None),
        ("wrong", "right answer: No; given: Yes: 0 of 2 (0 %)", None),
        ("right", "right answer: No; given: No: 2 of 2 (100 %)", "2"),
        ("wrong", "right answer: No; given: no answer, or none of these: 0 of 2 (0 %)", None),
    ]
    shades = [rect.get("fill-opacity") for rect in chart.iter("rect") if rect.get("class") == "shade"]
    assert shades == ["0.78", "0.33", "1.00"]


def test_the_rest_is_neither_right_nor_wrong():
    matrix = confusion([("a", "a")] * 3 + [("b", "c"), ("c", "c")], most=1)
    chart = heat_map(matrix, "CT")
    kind, tooltip, count = cells(chart)[4]
    assert (kind, count) == ("mixed", "2")
    assert tooltip == "right answer: other (2 answers); given: other (2 answers): 2 of 2, 1 of them right (100 %)"


def test_long_and_hostile_labels_are_cut_and_escaped():
    label = "<script>alert(1)</script> pleural effusion"
    chart = heat_map(confusion([(label, "")]), label)
    texts = [text for text in chart.iter("text") if text.get("class") in ("down", "across")]
    assert texts[1].find("title").text == "no answer, or none of these"
    assert texts[2].find("title").text == label
    assert texts[2].find("title").tail == "<script>aler…"


def test_large_counts_fit_their_cell():
    chart = heat_map(Confusion(("a",), ((21_111, 9_812),)), "CT")
    assert [printed for _, _, printed in cells(chart)] == ["21.11k", "9812"]


def test_no_rows_are_said_to_be_none():
    matrix = confusion([])
    assert (matrix.n, matrix.right, matrix.unanswered) == (0, 0, 0)
    assert "There are no rows to count yet." in section_html(ConfusionMaps("", {"CT": matrix}))
