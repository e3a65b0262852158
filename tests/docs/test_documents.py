"""What the documents name is there: files, links, anchors, measured figures and the floors of the imports."""

import re
import tomllib

import pytest

from helpers.source_copy import REPOSITORY, sections

DOCS = sorted((REPOSITORY / "docs").rglob("*.md"))
PAGES = [*DOCS, *sorted(REPOSITORY.glob("*.md")), REPOSITORY / "datasets" / "README.md"]
PLACES = (REPOSITORY, REPOSITORY / "torchtune" / "medcap", REPOSITORY / "docs")
# A file of the source as the documents write it: `data/batch.py`, never a user's own file.
_NAMED = re.compile(r"`([\w./-]+\.(?:py|toml|yaml)|[\w.-]+/[\w./-]+\.html)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FIGURE = re.compile(r"(?<![\d.])\d+\.\d{3}(?!\d)")
# Files of other projects.
FOREIGN = {"cal_metric.py", "evaluate_metrics.py", "run_eval.py", "run_eval_batch.py", "llava/data/download_images.py"}


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_file_that_a_page_names_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = set(_NAMED.findall(text)) - FOREIGN
    assert [name for name in sorted(names) if not any((location / name).is_file() for location in PLACES)] == []


def test_the_architecture_names_files():
    assert len(set(_NAMED.findall((REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")))) > 90


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    broken = []
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    linked = {link.partition("#")[0] for link in _LINK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))}
    assert [name_of(page) for page in DOCS if "reference" not in page.parts and name_of(page) not in linked] == []


def test_the_floors_are_those_of_the_import_contracts():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    expected = [set(re.split(r" [:|] ", layer)) for layer in layers]
    text = sections(REPOSITORY / "docs" / "architecture.md")["Floors"]
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", text, flags=re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == expected


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_beside_a_link_to_a_result_are_those_of_the_result(page):
    wrong = []
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", page.read_text(encoding="utf-8")):
        results = [page.parent / link for link in _LINK.findall(paragraph) if "results/benchmarks/" in link]
        measured = "".join(result.read_text(encoding="utf-8") for result in results if result.suffix == ".md")
        if measured and not paragraph.startswith("|"):
            wrong += [figure for figure in _FIGURE.findall(paragraph) if figure not in measured]
    assert wrong == []
