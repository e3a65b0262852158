"""Is what a reply mentions denied there? In English, with a few words of Chinese.

The idea is that of NegEx (Chapman et al., 2001, J. Biomed. Inform. 34, 301-310): a word that denies, a short way from
it to what is denied, words that end its reach, and phrases that only look like a denial ("cannot be excluded").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

HIDDEN = "\0"  # stands for each character of an option's text that was found already


class Denial(IntEnum):
    """How a mention is denied.

    Attributes:
        NONE: it is not.
        PRESENCE: it is said not to be there ("does not show the lung"). Elsewhere it may still be the answer.
        TRUTH: it is said not to be the answer ("A is wrong", "it is not the lung", "ruled out").
    """

    NONE = 0
    PRESENCE = 1
    TRUTH = 2


_LOOK_BACK, _LOOK_AHEAD = 120, 100  # characters
_MOST_UNKNOWN = 2  # adjectives between "no" and what it denies: "no acute displaced fracture"
_I = re.IGNORECASE
_SENTENCE_END = re.compile(r"[.;!?\n](?=\s|$)")
# What may surround a mention, and a mention itself: a hidden text or a letter.
_OPENING, _CLOSING = " \n([{<\"'“‘", ")]}>\"'”’"
_MENTION = rf"[(\[{{]?(?:{HIDDEN}++|(?<![\w'’-])(?-i:[A-Z])(?![\w'’-]))[)\]}}.]?"

# Before the mention: words that deny what follows. "Excluding" and "lacking" ones are undone by a second denial.
_DENYING = {
    "not": r"\b(?:not|cannot|never|hardly|scarcely|no longer|unable to|fail(?:s|ed|ing|ure)? to)|n['’]t",
    "no": r"\b(?:no|nothing|neither|nor|none of)",
    "excluding": (
        r"\b(?:exclud(?:e|es|ed|ing)|rul(?:e|es|ed|ing) out|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?"
        r"|dismiss(?:es|ed|ing)?|discard(?:s|ed|ing)?|den(?:y|ies|ied|ying)|except(?:ing)?(?: for)?|instead of|than"
        r"|apart from|aside from|besides|outside(?: of)?|as opposed to|(?:all|any|anything|everything|nothing) but"
        r"|far from|unlike|refut(?:e|es|ed|ing)|contradict(?:s|ed|ing)?|disprov(?:e|es|ed|ing)"
        r"|doubt(?:s|ed|ful)?|less likely|least likely|unlikely|improbable|impossible|implausible|false|wrong"
        r"|incorrect)"
        r"|\b(?:non|anti|pseudo|un)-|\bnon"
    ),
    "lacking": (
        r"\b(?:without|w/o|lack(?:s|ed|ing)?(?: of)?|absen(?:t|ce of)|devoid of|(?:free|clear) (?:of|from)|negative for"
        r"|(?:argu\w+|evidence|speak\w*|weigh\w*|count\w*|^) ?against|(?:incompatible|inconsistent) with"
        r"|(?:insufficient|little)(?: \w+)? evidence (?:of|for))"
    ),
    "chinese": r"(?:不是|不选|不選|不为|不為|不会是|不會是|不可能是|并非|並非|非|排除|除了|除|没有|沒有|無|无)",
}
_DENIAL = "|".join(f"(?P<{kind}>{words})" for kind, words in _DENYING.items())
_ANY_DENIAL, _DENIAL_ENDS = re.compile(_DENIAL, _I), re.compile(rf"(?:{_DENIAL})\s*$", _I)
# "Incorrect options: A, C"
_HEADING = re.compile(
    r"\b(?:not(?: (?:shown|seen|present|visible|included|correct|right|true|possible|likely|supported|applicable))?"
    r"|excluded|ruled out|eliminated|rejected|incorrect|wrong|false|absent|unlikely)"
    rf"(?: (?:options?|answers?|choices?))?(?: (?:is|are))?\s*:(?:{_MENTION}|[\s,;]|\b(?:and|or|the)\b)*[\s(\[{{]*$",
    _I,
)
# What looks like a denial and is none: "no doubt", "not only", "No, ...", "no, it is ...", "not as likely as B",
# "less likely than B", "whether or not B", "cannot be excluded".
_NO_DENIAL = re.compile(r"\s*(?:only|just|merely|simply|solely|(?:an? )?(?:doubt|question)|to mention)\b|\s*,", _I)
_EXCLAMATION = re.compile(r"\s+(?:it|this|that|the (?:answer|image|correct|right|option)|i|we|they|there|you)\b", _I)
_AS_MUCH_AS = re.compile(r"\s+(?:as|so)\s+\w+\s+as\b", _I)
_LESS = re.compile(r"\b(?:less|fewer|lower)\b[^,]*$", _I)
_OR_NOT = re.compile(r"\b(?:than|or|if|why)\s*$", _I)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|no|without|nothing|none|(?:hard|difficult|impossible|wrong) to)|n['’]t)"
    r"(?:\s+[\w'’]+){0,3}\s*$",
    _I,
)
# What may be between the denial and the mention. Words of a clause end the reach at the comma before them.
_FILLER = re.compile(
    r"(?:\b(?:an?|the|any|its?|be|been|being|to|as|do|does|did|options?|choices?|letters?|answers?|correct|right|best"
    r"|likely|probable|most|(?:any )?(?:evidence|signs?|indications?|suggestions?|features?|findings?|possibility"
    r"|presence|likelihood|proof|suspicion|traces?|hints?|mention|reasons?"
    r"|support|cases?|diagnosis|symptoms?|appearance|pictures?|history|images?|views?) (?:of|for)"
    r"|(?:consistent|compatible|associated|in keeping|in line|diagnosed) with|(?:indicative|suggestive|typical"
    r"|characteristic|representative|diagnostic|suspicious) (?:of|for)|(?:due|related) to|caused by|show\w*|seen?"
    r"|demonstrat\w+|contain\w*|depict\w*|indicat\w+|suggest\w*|reveal\w*|represent\w*|support\w*|display\w*|includ\w+"
    r"|identif\w+|visuali[sz]\w+|detect\w*|find|found|appear\w*|seem\w*|look\w*|like|fit\w*|match\w*|correspond\w*|point\w*"
    r"|mean\w*|imply|implies|confirm\w*|call\w*|say|said|think|believe|choose|chosen|pick|select\w*|consider\w*|involv\w+"
    r"|affect\w*|locat\w+|present|visible|\w+ly)"
    r"|(?P<clause>\b(?:it|there|this|that|these|those|is|are|was|were|has|have|had|i|we|you)|['’]s))\s*$",
    _I,
)
_PREPOSITION = re.compile(
    r"\b(?:in|on|at|within|inside|from|for|by|into|near|of|with|around|under|over|along|through)\s*$", _I
)
_DOES_NOT = re.compile(r"\b(?:do|does|did)(?: not|n['’]t)\s+$", _I)
_STOP = re.compile(
    r"(?:but|however|although|though|because|since|so|instead|while|whereas|if|whether|then|thus|therefore|hence|who|which"
    r"|where|when|yes|unless|only)\s*$",
    _I,
)
_WORD = re.compile(r"[\w'’-]*\w[\w'’-]*\s*$")
_OR = re.compile(r"(?:\b(?:and/or|or)|/)\s*$", _I)
_AND = re.compile(r"(?:\band|&)\s*$", _I)
_OR_FOLLOWS = re.compile(rf"[)\]}}\"'”]*(?:,[\w\s{HIDDEN}-]{{1,40}})*(?:,\s*|\s+)(?:or|nor)\b", _I)
_MENTION_ENDS = re.compile(rf"{_MENTION}\s*$", _I)
# Whether the mention is what is denied, rather than a part of it ("no lung nodule"), and denied as the answer.
_HEAD = re.compile(
    r"[)\]}\"'”]*\s*(?:$|[.,;:!?)–—]|- |\b(?:or|nor|and|but|is|are|was|were|has|have|can|in|on|at|of|from|for|with|here"
    r"|because|since|as|so|that|which|although|though|however|either)\b)",
    _I,
)
_IDENTITY = re.compile(
    r"(?:\s*\b(?:an?|the|be|been|to|options?|choices?|letters?|answers?|correct|right|most|likely|probably|it|is|as|really"
    r"|actually|necessarily|definitely|(?:consistent|compatible) with|due to))*[\s(\[{<\"'“‘]*",
    _I,
)

# After the mention: "A (heart) and B are not correct", "the lung is absent", "pneumonia excluded", "A: no".
_REST_OF_OPTION = re.compile(rf"[)\]}}>.:,]?\s*[(\[]?{HIDDEN}+[)\]]?,?|[)\]}}>]?")
_MORE = rf"(?:\s*(?:,|/|&|\band\b|\bor\b|\bnor\b)+\s*(?:(?:and|or|nor)\s+)?(?:(?:the|options?)\s+)?{_MENTION})*"
_WAS = (
    r"(?:\s+(?:is|are|was|were|be|been|being|do|does|did|has|have|had|can|could|may|might|must|should|would|will|seems?"
    r"|appears?|looks?|to|also|thus|therefore|both|all|now|then|most|very|quite|\w+ly))*"
)
_ISNT = r"(?:\s+(?:not|never|nowhere|no longer|cannot)|\s+\w+n['’]t)"
_GOOD = (
    r"(?:the\s+)?(?:an?\s+)?(?:correct|right|true|accurate|valid|(?:best\s+)?(?:answer|option|choice|diagnosis|one)|it"
    r"|possible|plausible|likely|probable|appropriate|suitable|applicable|supported|consistent|compatible|chosen|selected"
    r"|expected|suggested|suspected|confirmed|favou?red|good|possibility|candidate|match|fit|apply)\b"
)
_THERE = (
    r"(?:shown|seen|present|visible|visuali[sz]ed|depicted|included|identified|demonstrated|displayed|imaged|evident|found"
    r"|detected|observed|noted|apparent|indicated|mentioned|there|appear|exist"
    r"|in (?:the|this) (?:image|picture|scan|view))\b"
)
_BAD = (
    r"(?:incorrect|wrong|false|untrue|inaccurate|excluded|ruled out|eliminated|rejected|dismissed|discarded|unlikely"
    r"|improbable|impossible|implausible|inconsistent|incompatible|contradicted|inappropriate|invalid|inapplicable"
    r"|doubtful|unsupported|refuted|disproved"
    r"|less (?:likely|probable|plausible)|least likely|out of the question)"
)
_AWAY = r"(?:absent|missing|lacking|negative(?! for))"
_ENDS = r"(?=[)\]\"'”]*\s*(?:$|[.,;:!?]|(?:in|on|from|here|because|since|as|and|but|so|due|by|to|than|with)\b))"
_NOT_DENIED = (
    r"\s+(?:(?:be|been|completely|definitively|entirely|fully|easily|yet|safely)\s+)*"
    rf"(?:only|just|merely|simply|in doubt|doubtful|{_AWAY}|{_BAD})\b"
)
_DENIED_AFTER = re.compile(
    rf"{_MORE}(?:\s*,?\s*(?:which|that))?{_WAS}"
    rf"(?:{_ISNT}(?:(?P<twice>{_NOT_DENIED})|{_WAS}\s+(?:(?P<not_good>{_GOOD})|(?P<not_there>{_THERE})))"
    rf"|\s+(?:(?P<bad>{_BAD})|(?P<away>{_AWAY})){_ENDS})",
    _I,
)
# Of a letter nothing but its truth can be told: "A does not fit the image".
_LETTER_DENIED_AFTER = re.compile(
    rf"{_MORE}\s+(?:(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have)(?:\s+\w+ly)?\s+not|cannot"
    r"|\w+n['’]t)\b",
    _I,
)
_REMARK = re.compile(
    r"(?:\s*[:=(–—?-]+\s*(?:no|none|never|negative|absent"
    rf"|not (?:correct|right|true|likely|possible|seen|shown|present|here|really|at all)|{_BAD})"
    r"|\.\s*(?:incorrect|wrong|false))(?=\s*(?:[.,;!)]|$))"
    r"|(?:\s\w+){1,3}\?\s*no(?=\s*(?:[.,;!]|$))|,\s*no(?=\s*(?:[.;!]|$))|-(?:free|negative)\b"
    r"|\s*[(:]?\s*(?:[❌✗✘❎]|不对|不對|错误|錯誤|错|錯|不正确|不正確)",
    _I,
)


def denial(text: str, start: int, end: int, letter: bool = False) -> Denial:
    """Find out whether a mention is denied.

    Args:
        text: a cleaned reply; texts of options that were found already are hidden by ``HIDDEN``.
        start: where the mention begins.
        end: where it ends.
        letter: whether it is an option's letter, which can be nothing but an answer.

    Returns:
        How it is denied.
    """
    return max(_denied_before(text, start, end, letter), _denied_after(text, end, letter))


def _denied_after(text: str, end: int, letter: bool) -> Denial:
    right = text[end : end + _LOOK_AHEAD].partition("\n")[0]
    right = _REST_OF_OPTION.sub("", right, count=1) if letter else right.lstrip(_CLOSING)
    if _REMARK.match(right):
        return Denial.TRUTH
    found = _DENIED_AFTER.match(right)
    if found and found["twice"]:
        return Denial.NONE
    if found:
        return Denial.TRUTH if found["not_good"] or found["bad"] else Denial.PRESENCE
    return Denial.PRESENCE if letter and _LETTER_DENIED_AFTER.match(right) else Denial.NONE


def _denied_before(text: str, start: int, end: int, letter: bool) -> Denial:
    left, right = _sentence_before(text, start), text[end : end + _LOOK_AHEAD]
    if not _ANY_DENIAL.search(left):
        return Denial.NONE
    if _HEADING.search(left):
        return Denial.TRUTH
    reach = _Reach(left.rstrip(_OPENING), letter, listed=_OR_FOLLOWS.match(right) is not None)
    while reach.way:
        if denying := _DENIAL_ENDS.search(reach.way):
            kind = denying.lastgroup
            if _looks_like_denial(denying, left, reach.comma) or (reach.preposition and kind in ("no", "lacking")):
                return Denial.NONE
            head = letter or _HEAD.match(right) is not None
            identity = (
                kind in ("not", "excluding", "chinese") and _IDENTITY.fullmatch(left[denying.end() :]) is not None
            )
            return Denial.TRUTH if head and identity else Denial.PRESENCE
        if not reach.step_back():
            break
    return Denial.NONE


@dataclass
class _Reach:
    """The words before a mention, walked back one at a time as far as a denial would reach.

    Attributes:
        way: what is left of them.
        letter: whether the mention is a letter.
        listed: whether the mention is in a list with "or", which a denial covers as a whole.
        unknown: words that may be adjectives, since the last comma or "or".
        clause: whether there was a verb or pronoun of a clause of its own.
        preposition: whether there was one ("not in the lung").
        comma: whether there was one.
        only_mentions: whether there was nothing but mentions and what stands between them.
    """

    way: str
    letter: bool
    listed: bool
    unknown: int = 0
    clause: bool = False
    preposition: bool = False
    comma: bool = False
    only_mentions: bool = True

    def step_back(self) -> bool:
        """Take off the last word, mention or comma; False where no denial reaches over it."""
        way = self.way
        if found := _MENTION_ENDS.search(way):
            self._cut(found)
        elif way.endswith(","):
            self.way, self.comma, self.unknown = way[:-1].rstrip(), True, 0
            return not self.clause and (self.listed or (self.letter and self._mentions_end()))
        elif found := _OR.search(way):
            self._cut(found, " ,")
            self.unknown, self.listed = 0, True
        elif found := _AND.search(way):
            self._cut(found, " ,")
            return self._mentions_end()
        elif found := _FILLER.search(way):
            self._cut(found)
            self.clause |= found["clause"] is not None
            self.only_mentions &= not self.clause
        elif found := _PREPOSITION.search(way):
            self._cut(found)
            self.preposition, self.only_mentions = True, False
        elif (found := _WORD.search(way)) and not _STOP.match(found[0]):
            # Behind a preposition only a verb may be unknown: "does not arise from the liver".
            verb = _DOES_NOT.search(way[: found.start()]) is not None
            self._cut(found)
            self.unknown, self.only_mentions = self.unknown + 1, False
            return verb if self.preposition else self.unknown <= _MOST_UNKNOWN
        else:
            return False
        return True

    def _cut(self, found: re.Match[str], ends: str = " ") -> None:
        self.way = self.way[: found.start()].rstrip(ends)

    def _mentions_end(self) -> bool:
        return self.only_mentions and _MENTION_ENDS.search(self.way) is not None


def _sentence_before(text: str, start: int) -> str:
    first = max(0, start - _LOOK_BACK)
    while 0 < first < start and text[first - 1].isalnum():  # a word that is cut may look like another
        first += 1
    left = text[first:start]
    ends = list(_SENTENCE_END.finditer(left))
    return left[ends[-1].end() :] if ends else left


def _looks_like_denial(denying: re.Match[str], left: str, comma: bool) -> bool:
    """Return whether a word that denies elsewhere does not deny what comes after it, or after the next comma, here."""
    kind, word = denying.lastgroup, denying[0].strip().lower()
    before, between = left[: denying.start()], left[denying.start() + len(denying[0].rstrip()) :]
    if kind == "not":
        return bool(_NO_DENIAL.match(between) or _AS_MUCH_AS.match(between) or _OR_NOT.search(before))
    if kind == "no":
        return bool(_NO_DENIAL.match(between) or _EXCLAMATION.match(between))
    if kind == "chinese":
        return False
    if word == "nothing but" or (word == "than" and _LESS.search(before)):
        return True
    if comma and before.strip().lower() in ("", "rather"):  # "Instead of A, B"
        return True
    return bool(_NO_DENIAL.match(between) or _DENIED_BEFORE.search(before))
