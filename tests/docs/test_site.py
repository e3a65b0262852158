"""The site is built without a warning and asks no other host for anything."""

import os
import re
import subprocess
import sys

import pytest

from helpers.source_copy import REPOSITORY

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_documents_at_the_root_are_pages(site):
    for page, words in (
        ("finetune.html", "Fine-tuning"),
        ("tutorial.html", "demo"),
        ("results/benchmarks/probe.html", ""),
    ):
        assert words in (site / page).read_text(encoding="utf-8")
    assert (site / "results" / "pictures" / "demo.png").is_file()


def test_links_between_them_hold_in_the_site(site):
    page = (site / "serving.html").read_text(encoding="utf-8")
    assert 'href="sharing.html"' in page and 'src="results/pictures/page.png"' in page
    assert 'href="finetune.html"' in (site / "datasets.html").read_text(encoding="utf-8")


def test_the_reference_has_signatures_and_no_roles(site):
    page = (site / "reference" / "generation.html").read_text(encoding="utf-8")
    assert 'id="medcap.generation.run.open_run"' in page
    assert not [path.name for path in (site / "reference").glob("*.html") if ":class:" in path.read_text()]


def test_no_page_loads_anything_from_another_host(site):
    loaded = []
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded += re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="?((?:https?:)?//[^" >]+)', text)
    assert loaded == []
    assert not [path for path in site.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//", path.read_text())]
