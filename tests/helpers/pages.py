"""Pages in tests: a section on its own, and what a browser would make of a page."""

from __future__ import annotations

from html.parser import HTMLParser

from medcap.report.sections import Section
from medcap.report.templates import render

# What a browser runs or shows if a model, a file name or a user's text ever becomes markup.
ATTACK = "</style></title><script>alert(1)</script><img src=http://x/y onerror=alert(1)>\"'&amp; {{ 7*7 }} {% raw %}"
_VOID = {"meta", "img", "input", "br"}


def section_html(section: Section) -> str:
    """Render a section as it is in a page."""
    return render(section.template, section=section, identity="g0")


class Checker(HTMLParser):
    """Collects text and attributes, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "xlink:href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(html: str) -> Checker:
    """Parse a page; every element must be closed and none may have an event handler."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker
