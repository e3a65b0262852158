"""Brings replies and options to one spelling before they are compared."""

from __future__ import annotations

import re
import unicodedata

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
# Differences of form only. The rest of NFKC changes the meaning: "10²" becomes "102", "№" becomes "No".
_SAME_MEANING = ("<wide>", "<narrow>", "<font>", "<circle>")
_COMPATIBLE = ((0x2160, 0x217F), (0x249C, 0x24B5), (0xFB00, 0xFB06))  # Roman numerals, "⒝", "ﬁ"
_LETTER_SIGNS = (0x1F130, 0x1F189)  # "🄱" and "🅱": rows of 32, of which the first 26 are letters
_PUNCTUATION = str.maketrans("「『【〔《〈」』】〕》〉。、‐‑−", "(((((())))))" + ".,---")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]")
_SMALL_DIGIT = re.compile(r"(?<!\d)[²³¹⁰⁴-⁹₀-₉]")
_MARKUP = re.compile(r"[*_`#~$\\]+")
# Latin letters and digits within Chinese, Japanese or Korean text are words of their own. A single letter before such
# text may begin a word with it ("B超", ultrasound): only what is said of an option sets it apart.
_AFTER_CJK = re.compile(rf"(?<=[{CJK}])(?=[A-Za-z0-9])")
_BEFORE_CJK = re.compile(
    rf"(?:(?<=[A-Za-z0-9]{{2}})|(?<=[0-9]))(?=[{CJK}])"
    rf"|(?<=[A-Za-z])(?=是|为|為|项|項|选|選|正|对|對|最|和|或|与|與|及|的|で|が|は|と|だ|입니다|이다|번|가|는|를|로)"
)
_EDGES = re.compile(r"^(?:[.,](?!\d)|[ :;!\"'“”])+|[ .,:;!\"'“”]+$")  # the point of ".5" is not an edge
_HYPHEN = re.compile(r"(?<=[^\W\d])-(?=\w)|(?<=\w)-(?=[^\W\d])")
_ARTICLES = re.compile(r"^(?:(?:it|this|that) is |(?:it|that)['’]s )?(?:an? |the )?")
_ENDINGS = re.compile(r"(?:ae|is|es|us|a|e|i|s)$")
_SHORT = 4  # letters of a word that may have another ending


def clean(text: str) -> str:
    """Bring a reply or an option to one spelling: full-width forms, markup, white space.

    Args:
        text: a reply or an option's text.

    Returns:
        The text in one line for each line that holds anything. Lower case has as many characters.
    """
    if not text.isascii():
        text = _fold(text)
    # A NUL would look like the text of an option that was found already.
    lines = (" ".join(line.split()) for line in _MARKUP.sub("", text.replace("\0", " ")).splitlines())
    return "\n".join(line for line in lines if line)


def bare(text: str) -> str:
    """Return a cleaned text without punctuation at its edges, in lower case."""
    return _EDGES.sub("", text).casefold()


def loose(text: str) -> str:
    """Return a cleaned text without article, hyphens, spaces and endings: "The X-rays." and "x ray" are one.

    Args:
        text: text from :func:`clean`.

    Returns:
        What of it two spellings of one name have in common.
    """
    words = _HYPHEN.sub(" ", _ARTICLES.sub("", bare(text))).split()
    return "".join(map(_stem, words))


def _stem(word: str) -> str:
    if len(word) < _SHORT or word.endswith("ss") or not word.isalpha():
        return word
    return word[:-3] + "y" if word.endswith("ies") else _ENDINGS.sub("", word)


def _fold(text: str) -> str:
    # The one letter whose lower case is longer would shift the positions of what follows.
    text = unicodedata.normalize("NFC", text).replace("İ", "I").translate(_PUNCTUATION)
    text = _SMALL_DIGIT.sub(lambda match: unicodedata.normalize("NFKC", match[0]), _INVISIBLE.sub("", text))
    text = "".join(map(_fold_character, text))
    return _BEFORE_CJK.sub(" ", _AFTER_CJK.sub(" ", text))


def _fold_character(character: str) -> str:
    code = ord(character)
    if code < 0x80:
        return character
    if _LETTER_SIGNS[0] <= code <= _LETTER_SIGNS[1] and (code - _LETTER_SIGNS[0]) % 32 < 26:
        return chr(ord("A") + (code - _LETTER_SIGNS[0]) % 32)
    kind = unicodedata.decomposition(character).partition(" ")[0]
    # A digit in a circle stands for an image in medcap 2024's texts, "①".
    if kind in _SAME_MEANING and not (kind == "<circle>" and character.isnumeric()):
        return unicodedata.normalize("NFKC", character)
    if any(first <= code <= last for first, last in _COMPATIBLE):
        return unicodedata.normalize("NFKC", character)
    return character
