"""Which way of asking each protocol needs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from medcap.errors import UserError
from medcap.evaluation.prompting.base import Way
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.prompting.likelihood import OptionLetter, OptionText, PrefixLikelihood
from medcap.evaluation.prompting.medcap_2024 import MODES, MedcapMode
from medcap.evaluation.prompting.options import ListedOptions, MappedOption
from medcap.scoring.protocols import PROTOCOLS, Protocol, make_protocol
from medcap.scoring.protocols.chosen_option import ChosenOption
from medcap.scoring.question import Answer, Question

VQA_TYPES = ("direct", *MODES)

_LIKELIHOOD = {
    "option_text": (
        OptionText,
        "prediction",
        "the option that is most likely as the whole answer (sum of the log-probabilities of its tokens and of the end"
        " of the turn), the options not shown",
    ),
    "option_text_normalized": (
        OptionText,
        "prediction_normalized",
        "the option that is most likely per token (mean of the log-probabilities of its tokens and of the end of the"
        " turn), the options not shown",
    ),
    "option_letter": (
        OptionLetter,
        "prediction",
        "the option whose letter is most likely as the first word of the answer, the options shown with their letters",
    ),
    "omnimedvqa_prefix": (
        PrefixLikelihood,
        "prediction_normalized",
        "OmniMedVQA's prefix score, with the image: the option with the lowest mean cross-entropy in 'Question:"
        " {question} The answer is {option}.', the full stop included",
    ),
}
ALL_PROTOCOLS = (*PROTOCOLS, *_LIKELIHOOD)
_LISTED = ("omnimedvqa_qa",)
_MAPPED = ("medcap_letter", "medcap_option")


@dataclass(frozen=True)
class Plan:
    """How a protocol's answers are asked for and scored.

    Attributes:
        way: of asking; protocols that ask alike share it.
        field: of the predictions that is scored.
        protocol: scores.
    """

    way: Way
    field: str
    protocol: Protocol


def plan_protocols(names: list[str], vqa_type: str = "direct") -> list[Plan]:
    """Plan a run.

    Args:
        names: protocols, the first one gives the headline.
        vqa_type: how free answers are asked for, one of ``VQA_TYPES``.

    Returns:
        A plan for each protocol; those that need the same answers have the same way.

    Raises:
        UserError: if a protocol or ``vqa_type`` is unknown, or no protocol is named.
    """
    if vqa_type not in VQA_TYPES:
        raise UserError(f"vqa_type={vqa_type} is unknown; there are {', '.join(VQA_TYPES)}")
    if not names:
        raise UserError(f"protocols is empty: name at least one of {', '.join(ALL_PROTOCOLS)}")
    unknown = [name for name in names if name not in ALL_PROTOCOLS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ALL_PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise UserError(f"protocols: {unknown[0]} is unknown; {hint} {', '.join(ALL_PROTOCOLS)}")
    free: Way = Direct() if vqa_type == "direct" else MedcapMode(vqa_type)
    shared: dict[str, Way] = {free.file: free}
    return [_plan(name, free, shared) for name in dict.fromkeys(names)]


def default_protocols(protocols: tuple[str, ...], vqa_type: str) -> list[str]:
    """The protocols of a task that none were asked for.

    Args:
        protocols: the task's own.
        vqa_type: how free answers are asked for; whoever names one of medcap's modes for questions with options wants
            medcap's mapping too.

    Returns:
        Their names, the headline first.
    """
    mapped = list(_MAPPED[::-1]) if vqa_type in MODES and "option_text" in protocols else []
    return [*mapped, *protocols]


def check_plans(plans: list[Plan], rows: Sequence[Question]) -> None:
    """See that rows have what protocols need, before anything is computed.

    Args:
        plans: of a run.
        rows: of its benchmark.

    Raises:
        UserError: if a protocol cannot score these rows, whatever is answered.
    """
    nothing = [Answer(row, "") for row in rows]
    for plan in plans:
        if plan.protocol.name != "coco":  # it needs captions only, and minutes of Java
            plan.protocol.score(nothing)


def _plan(name: str, free: Way, shared: dict[str, Way]) -> Plan:
    if name in _LIKELIHOOD:
        kind, field, description = _LIKELIHOOD[name]
        way: Way = kind()
        protocol: Protocol = ChosenOption(name, description)
    else:
        field, protocol = "prediction", make_protocol(name)
        way = ListedOptions() if name in _LISTED else MappedOption(free) if name in _MAPPED else free
    return Plan(shared.setdefault(way.file, way), field, protocol)
