"""Boxes that a person draws on the picture, or types, and asks about."""

import json

import numpy as np
import pytest

from helpers.browser import COUNT_PIXELS, visiting

YELLOW = "#ffd400"


def asked_of(requests):
    """The words that each run was sent last."""
    bodies = [json.loads(request.post_data) for request in requests if request.url.endswith("/v1/chat/completions")]
    return {body["model"]: body["messages"][-1]["content"][-1]["text"] for body in bodies}


@pytest.fixture
def requests(visit):
    """All requests of a visit, whose answers are short."""
    requests = []
    visit.page.evaluate("max_tokens.value = 4")
    visit.page.on("request", lambda request: requests.append(request))
    return requests


def test_a_box_that_is_dragged_enters_the_question_in_the_notation_of_each_run(visit, requests):
    visit.upload("scan.png", 120, 80)
    visit.page.fill("#words", "What is in there?")
    visit.page.evaluate("words.setSelectionRange(11, 11)")
    # From the lower right to the upper left.
    visit.drag(0.75, 0.75, 0.25, 0.5)
    assert visit.page.input_value("#words") == "What is in {box 1} there?"
    assert visit.chips() == ["box 1: 30, 40 to 90, 60 ×"]
    visit.page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] !== null", arg=YELLOW)
    # The picture is drawn five times as large; a line lies half outside of its box.
    drawn = visit.page.evaluate(COUNT_PIXELS, YELLOW)
    assert drawn["size"] == [600, 400]
    assert abs(drawn["columns"][0] - 150) <= 3 and abs(drawn["columns"][1] - 450) <= 3
    assert abs(drawn["rows"][0] - 200) <= 3
    visit.page.click("#send")
    visit.wait()
    asked = asked_of(requests)
    assert asked["first"] == "What is in {<30><40><90><60>} there?"
    assert asked["second"].startswith("What is in [25") and asked["second"].endswith("] there?")
    assert visit.page.inner_text(".asked p") == "What is in {box 1} there?"
    assert visit.page.inner_text(".answer .sent >> nth=0") == f"asked: {asked['first']}"
    assert visit.chips() == [] and visit.page.input_value("#words") == ""
    # The box stays in sight with its question, and the next question is without it.
    assert visit.page.evaluate(COUNT_PIXELS, YELLOW)["rows"] == drawn["rows"]
    visit.ask("And now?")
    assert asked_of(requests)["first"] == "And now?"


def test_a_question_to_runs_of_one_notation_is_shown_as_it_was_asked(visit, requests):
    visit.upload("scan.png", 120, 80)
    visit.tick("first")
    visit.drag(0.25, 0.5, 0.75, 0.75)
    visit.page.click("#send")
    visit.wait()
    assert visit.page.inner_text(".asked p") == "{<30><40><90><60>}"
    assert visit.page.locator(".answer .sent").count() == 0
    with visit.page.expect_download() as saved:
        visit.page.click("#save")
    (row,) = json.loads(saved.value.path().read_text(encoding="utf-8"))["rows"]
    assert row["conversations"][0]["value"] == "<image>\n{<30><40><90><60>}"
    # A run that is ticked only now is asked in its own notation.
    visit.tick("second")
    visit.page.click("#regenerate")
    visit.wait()
    assert asked_of(requests)["second"].startswith("[25")


def test_boxes_are_typed_and_taken_away(visit):
    visit.upload("scan.png", 120, 80)
    visit.page.fill("#words", "Is it")
    for edges in ("10 20 30 40", "0, 0, 120, 80", "1 2 3.5 4"):
        visit.page.fill("#edges", edges)
        visit.page.press("#edges", "Enter")
    assert visit.page.input_value("#words") == "Is it {box 1} {box 2} {box 3}"
    assert visit.chips() == ["box 1: 10, 20 to 30, 40 ×", "box 2: 0, 0 to 120, 80 ×", "box 3: 1, 2 to 4, 4 ×"]
    visit.page.click("#marked button >> nth=1")
    assert visit.chips() == ["box 1: 10, 20 to 30, 40 ×", "box 2: 1, 2 to 4, 4 ×"]
    assert visit.page.input_value("#words").split() == ["Is", "it", "{box", "1}", "{box", "2}"]
    visit.page.click("#attached .remove")
    assert visit.chips() == [] and visit.page.input_value("#words").strip() == "Is it"
    assert not visit.page.is_visible("#mark")


