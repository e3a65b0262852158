"""How MedEvalKit reads a reply, equal to it on any text, and the same without the defects that are known of it.

Source: alibaba-damo-academy/MedEvalKit, ``utils/utils.py`` (``parse_response``, ``judge_judgement``,
``judge_close_end_vqa``, ``judge_open_end_vqa``, ``judge_multi_choice``, ``calculate_f1``) and the first lines of
``cal_metrics`` in ``utils/VQA_RAD/VQA_RAD.py``; ``extract_boxed_content`` is that of hiyouga/MathRuler,
``mathruler/grader.py``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from medcap.scoring.protocols.omnimedvqa import most_similar

_BOX = r"\boxed{"
_NO_BOX = "None"  # what the published function returns where there is no box
# Each in turn takes off all that comes before its last occurrence.
_CUES = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)
_YES_NO = re.compile(r"\b(?:yes|no)\b")


def boxed(text: str) -> str:
    r"""Return what the last ``\boxed{...}`` holds, its own braces in pairs; "None" where there is none."""
    start = text.rfind(_BOX)
    if start < 0:
        return _NO_BOX
    content = text[start + len(_BOX) :]
    depth = 0
    for position, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return content[:position].strip()
    return _NO_BOX


def tagged(text: str, tag: str) -> str:
    """Return what stands between ``<tag>`` and ``</tag>``, several parts joined; the text itself without any."""
    parts = []
    _, opening, rest = text.partition(f"<{tag}>")
    while opening:
        part, closing, rest = rest.partition(f"</{tag}>")
        if not closing:
            break
        parts.append(part + " ")
        _, opening, rest = rest.partition(f"<{tag}>")
    return "".join(parts).strip() or text


def given_answer(reply: str) -> str:
    """Return the part of a reply that is scored: a box, else ``<answer>``, else all of it."""
    box = boxed(reply)
    if box != _NO_BOX:
        return box
    return tagged(reply, "answer") if "<answer>" in reply else reply


def after_cues(reply: str) -> str:
    """Return a reply in lower case behind its last "answer is" and the like.

    A reply with the word "boxed" that holds no box becomes "None", with its capital letter.
    """
    text = reply.lower()
    if "boxed" in text:
        text = boxed(text)
    elif "<answer>" in text:
        text = tagged(text, "answer")
    for cue in _CUES:
        text = text.split(cue)[-1]
    return text


def says_yes_or_no(reply: str, reference: str) -> bool:
    """Return whether a reply holds one of "yes" and "no", and the reference, all as substrings: "normal" holds "no"."""
    text = after_cues(reply).replace("\n", "").replace(".", "")
    return ("yes" in text) != ("no" in text) and reference.lower() in text


def says_yes_or_no_word(reply: str, reference: str) -> bool:
    """Return the same of whole words."""
    words = set(_YES_NO.findall(after_cues(reply)))
    return words == {reference.lower()}


def equals_closed(reply: str, reference: str) -> bool:
    """Return whether a reply without line breaks and full stops equals the reference."""
    return after_cues(reply).replace("\n", "").replace(".", "") == reference.lower()


def word_measures(reply: str, reference: str) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the sets of words; 0 where either side has no word or they share none."""
    said, wanted = set(reply.lower().split()), set(reference.lower().split())
    common = len(said & wanted)
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / len(said), common / len(wanted)
    return precision, recall, 2 * (precision * recall) / (precision + recall)


def chosen_option(choices: Sequence[str], reference: str, reply: str, first_if_none: bool) -> tuple[int | None, bool]:
    """Read the reply to a question with options.

    Args:
        choices: the options as they are shown, at least one.
        reference: letter of the right one, by its place among ``choices``, or its text.
        reply: what was answered.
        first_if_none: whether a reply without any similarity to an option stands for the first one, as published; so
            does an empty reply.

    Returns:
        Place of the option that the reply is taken for, None for none; and whether it is right.
    """
    letters = string.ascii_lowercase[: len(choices)]
    shown = [choice.lower() for choice in choices]
    wanted = reference.strip().lower()
    text = reply.lower()
    first, last = text.split("\n\n")[0], text.split("\n\n")[-1].split(".")[0]
    if len(first) == 1 and first in letters:
        text = first
    elif len(last) == 1 and last in letters:
        text = last
    text = after_cues(text).strip().lower().replace("\n", "")
    short = text.split(".")[0].split(":")[-1]
    place = letters.find(short) if len(short) == 1 else -1
    if short == wanted:
        own = place if place >= 0 else shown.index(short) if short in shown else None
        return own, True
    if place >= 0:
        return place, shown[place] == wanted
    if short in shown:
        place = letters.find(wanted) if len(wanted) == 1 else -1
        return shown.index(short), place >= 0 and short == shown[place]
    nearest = most_similar(text, tuple(shown))
    if nearest is None:
        if not first_if_none:
            return None, False
        nearest = 0
    return nearest, wanted in (letters[nearest], shown[nearest])
