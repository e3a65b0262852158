"""How much answers depend on the image: three published measures, made of a run's answers and those of its controls.

Source: Zafar, Murali and Vashist, "Beyond Accuracy: Evaluating Visual Grounding in Multimodal Medical Reasoning",
2026, https://arxiv.org/abs/2603.03437. It asks with the real, a blank and a shuffled image; in the place of the blank
one stands the control ``no_image``, which shows none. Its formulas were not at hand: what its abstract says of them
leaves room, and the docstrings below say which reading was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from medcap.scoring.protocols.exact import normalize
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.statistics import DIFFERENCE, Interval, bootstrap_interval

VRS, IS, HVRR = "visual_reliance_score", "image_sensitivity", "hallucinated_visual_reasoning_rate"
CLAIMS = "visual_claims"
NAMES = {
    VRS: "visual reliance score",
    IS: "image sensitivity",
    HVRR: "hallucinated visual reasoning rate",
    CLAIMS: "visual claims",
}
_PICTURE = (
    r"(?:image|picture|photo(?:graph)?|figure|scan|slice|film|slide|view|x-?ray|radiograph|cxr|ct|mri?|ultrasound"
    r"|sonogram|mammogram|angiogram|endoscop\w+|micrograph|section|specimen)s?"
)
_SEEN = r"(?:see[ns]?|visible|visuali[sz]ed|shown|depicted|displayed|observed|noted|evident|identified|demonstrated)"
# A claim to have seen something: "the image shows", "visible in the left lobe", "I can see", "there is an opacity in
# the scan", "based on the X-ray".
_CLAIM = re.compile(
    rf"\b{_PICTURE}\b[^.;\n]{{0,40}}?\b(?:shows?|showing|demonstrates?|depicts?|reveals?|displays?|exhibits?|contains?"
    r"|features?|appears?|suggests?|indicates?|presents?|is of|has|have)\b"
    rf"|\b(?:in|on|from|at|within|of|based on|according to) (?:the|this|these|an?) (?:\w+[ -]){{0,4}}?{_PICTURE}\b"
    rf"|\b(?:is|are|was|were|be|can be|clearly|as)\b (?:\w+ )?{_SEEN}\b"
    r"|\b(?:i|we|one|you) (?:can |could |clearly )*(?:see|observe|note|notice|identify|visuali[sz]e)\b"
    r"|\blook(?:s|ing)? (?:at|like)\b|\bappears? (?:to be|as|in|on|bright|dark|hyper|hypo|dense|white|black|gr[ae]y)"
    r"|\b(?:hyper|hypo|iso)(?:dense|intense|echoic|attenuat\w+)\b|\bopacit(?:y|ies)\b",
    re.IGNORECASE,
)


def visual_claim(reply: str) -> bool:
    """Return whether a reply claims to have seen something in the image.

    The source counts such replies and does not say how; here they are those with one of a list of English phrases,
    anywhere in the reply, reasoning included. An answer of a word or two is none.

    Args:
        reply: everything that a model said.

    Example:
        >>> visual_claim("The image shows a mass in the left lobe."), visual_claim("yes")
        (True, False)
    """
    return bool(_CLAIM.search(reply))


def same_answer(first: str, second: str) -> bool:
    """Return whether two replies are one answer: their final replies are equal after the normalisation of ``exact``."""
    return normalize(final_reply(first)) == normalize(final_reply(second))


def visual_reliance_score(own: Sequence[float], shuffled: Sequence[float]) -> Interval:
    """Visual reliance score: the accuracy with the own images minus that with other ones, -1 to 1.

    Below 0 the answers are better with images that belong to other questions, as the abstract reads it.

    Args:
        own: [n] a protocol's value of each row, 0 to 1.
        shuffled: [n] the same of the control ``shuffled_image``.

    Returns:
        The score and its bootstrap interval, rows drawn in pairs.
    """
    return bootstrap_interval([mine - other for mine, other in zip(own, shuffled, strict=True)], kind=DIFFERENCE)


def image_sensitivity(changed: Sequence[bool]) -> Interval:
    """Image sensitivity: the share of answers that are another without the own image, 0 to 1.

    The reading taken: an answer is sensitive if it changes under at least one of the controls that ran, shuffled or
    without an image, right or wrong; the others are the "image-invariant answers" of the abstract.

    Args:
        changed: [n] whether a row's answer changes.
    """
    return bootstrap_interval([float(one) for one in changed])


def hallucinated_visual_reasoning_rate(claims: Sequence[bool], changed: Sequence[bool]) -> Interval:
    """Hallucinated visual reasoning rate: visual claims beside an answer that the image does not change, 0 to 1.

    The reading taken: a share of all replies, not of those with a claim. It fits the abstract's numbers: with claims in
    68 to 74 % of the replies and a sensitivity of 40 %, about 0.7 * 0.6 = 42 % of all lie within its 38 to 43 %.

    Args:
        claims: [n] whether a row's reply makes a visual claim.
        changed: [n] whether its answer changes without the own image.
    """
    return bootstrap_interval([float(claim and not other) for claim, other in zip(claims, changed, strict=True)])


def image_reliance(
    answers: Sequence[str], replies: Sequence[str] | None, controls: Mapping[str, Sequence[str]]
) -> dict[str, Interval]:
    """Compute the measures that compare answers.

    Args:
        answers: [n] a row's answer as it is compared: a reply, or the option that it was taken for.
        replies: [n] everything that was said; None where nothing was, as in answers by likelihood.
        controls: control -> [n] its answers.

    Returns:
        ``IS`` and one for each control below it (``image_sensitivity_by.no_image``); with replies also ``CLAIMS`` and
        ``HVRR``. Rows without an answer are left out; nothing where no row has one or no control ran.
    """
    kept = [index for index, answer in enumerate(answers) if answer.strip()]
    if not kept or not controls:
        return {}
    changed = {
        name: [not same_answer(answers[index], others[index]) for index in kept] for name, others in controls.items()
    }
    any_change = [any(row) for row in zip(*changed.values(), strict=True)]
    found = {IS: image_sensitivity(any_change)}
    if len(changed) > 1:
        found |= {f"{IS}_by.{name}": image_sensitivity(one) for name, one in changed.items()}
    if replies is not None:
        claims = [visual_claim(replies[index]) for index in kept]
        found[HVRR] = hallucinated_visual_reasoning_rate(claims, any_change)
        found[CLAIMS] = bootstrap_interval([float(claim) for claim in claims])
    return found
