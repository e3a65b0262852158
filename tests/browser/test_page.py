"""The web page as a person uses it, in Chromium."""

import hashlib
import json

import numpy as np
import pytest

from helpers.browser import BOXED, COUNT_PIXELS, log_in, visiting
from helpers.serving import noise_png

# The grey in the middle of the picture.
GREY = """
() => {
  const canvas = document.getElementById("picture");
  return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
}
"""


def votes_of(served):
    return [json.loads(line) for line in served.votes.read_text(encoding="utf-8").splitlines()]


def test_an_uploaded_picture_is_shown_and_asked_about(visit):
    visit.upload("scan.png", 120, 80)
    assert visit.page.inner_text("#send") == "Describe"
    assert visit.page.locator("#attached .thumb").count() == 1
    visit.tick("first")
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.ask("Is there a nodule?")
    (turn,) = json.loads(asked.value.post_data)["messages"]
    assert [part["type"] for part in turn["content"]] == ["image_url", "text"]
    assert visit.page.inner_text(".asked p") == "Is there a nodule?"
    assert visit.answers().keys() == {"first"} and visit.answers()["first"]
    # The next question's strip is empty, and the picture stays in sight.
    assert visit.page.locator("#attached .thumb").count() == 0
    assert visit.page.locator("#picture").is_visible()


def test_an_example_is_a_picture_like_any_other(visit):
    visit.page.click("#examples .thumb")
    visit.page.wait_for_function("() => facts.textContent === 'example.png, 40 × 30'")


def test_an_answer_is_seen_as_it_comes_and_can_be_stopped(visit):
    visit.tick("first")
    visit.page.fill("#words", "What is shown?")
    visit.page.click("#send")
    visit.page.wait_for_function("() => document.querySelector('.answer.open .text')?.textContent.length > 3")
    begun = visit.page.inner_text(".answer.open .text")
    visit.page.click("#stop")
    visit.wait()
    assert visit.answers()["first"].startswith(begun)
    assert "stopped" in visit.page.inner_text(".answer footer")
    visit.page.click("#regenerate")
    visit.wait()
    assert len(visit.answers()["first"]) > len(begun)


def test_two_runs_answer_side_by_side_and_are_voted_on(visit, served):
    visit.upload()
    visit.ask("Which side?")
    answers = visit.answers()
    assert answers.keys() == {"first", "second"}
    first, second = (card.bounding_box() for card in visit.page.locator(".answer").all())
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]

    before = len(votes_of(served))
    for selector in (".answer >> nth=1 >> text=Good", ".compare >> text=second"):
        with visit.page.expect_response("**/page/votes"):
            visit.page.click(selector)
        visit.page.wait_for_selector(f"{selector} >> xpath=self::*[@aria-pressed='true']")
    image = {"name": "scan.png", "sha256": hashlib.sha256(noise_png(1, 120, 80)).hexdigest()}
    cast = votes_of(served)[before:]
    assert [(vote["vote"], vote["model"]) for vote in cast] == [("up", "second"), ("best", "second")]
    assert all(vote["question"] == "Which side?" and vote["images"] == [image] for vote in cast)
    assert cast[0]["answers"] == answers
    assert visit.page.locator(".answer.best h2").all_inner_texts() == ["second"]


def test_another_answer_comes_with_the_next_seed(visit):
    visit.tick("first")
    visit.page.click("#settings summary")
    visit.page.fill("#temperature", "2")
    seeds = []
    visit.page.on(
        "request", lambda request: seeds.append(json.loads(request.post_data)["seed"]) if is_chat(request) else 0
    )
    visit.ask("What is shown?")
    old = visit.answers()["first"]
    visit.page.click("#regenerate")
    visit.wait()
    assert seeds == [0, 1] and visit.page.input_value("#seed") == "1"
    assert visit.answers()["first"] != old
    assert visit.page.locator(".asked").count() == 1


def is_chat(request):
    return request.url.endswith("/v1/chat/completions")