def test_a_box_that_is_none_is_refused_in_plain_words(visit):
    visit.upload("scan.png", 120, 80)
    for edges, words in (
        ("1 2 3", "A box is four numbers in pixels: left, top, right and bottom."),
        ("5 5 5 9", "This box has no area: left must be below right, top below bottom."),
        ("0 0 121 80", "This box is not within the image, which has 120 × 80 pixels."),
    ):
        visit.page.fill("#edges", edges)
        visit.page.click("#mark >> text=Add")
        assert visit.page.inner_text("#problem") == words and visit.chips() == []


def test_a_click_and_a_drag_that_is_given_up_draw_nothing(visit):
    visit.upload("scan.png", 120, 80)
    visit.drag(0.5, 0.5, 0.5, 0.5)
    visit.page.mouse.down()
    visit.page.mouse.move(10, 300)
    assert visit.page.is_visible("#drag")
    visit.page.keyboard.press("Escape")
    visit.page.mouse.up()
    assert not visit.page.is_visible("#drag") and visit.chips() == []


def test_words_that_name_a_box_that_there_is_not_stay_in_the_field(visit):
    visit.upload("scan.png", 120, 80)
    visit.page.fill("#words", "What is in {box 2}?")
    visit.page.click("#send")
    visit.page.wait_for_selector("#problem:visible")
    assert visit.page.inner_text("#problem") == "{box 2} names a box that does not exist: 0 were given"
    assert visit.page.input_value("#words") == "What is in {box 2}?" and visit.page.is_enabled("#send")
    assert visit.page.locator("#attached .thumb").count() == 1


def test_a_finger_draws_once_it_is_told_to(browser, served):
    with visiting(browser, served.url, has_touch=True, viewport={"width": 390, "height": 844}) as visit:
        visit.upload("scan.png", 120, 80)
        touch = visit.page.context.new_cdp_session(visit.page)

        def swipe():
            edges = visit.page.locator("#picture").bounding_box()
            for kind, share in (("touchStart", 0.25), ("touchMove", 0.5), ("touchMove", 0.75), ("touchEnd", None)):
                point = {
                    "x": edges["x"] + (share or 0) * edges["width"],
                    "y": edges["y"] + (share or 0) * edges["height"],
                }
                points = [] if share is None else [point]
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        swipe()
        assert visit.chips() == []
        visit.page.click("#draw")
        swipe()
        visit.page.wait_for_selector("#marked button")
        assert visit.chips() == ["box 1: 30, 20 to 90, 60 ×"]
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390


def volume():
    """Four axial slices of 40 x 40."""
    nibabel = pytest.importorskip("nibabel")
    values = np.broadcast_to(60 * np.arange(4, dtype=np.int16), (40, 40, 4))
    return {"name": "ct.nii", "mimeType": "", "buffer": nibabel.Nifti1Image(values, np.eye(4)).to_bytes()}


def test_a_box_belongs_to_its_slice(visit, requests):
    page = visit.page
    page.set_input_files("#file", volume())
    page.wait_for_selector("#volume:visible")
    visit.tick("first")
    visit.drag(0.25, 0.5, 0.75, 0.75)
    assert visit.chips() == ["box 1: 10, 20 to 30, 30 on axial slice 3 ×"]
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] !== null", arg=YELLOW)
    page.fill("#slice", "0")
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] === null", arg=YELLOW)
    page.click("#send")
    assert page.inner_text("#problem") == (
        "Box 1 is on axial slice 3, which the run is not shown: turn back to it, or take the box away."
    )
    page.fill("#slice", "2")
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] !== null", arg=YELLOW)
    page.click("#send")
    visit.wait()
    assert asked_of(requests)["first"] == "{<10><20><30><30>}"
    # The answer's boxes and the question's are on the slice that was asked about.
    page.fill("#slice", "1")
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] === null", arg=YELLOW)


def test_boxes_of_an_answer_are_drawn_on_the_slice_that_it_is_about(visit):
    page = visit.page
    page.set_input_files("#file", volume())
    page.wait_for_selector("#volume:visible")
    visit.tick("pointing")
    visit.ask("Where?")
    colour = "#5b4bb7"
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] !== null", arg=colour)
    page.fill("#slice", "1")
    page.wait_for_function(f"color => ({COUNT_PIXELS})(color).rows[0] === null", arg=colour)
