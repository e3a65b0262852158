"""Rows whose boxes or masks would lie elsewhere on the prepared images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medcap.data.boxes.notations import find_box_texts
from medcap.datasets.preparing.worker import Settings
from medcap.errors import UserError


def refuse_moved_boxes(row: Mapping[str, Any], name: str, settings: Settings) -> None:
    """Refuse to prepare the images of a row whose boxes would no longer fit them.

    A crop and a padding move every box, another size only those in pixels. Brackets in a text count only where a crop
    or a padding would move them and their numbers have a decimal point: others may be anything.

    Args:
        row: the decoded JSON value.
        name: name of the row, for the message.
        settings: how the pictures are made.

    Raises:
        UserError: if it has such a box.
    """
    moves = bool(settings.pad_above) or (settings.size is not None and settings.fit == "crop")
    if not moves and settings.size is None:
        return
    text = json.dumps(row, ensure_ascii=False)
    found = find_box_texts(text, "coloninst") if not moves else find_box_texts(text)
    words = [(box.notation, text[box.start : box.end]) for box in found]
    marked = [word for notation, word in words if notation in ("coloninst", "qwen") or "." in word]
    given = row.get("boxes")
    if isinstance(given, list) and given:
        marked.append("'boxes'")
    if any(row.get(field) for field in ("masks", "regions")) or "<mask>" in text or "<region>" in text:
        raise UserError(
            f"{name} has masks or regions, which would not fit the prepared image: prepare with --pad-above 0 and"
            " without --size"
        )
    if marked:
        raise UserError(
            f"{name} has boxes ({marked[0][:60]}), which would lie elsewhere on the prepared image: prepare with"
            " --pad-above 0 and without --size, or, with boxes in thousandths or shares, --pad-above 0 --fit squash"
        )
