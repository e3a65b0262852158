import re
from html.parser import HTMLParser

from PIL import Image

from medcap.evaluation.report.builder import Bar, Card, ProtocolLine, Report, Sample, confusion

VOID = {"meta", "img", "input", "br"}


class Checker(HTMLParser):
    """Collects text and attributes, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = set()
        self.addresses = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "xlink:href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def full_report(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    report = Report("Title & more", "Subtitle <b>")
    report.add_cards([Card("Accuracy", "61.2 %", "of 10", span=(0.5, 0.612, 0.7), main=True), Card("Rows", "10")])
    report.add_notices(["mind <this>"])
    report.add_notices([])
    report.add_chart("Loss", {"train": [(0, 2.0), (1, 1.0)], "held-out": [(0, 2.1)]}, note="per token")
    report.add_table("By type", ["type", "accuracy", "n"], [["a<b", Bar(0.5, 0.4, 0.6), 1234], ["c", None, 0.25]])
    report.add_protocols("Rules", [ProtocolLine("exact", "accuracy", 0.5, "equal", (0.4, 0.6), {"no_image": 0.3})])
    report.add_confusion("Confusion", {"CT": confusion([("yes", "no"), ("no", "")]), "MR": confusion([])}, "a note")
    report.add_gallery("Answers", [Sample("no", ["yes"], image=tmp_path / "a.png", correct=False)])
    report.add_facts("Settings", {"top_k": None, "llm": {"dim": 4}})
    return report


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path):
    path = full_report(tmp_path).write(tmp_path / "deep" / "report.html")
    html = path.read_text(encoding="utf-8")
    checker = check(html)
    assert checker.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in checker.addresses)
    assert checker.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_the_page_shows_what_was_added(tmp_path):
    text = check(full_report(tmp_path).html()).text
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


def test_what_a_model_wrote_never_becomes_markup():
    attack = "</style><script>alert(1)</script><img src=http://x/y onerror=alert(1)>\"'&amp;"
    report = Report(attack, attack, attack)
    report.add_cards([Card(attack, attack, attack)])
    report.add_notices([attack])
    report.add_chart(attack, {attack: [(0, 1), (1, 2)], "b": [(0, 1)]}, attack, attack, attack)
    report.add_table(attack, [attack], [[attack]], attack)
    line = ProtocolLine(attack, attack, 0.5, attack, (0.4, 0.6), {attack: 0.3}, {attack: (0.2, 0.1, 0.3)})
    report.add_protocols(attack, [line], attack)
    report.add_confusion(attack, {attack: confusion([(attack, "a"), ("a", attack)])}, attack)
    sample = Sample(attack, [attack, attack], attack, attack, False, (attack, 1.0), attack, [attack], attack, attack)
    empty = Sample("", [attack], None, attack, problem=attack)
    choice = Sample(attack, [attack], None, attack, options=[attack, attack + "b"], chosen=attack)
    report.add_gallery(attack, [sample, empty, choice], note=attack, groups=attack)
    report.add_facts(attack, {attack: attack})
    checker = check(report.html())
    assert checker.tags.isdisjoint({"script", "img"})
    assert checker.addresses == []
    assert checker.text.count("alert(1)") > 20


def test_an_empty_report_and_an_empty_table_are_pages_too():
    report = Report("Nothing")
    report.add_table("None", ["a", "b"], [])
    report.add_gallery("None", [])
    assert "Nothing" in check(report.html()).text


def test_writing_twice_gives_the_same_page(tmp_path):
    report = full_report(tmp_path)
    assert report.html() == report.html() == full_report(tmp_path).html()
