"""Which option of a multiple-choice question does a reply name?"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKUP = re.compile(r"[*_`#~$\\]+")
# A letter that stands alone: "A" but not "A-line", "patient's" or "3A".
_LETTER = r"(?<![\w-])(?<!\w['’])([A-Za-z])(?!['’-]?\w)"
_BARE = re.compile(r"[(\[{<\"'“]?\s*([A-Za-z])\s*[)\]}>\"'”]?\s*[.:;,!)]?")
# "B. lung", "B) lung", "B: lung", "B - lung" at the start of a line, and the letter in a line of its own.
_LEADING = re.compile(r"^[(\[{]?([A-Za-z])(?: ?[)\]}.:;,]| [-–—] |$)", re.MULTILINE)
# "(B)" anywhere, and "B. lung" within a line.
_MARKED = re.compile(rf"[(\[{{]([A-Z])[)\]}}]|{_LETTER}[.):](?= \S)")
_LINK = r"(?:\s+(?:is|are|was|be|would|should|must|option|choice|letter|therefore|thus|likely|most|probably|the))*"
# What a reply says before the letter that it settles on, the surest first.
_CUES = tuple(
    re.compile(rf"\b(?:{words})\b{_LINK}\s*[:=]?\s*[(\[{{\"'“]?\s*{_LETTER}", re.IGNORECASE)
    for words in ("answers?|conclusion", "options?|choices?|letters?|choose|chose|select|pick|go with")
)
_MENTION = re.compile(_LETTER)
# "A nodule" and "I see" are words of the language; "A is right" and "A because ..." are not.
_AFTER_A_LETTER = frozenset(
    ("is", "was", "because", "since", "as", "and", "or", "for", "would", "seems", "fits", "best")
)
_FOLLOWING_WORD = re.compile(r"\s+([\w'’\0]+)")
_NEGATED = re.compile(
    r"(?:\b(?:not|cannot|no|without|never|neither|nor|excludes?|than|instead of|rules? out)|n['’]t)"
    r"(?:\s+(?:a|an|the|be|option|evidence of|signs? of|consistent with))*\s*[(\[{]?$",
    re.IGNORECASE,
)
_NAMED_THINGS = re.compile(
    r"\b(?:vitamin|hepatitis|influenza|type|grade|stage|group|class|level|zone|segment|factor|phase|view)\s$",
    re.IGNORECASE,
)
_LIST_GOES_ON = re.compile(rf"[\s)\]}}\"'”]*(?:,|/|&|\+|\band\b|\bor\b)(?:\s*(?:and|or)\b)?[\s(\[{{\"'“]*{_LETTER}")
_LOOK_BACK = 60  # characters before a letter or text in which a denial of it may begin
_VERDICTS = frozenset(("yes", "no", "true", "false"))


def parse_option(reply: str, options: Sequence[str]) -> int | None:
    """Find the option that a reply names, by its letter or by its text.

    From the surest evidence to the least: a reply that is one letter; one that equals an option's text; a letter after
    "answer", then after "option" and the like; a letter at the start with a delimiter ("B. lung") or in brackets; a
    leading yes or no; exactly one option's text as whole words; any other capital letter that stands alone. A letter
    goes before a text that contradicts it. "A" before a word is an article, "I" a pronoun. What is denied ("not B",
    "no fracture") is not named.

    Args:
        reply: what was answered.
        options: their texts, in order; the letters are A, B, C, ...

    Returns:
        The option's index; None where the reply names none, several at the same level of evidence, or a letter past
        the last option.

    Example:
        >>> parse_option("The correct answer is B.", ["heart", "lung"])
        1
    """
    text = _clean(reply)
    if not text or not options:
        return None
    if (bare := _BARE.fullmatch(text)) and (index := _index(bare.group(1), options)) is not None:
        return index
    texts = [_clean(option) for option in options]
    plain = _edges_off(text)
    for index, option in enumerate(texts):
        if plain and plain == _edges_off(option):
            return index

    named, rest = _named_options(text, texts)
    for cue in _CUES:
        if letters := {letter for match in cue.finditer(rest) for letter in _letters(rest, match)}:
            return _only(letters, options)
    marked = [
        *_LEADING.finditer(rest),
        *(match for match in _MARKED.finditer(rest) if match[match.lastindex].isupper()),
    ]
    if letters := {letter for match in marked for letter in _letters(rest, match)}:
        return _only(letters, options)
    for index, option in enumerate(texts):
        if option.lower() in _VERDICTS and _places(text, option)[:1] == [0]:
            return index
    if len(named) == 1:
        return next(iter(named))
    letters = {
        letter
        for match in _MENTION.finditer(rest)
        if match[1].isupper() and not _before(_NAMED_THINGS, rest, match.start())
        for letter in _letters(rest, match)
    }
    return _only({letter for letter in letters if _index(letter, options) is not None}, options)


def _clean(text: str) -> str:
    # The one letter whose lower case is longer would shift the places of what follows.
    lines = (" ".join(line.split()) for line in _MARKUP.sub("", text.replace("İ", "I")).splitlines())
    return "\n".join(line for line in lines if line)


def _edges_off(text: str) -> str:
    return text.strip(" .,:;!\"'“”").casefold()


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) else None


def _only(letters: set[str], options: Sequence[str]) -> int | None:
    return _index(letters.pop(), options) if len(letters) == 1 else None


def _before(pattern: re.Pattern, text: str, end: int) -> bool:
    return pattern.search(text, max(0, end - _LOOK_BACK), end) is not None


def _letters(text: str, match: re.Match) -> set[str]:
    """The letter of a match, and those that a list adds to it; none where it is a word or denied."""
    letter, start, end = match[match.lastindex], match.start(match.lastindex), match.end(match.lastindex)
    following = _FOLLOWING_WORD.match(text, end)
    if letter in "AaIi" and following and following[1] not in _AFTER_A_LETTER:
        return set()
    if _before(_NEGATED, text, start):
        return set()
    letters = {letter.upper()}
    while more := _LIST_GOES_ON.match(text, end):
        end = more.end(1)
        if more[1] in "ai" or (more[1] in "AI" and _FOLLOWING_WORD.match(text, end)):
            break
        letters.add(more[1].upper())
    return letters


def _named_options(text: str, options: Sequence[str]) -> tuple[set[int], str]:
    """The options whose text stands in ``text`` as whole words, and ``text`` with all such places blanked.

    Where one option's text is part of another's ("fracture", "no fracture"), the longer one is looked for first.
    """
    named: set[int] = set()
    for index in sorted(range(len(options)), key=lambda index: -len(options[index])):
        option = options[index].strip(" .,:;")
        if len(option) == 1 and option.isalpha():
            continue
        for start in _places(text, option):
            end = start + len(option)
            if not _before(_NEGATED, text, start):
                named.add(index)
            text = text[:start] + "\0" * len(option) + text[end:]
    return named, text


def _places(text: str, words: str) -> list[int]:
    """Where ``words`` begin in ``text`` as whole words, whatever the case and the line ends."""
    text, words = text.replace("\n", " ").lower(), words.replace("\n", " ").lower()
    places = []
    start = text.find(words) if words else -1
    while start >= 0:
        end = start + len(words)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            places.append(start)
            start = text.find(words, end)
        else:
            start = text.find(words, start + 1)
    return places
