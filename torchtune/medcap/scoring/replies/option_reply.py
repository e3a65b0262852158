"""Which option of a multiple-choice question does a reply name?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from medcap.scoring.replies.denial import Denial, denial
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.numbers import same_number
from medcap.scoring.replies.option_words import named_options, positions
from medcap.scoring.replies.reply_text import bare, clean, loose

# A letter with no other character next to it: "A" but not "A-line", "patient's" or "3A".
_LETTER = r"(?<![\w-])(?<!\w['’])([A-Za-z])(?!['’-]?\w)"
_BARE = re.compile(r"[(\[{<\"'“]?\s*([A-Za-z])\s*[)\]}>\"'”]?\s*[.:;,!)]?")
# "B. lung", "B) lung", "B: lung", "B - lung" at the start of a line, and the letter in a line of its own.
_LEADING = re.compile(r"^[(\[{]?([A-Za-z])(?: ?[)\]}.:;,]| [-–—] |$)", re.MULTILINE)
# "(B)" anywhere, and "B. lung" within a line.
_MARKED = re.compile(rf"[(\[{{]([A-Z])[)\]}}]|{_LETTER}[.):](?= \S)")
_LINK = r"(?:\s+(?:is|are|was|be|would|should|must|option|choice|letter|therefore|thus|likely|most|probably|the))*"
# The words before the letter that a reply settles on, the surest first.
_CUES = tuple(
    re.compile(rf"\b(?:{words})\b[\"'”]?{_LINK}\s*[:=]?\s*[(\[{{\"'“]?\s*{_LETTER}", re.IGNORECASE)
    for words in (
        "final (?:answer|choice|decision)|boxed",
        "answers?|conclusion",
        "options?|choices?|letters?|choose|chose|select|pick|go with",
    )
)
_MENTION = re.compile(_LETTER)
# "Wait, no." at the start of a sentence takes back what was said before.
_TAKEN_BACK = re.compile(
    r"(?:^|(?<=[.!?;\n]))\s*(?:no,? )?(?:wait|actually|correction|sorry|scratch that|on second thoughts?|hold on|hmm+"
    r"|let me (?:correct|reconsider|rethink)(?: that| this)?|i (?:made a mistake|meant|was wrong)|my mistake)\b"
    r"[,.:;!–— ]*",
    re.IGNORECASE,
)
# "A nodule" and "I see" are words of the language; "A is right" and "A because ..." are not.
_AFTER_A_LETTER = frozenset(
    ("is", "was", "are", "were", "can", "cannot", "does", "must", "should", "would", "seems", "fits", "best", "remains")
) | frozenset(
    ("not", "isn't", "isn’t", "doesn't", "doesn’t", "rather", "instead", "because", "since", "as", "and", "or", "for")
)
_FOLLOWING_WORD = re.compile(r" ([\w'’\0]+)")
# Letters of abbreviations: "N/A", "A&E", "A.P.", "A–P", "A+", "37 °C".
_ABBREVIATION_GOES_ON = re.compile(r"\s?[/&]\s?[A-Za-z](?![A-Za-z])|[/&]\w|[.–—·][A-Za-z](?![A-Za-z])|\+|-\W*$")
_ABBREVIATION_BEGAN = re.compile(r"(?:\w[/&]|(?<![A-Za-z])[A-Za-z](?:\s?[/&]\s?|\.|[–—·])|\+|°\s?)$")
_NAMED_THINGS = re.compile(
    r"(?:\b(?:vitamin|hepatitis|influenza|type|grade|stage|group|class|level|zone|segment|factor|phase|view|stanford"
    r"|kerley|child-pugh|weber|dukes|haemophilia|hemophilia|h(?:a)?emoglobin|immunoglobulin|interferon|streptococcus|panel"
    r"|figure|fig\.|plan|category|(?:apolipo)?protein|hla|vit\.?|hep\.?|dr\.)|维生素|維生素|肝炎|流感)\s$",
    re.IGNORECASE,
)
_COMPOUND = re.compile(
    r"\s(?:lines?|(?:lympho)?cells?|lymphocytes?|lymphomas?|mode|scans?|arms?|sections?|waves?|dimers?|rays?|loops?|spine"
    r"|virus|symptoms?|streptococc\w+)\b",
    re.IGNORECASE,
)
_LIST_GOES_ON = re.compile(rf"[\s)\]}}\"'”]*(?:,|/|&|\+|\band\b|\bor\b)(?:\s*(?:and|or)\b)?[\s(\[{{\"'“]*{_LETTER}")
_LOOK_BACK = 20  # characters before a letter that may belong to it
_VERDICTS = frozenset(("yes", "no", "true", "false"))


def parse_option(reply: str, options: Sequence[str]) -> int | None:
    """Find the option that a reply names, by its letter or by its text.

    Reasoning is taken off first (:func:`final_reply`); full-width forms are read as the usual ones. Then, from the
    surest evidence to the least: a reply that is one letter; one that equals an option's text, or differs from a single
    option's in hyphens and endings only ("Lungs", "xray"); a letter after "final answer", then "answer", then "option"
    and the like; the only letter in a line of its own; a letter at the start with a delimiter ("B. lung") or in
    brackets; a leading yes or no; exactly one option's text as whole words; any other capital letter that stands alone.

    A letter goes before a text that contradicts it. "A" before a word is an article, "I" a pronoun; a letter of an
    abbreviation ("N/A", "hepatitis B") is not an option. What is denied ("not B", "absence of fracture", "A is wrong")
    is not named. What comes before "Wait, no." is taken back where something comes after it.

    Args:
        reply: what was answered.
        options: their texts, in order; the letters are A, B, C, ... An empty text keeps its letter and is never named.

    Returns:
        The option's index; None where the reply names none, several at the same level of evidence, or a letter past
        the last option.

    Example:
        >>> parse_option("The correct answer is B.", ["heart", "lung"])
        1
    """
    text = clean(final_reply(reply))
    texts = [clean(option) or option.strip() for option in options]
    if not text or not any(texts):
        return None
    taken_back = list(_TAKEN_BACK.finditer(text))
    if taken_back:
        before, later = text[: taken_back[-1].start()], text[taken_back[-1].end() :]
        # A letter is taken back by a letter only: "B. Actually, the heart is small" says nothing else.
        if (_letters_in(later) or not _letters_in(before)) and (index := _settle(later, texts)) is not None:
            return index
    return _settle(text, texts)


def _settle(text: str, options: list[str]) -> int | None:
    if (alone := _BARE.fullmatch(text)) and (index := _index(alone[1], options)) is not None:
        return index
    equal = _equal(text, options)
    if equal is not None:
        return equal

    named, rest = named_options(text, options)
    false = _false_letters(rest)
    for letters in _letters_by_evidence(rest):
        if letters := letters - false:
            return _only(letters, options)
    for index, option in enumerate(options):
        if option.lower() in _VERDICTS and positions(text, option)[:1] == [(0, len(option))] and index in named:
            return index
    if len(named) == 1:
        return next(iter(named))
    mentions = _letters_in(rest) - false
    return _only({letter for letter in mentions if _index(letter, options) is not None}, options)


def _equal(text: str, options: list[str]) -> int | None:
    """Return the option that the whole reply is; one of other spelling only where no second one has it."""
    plain = bare(text)
    for same in (str.__eq__, same_number):
        for index, option in enumerate(options):
            if plain and same(plain, bare(option)):
                return index
    name = loose(text)
    alike = [index for index, option in enumerate(options) if name and name == loose(option)]
    return alike[0] if len(alike) == 1 else None


def _letters_by_evidence(rest: str) -> Iterable[set[str]]:
    """Return the letters that each kind of evidence gives, from the surest to the least."""
    for cue in _CUES:
        yield _letters_of(rest, cue.finditer(rest), after_cue=True)
    lines = rest.split("\n")
    alone = {match[1].upper() for line in lines if (match := _BARE.fullmatch(line))}
    if len(alone) == 1:
        yield alone
    leading = _letters_of(rest, _LEADING.finditer(rest))
    inline = _letters_of(rest, (match for match in _MARKED.finditer(rest) if match[match.lastindex or 0].isupper()))
    if len(leading) == 1 and _marked(lines[0]) == leading:
        yield leading
    yield leading | inline


def _letters_in(text: str) -> set[str]:
    """Return the capital letters anywhere in a text."""
    return _letters_of(text, (match for match in _MENTION.finditer(text) if match[1].isupper()))


def _marked(line: str) -> set[str]:
    return _letters_of(line, [*_LEADING.finditer(line), *_MARKED.finditer(line)])


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) and options[index] else None


def _only(letters: set[str], options: Sequence[str]) -> int | None:
    return _index(letters.pop(), options) if len(letters) == 1 else None


def _letters_of(text: str, matches: Iterable[re.Match[str]], after_cue: bool = False) -> set[str]:
    return {letter for match in matches for letter in _letters(text, match, after_cue)}


def _letters(text: str, match: re.Match[str], after_cue: bool) -> set[str]:
    """Return the letters of a match and of the list after it; none if it is a word, part of one, or denied."""
    group = match.lastindex or 0
    letter, start, end = match[group], match.start(group), match.end(group)
    following = _FOLLOWING_WORD.match(text, end)
    if letter in "AaIi" and following and following[1] not in _AFTER_A_LETTER:
        return set()
    if _part_of_a_name(text, start, end, after_cue) or denial(text, start, end, letter=True):
        return set()
    letters = {letter.upper()}
    while more := _LIST_GOES_ON.match(text, end):
        end = more.end(1)
        if more[1] in "ai" or (more[1] in "AI" and _FOLLOWING_WORD.match(text, end)):
            break
        letters.add(more[1].upper())
    return letters


def _part_of_a_name(text: str, start: int, end: int, after_cue: bool) -> bool:
    before = text[max(0, start - _LOOK_BACK) : start]
    if _ABBREVIATION_BEGAN.search(before) or _ABBREVIATION_GOES_ON.match(text, end):
        return True
    return not after_cue and bool(_NAMED_THINGS.search(before) or _COMPOUND.match(text, end))


def _false_letters(rest: str) -> set[str]:
    """Return the letters that are said not to be the answer, where they are mentioned last."""
    last = {
        match[1]: denial(rest, *match.span(1), letter=True) for match in _MENTION.finditer(rest) if match[1].isupper()
    }
    return {letter for letter, found in last.items() if found is Denial.TRUTH}
