"""Runs the controls of a task, each scored beside the task's own answers to the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medcap.data.row_regions import regions_of
from medcap.errors import UserError
from medcap.evaluation.answering import Engine, Entry, PredictionStore
from medcap.evaluation.box_prior import BoxPrior
from medcap.evaluation.controls import CONTROLS, exchanged_questions, exchanged_regions
from medcap.evaluation.mask_prior import MaskPrior
from medcap.evaluation.prompting import ScoringPlan
from medcap.evaluation.prompting.base import PromptMethod
from medcap.evaluation.scored import RunOptions, Scored
from medcap.scoring.protocols.base import ProtocolScores, nested
from medcap.scoring.question import Question
from medcap.scoring.replies.box_reply import reference_boxes
from medcap.scoring.statistics import DIFFERENCE, NUMBER, bootstrap_interval

PRIOR_BOX, PRIOR_MASK, EXCHANGED_QUESTION = "prior_box", "prior_mask", "exchanged_question"
EXCHANGED_REGION = "exchanged_region"
ALL_CONTROLS = (*CONTROLS, PRIOR_BOX, PRIOR_MASK, EXCHANGED_QUESTION, EXCHANGED_REGION)
# What a protocol must compare for a control to say something.
_COMPARED = {PRIOR_BOX: ("boxes",), PRIOR_MASK: ("masks",), EXCHANGED_QUESTION: ("boxes", "masks")}
_FITS = {**_COMPARED, EXCHANGED_REGION: ("regions",)}
Changed = Sequence[Question | None]


@dataclass(frozen=True)
class ControlRun:
    """A control that was run.

    Attributes:
        scored: its answers and scores, one for each protocol that it fits, in their order.
        own: protocol -> the task's own scores of the same rows.
        rows: what was scored.
        left_out: how many rows of the benchmark the control does not ask.
    """

    scored: list[Scored]
    own: dict[str, ProtocolScores]
    rows: list[Question]
    left_out: int

    def of(self, protocol: str) -> Scored | None:
        """Return the answers and scores of a protocol; None where the control does not fit it."""
        return next((scored for scored in self.scored if scored.plan.protocol.name == protocol), None)

    def fits(self, protocol: str, rows: int) -> bool:
        """Return whether it has answers for a protocol to this many rows."""
        return self.of(protocol) is not None and len(self.rows) == rows

    def block(self, protocol: str) -> dict[str, Any]:
        """Return what metrics.json holds of it for a protocol that it fits."""
        control, own = self.of(protocol), self.own[protocol]
        assert control is not None, "asked for a protocol that it fits"
        scores = control.scores
        kept = [
            index
            for index, (mine, other) in enumerate(zip(own.rows, scores.rows, strict=True))
            if mine["value"] is not None and other["value"] is not None
        ]
        block: dict[str, Any] = {
            "failures": scores.counts["failures"],
            "scores": nested(scores.scores),
            "intervals": nested(scores.intervals),
        }
        if self.left_out:
            own_part = {"scores": nested(own.scores), "intervals": nested(own.intervals)}
            block |= {"n": scores.counts["n"], "left_out": self.left_out, "own": own_part}
        if kept:
            kind = DIFFERENCE if control.plan.protocol.share else NUMBER
            falls = [own.rows[index]["value"] - scores.rows[index]["value"] for index in kept]
            clusters = [self.rows[index].cluster for index in kept] if own.clustered else None
            fall = bootstrap_interval(falls, kind=kind, clusters=clusters)
            block["fall"] = {"value": fall.value, **fall.as_dict()}
        return block


def chosen_controls(wanted: bool | Sequence[str], rows: Sequence[Question], plans: Sequence[ScoringPlan]) -> list[str]:
    """Return the controls to run.

    Args:
        wanted: value of the key ``controls``; true is all that fit, those of boxes or masks where a protocol compares
            them and a row asks for some, that of regions where a row names some.
        rows: the benchmark.
        plans: its protocols.
    """
    if not isinstance(wanted, bool):
        return list(wanted)
    if not wanted:
        return []
    fits = {
        "boxes": any(plan.protocol.scores_boxes for plan in plans) and any(map(reference_boxes, rows)),
        "masks": any(plan.protocol.scores_masks for plan in plans) and any(any(row.masks or ()) for row in rows),
    }
    fits["regions"] = any(regions_of(row.messages) for row in rows)
    return [name for name in ALL_CONTROLS if name in CONTROLS or any(fits[kind] for kind in _FITS[name])]


def check_controls(names: Sequence[str]) -> None:
    """Check names of controls.

    Raises:
        UserError: if one is unknown.
    """
    for name in names:
        if name not in ALL_CONTROLS:
            raise UserError(f"controls: {name} is unknown; there are {', '.join(ALL_CONTROLS)}, or true for all")


def run_control(
    name: str,
    rows: Sequence[Question],
    own: Sequence[Scored],
    engine: Engine,
    store: PredictionStore,
    options: RunOptions,
) -> tuple[ControlRun, list[str]]:
    """Ask and score one control.

    The scores are of the rows as they are: it is the image or the question that is wrong, not the reference.

    Args:
        name: one of ``ALL_CONTROLS``.
        rows: the benchmark.
        own: the task's own answers.
        engine: the model.
        store: where answers are kept.
        options: options of the run.

    Returns:
        The control, and notices.

    Raises:
        UserError: if it cannot be run on these rows.
    """
    fitting = _fitting(name, [one.plan for one in own])
    scored = [one for one in own if one.plan in fitting]
    changed, ask, notices = _changed(name, rows, options)
    kept = [index for index, question in enumerate(changed) if question is not None]
    asked = [question for question in changed if question is not None]
    whole = len(kept) == len(rows)
    there = [rows[index] for index in kept]
    plans = [one.plan if ask is None else replace(one.plan, method=ask) for one in scored]
    results = ask_and_score(asked, plans, engine, replace(store, suffix=f"_{name}"), there)
    mine = {
        one.plan.protocol.name: one.scores if whole else _score(one.plan, there, [one.entries[index] for index in kept])
        for one in scored
    }
    if not whole:
        head = scored[0].plan.protocol
        values = [part.scores.get(head.headline) for part in (mine[head.name], results[0].scores)]
        shown = ", ".join("-" if value is None else f"{value:.4f}" for value in values)
        left_out = _LEFT_OUT[name].format("box" if head.scores_boxes else "mask")
        notices.append(
            f"control {name}: {len(kept):,} of {len(rows):,} rows, {left_out}; {head.name} {head.headline} of these"
            f" rows, own and control: {shown}"
        )
    return ControlRun(results, mine, there, len(rows) - len(kept)), notices


def ask_control(
    name: str,
    rows: Sequence[Question],
    plans: Sequence[ScoringPlan],
    engine: Engine,
    store: PredictionStore,
    options: RunOptions,
) -> None:
    """Ask one control and score nothing: what :func:`run_control` then finds answered.

    Args:
        name: one of ``ALL_CONTROLS``; a prior asks no model, so nothing is done for it.
        rows: the benchmark.
        plans: its protocols.
        engine: the model.
        store: where answers are kept.
        options: options of the run.

    Raises:
        UserError: if it cannot be run on these rows.
    """
    if name in (PRIOR_BOX, PRIOR_MASK):
        return
    fitting = _fitting(name, plans)
    changed, _, _ = _changed(name, rows, options)
    asked = [question for question in changed if question is not None]
    ask_all(asked, fitting, engine, replace(store, suffix=f"_{name}"))


def ask_all(
    asked: Sequence[Question], plans: Sequence[ScoringPlan], engine: Engine, store: PredictionStore
) -> dict[str, list[Entry]]:
    """Ask questions once for each prompt method.

    Args:
        asked: what the model is asked.
        plans: protocols with their prompt methods.
        engine: the model.
        store: where answers are kept.

    Returns:
        The answers by the name of the method's file.
    """
    entries: dict[str, list[Entry]] = {}
    for plan in plans:
        if plan.method.file not in entries:
            entries[plan.method.file] = plan.method.ask(asked, engine, store)
    return entries


def ask_and_score(
    asked: Sequence[Question],
    plans: Sequence[ScoringPlan],
    engine: Engine,
    store: PredictionStore,
    rows: Sequence[Question],
) -> list[Scored]:
    """Ask questions once for each prompt method, and score the answers.

    Args:
        asked: what the model is asked.
        plans: protocols with their prompt methods.
        engine: the model.
        store: where answers are kept.
        rows: what the answers are scored against, in the same order.

    Returns:
        Answers and scores of each plan.
    """
    entries = ask_all(asked, plans, engine, store)
    return [Scored(plan, entries[plan.method.file], _score(plan, rows, entries[plan.method.file])) for plan in plans]


_LEFT_OUT = {
    PRIOR_BOX: "the others ask for no {}",
    PRIOR_MASK: "the others ask for no {}",
    EXCHANGED_QUESTION: "the others ask for no {} or are alone on their image",
    EXCHANGED_REGION: "the others name no region or are alone on their image",
}


def _fitting(name: str, plans: Sequence[ScoringPlan]) -> list[ScoringPlan]:
    """Return the protocols that a control says something about."""
    compared = _COMPARED.get(name)
    fitting = [plan for plan in plans if compared is None or any(map(plan.protocol.compares, compared))]
    if not fitting:
        raise UserError(f"none of the protocols compares {' or '.join(compared or ())}")
    return fitting


def _score(plan: ScoringPlan, rows: Sequence[Question], entries: Sequence[Entry]) -> ProtocolScores:
    return plan.score(plan.answers(rows, entries))


def _changed(
    name: str, rows: Sequence[Question], options: RunOptions
) -> tuple[Changed, PromptMethod | None, list[str]]:
    """Return the questions of a control, what answers them in the model's place, and notices."""
    if name == PRIOR_BOX:
        wanted = [question if reference_boxes(question) is not None else None for question in rows]
        if not any(wanted):
            raise UserError("no row asks for a box")
        if options.prior is None:
            raise UserError("the training answers are not known: set prior_source=FILE")
        prior = BoxPrior(options.prior)
        return wanted, prior, prior.notices
    if name == PRIOR_MASK:
        wanted = [question if question.masks is not None else None for question in rows]
        asked = [question for question in wanted if question is not None]
        if not asked:
            raise UserError("no row asks for a mask")
        if options.prior is None:
            raise UserError("the training answers are not known: set prior_source=FILE")
        masks = MaskPrior(options.prior, asked)
        return wanted, masks, masks.notices
    if name == EXCHANGED_QUESTION:
        return exchanged_questions(rows, options.seed), None, []
    if name == EXCHANGED_REGION:
        return exchanged_regions(rows, options.seed), None, []
    control: Callable[[Sequence[Question], int], Changed] = CONTROLS[name]
    return control(rows, options.seed), None, []
