"""Regions that a person draws on the picture by a box, a brush or a point. The picture has 120 x 80 pixels."""

import json

import numpy as np
import pytest

from helpers.browser import COUNT_PIXELS, visiting
from helpers.region_generation import generator_with_regions
from helpers.serving import running
from helpers.tiny_generation import tiny_generator
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import region_from_json
from medcap.serving.limits import Limits
from medcap.serving.routes import Keys
from medcap.serving.service import Service
from medcap.serving.web.votes import VoteLog
from medcap.serving.web.web_page import page_routes

TURQUOISE = "#2ee6d6"
KEY = "secret"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with a run that reads regions and one that does not."""
    folder = tmp_path_factory.mktemp("drawn_regions")
    generators = {"reads": generator_with_regions(folder), "plain": tiny_generator(folder)}
    service = Service(generators, Limits(max_new_tokens=4))
    routes = page_routes(service, Keys([KEY]), VoteLog(folder / "votes.jsonl"))
    with running(service, [KEY], routes=routes) as client:
        yield f"http://127.0.0.1:{client.port}/"


@pytest.fixture
def visit(browser, address):
    with visiting(browser, address) as visit:
        visit.page.on("request", lambda request: visit.asked.append(request))
        visit.asked = []
        visit.upload("scan.png", 120, 80)
        yield visit


def last_message(visit, model="reads"):
    bodies = [json.loads(one.post_data) for one in visit.asked if one.url.endswith("/v1/chat/completions")]
    return [body for body in bodies if body["model"] == model][-1]["messages"][-1]


def send(visit):
    visit.page.click("#send")
    visit.wait()


def choose(visit, tool):
    visit.page.select_option("#tool", tool)


@pytest.mark.slow
def test_regions_are_drawn_named_and_sent(visit):
    visit.tick("reads")
    visit.page.fill("#words", "What is in?")
    visit.page.evaluate("words.setSelectionRange(10, 10)")
    choose(visit, "box")
    visit.drag(0.75, 0.75, 0.25, 0.5)
    choose(visit, "point")
    visit.page.fill("#size", "10")
    visit.drag(0.5, 0.25, 0.5, 0.25)
    choose(visit, "brush")
    visit.drag(0.2, 0.2, 0.2, 0.6)
    chips = visit.chips()
    assert chips[:2] == ["region 1: box 30, 40 to 90, 60 ×", "region 2: point 60, 20, radius 8 ×"]
    assert chips[2].startswith("region 3: brush, ")
    assert visit.page.input_value("#words") == "What is in {region 1} {region 2} {region 3}?"
    assert visit.page.evaluate(COUNT_PIXELS, TURQUOISE)["rows"][0] is not None
    send(visit)
    message = last_message(visit)
    assert message["content"][-1]["text"] == "What is in <region></region> <region></region> <region></region>?"
    box, point, brush = message["regions"]
    assert box == {"box": [30, 40, 90, 60]} and point == {"point": [60, 20], "radius": 8}
    # A brush of radius 8 from (24, 16) to (24, 48).
    inside = draw_region(region_from_json(brush), (120, 80))
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == pytest.approx((8, 56, 16, 32), abs=1)
    assert inside.sum() == pytest.approx(16 * 32 + np.pi * 64, rel=0.03)
    assert visit.page.locator(".answer.done").count() == 1 and visit.chips() == []
    # The next question is without them, and what is exported can be trained on.
    visit.ask("And now?")
    assert "regions" not in last_message(visit)
    with visit.page.expect_download() as saved:
        visit.page.click("#save")
    (row,) = json.loads(saved.value.path().read_text(encoding="utf-8"))["rows"]
    assert row["regions"] == [box, point, brush]


@pytest.mark.slow
def test_a_stroke_that_begins_in_the_last_one_goes_on_with_it(visit):
    visit.tick("reads")
    choose(visit, "brush")
    visit.drag(0.2, 0.5, 0.4, 0.5)
    visit.drag(0.4, 0.5, 0.6, 0.5)
    assert len(visit.chips()) == 1
    visit.drag(0.8, 0.2, 0.9, 0.2)
    assert len(visit.chips()) == 2
    visit.page.click("#marked button >> nth=0")
    assert len(visit.chips()) == 1 and visit.page.input_value("#words").strip() == "{region 1}"
    visit.page.fill("#words", "Is it {region 2}?")
    visit.page.click("#send")
    visit.page.wait_for_selector("#problem:visible")
    assert visit.page.inner_text("#problem") == "{region 2} names a region that does not exist: 1 were given"


@pytest.mark.slow
def test_a_run_that_reads_no_regions_says_so_and_offers_no_tool(visit):
    visit.tick("reads", "plain")
    choose(visit, "point")
    visit.drag(0.5, 0.5, 0.5, 0.5)
    send(visit)
    failed = visit.page.inner_text(".answer.failed")
    assert "this model reads no regions, as it has no region_encoder" in failed
    assert visit.page.locator(".answer.done").count() == 1
    visit.tick("plain")
    assert not visit.page.is_visible("#tool") and not visit.page.is_visible("#size")
    visit.drag(0.25, 0.5, 0.75, 0.75)
    assert visit.chips() == ["box 1: 30, 40 to 90, 60 ×"]


@pytest.mark.slow
def test_regions_are_drawn_on_a_narrow_screen(browser, address):
    with visiting(browser, address, viewport={"width": 390, "height": 844}) as visit:
        visit.upload("scan.png", 120, 80)
        for tool in ("box", "brush", "point"):
            choose(visit, tool)
            visit.drag(0.3, 0.3, 0.6, 0.7)
            assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert len(visit.chips()) == 3


@pytest.mark.slow
def test_regions_of_later_turns_count_the_images_that_were_shown_before(visit):
    visit.tick("reads")
    choose(visit, "box")
    visit.drag(0.25, 0.5, 0.75, 0.75)
    send(visit)
    visit.upload("other.png", 60, 60)
    visit.drag(0.5, 0.5, 1, 1)
    send(visit)
    bodies = [json.loads(one.post_data) for one in visit.asked if one.url.endswith("/v1/chat/completions")]
    # Where the first answer had no words, its question is left out and its image goes with the second.
    users = [message["regions"] for message in bodies[-1]["messages"] if message["role"] == "user"]
    assert users[-1] == [{"box": [30, 30, 60, 60], "image": 1}]
    assert users[:-1] in ([], [[{"box": [30, 40, 90, 60]}]])
