"""The web page in a browser: opened, asked, and watched for what it asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.mask_rows import mask_of, region_of
from helpers.serving import Client, InstantAnswers, noise_png
from helpers.waiting import PATIENCE
from medcap.data.outputs import NOTHING, Outputs
from medcap.generation.request import Generation
from medcap.serving.service import ServedRun

KEY = "secret"
# A box in thousandths, as BiRD writes it.
BOXED = "<ref>liver</ref><box>(100,200),(500,600)</box>"
# Masks of a picture of 6 x 4 pixels, and an answer that names them.
RING = region_of(mask_of("......", ".####.", ".#..#.", ".####."))
DISC = region_of(mask_of("......", "......", "..##..", "......"))
OUTLINED = "ring <SEG>, disc <SEG>, cyst not visible"
# Columns and rows that pixels of a colour reach in the picture; null where there are none.
COUNT_PIXELS = """
color => {
  const canvas = document.getElementById("picture");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const wanted = [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
  const found = [];
  for (let place = 0; place < pixels.length; place += 4) {
    if (wanted.every((value, channel) => pixels[place + channel] === value)) found.push(place / 4);
  }
  const columns = found.map((place) => place % canvas.width);
  const rows = found.map((place) => Math.floor(place / canvas.width));
  const ends = (values) =>
    values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [null, null];
  return { size: [canvas.width, canvas.height], columns: ends(columns), rows: ends(rows) };
}
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Pointing(InstantAnswers):
    """Stands in for a run that answers with a box, or with masks.

    Args:
        run: prepares the prompts and has the tokenizer.
        text: what it answers.
        outputs: what it answers beside its words.
    """

    def __init__(self, run: ServedRun, text: str = BOXED, outputs: Outputs = NOTHING) -> None:
        super().__init__(run.live)
        self._text, self._outputs = text, outputs
        self._tokens = run.generator.tokenizer.answer(text, end_of_turn=False)

    def submit(self, prompt: Any, on_token: Any, on_end: Any, position: int) -> None:
        for token in self._tokens:
            on_token(token)
        on_end(Generation(self._text, self._tokens, "stop", outputs=self._outputs))


@dataclass
class Served:
    """A server of two tiny models that sample, one that points and one that outlines; it needs a key.

    Args:
        client: client of its interface.
        votes: the file of votes.
    """

    client: Client
    votes: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.client.port}/"


@dataclass
class Visit:
    """An open page, what it asked for, and what went wrong in it.

    Args:
        page: Playwright's page.
        requests: the address of each request.
        errors: errors of scripts, and of the content security policy.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def upload(self, name: str = "scan.png", width: int = 120, height: int = 80) -> None:
        """Choose an image and wait until it is shown."""
        self.page.set_input_files(
            "#file", {"name": name, "mimeType": "image/png", "buffer": noise_png(1, width, height)}
        )
        self.page.wait_for_function("name => facts.textContent.startsWith(name)", arg=f"{name}, {width} × {height}")

    def tick(self, *models: str) -> None:
        """Tick these runs and no others."""
        for box in self.page.locator("#models input").all():
            box.set_checked(box.input_value() in models)

    def ask(self, words: str = "") -> None:
        """Ask, and wait until all answers are whole."""
        self.page.fill("#words", words)
        self.page.click("#send")
        self.wait()

    def wait(self) -> None:
        """Wait until no answer is under way."""
        self.page.wait_for_selector("#send:visible")

    def drag(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a box with the mouse, in shares of the picture."""
        edges = self.page.locator("#picture").bounding_box()
        points = [
            (edges["x"] + across * edges["width"], edges["y"] + down * edges["height"])
            for across, down in ((left, top), (right, bottom))
        ]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        self.page.mouse.move(*points[1], steps=2)
        self.page.mouse.up()

    def chips(self) -> list[str]:
        """The boxes that go with the next question."""
        return self.page.locator("#marked button").all_inner_texts()

    def answers(self) -> dict[str, str]:
        """The words of each run for the last question."""
        cards = self.page.locator(".answers").last.locator(".answer").all()
        return {card.locator("h2").inner_text(): card.locator(".text").inner_text() for card in cards}


@contextlib.contextmanager
def visiting(browser: Any, url: str, key: str | None = KEY, **options: Any) -> Iterator[Visit]:
    """Open the page; the test fails if it asks another host for anything, or a script of it fails.

    Args:
        browser: Playwright's.
        url: URL of the page.
        key: typed into the login.
        options: options of the browser's context.

    Yields:
        The visit.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    visit = Visit(page)
    context.on("request", lambda request: visit.requests.append(request.url))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("console", lambda message: visit.errors.append(message.text) if "Policy" in message.text else None)
    try:
        page.goto(url)
        if key is not None:
            log_in(visit, key)
            page.wait_for_selector("#models input")
        yield visit
        assert [address for address in visit.requests if not address.startswith((url, "blob:", "data:"))] == []
        assert visit.errors == []
    finally:
        context.close()


def log_in(visit: Visit, key: str) -> None:
    """Type a key into the login."""
    visit.page.wait_for_selector("#login[open]")
    visit.page.fill("#key", key)
    visit.page.click("#login button")
