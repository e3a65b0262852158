"""Judges a file of answers: verdicts row by row, kept across restarts, then the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.evaluation.judges.base import (
    PROMPT_SHA256,
    PROMPT_TEMPLATE,
    Judge,
    Reply,
    Verdict,
    judge_prompt,
    read_verdict,
)
from medcap.evaluation.judges.outputs import METRICS_FILE, metrics_before, write_csv
from medcap.evaluation.judges.reading.parsing import STRICT
from medcap.evaluation.judges.reading.verdict_words import RIGHT, UNPARSED, WRONG
from medcap.evaluation.predictions import PredictionFile, dataset_fingerprint, settings_fingerprint
from medcap.evaluation.shared.predictions import open_shared
from medcap.evaluation.shared.team import Team
from medcap.files import make_folder, plain, write_json
from medcap.plurals import counted, none_of
from medcap.scoring.protocols.summary import reasoning_notice
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.statistics import bootstrap_interval
from medcap.scoring.tables import averages, group_tables

VERDICTS_FILE = "verdicts.jsonl"
# The run stops where this many rows fail, or have a reply without a verdict, and not one row has a verdict.
_HOPELESS = 16
_MANY_UNPARSED = 0.2  # of all rows
_DOUBT = "so the accuracy says more of the judge than of the answers; take another judge"


def judge_answers(
    judge: Judge,
    answers: Sequence[Answer],
    output_dir: str | Path,
    *,
    source: str | Path,
    parsing: str = STRICT,
    overwrite: bool = False,
    keep_old: bool = False,
    team: Team | None = None,
) -> dict[str, Any] | None:
    """Judge answers and write ``<output_dir>/verdicts.jsonl``, ``verdicts.settings.json``, ``verdicts_metrics.json``.

    For a source that is a CSV file also ``<source>-<judge>-<accuracy>.csv``, see :func:`write_csv`. A run that was
    killed continues with the answers that have no verdict yet. A failed answer is asked again, and so
    is one whose reply had no words or was cut off before its verdict. Another ``parsing`` reads the same replies. An
    empty answer, and one that ends within its reasoning, is wrong and is not asked; the judge sees no reasoning.

    Args:
        judge: says which answers are right.
        answers: answers from ``read_judged``, or some of them.
        output_dir: where to.
        source: the file of the answers.
        parsing: one of ``PARSINGS``.
        overwrite: ask everything again.
        keep_old: use verdicts that were made under other settings, and say so.
        team: processes that judge together, each of which calls this; None for one.

    Returns:
        The content of verdicts_metrics.json; None on all processes but the first.

    Raises:
        UserError: if the folder has verdicts made under other settings or on another file, or the judge gives not one
            verdict.
    """
    folder = make_folder(Path(output_dir))
    sha256 = dataset_fingerprint(source)
    if not overwrite:
        _check_same_source(folder, Path(source), sha256)
    settings = {"judge": judge.kind, **judge.settings, "prompt_sha256": PROMPT_SHA256}
    if team is not None:
        with open_shared(folder / VERDICTS_FILE, settings, overwrite, keep_old, team) as file:
            fingerprints = list(map(_fingerprint, answers))
            _ask(judge, answers, fingerprints, file, parsing, alone=False)
            file.settle(fingerprints)
        team.finish()
        if not team.is_main:
            return None
    with PredictionFile(folder / VERDICTS_FILE, settings, overwrite and team is None, keep_old) as file:
        rows = _judge(judge, answers, file, parsing)
        num_old = file.num_old
    metrics = plain(
        {
            "judge": judge.name,
            "protocol": f"judge_{parsing}",
            "parsing": parsing,
            "prompt": PROMPT_TEMPLATE,
            "prompt_sha256": PROMPT_SHA256,
            **_metrics(answers, rows),
            "dataset": {"source": str(source), "sha256": sha256, "rows": len(answers)},
            "settings": settings,
        }
    )
    metrics["notices"] += [*judge.notices, *reasoning_notice(answers)]
    if num_old:
        metrics["notices"].append(f"{num_old} verdicts were made under other settings than these")
    if Path(source).suffix.lower() == ".csv":
        metrics["csv"] = write_csv(folder, Path(source).stem, judge.name, answers, rows, metrics["scores"]["accuracy"])
    write_json(folder / METRICS_FILE, plain(metrics))
    return metrics


def _check_same_source(folder: Path, source: Path, sha256: str) -> None:
    # [Contract] two files in one folder would else replace each other's scores.
    before = metrics_before(folder).get("dataset", {})
    other = before.get("source")
    if other and before.get("sha256") != sha256 and Path(other).resolve() != source.resolve():
        raise UserError(
            f"output_dir={folder} has the verdicts on {other}: set output_dir=... to another folder, or"
            " overwrite=true to replace them"
        )


def _judge(judge: Judge, answers: Sequence[Answer], file: PredictionFile, parsing: str) -> list[dict[str, Any]]:
    fingerprints = list(map(_fingerprint, answers))
    held = _ask(judge, answers, fingerprints, file, parsing)
    # [Contract] a mistake that concerns every row must stop the run, not become a score of 0.
    asked = [
        file.rows.get(fingerprint)
        for answer, fingerprint in zip(answers, fingerprints, strict=True)
        if _says_something(answer)
    ]
    rows = [_parsed(row, parsing) for row in (*held, *filter(None, asked))]
    if rows and not any(_was_read(row) for row in rows):
        replies = [row["reply"] for row in rows if row["reply"] is not None]
        if replies:
            raise _no_verdict(judge, replies, len(replies))
        raise UserError(f"{none_of(len(answers), 'answer')} can be judged; the first one: {rows[0]['error']}")
    for entry in held:
        file.append(entry)
    file.settle(fingerprints)
    return [_parsed(file.rows[fingerprint], parsing) for fingerprint in fingerprints]


def _ask(
    judge: Judge,
    answers: Sequence[Answer],
    fingerprints: Sequence[str],
    file: PredictionFile,
    parsing: str,
    alone: bool = True,
) -> list[dict[str, Any]]:
    """Ask for the verdicts that are missing; returns failures that were not written, as the judge replied to nothing.

    Failures of a judge that was set up wrongly would else prevent the judge that is set up correctly.
    """
    pending = [
        position
        for position, (answer, fingerprint) in enumerate(zip(answers, fingerprints, strict=True))
        if _must_be_asked(file, answer, fingerprint, parsing)
    ]
    known = [_parsed(row, parsing) for fingerprint in fingerprints if (row := file.rows.get(fingerprint))]
    some_replied = any(row["reply"] is not None for row in known)
    some_read = any(_was_read(row) for row in known)
    num_unread = 0
    held: list[dict[str, Any]] = []

    def keep(position: int, verdict: Verdict) -> None:
        nonlocal some_replied, some_read, num_unread
        held.append(_entry(answers[position], fingerprints[position], verdict))
        some_replied |= not verdict.reply.error
        some_read |= verdict.value in (RIGHT, WRONG)
        num_unread += verdict.value == UNPARSED
        if len(held) >= _HOPELESS:
            some_replied |= file.any_answered()
        if some_replied:
            for entry in held:
                file.append(entry)
            held.clear()
        elif len(held) >= _HOPELESS:
            raise UserError(
                f"the judge {judge.name} failed on {len(held)} answers and judged none; the last one:"
                f" {verdict.reply.error}"
            )
        # What another process's replies say is not known here.
        if alone and num_unread >= _HOPELESS and not some_read:
            raise _no_verdict(judge, [verdict.reply.text], num_unread)

    prompts = [judge_prompt(answer) for answer in answers]
    for part in file.shares(pending, prompts, [None] * len(answers)):
        judge.judge(
            [answers[position] for position in part],
            lambda index, verdict, part=part: keep(part[index], verdict),
            parsing,
        )
    return held


def _no_verdict(judge: Judge, replies: Sequence[str], count: int) -> UserError:
    return UserError(
        f"the judge {judge.name} replied to {count} answers, and not one reply is RIGHT or WRONG (one of them:"
        f" {replies[0][:80]!r}): take another judge; the replies are in {VERDICTS_FILE}, overwrite=true replaces them"
    )


def _must_be_asked(file: PredictionFile, answer: Answer, fingerprint: str, parsing: str) -> bool:
    """Return whether an answer still needs a verdict; one that needs no judge gets it here."""
    known = file.rows.get(fingerprint)
    if known is not None and known["error"] is None:
        parsed = _parsed(known, parsing)
        if parsed["error"]:
            return True
        if parsed != known and known["settings"] == file.settings_fingerprint:
            file.append(parsed)
        return False
    if not _says_something(answer):
        file.append(_entry(answer, fingerprint, value=WRONG))
        return False
    if not any(reference.strip() for reference in answer.question.references):
        if known is None:
            file.append(_entry(answer, fingerprint, error="the row has no reference to compare with"))
        return False
    return True


def _parsed(row: dict[str, Any], parsing: str) -> dict[str, Any]:
    """Return a row with what its reply says now: older files hold replies without words as verdicts."""
    if row["reply"] is None:
        return row
    verdict = read_verdict(Reply(row["reply"], row["finish"] or "stop", row["num_tokens"]), parsing)
    if verdict.value is None:
        return {**row, "verdict": None, "reply": None, "error": verdict.reply.error}
    return {**row, "verdict": verdict.value}


def _was_read(row: Mapping[str, Any]) -> bool:
    """Return whether the judge gave a verdict: a row of an empty answer has one without a reply."""
    return row["reply"] is not None and row["verdict"] in (RIGHT, WRONG)


def _says_something(answer: Answer) -> bool:
    return not answer.failed and bool(final_reply(answer.prediction).strip())


def _fingerprint(answer: Answer) -> str:
    return settings_fingerprint(
        {
            "question_id": answer.question.id,
            "question": answer.question.text,
            "prediction": final_reply(answer.prediction),  # what the judge is shown
            "references": answer.question.references,
        }
    )


def _entry(
    answer: Answer, fingerprint: str, verdict: Verdict | None = None, value: str | None = None, error: str | None = None
) -> dict[str, Any]:
    reply = verdict.reply if verdict else None
    question = answer.question
    return {
        "question_id": question.id,
        **question.image_fields,
        "question": question.text,
        "reference": question.reference,
        **question.groups,
        "prediction": answer.prediction,
        "verdict": verdict.value if verdict else value,
        "reply": reply.text if reply and not reply.error else None,
        "finish": reply.finish if reply else None,
        "num_tokens": reply.num_tokens if reply else 0,
        "error": (reply.error or None) if reply else error,
        "fingerprint": fingerprint,
    }


_NO_VERDICT = ("answer has no verdict and counts as wrong", "answers have no verdict and count as wrong")
_UNREAD = (
    "reply is neither RIGHT nor WRONG and counts as wrong",
    "replies are neither RIGHT nor WRONG and count as wrong",
)


def _metrics(answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    right = [float(row["verdict"] == RIGHT) for row in rows]
    counts = Counter(row["verdict"] for row in rows)
    accuracy = bootstrap_interval(right)
    scored = [{"value": value, "correct": value == 1.0} for value in right]
    groups = [answer.question.groups for answer in answers]
    failed = [row for row in rows if row["error"]]
    unparsed = [row for row in rows if row["verdict"] == UNPARSED]
    notices = []
    if failed:
        notices.append(
            f"{counted(len(failed), *_NO_VERDICT)} (the first, {failed[0]['question_id']}:"
            f" {failed[0]['error']}); the same command asks them again"
        )
    if unparsed:
        notices.append(
            f"{counted(len(unparsed), *_UNREAD)} (the first,"
            f" {unparsed[0]['question_id']}: {unparsed[0]['reply'][:80]!r})"
            + (
                f": {len(unparsed) / len(rows):.0%} of all, {_DOUBT}"
                if len(unparsed) > _MANY_UNPARSED * len(rows)
                else ""
            )
        )
    return {
        "headline": "accuracy",
        "n": len(rows),
        "right": counts[RIGHT],
        "wrong": counts[WRONG],
        "unparsed": counts[UNPARSED],
        "failures": len(failed),
        "empty_answers": sum(not _says_something(answer) for answer in answers),
        "scores": {"accuracy": accuracy.value},
        "intervals": {"accuracy": accuracy.as_dict()},
        "averages": averages(groups, scored),
        "tables": group_tables(groups, scored),
        "notices": notices,
        "unparsed_ids": [row["question_id"] for row in unparsed],
        "failed_ids": [row["question_id"] for row in failed],
    }
