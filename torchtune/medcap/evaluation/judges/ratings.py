"""Has a judge rate answers beside reference answers: replies row by row, kept across restarts, then the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge, Reply
from medcap.evaluation.judges.rating_prompt import (
    PUBLISHED,
    RATING_SHA256,
    RATING_TEMPLATE,
    SWAPPED,
    prompt_name,
    rating_prompt,
)
from medcap.evaluation.judges.reading.two_scores import parse_two_scores
from medcap.evaluation.judges.reading.verdict_words import has_words
from medcap.evaluation.predictions import PredictionFile, dataset_fingerprint, settings_fingerprint
from medcap.files import make_folder, plain, write_json
from medcap.plurals import counted, none_of
from medcap.scoring.question import Answer
from medcap.scoring.relative_scores import (
    MEAN_OF_RATIOS,
    RatedAnswer,
    group_scores,
    position_effect,
    relative_scores,
)
from medcap.scoring.replies.final_reply import final_reply

RATINGS_FILE = "ratings.jsonl"
RATINGS_METRICS = "ratings_metrics.json"
ORDERS = {"published": (PUBLISHED,), "both": (PUBLISHED, SWAPPED)}
# The run stops where this many replies came and not one holds two scores.
_HOPELESS = 16
_SHOWN_IDS = 8
# From so many rated answers on, a judge that always says the same is named.
_MANY = 16


@dataclass(frozen=True)
class _Prompt:
    """An answer in one order."""

    answer: Answer
    order: str
    fingerprint: str


def rate_answers(
    judge: Judge,
    answers: Sequence[Answer],
    output_dir: str | Path,
    *,
    source: str | Path,
    orders: str = "published",
    overwrite: bool = False,
    keep_old: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rate answers and write ``<output_dir>/ratings.jsonl``, ``ratings.settings.json`` and ``ratings_metrics.json``.

    A run that was killed continues with the prompts that have no reply yet; one that failed, had no words or was cut
    off is asked again. A missing answer is not asked and counts as a score of 0. A reply without two scores is kept,
    counted as unrated and named, and costs no other row its place.

    Args:
        judge: rates.
        answers: answers with references; ``question.meta["context"]`` describes the image.
        output_dir: where to.
        source: the file of the answers.
        orders: ``published``: the reference first; ``both``: each pair also the other way round, averaged.
        overwrite: ask everything again.
        keep_old: use replies that were made under other settings, and say so.

    Returns:
        The content of ratings_metrics.json, and the rows of ratings.jsonl in the order of the answers.

    Raises:
        UserError: if the folder has replies made under other settings, or the judge gives not one pair of scores.
    """
    folder = make_folder(Path(output_dir))
    prompts = [
        _Prompt(answer, order, _fingerprint(answer, order))
        for answer in answers
        if not answer.failed
        for order in ORDERS[orders]
    ]
    settings = {"judge": judge.kind, **judge.settings, "prompt_sha256": RATING_SHA256}
    with PredictionFile(folder / RATINGS_FILE, settings, overwrite, keep_old) as file:
        _ask(judge, prompts, file)
        rows = [_read(file.rows[prompt.fingerprint]) for prompt in prompts]
        num_old = file.num_old
    rated = _rated(answers, rows, len(ORDERS[orders]))
    metrics = plain(
        {
            "judge": judge.name,
            "protocol": f"relative_score_{orders}",
            "orders": orders,
            "prompt": RATING_TEMPLATE,
            "prompt_sha256": RATING_SHA256,
            "headline": MEAN_OF_RATIOS,
            **relative_scores(rated),
            "tables": group_scores(rated, ("question_type", "modality")),
            "position_effect": position_effect(rated),
            **_problems(rated, rows, answers),
            "dataset": {"source": str(source), "sha256": dataset_fingerprint(source), "rows": len(answers)},
            "settings": settings,
        }
    )
    metrics["notices"] += judge.notices
    if num_old:
        metrics["notices"].append(
            f"{counted(num_old, 'reply was', 'replies were')} made under other settings than these"
        )
    write_json(folder / RATINGS_METRICS, metrics)
    return metrics, rows


def _ask(judge: Judge, prompts: Sequence[_Prompt], file: PredictionFile) -> None:
    pending = [prompt for prompt in prompts if not file.has_answer(prompt.fingerprint)]
    # Written only when the judge has replied to something: see medcap.evaluation.judges.verdicts.
    held: list[dict[str, Any]] = []
    replies = [row["reply"] for row in file.rows.values() if row["reply"] is not None]
    some_read = any(parse_two_scores(reply) for reply in replies)

    def keep(index: int, reply: Reply) -> None:
        nonlocal some_read
        prompt = pending[index]
        reply = _checked(reply)
        held.append(_read(_entry(prompt, reply)))
        if not reply.error:
            replies.append(reply.text)
            some_read = some_read or parse_two_scores(reply.text) is not None
        if replies:
            for entry in held:
                file.append(entry)
            held.clear()
        if len(replies) >= _HOPELESS and not some_read:
            raise _no_scores(judge, replies)

    if pending:
        names = [prompt_name(prompt.answer.question.id, prompt.order) for prompt in pending]
        judge.ask_about(names, [rating_prompt(prompt.answer, prompt.order) for prompt in pending], keep)
    # [Contract] a mistake that concerns every row must stop the run, not become an empty table.
    if prompts and not replies:
        raise UserError(f"{none_of(len(prompts), 'answer')} can be rated; the first one: {held[0]['error']}")
    if prompts and not some_read:
        raise _no_scores(judge, replies)


