"""Rows with one kind of damage each, of all the kinds that training refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_SEQ_LEN, NUM_IMAGE_TOKENS, MAX_PIXELS = 96, 4, 2_000
_MARK = "\ufdd0"


@dataclass(frozen=True)
class Damage:
    """A row that cannot be used.

    Attributes:
        text: the row as it is in the file.
        rule: rule by which it fails.
        reason: words of the reason.
    """

    text: str
    rule: str
    reason: str


def good_row(image: str = "images/0.png", answer: str = "Normal") -> dict[str, Any]:
    """A row that can be used."""
    turns = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": turns}


def write_images(folder: Path) -> None:
    """Write ``images/0.png`` to ``3.png``, which are good, and one file for each damage that an image can have."""
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    Image.new("RGB", (20, 24)).save(folder / "outside.png")
    (images / "link.png").symlink_to(folder / "outside.png")
    (images / "circle.png").symlink_to(images / "circle.png")
    (images / "folder.png").mkdir()
    (images / "empty.png").write_bytes(b"")
    (images / "words.png").write_text("no image")
    whole = (images / "1.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    Image.fromarray(pixels).save(images / "whole.jpg", quality=95)
    photo = (images / "whole.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    Image.new("RGB", (50, 50)).save(images / "large.png")
    Image.new("RGB", (8, 8)).save(images / "other.ppm")
    (images / "header.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))


def damages() -> dict[str, Damage]:
    """Every kind by its name."""
    text: dict[str, Damage] = {
        "cut off": Damage('{"conversations": [{"from"', "json", "not valid JSON"),
        "two values": Damage("{} {}", "json", "not valid JSON (Extra data)"),
        "nested": Damage("[" * 100_000 + "]" * 100_000, "json", "nested too deeply"),
        "list": Damage("[1, 2]", "layout", "a row must be an object, not list"),
        "null": Damage("null", "layout", "a row must be an object, not NoneType"),
    }
    return text | {name: Damage(json.dumps(row), rule, reason) for name, (row, rule, reason) in _rows().items()}


def _rows() -> dict[str, tuple[Any, str, str]]:
    kinds: dict[str, tuple[Any, str, str]] = {}

    def turns(name: str, value: Any, reason: str, rule: str = "layout", **keys: Any) -> None:
        kinds[name] = ({"conversations": value, **keys}, rule, reason)

    def image(name: str, path: Any, rule: str, reason: str) -> None:
        kinds[name] = (good_row(path), rule, reason)

    def messages(name: str, value: Any, reason: str, rule: str = "layout") -> None:
        kinds[name] = ({"messages": [value, {"role": "assistant", "content": "Yes"}]}, rule, reason)

    human: Callable[[str], dict[str, str]] = lambda value: {"from": "human", "value": value}  # noqa: E731
    gpt: Callable[[Any], dict[str, Any]] = lambda value: {"from": "gpt", "value": value}  # noqa: E731
    kinds["no turns key"] = ({"text": "Normal"}, "layout", "there is no 'conversations' in this row (it has: text)")
    turns("no turns", [], "must be a list with at least one turn")
    turns("turns are text", "Normal", "must be a list with at least one turn")
    turns("turn is text", ["Normal"], "each turn needs 'from' and 'value'")
    turns("turn without value", [{"from": "human"}, gpt("Yes")], "each turn needs 'from' and 'value'")
    turns("value is null", [human("?"), gpt(None)], "'value' must be text, not NoneType")
    turns("value is a list", [human("?"), gpt(["Yes"])], "'value' must be text, not list")
    turns("unknown role", [human("?"), {"from": "bot", "value": "Yes"}], "'from' is 'bot'")
    turns("two answers", [human("?"), gpt("Yes"), gpt("No")], "two assistant turns in a row")
    turns("no image", [human("<image>\n?"), gpt("Yes")], "1 image placeholder but 0 images")
    turns("no placeholder", [human("?"), gpt("Yes")], "0 image placeholders but 1 image", image="images/0.png")
    turns("two places", [human("①?①"), gpt("Yes")], "2 image placeholders but 1 image", image="images/0.png")
    turns("placeholder in a sentence", [human("see <image> here"), gpt("Yes")], "0 image", image="images/0.png")
    turns("meta is not text", [human("<image>"), gpt("Yes")], "'meta' must be text", image="images/0.png", meta=["a"])
    turns("silent", [human("?"), gpt("  ")], "the assistant says nothing", "tokens")
    turns("nobody answers", [human("Is there a lung?")], "the assistant says nothing", "tokens")
    turns("mark in the text", [human(f"?{_MARK}"), gpt("Yes")], "a character that stands for an image", "tokens")
    late = [human("lung " * 200), gpt("Yes")]
    turns("answer behind the end", late, f"or only after max_seq_len={MAX_SEQ_LEN} tokens", "tokens")
    cut = [human("①" + "lung " * 100), gpt("Yes"), human("①?"), gpt("No")]
    turns("image cut", cut, f"max_seq_len={MAX_SEQ_LEN} cuts an image", "tokens", image=["images/0.png"] * 2)

    image("image is a number", 5, "layout", "'image' must be a path or a list of paths")
    image("image is an object", [{"path": "a"}], "layout", "'image' holds an object without the key 'image'")
    image("missing", "images/none.png", "image path", "does not exist")
    image("outside", "../outside.png", "image path", "lies outside the allowed folders")
    image("link outside", "images/link.png", "image path", "lies outside the allowed folders")
    image("link to itself", "images/circle.png", "image path", "")
    image("folder", "images/folder.png", "image path", "does not exist")
    image("NUL", "images/\0.png", "image path", "holds a NUL character")
    image("too long", "a" * 5_000 + ".png", "image path", "cannot be looked up")
    image("half a character", "\ud800.png", "image path", "cannot be looked up")
    image("a byte that is not text", "\udc80.png", "image path", "does not exist")
    image("empty", "images/empty.png", "image", "is not a readable image")
    image("words", "images/words.png", "image", "is not a readable image")
    image("cut PNG", "images/cut.png", "image", "is damaged")
    image("flipped byte", "images/flipped.png", "image", "is damaged")
    image("cut JPEG", "images/cut.jpg", "image", "is damaged")
    image("too large", "images/large.png", "image", f"more than the {MAX_PIXELS:,} pixels allowed")
    image("other format", "images/other.ppm", "image", "is not a readable image")
    image("DICOM without pixels", "images/header.dcm", "image", "header.dcm")

    messages("message is text", "Is it?", "each message needs 'role' and 'content'")
    messages("no role", {"content": "Is it?"}, "each message needs 'role' and 'content'")
    messages("content is null", {"role": "user", "content": None}, "'content' must be text or a list of parts")
    messages("content is an object", {"role": "user", "content": {"text": "?"}}, "'content' must be text")
    messages("unknown part", {"role": "user", "content": [{"type": "audio"}]}, "a content part needs 'type'")
    part = {"type": "image", "content": {"url": "images/0.png"}}
    messages("image part is an object", {"role": "user", "content": [part]}, "must hold text or a path, not dict")
    part = {"type": "image", "content": "images/none.png"}
    messages("image part is missing", {"role": "user", "content": [part]}, "does not exist", "image path")
    return kinds
