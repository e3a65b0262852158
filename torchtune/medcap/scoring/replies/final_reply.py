"""What a model finally says, without the reasoning that it wrote before."""

from __future__ import annotations

import re

# The names of tags around reasoning. Tags of one family close each other: "<thinking> ... </think>" does occur.
_FAMILIES = {
    "think": r"think(?:ing)?|thoughts?",
    "reasoning": r"reason(?:ing)?|rationale",
    "reflection": r"reflection",
    "analysis": r"analysis",
    "scratchpad": r"scratch_?pad",
}
# "<think>", "</think >", "<seed:think>", "<think budget='9'>", "◁think▷", "<|think|>".
_TAG = r"(?:<\|?|◁) ?{slash} ?(?:\w{{1,20}}:)?(?:{name})(?:\s[^<>]{{0,80}})?(?:\|?>|▷)"
# Marks of other forms: Cohere, OpenThinker, Magistral, Gemma 4, MedGemma.
_OPENING = r"<\|(?:start_thinking|begin_of_thought|think_start)\|>|\[think\]|<\|channel>|<unused94>"
_CLOSING = r"<\|(?:end_thinking|end_of_thought|think_end)\|>|\[/think\]|<channel\|>|<unused95>"
_MARKS = re.compile(
    "|".join(
        f"(?P<{family}_{kind}>{_TAG.format(slash=slash, name=name)}{more if family == 'think' else ''})"
        for family, name in _FAMILIES.items()
        for kind, slash, more in (("open", "", f"|{_OPENING}"), ("close", "/", f"|{_CLOSING}"))
    ),
    re.IGNORECASE,
)
# Harmony, the format of gpt-oss, with its special tokens and without them.
_CHANNEL = re.compile(r"(?:<\|start\|>\s*\w*\s*)?<\|channel\|>")
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b(?:[^<>]*(?:<\|constrain\|>[^<>]*)?<\|message\|>)?")
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_CHANNEL = re.compile(r"(?:analysis|commentary)(?=[A-Z])")
_BARE_FINAL = "assistantfinal"
# Headings between reasoning and reply: HuatuoGPT-o1, Granite.
_HEADED = (
    (re.compile(r"\s*#+ *thinking\b", re.IGNORECASE), re.compile(r"^#+ *final (?:response|answer)\b:?", re.I | re.M)),
    (re.compile(r"\s*here is my thought process:", re.IGNORECASE), re.compile(r"here is my response:", re.IGNORECASE)),
)
# What stands around the reply itself. One that is not closed was cut off and goes to the end.
_ANSWERS = tuple(
    re.compile(rf"{opening}(?P<reply>.*?)(?:{closing}|\Z)", re.IGNORECASE | re.DOTALL)
    for opening, closing in (
        (r"\[begin final response\]", r"\[end final response\]"),
        (r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>"),
        (r"<\|start_(?:response|text)\|>", r"<\|end_(?:response|text)\|>"),
        (r"<(?P<tag>answer|final|final[ _-]?answer|response|solution|conclusion)\s*>", r"</(?P=tag)\s*>"),
        (r"<\|begin_of_box\|>", r"<\|end_of_box\|>"),
    )
)
_FENCED = re.compile(r"(?P<fence>`{3,}|~{3,})(?:[^\S\n]*[\w+-]*[^\S\n]*\n)?(?P<reply>.*?)(?:(?P=fence))?", re.DOTALL)
_SIGNS = re.compile(r"[<\[◁`~]|#+ *thinking|here is my thought|analysis[A-Z]|commentary[A-Z]", re.IGNORECASE)


def final_reply(text: str) -> str:
    """Take the reasoning off a reply, and the tags or the code fence around the reply itself.

    Known are ``<think>`` and tags like it, with and without the opening one; the channels of gpt-oss; the marks of
    Kimi, Magistral, Command A, OpenThinker, Gemma 4, MedGemma, GLM-V, Apriel, HuatuoGPT-o1 and Granite; ``<answer>``
    and tags like it.

    Args:
        text: everything that a model said.

    Returns:
        The reply. "" where the reasoning was cut off before it: nothing was answered then. A text without any of
        these marks comes back as it is.

    Example:
        >>> final_reply("<think>Option A is plausible. No.</think>The answer is B.")
        'The answer is B.'
    """
    if not _SIGNS.search(text):
        return text
    reply = _without_channels(text)
    reply = _without_tags(reply)
    reply = _below_headings(reply)
    for answer in _ANSWERS:
        if found := list(answer.finditer(reply)):
            reply = found[-1]["reply"]
    if fenced := _FENCED.fullmatch(reply.strip()):
        reply = fenced["reply"]
    return text if reply == text else reply.strip()


def _without_channels(text: str) -> str:
    """Return what is in Harmony's final channel."""
    if channel := _CHANNEL.search(text):
        finals = list(_FINAL_CHANNEL.finditer(text))
        if not finals:
            return text[: channel.start()]
        rest = text[finals[-1].end() :]
        end = _END_OF_MESSAGE.search(rest)
        return rest[: end.start()] if end else rest
    if _BARE_CHANNEL.match(text.lstrip()):
        return text.rpartition(_BARE_FINAL)[2] if _BARE_FINAL in text else ""
    return text


def _without_tags(text: str) -> str:
    """Return what stands outside all reasoning tags, and after a closing tag that was never opened."""
    shown: list[str] = []
    hidden = ""  # the family of the tag that is open
    start = 0
    for mark in _MARKS.finditer(text):
        family, _, kind = str(mark.lastgroup).rpartition("_")
        if not hidden:
            # [Contract] a prompt may end with the opening tag: all before a lone closing tag is reasoning.
            shown = [*shown, text[start : mark.start()]] if kind == "open" else []
            hidden = family if kind == "open" else ""
        elif kind == "close" and family == hidden:
            hidden = ""
        else:
            continue
        start = mark.end()
    if not hidden:
        shown.append(text[start:])
    return "".join(shown)


def _below_headings(text: str) -> str:
    for reasoning, reply in _HEADED:
        if reasoning.match(text):
            found = list(reply.finditer(text))
            return text[found[-1].end() :] if found else ""
    return text
