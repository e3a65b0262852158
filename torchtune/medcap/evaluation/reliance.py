"""The measures of image reliance of a task's run, from its answers and its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcap.evaluation.answering import Entry
from medcap.evaluation.control_runs import ControlRun
from medcap.evaluation.controls import CONTROLS
from medcap.evaluation.prompting.likelihood import LikelihoodMethod
from medcap.evaluation.scored import Scored
from medcap.scoring.image_reliance import VRS, image_reliance, visual_reliance_score
from medcap.scoring.protocols.base import nested
from medcap.scoring.statistics import Interval

SHUFFLED = "shuffled_image"
# What a model said before its answer, where a prompt method asks twice.
_SAID = ("description", "free_answer", "as_said", "prediction")


def reliance_block(scored: Scored, controls: Mapping[str, ControlRun]) -> dict[str, Any]:
    """Return what metrics.json holds of a protocol's image reliance.

    Args:
        scored: the task's own answers and scores.
        controls: the controls that ran; those other than of images are not looked at.

    Returns:
        Measure -> ``{"value", "low", "high", "level", "draws"}``. The visual reliance score is there for protocols
        whose rows have a share of 1, the measures that compare answers for those of words; empty without controls of
        images.
    """
    protocol = scored.plan.protocol
    others = {
        name: part
        for name, run in controls.items()
        if name in CONTROLS and run.fits(protocol.name, len(scored.entries)) and (part := run.of(protocol.name))
    }
    found: dict[str, Interval] = {}
    if SHUFFLED in others and protocol.share:
        pairs = [
            (mine["value"], other["value"])
            for mine, other in zip(scored.scores.rows, others[SHUFFLED].scores.rows, strict=True)
            if mine["value"] is not None and other["value"] is not None
        ]
        if pairs:
            found[VRS] = visual_reliance_score([mine for mine, _ in pairs], [other for _, other in pairs])
    if not protocol.scores_boxes and not protocol.scores_masks:
        replies = None
        if not isinstance(scored.plan.method, LikelihoodMethod):
            replies = ["\n".join(str(entry.get(key) or "") for key in _SAID) for entry in scored.entries]
        given = {name: _answers(part) for name, part in others.items()}
        found |= image_reliance(_answers(scored), replies, given)
    return nested({name: {"value": one.value, **one.as_dict()} for name, one in found.items()})


def _answers(scored: Scored) -> list[str]:
    """Return what is compared: the option that a reply was taken for, where the protocol has one; else the reply."""

    def answer(entry: Entry, row: Mapping[str, Any]) -> str:
        said = entry.get(scored.plan.protocol.field) or ""
        return row["choice"] or "" if row.get("choice") is not None else said

    return [answer(entry, row) for entry, row in zip(scored.entries, scored.scores.rows, strict=True)]
