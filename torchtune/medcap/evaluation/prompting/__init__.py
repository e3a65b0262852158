"""Which prompt method each protocol needs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from medcap.data.outputs import NOTHING, Outputs
from medcap.errors import UserError
from medcap.evaluation.answering import Entry
from medcap.evaluation.prompting.base import PromptMethod
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.prompting.likelihood import OptionLetter, OptionText, PrefixLikelihood
from medcap.evaluation.prompting.medcap_2024 import MODES, MedcapMode
from medcap.evaluation.prompting.options import LetteredOptions, ListedOptions, MappedOption
from medcap.scoring.answer_masks import good_masks
from medcap.scoring.protocols.base import Prompt, Protocol, ProtocolScores
from medcap.scoring.protocols.registry import ALL_PROTOCOLS, base_name, make_protocols
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.box_reply import good_boxes

# vqa_type -> how free answers are asked for.
FREE_METHODS: dict[str, Callable[[], PromptMethod]] = {
    Direct.name: Direct,
    **{mode: partial(MedcapMode, mode) for mode in MODES},
}
VQA_TYPES = tuple(FREE_METHODS)
# Builds the method that a protocol declares from the method that asks for free answers.
PROMPT_METHODS: dict[Prompt, Callable[[PromptMethod], PromptMethod]] = {
    Prompt.FREE: lambda free: free,
    Prompt.LISTED_OPTIONS: lambda free: ListedOptions(),
    Prompt.LETTERED_OPTIONS: lambda free: LetteredOptions(),
    Prompt.MAPPED_OPTION: MappedOption,
    Prompt.OPTION_TEXT: lambda free: OptionText(),
    Prompt.OPTION_LETTER: lambda free: OptionLetter(),
    Prompt.OMNIMEDVQA_PREFIX: lambda free: PrefixLikelihood(),
}


@dataclass(frozen=True)
class ScoringPlan:
    """How a protocol's answers are asked for and scored.

    Attributes:
        method: prompt method; protocols with the same prompt share it.
        protocol: scores.
        tasks: kinds of questions, by their ``task``, that the protocol scores; empty for all.
    """

    method: PromptMethod
    protocol: Protocol
    tasks: tuple[str, ...] = ()

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; those to other kinds of questions are in no denominator.

        Args:
            answers: all of a benchmark's.
        """
        own = [not self.tasks or answer.question.meta.get("task") in self.tasks for answer in answers]
        if all(own):
            return self.protocol.score(answers)
        kept = [answer for answer, mine in zip(answers, own, strict=True) if mine]
        name = " or ".join(self.tasks)
        if not kept:
            result = ProtocolScores({}, {}, [], {"n": 0, "failures": 0}, [f"there are no questions of {name}"])
        else:
            result = self.protocol.score(kept)
            result.notices.append(f"{len(kept):,} of {len(answers):,} rows are questions of {name}")
        rows = iter(result.rows)
        nothing = {"correct": None, "value": None}
        result.rows = [
            next(rows) if mine else {"question_id": answer.question.id, **nothing}
            for answer, mine in zip(answers, own, strict=True)
        ]
        return result

    def answers(self, questions: Sequence[Question], entries: Sequence[Entry]) -> list[Answer]:
        """Return what the protocol scores: each question with what its entry of the predictions holds for it."""
        return [self._answer(question, entry) for question, entry in zip(questions, entries, strict=True)]

    def _answer(self, question: Question, entry: Entry) -> Answer:
        text = entry.get(self.protocol.field) or ""
        boxes, bad = (None, ()) if entry.get("boxes") is None else good_boxes(entry["boxes"], question.image_size)
        masks, bad_masks = (None, ()) if entry.get("masks") is None else good_masks(entry["masks"])
        outputs = NOTHING if boxes is None and masks is None else Outputs(boxes, masks)
        return Answer(question, text, outputs, bad, bad_masks)


def plan_protocols(names: Iterable[str], vqa_type: str = "direct", dataset: str = "") -> list[ScoringPlan]:
    """Plan a run.

    Args:
        names: protocols, also of a variant (``medevalkit@564d279``) or with options; the first gives the headline.
        vqa_type: how free answers are asked for, one of ``VQA_TYPES``.
        dataset: the benchmark, for protocols that have a rule for each.

    Returns:
        A plan for each protocol; those that need the same answers have the same method.

    Raises:
        UserError: if a protocol or ``vqa_type`` is unknown, or no protocol is named.
    """
    names = list(dict.fromkeys(names))
    if vqa_type not in VQA_TYPES:
        raise UserError(f"vqa_type={vqa_type} is unknown; there are {', '.join(VQA_TYPES)}")
    if not names:
        raise UserError(f"protocols is empty: name at least one of {', '.join(ALL_PROTOCOLS)}")
    unknown = [name for name in names if base_name(name) not in ALL_PROTOCOLS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ALL_PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise UserError(f"protocols: {unknown[0]} is unknown; {hint} {', '.join(ALL_PROTOCOLS)}")
    protocols = make_protocols(names, dataset=dataset, among=ALL_PROTOCOLS)
    free = FREE_METHODS[vqa_type]()
    methods = {prompt: PROMPT_METHODS[prompt](free) for prompt in {protocol.prompt for protocol in protocols}}
    return [ScoringPlan(methods[protocol.prompt], protocol) for protocol in protocols]


def check_plans(plans: Iterable[ScoringPlan], questions: Sequence[Question]) -> None:
    """See that questions have what protocols need, before anything is computed.

    Args:
        plans: plans of a run.
        questions: questions of its benchmark.

    Raises:
        UserError: if a protocol cannot score these questions, whatever is answered.
    """
    nothing = [Answer(question, "") for question in questions]
    for plan in plans:
        plan.protocol.check_ready()
        if not plan.protocol.takes_minutes:
            plan.score(nothing)
