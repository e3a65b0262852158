import re
from importlib.resources import files

from PIL import Image

from helpers.pages import ATTACK, check
from medcap.report.charts import LineChart
from medcap.report.confusion import ConfusionMaps, confusion
from medcap.report.gallery import Gallery, Sample
from medcap.report.page_frame import Page
from medcap.report.parallel import Axis, ParallelCoordinates
from medcap.report.protocol_table import ProtocolLine, ProtocolTable
from medcap.report.sections import Bar, Card, Cards, Facts, Notices, Table


def full_page(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    line = ProtocolLine("exact", "accuracy", 0.5, "equal", (0.4, 0.6), {"no_image": 0.3})
    return Page(
        "Title & more",
        "Subtitle <b>",
        [
            Cards([Card("Accuracy", "61.2 %", "of 10", Bar(0.612, 0.5, 0.7), main=True), Card("Rows", "10")]),
            Notices(["mind <this>"]),
            None,
            LineChart("Loss", {"train": [(0, 2.0), (1, 1.0)], "held-out": [(0, 2.1)]}, note="per token"),
            Table("By type", ["type", "accuracy", "n"], [["a<b", Bar(0.5, 0.4, 0.6), 1234], ["c", None, 0.25]]),
            ParallelCoordinates("Tried", [Axis("lr", log=True), Axis("loss")], {"trial 0": [1e-3, 2.0]}, "trial 0"),
            ProtocolTable("Rules", [line]),
            ConfusionMaps("Confusion", {"CT": confusion([("yes", "no"), ("no", "")]), "MR": confusion([])}, "a note"),
            Gallery("Answers", [Sample("no", ["yes"], images=[tmp_path / "a.png"], correct=False)]),
            Facts("Settings", {"top_k": None, "llm": {"dim": 4}}),
        ],
    )


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path):
    path = full_page(tmp_path).write(tmp_path / "deep" / "report.html")
    html = path.read_text(encoding="utf-8")
    checker = check(html)
    assert checker.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in checker.addresses)
    assert checker.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_the_page_shows_what_was_added(tmp_path):
    text = check(full_page(tmp_path).html()).text
    for piece in [
        "Title & more",
        "Subtitle <b>",
        "61.2 %",
        "mind <this>",
        "a<b",
        "50.0 %",
        "40.0 – 60.0",
        "1,234",
        "no image",
        "a note",
        "2 rows, 0.0 % right, 1 without an answer",
        "–",
    ]:
        assert piece in text, piece
    assert "llm" in text
    assert "dim=4" in text


def test_what_a_model_or_a_user_wrote_never_becomes_markup():
    sample = Sample(
        ATTACK, [ATTACK, ATTACK], [ATTACK, ATTACK], ATTACK, False, (ATTACK, 1.0), ATTACK, [ATTACK], ATTACK, ATTACK
    )
    empty = Sample("", [ATTACK], [], ATTACK, problem=ATTACK)
    choice = Sample(ATTACK, [ATTACK], [], ATTACK, options=[ATTACK, ATTACK + "b"], chosen=ATTACK)
    other = Sample("else", ["x"], [], ATTACK, options=[ATTACK], problem=ATTACK, correct=True)
    line = ProtocolLine(ATTACK, ATTACK, 0.5, ATTACK, (0.4, 0.6), {ATTACK: 0.3}, {ATTACK: (0.2, 0.1, 0.3)})
    sections = [
        Cards([Card(ATTACK, ATTACK, ATTACK)]),
        Notices([ATTACK]),
        LineChart(ATTACK, {ATTACK: [(0, 1), (1, 2)], "b": [(0, 1)]}, ATTACK, ATTACK, ATTACK),
        Table(ATTACK, [ATTACK], [[ATTACK]], ATTACK),
        ParallelCoordinates(
            ATTACK, [Axis(ATTACK, (ATTACK, "b")), Axis(ATTACK)], {ATTACK: [ATTACK, 1.0]}, ATTACK, ATTACK
        ),
        ProtocolTable(ATTACK, [line], ATTACK),
        ConfusionMaps(ATTACK, {ATTACK: confusion([(ATTACK, "a"), ("a", ATTACK)])}, ATTACK),
        Gallery(ATTACK, [sample, empty, choice, other], note=ATTACK, groups=ATTACK),
        Facts(ATTACK, {ATTACK: ATTACK}),
    ]
    for own in sections:
        checker = check(Page(ATTACK, ATTACK, [own], ATTACK).html())
        assert checker.tags.isdisjoint({"script", "img"})
        assert checker.addresses == []
        # The title twice, the subtitle, the line above, and the section's own.
        assert checker.text.count(ATTACK) > 4


def test_no_template_marks_a_value_as_safe():
    templates = list(files("medcap.report").joinpath("templates").iterdir())
    assert {"page.html.j2", "style.css"} <= {template.name for template in templates}
    for template in templates:
        assert not re.search(r"\bsafe\b|autoescape", template.read_text(encoding="utf-8")), template.name


def test_narrow_sections_that_follow_one_another_share_a_row():
    narrow, wide = Table("narrow", ["a"], []), Table("wide", ["a"], [], wide=True)
    page = Page("Rows", "", [Cards([]), narrow, None, narrow, wide, narrow, Notices(["x"]), narrow])
    assert [len(row) for row in page.rows] == [1, 2, 1, 1, 1, 1]


def test_two_galleries_on_one_page_are_filtered_apart():
    samples = [Sample("a", ["a"], correct=True), Sample("a", ["b"], correct=False)]
    html = Page("Two", "", [Gallery("One", samples), Gallery("Other", samples)]).html()
    assert len(set(re.findall(r'type="radio" name="(\w+)"', html))) == 2
    assert len(set(re.findall(r' id="([\w-]+)"', html))) == 6


def test_an_empty_page_and_an_empty_table_are_pages_too():
    assert "Nothing" in check(Page("Nothing").html()).text
    page = Page("Nothing", "", [Table("None", ["a", "b"], []), Gallery("None", [])])
    assert "Nothing" in check(page.html()).text


def test_writing_twice_gives_the_same_page(tmp_path):
    page = full_page(tmp_path)
    assert page.html() == page.html() == full_page(tmp_path).html()
