import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files

from helpers.pages import section_html
from medcap.report.protocol_table import ProtocolLine, ProtocolTable

LETTER = ProtocolLine(
    "option_letter",
    "accuracy",
    0.612,
    "the likeliest <letter>",
    (0.581, 0.64),
    {"shuffled_image": 0.31, "no_image": 0.6},
    {"shuffled_image": (0.302, 0.27, 0.331), "no_image": (0.012, -0.005, 0.03)},
)


def protocol_table(lines):
    html = section_html(ProtocolTable("", lines))
    return html[html.index("<table") : html.index("</table>") + 8]


def texts(element):
    return [" ".join("".join(cell.itertext()).split()) for cell in element]


def rows(table):
    return [texts(row) for row in ElementTree.fromstring(table).iter("tr")]


def test_a_line_has_score_interval_controls_and_their_fall():
    assert rows(protocol_table([LETTER])) == [
        ["score", "value", "images shuffled", "no image"],
        ["option_letterthe likeliest <letter>"],
        [
            "accuracy",
            "61.2 % 58.1 – 64.0",
            "31.0 %falls by 30.2 (27.0 to 33.1)",
            "60.0 %no proven fall: 1.2 (−0.5 to 3.0)",
        ],
    ]


def test_lines_without_controls_or_interval_leave_their_cells_empty():
    table = rows(protocol_table([LETTER, ProtocolLine("llava_med", "open.recall", 0.4)]))
    assert table[3:] == [["llava_med"], ["open.recall", "40.0 %", "–", "–"]]
    assert rows(protocol_table([ProtocolLine("exact", "accuracy", 0.5, interval=(0.4, 0.6))]))[0] == [
        "score",
        "value",
    ]


def test_scores_that_are_not_shares_are_reported_as_numbers_without_a_strip():
    line = ProtocolLine(
        "coco", "CIDEr", 1.2345, "", (1.1, 1.4), {"no_image": 0.4}, {"no_image": (0.8, 0.7, 0.9)}, False
    )
    table = protocol_table([line])
    assert rows(table)[1:] == [["coco"], ["CIDEr", "1.234 1.100 – 1.400", "0.400falls by 0.800 (0.700 to 0.900)"]]
    assert "svg" not in table


def test_the_rule_of_a_protocol_has_the_whole_width():
    assert '<th scope="rowgroup" colspan="4">option_letter<p class="rule">' in protocol_table([LETTER])


def test_the_cells_of_controls_wrap_so_that_no_column_is_cut():
    style = (files("medcap.report") / "templates/style.css").read_text(encoding="utf-8")
    rules = re.findall(r"(\.protocols [^{}]*?) \{ [^}]*?white-space: (\w+)", style)
    assert rules[2:] == [
        (".protocols thead th", "normal"),
        (".protocols td", "normal"),
        (".protocols td.value", "nowrap"),
    ]
    assert '<div class="panel scroll">' in section_html(ProtocolTable("", [LETTER]))