def test_the_boxes_of_an_answer_are_drawn_on_the_picture(visit):
    visit.upload("scan.png", 120, 80)
    visit.tick("pointing")
    visit.ask("Where is the liver?")
    assert visit.answers() == {"pointing": BOXED}
    # The third run's colour; the picture is drawn five times as large, the box goes from (0.1, 0.2) to (0.5, 0.6).
    drawn = visit.page.evaluate(COUNT_PIXELS, "#5b4bb7")
    assert drawn["size"] == [600, 400]
    # A line lies half outside of its box; the label stands above it.
    assert abs(drawn["columns"][0] - 60) <= 2 and abs(drawn["columns"][1] - 300) <= 2
    assert drawn["rows"][0] < 80 and abs(drawn["rows"][1] - 240) <= 2


def test_a_wrong_key_is_reported_in_plain_words_and_the_right_one_still_works(browser, served):
    with visiting(browser, served.url, key=None) as visit:
        visit.page.wait_for_selector("#login[open]")
        assert visit.page.inner_text("#login p") == "This server asks for a key."
        log_in(visit, "wrong")
        visit.page.wait_for_function("() => document.querySelector('#login p').textContent.includes('not accept')")
        assert visit.page.inner_text("#login p") == "The server does not accept this key: give another one."
        log_in(visit, "secret")
        visit.page.wait_for_selector("#models input")
        assert not visit.page.is_visible("#login")


def test_something_that_is_not_an_image_is_refused_in_plain_words(visit):
    notes = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}
    visit.page.set_input_files("#file", notes)
    visit.page.wait_for_selector("#problem:visible")
    told = visit.page.inner_text("#problem")
    assert "image" in told and "Error" not in told and "{" not in told
    assert visit.page.locator("#attached .thumb").count() == 0


def test_nothing_scrolls_sideways_on_a_narrow_screen(browser, served):
    with visiting(browser, served.url, viewport={"width": 360, "height": 640}) as visit:
        visit.upload("a_scan_with_a_long_name_" * 4 + ".png")
        visit.page.click("#settings summary")
        visit.ask("a" * 200)
        width = visit.page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 360
        first, second = (card.bounding_box() for card in visit.page.locator(".answer").all())
        assert first["x"] == second["x"] and first["y"] + first["height"] <= second["y"]
        for name in ("#send", "#regenerate", "#words", "#settings"):
            box = visit.page.locator(name).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360, name


def volume_file():
    """A NIfTI volume of 6 sagittal, 5 coronal and 4 axial slices, in which the k-th axial slice has grey 60 k."""
    nibabel = pytest.importorskip("nibabel")
    values = np.broadcast_to(60 * np.arange(4, dtype=np.int16), (6, 5, 4))
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


def test_slices_of_a_volume_are_leafed_through_and_asked_about(visit):
    page = visit.page
    page.set_input_files("#file", {"name": "ct.nii", "mimeType": "", "buffer": volume_file()})
    page.wait_for_selector("#volume:visible")
    assert page.inner_text("#slice_number") == "3 of 4"
    page.fill("#window", "90,180")
    page.press("#window", "Tab")
    for number, grey in ((1, 0), (2, 85), (4, 255)):
        page.fill("#slice", str(number - 1))
        page.wait_for_function("text => slice_number.textContent === text", arg=f"{number} of 4")
        page.wait_for_function(f"grey => ({GREY})()[0] === grey", arg=grey)
    visit.tick("first")
    page.fill("#slice", "1")
    with page.expect_request("**/v1/chat/completions") as asked:
        visit.ask("Which slice?")
    (turn,) = json.loads(asked.value.post_data)["messages"]
    assert turn["content"][0]["view"] == {"frames": 1, "window": [90, 180]}
    assert visit.answers()["first"]
    assert page.is_disabled("#axis")  # what was asked about stays as it was

    page.set_input_files("#file", {"name": "ct.nii", "mimeType": "", "buffer": volume_file()})
    page.wait_for_selector("#axis:enabled")
    page.select_option("#axis", "coronal")
    page.wait_for_function("() => slice_number.textContent === '3 of 5'")
    page.select_option("#frames", "4 even")
    with page.expect_request("**/v1/chat/completions") as asked:
        visit.ask()
    content = json.loads(asked.value.post_data)["messages"][-1]["content"]
    assert content[0]["view"] == {"frames": "4 even", "axis": "coronal"}
    assert visit.answers()["first"]
