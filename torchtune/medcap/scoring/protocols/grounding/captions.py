"""BiRD's evaluators of grounded captions and of image interpretation as published, and strict forms of them.

Source: ShawnHuang497/BiRD, ``tests/models/BiRD/eval_GC_score_modality.py`` and ``eval_MII_score_modality.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from medcap.errors import UserError
from medcap.scoring.metrics.caption import BLEU_ORDERS, CaptionScores, bleu_of_sums
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.coco import caption_scores, failure_notices
from medcap.scoring.protocols.grounding.bird import extract_information
from medcap.scoring.protocols.grounding.modalities import MODALITIES, image_prefix, row_modality
from medcap.scoring.protocols.summary import check_answers, count_notice, one_reference_notice, reasoning_notice
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.statistics import NUMBER, Interval, bootstrap_group_mean, bootstrap_of_sums, sums_of_clusters

_MEANS = ("ROUGE_L", "CIDEr", "SPICE")  # the scores of a modality that are means over its rows


class _BirdCaptions(Protocol):
    """The COCO caption metrics of each modality, and their mean over the modalities.

    The intervals draw patients where they are known, otherwise images; CIDEr's document frequencies are kept, and
    METEOR, whose corpus formula is Java's alone, has none.
    """

    headline = "CIDEr"
    share = False
    takes_minutes = True  # it starts Java for each modality
    without: tuple[str, ...] = ()  # metrics that the mean leaves out
    published = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score captions; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        modalities = [self._modality(answer.question) for answer in answers]
        there = list(dict.fromkeys(name for name in (*MODALITIES, *modalities) if name and name in modalities))
        if not there:
            raise UserError(
                f"{self.name}: no image's name begins with one of {', '.join(MODALITIES)} and '_': use"
                f" {self.name}_strict, which takes the rows' 'modality'"
            )
        rows: list[dict[str, Any]] = [
            {"question_id": answer.question.id, "correct": None, "value": None} for answer in answers
        ]
        parts: dict[str, CaptionScores] = {}
        notices: list[str] = []
        # Java takes minutes for ten thousands of rows, and each modality is given to it apart.
        for name in tqdm(there, desc=self.name, unit=" modalities", delay=1, mininterval=1):
            own = [index for index, modality in enumerate(modalities) if modality == name]
            parts[name] = self._part([answers[index] for index in own])
            counts[f"{name}.n"] = len(own)
            notices += [f"{name}: {notice}" for notice in parts[name].notices if "SPICE" not in notice]
            notices += failure_notices([answers[index] for index in own], parts[name].failures)
            for position, index in enumerate(own):
                rows[index] |= {metric: values[position] for metric, values in parts[name].rows.items()}
                rows[index]["value"] = rows[index][self.headline]
        clusters = [answer.question.cluster for answer in answers]
        counts["clusters"] = len({one for one, name in zip(clusters, modalities, strict=True) if name})
        scores = self._scores(parts)
        intervals = _intervals(parts, rows, modalities, clusters, set(scores))
        missing = [name for name in MODALITIES if name not in there] if self.published else []
        if missing:
            notices.append(f"modalities without a row, left out of the mean: {len(missing)} ({', '.join(missing)})")
        ignored = [answer for answer, name in zip(answers, modalities, strict=True) if not name]
        notices += count_notice("rows in no denominator, because of their image's name", ignored, answers)
        notices += [notice for notice in parts[there[0]].notices if "SPICE" in notice and "SPICE" not in self.without]
        notices += one_reference_notice(answers) if self.published else []
        notices += reasoning_notice(answers, published=self.published)
        return ProtocolScores(scores, intervals, rows, counts, notices, clustered=True)

    def _modality(self, question: Question) -> str:
        if not self.published:
            return row_modality(question)
        prefix = image_prefix(question)
        return prefix if prefix in MODALITIES else ""

    def _part(self, answers: Sequence[Answer]) -> CaptionScores:
        if self.published:
            references = [[answer.question.references[0]] for answer in answers]
            texts = [extract_information(answer.prediction) for answer in answers]
        else:
            references = [list(answer.question.references) for answer in answers]
            texts = [extract_information(final_reply(answer.prediction)) for answer in answers]
        return caption_scores(self.name, answers, texts, references)

    def _scores(self, parts: dict[str, CaptionScores]) -> dict[str, float]:
        names = [name for name in next(iter(parts.values())).scores if name not in self.without]
        digits: Callable[[float], float] = partial(round, ndigits=6) if self.published else float
        own = {modality: {name: digits(part.scores[name]) for name in names} for modality, part in parts.items()}
        means = {name: digits(sum(scores[name] for scores in own.values()) / len(own)) for name in names}
        return means | {f"{modality}.{name}": own[modality][name] for modality in own for name in names}


class BirdGc(_BirdCaptions):
    """``eval_GC_score_modality.py``: the mean over the eight modalities of the COCO caption metrics.

    Published, each modality's score and the mean are rounded to six digits, and a modality without a row ends the
    program; here it is left out of the mean, and a notice counts it.
    """

    name = "bird_gc"
    description = (
        "BiRD's eval_GC_score_modality.py: the COCO caption metrics of each of Med-GRIT's modalities, taken from the"
        " image's name, and their mean over the modalities that have rows; intervals draw patients where they are"
        " known, otherwise images"
    )


class BirdMii(_BirdCaptions):
    """``eval_MII_score_modality.py``: as ``bird_gc``, without SPICE, which ends the published program."""

    name = "bird_mii"
    description = (
        "BiRD's eval_MII_score_modality.py: the COCO caption metrics without SPICE of each of Med-GRIT's modalities,"
        " taken from the image's name, and their mean over the modalities that have rows; intervals draw patients where"
        " they are known, otherwise images"
    )
    without = ("SPICE",)


class BirdGcStrict(BirdGc):
    """The same with all references, the row's ``modality``, no rounding, and a model's reasoning taken off."""

    name = "bird_gc_strict"
    description = (
        "BiRD's caption scores made strict: against all references of a row, by the row's modality, without a model's"
        " reasoning; the mean over the modalities that have rows; intervals draw patients where they are known,"
        " otherwise images"
    )
    published = False


class BirdMiiStrict(BirdMii):
    """The same with all references, the row's ``modality``, no rounding, and a model's reasoning taken off."""

    name = "bird_mii_strict"
    description = (
        "BiRD's scores of image interpretation made strict: against all references of a row, by the row's modality,"
        " without a model's reasoning; the mean over the modalities that have rows; intervals draw patients where they"
        " are known, otherwise images"
    )
    published = False


def _intervals(
    parts: dict[str, CaptionScores],
    rows: Sequence[dict[str, Any]],
    modalities: Sequence[str],
    clusters: Sequence[str],
    names: set[str],
) -> dict[str, dict[str, Any]]:
    """Intervals of the means over modalities; those of BLEU draw the counts of all modalities together."""
    kept = [index for index, name in enumerate(modalities) if name]
    drawn, groups = [clusters[index] for index in kept], [modalities[index] for index in kept]
    intervals: dict[str, Interval] = {
        name: bootstrap_group_mean([rows[index][name] for index in kept], groups, kind=NUMBER, clusters=drawn)
        for name in _MEANS
        if name in names
    }
    width = next(iter(parts.values())).bleu_counts.shape[1]
    counts = np.zeros((len(kept), len(parts), width))  # [n, modalities, counts]
    for number, (name, part) in enumerate(parts.items()):
        counts[[position for position, group in enumerate(groups) if group == name], number] = part.bleu_counts
    sums = sums_of_clusters(counts.reshape(len(kept), -1), drawn)
    for order in tqdm(range(1, BLEU_ORDERS + 1), desc="intervals of BLEU", unit=" scores", delay=1, mininterval=1):
        mean = partial(_mean_bleu, modalities=len(parts), order=order)
        intervals[f"Bleu_{order}"] = bootstrap_of_sums(sums, mean)
    return {name: interval.as_dict() for name, interval in intervals.items()}


def _mean_bleu(sums: np.ndarray, modalities: int, order: int) -> np.ndarray:
    """Mean over the modalities of their corpus BLEU; ``sums`` is [b, modalities * counts]."""
    parts = sums.reshape(len(sums), modalities, -1)
    scores = np.stack([bleu_of_sums(parts[:, number], order) for number in range(modalities)])  # [modalities, b]
    there = parts[:, :, -1].T > 0  # a draw may leave a modality without a row
    return np.where(there, scores, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