def _no_scores(judge: Judge, replies: Sequence[str]) -> UserError:
    return UserError(
        f"the judge {judge.name} replied {len(replies)} times, and not one reply has two scores (one of them:"
        f" {replies[0][:80]!r}): take another judge; the replies are in {RATINGS_FILE}, overwrite=true replaces them"
    )


def _checked(reply: Reply) -> Reply:
    """Return a reply with an error where it says nothing, or was cut off before its scores."""
    if reply.error:
        return reply
    cut_off = reply.finish == "length"
    remedy = "; raise max_new_tokens, and set keep_old_answers=true to keep the other replies" if cut_off else ""
    if not has_words(final_reply(reply.text)):
        what = "only reasoning" if has_words(reply.text) else "no words"
        return Reply("", reply.finish, reply.num_tokens, f"the reply has {what} (finish {reply.finish}){remedy}")
    if cut_off and parse_two_scores(reply.text) is None:
        error = f"the reply was cut off before its scores (finish length): {reply.text[:80]!r}{remedy}"
        return Reply("", reply.finish, reply.num_tokens, error)
    return reply


def _fingerprint(answer: Answer, order: str) -> str:
    question = answer.question
    return settings_fingerprint(
        {
            "question_id": question.id,
            "question": question.text,
            "prediction": answer.prediction,
            "references": question.references,
            "context": question.meta.get("context", ""),
            "order": order,
        }
    )


def _entry(prompt: _Prompt, reply: Reply) -> dict[str, Any]:
    question = prompt.answer.question
    return {
        "question_id": question.id,
        "order": prompt.order,
        **question.image_fields,
        "question": question.text,
        "reference": question.reference,
        **question.groups,
        "prediction": prompt.answer.prediction,
        "reply": None if reply.error else reply.text,
        "finish": reply.finish,
        "num_tokens": reply.num_tokens,
        "error": reply.error or None,
        "fingerprint": prompt.fingerprint,
    }


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the scores that its reply holds, by the reader of today."""
    scores = None if row["reply"] is None else parse_two_scores(row["reply"])
    if scores is not None and row["order"] == SWAPPED:
        scores = scores[::-1]
    reference, prediction = scores or (None, None)
    return {**row, "reference_score": reference, "prediction_score": prediction}


def _as_said(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the scores of Assistant 1 and Assistant 2."""
    scores = (row["reference_score"], row["prediction_score"])
    return scores[::-1] if row["order"] == SWAPPED else scores


def _rated(answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]], orders: int) -> list[RatedAnswer]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        # A ratio to 0 is no number: such a row is unrated.
        if row["reference_score"]:
            found.setdefault(row["question_id"], []).append((row["reference_score"], row["prediction_score"]))
    rated = []
    for answer in answers:
        question = answer.question
        pairs = tuple(found.get(question.id, ()))
        rated.append(
            RatedAnswer(
                question.id,
                pairs if len(pairs) == orders else (),
                answer.failed,
                question.groups,
                question.cluster,
            )
        )
    return rated


_NO_REPLY = (
    "prompt has no reply, the same command asks it again",
    "prompts have no reply, the same command asks them again",
)
_ZERO = tuple(f"{give} the reference answer 0, to which there is no ratio" for give in ("reply gives", "replies give"))
_MISSING = ("answer is missing and counts as a score of 0", "answers are missing and count as a score of 0")


def _problems(
    rated: Sequence[RatedAnswer], rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> dict[str, Any]:
    """Name what is not in the means, and why."""
    failed = [row for row in rows if row["error"]]
    unparsed = [row for row in rows if row["reply"] is not None and row["reference_score"] is None]
    zero = [row for row in rows if row["reference_score"] == 0]
    unrated = [row.id for row in rated if not row.counted]
    notices = []
    for found, what in (
        (failed, _NO_REPLY),
        (unparsed, ("reply does not hold two scores", "replies do not hold two scores")),
        (zero, _ZERO),
    ):
        if found:
            first = found[0]["error"] or found[0]["reply"][:80]
            notices.append(f"{counted(len(found), *what)} (the first, {found[0]['question_id']}: {first!r})")
    if unrated:
        names = ", ".join(unrated[:_SHOWN_IDS]) + (", ..." if len(unrated) > _SHOWN_IDS else "")
        notices.append(f"{len(unrated)} of {len(rated)} answers are unrated and in no mean: {names}")
    said = {_as_said(row) for row in rows if row["reference_score"] is not None}
    if len(said) == 1 and sum(bool(row.pairs) for row in rated) >= _MANY:
        first, second = said.pop()
        notices.append(
            f"every reply gives Assistant 1 {first:g} and Assistant 2 {second:g}: the judge tells no answers apart,"
            " take another one"
        )
    missing = [row.id for row in rated if row.failed]
    if missing:
        notices.append(f"{counted(len(missing), *_MISSING)} (the first: {missing[0]})")
    if not any(answer.question.meta.get("context") for answer in answers):
        notices.append("the answers come without a context: the judge knows nothing of the images")
    return {
        "replies_failed": len(failed),
        "replies_unparsed": len(unparsed),
        "unrated_ids": unrated,
        "unparsed_ids": list(dict.fromkeys(row["question_id"] for row in unparsed)),
        "failed_ids": list(dict.fromkeys(row["question_id"] for row in failed)),
        "notices": notices,
    }
