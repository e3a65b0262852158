"""One browser and one server for the tests of a module of the web page."""

import os
import shutil
from dataclasses import replace

import pytest

from helpers.browser import BROWSERS, DISC, KEY, OUTLINED, RING, Pointing, Served, visiting
from helpers.serving import noise_png, running, slow_down, tiny_service
from medcap.data.boxes.style import box_style
from medcap.data.outputs import Outputs
from medcap.serving.routes import Keys
from medcap.serving.web.votes import VoteLog
from medcap.serving.web.web_page import find_examples, page_routes


# Not for the whole session: its event loop runs in this thread until it ends, and no other test could start one.
@pytest.fixture(scope="module")
def browser():
    """Chromium of the system; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("there is no Chromium to open the page in")
    # Chromium's own sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*arguments, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server whose models take a moment for each token, so that an answer is seen to stream."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "examples").mkdir()
    (folder / "examples" / "example.png").write_bytes(noise_png(2, 40, 30))
    service = tiny_service(folder, "first", "second", "pointing", "outlining", max_new_tokens=24)
    service.runs["first"].generator.box_style = box_style({"box_format": "coloninst"})
    pointing = service.runs["pointing"]
    outlining = service.runs["outlining"]
    service.runs |= {
        "pointing": replace(pointing, live=Pointing(pointing)),
        "outlining": replace(outlining, live=Pointing(outlining, OUTLINED, Outputs(None, (RING, DISC, None)))),
    }
    votes = folder / "votes.jsonl"
    routes = page_routes(service, Keys([KEY]), VoteLog(votes), find_examples(folder / "examples"))
    with pytest.MonkeyPatch.context() as patch, running(service, [KEY], routes=routes) as client:
        slow_down(patch, 0.02)
        yield Served(client, votes)


@pytest.fixture
def visit(browser, served):
    """The page, with the key given."""
    with visiting(browser, served.url) as visit:
        yield visit
