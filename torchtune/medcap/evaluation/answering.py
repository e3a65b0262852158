"""Rows -> lines of a predictions file: only what has no answer yet is asked, and one bad row never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.data.tokenization import ChatTokenizer
from medcap.errors import UserError
from medcap.evaluation.predictions import PredictionFile, request_fingerprint
from medcap.generation.request import CandidateScores, Generation, Request
from medcap.scoring.question import Question

Entry = dict[str, Any]
OnResult = Callable[[int, Any], None]
Run = Callable[[list[Request], OnResult], Any]

# So many rows that fail one after another, and none that succeeds, are no matter of single rows.
_HOPELESS = 16


@dataclass(frozen=True)
class Engine:
    """The model as a task uses it.

    Attributes:
        generate: ``generate(requests, on_result)`` calls ``on_result(index, Generation)`` for each request as soon as
            it is answered. A generation with an ``error`` is a failure of its row; a UserError counts against the
            rows that cause it.
        score: ``score(requests, candidates, end_of_turn, on_result)``, the same with ``CandidateScores``.
        tokenizer: counts tokens for limits; None where no way of asking needs it.
        max_seq_len: most tokens of a prompt and its answer.
        max_new_tokens: most tokens of an answer.
    """

    generate: Callable[[list[Request], OnResult], Any]
    score: Callable[[list[Request], list[Sequence[str]], bool, OnResult], Any] | None = None
    tokenizer: ChatTokenizer | None = None
    max_seq_len: int = 1024
    max_new_tokens: int = 300


@dataclass(frozen=True)
class PredictionStore:
    """Where answers are kept.

    Attributes:
        folder: of the task.
        settings: everything that decides an answer beside the request: checkpoint fingerprint, sampling.
        suffix: of the file's name, such as ``_shuffled_image``.
        overwrite: answer every row anew.
        keep_old: also use answers that were made under other settings.
        opened: files of this run, each with the number of its rows that other settings made; shared by the stores
            that are made from this one.
    """

    folder: Path
    settings: Mapping[str, Any]
    suffix: str = ""
    overwrite: bool = False
    keep_old: bool = False
    opened: dict[Path, int] = field(default_factory=dict)

    def open(self, name: str, settings: Mapping[str, Any] | None = None) -> PredictionFile:
        """Open ``<folder>/<name><suffix>.jsonl``; see :class:`PredictionFile` for what it raises.

        Args:
            name: of the file.
            settings: of this file beside the common ones.
        """
        path = self.folder / f"{name}{self.suffix}.jsonl"
        # What this run has answered anew is not to be answered a second time.
        overwrite = self.overwrite and path not in self.opened
        file = PredictionFile(path, {**self.settings, **(settings or {})}, overwrite, self.keep_old)
        self.opened.setdefault(path, file.num_old)
        return file


def generated(generation: Generation) -> Entry:
    """What an entry holds of a generated answer."""
    return {
        "prediction": generation.text,
        "finish": generation.finish,
        "num_tokens": len(generation.tokens),
        "error": generation.error or None,
    }


def collect(
    rows: Sequence[Question],
    requests: Sequence[Request | str],
    run: Run,
    make: Callable[[int, Any], Entry],
    file: PredictionFile,
    extra: Sequence[Any] | None = None,
) -> list[Entry]:
    """Ask, taking from the file what it already has.

    Args:
        rows: what the requests are about.
        requests: one a row, or why the row cannot be asked, which is then a failure.
        run: asks; see :class:`Engine`.
        make: a request's place and its result -> what the entry holds beside the row.
        file: the answers.
        extra: what decides an answer beside the request, one a row.

    Returns:
        For each row what the file holds: question_id, image, question, reference, options and groups as far as the
        row has them, prediction ("" for a failure), finish, num_tokens, error, fingerprint.

    Raises:
        UserError: if every row fails.
    """
    more = extra or [None] * len(rows)
    fingerprints = [
        request_fingerprint(request if isinstance(request, Request) else Request([], row.id), part)
        for row, request, part in zip(rows, requests, more, strict=True)
    ]
    pending = []
    for index, (row, request, fingerprint) in enumerate(zip(rows, requests, fingerprints, strict=True)):
        known = file.rows.get(fingerprint)
        # A failure may have been mended since, for instance by putting the image there.
        if known is not None and known.get("error") is None:
            continue
        if row.problem is None and isinstance(request, Request):
            pending.append(index)
            continue
        entry = _failure(row, row.problem or str(request))
        if known is None or known["error"] != entry["error"]:
            file.append({**entry, "fingerprint": fingerprint})

    def keep(index: int, result: Any) -> None:
        file.append({**_about(rows[index]), **make(index, result), "fingerprint": fingerprints[index]})

    def fail(index: int, error: UserError) -> None:
        file.append({**_failure(rows[index], str(error)), "fingerprint": fingerprints[index]})

    _run_around_failures(list(requests), pending, run, keep, fail)
    entries = [file.rows[fingerprint] for fingerprint in fingerprints]
    # [Contract] a mistake that concerns every row must stop the run, not become a score of 0.
    if all(entry.get("error") for entry in entries):
        raise UserError(f"none of the {len(entries)} rows can be answered; the first one: {entries[0]['error']}")
    return entries


def scored(candidates: Sequence[str], scores: CandidateScores) -> Entry:
    """What an entry holds of scored candidates.

    Args:
        candidates: what was scored.
        scores: of each.

    Returns:
        ``prediction`` is the candidate with the highest log-probability, ``prediction_normalized`` that with the
        highest one a token; the first one wins among equals. The log-probabilities themselves are not kept: their
        last digits depend on the batch, and a file that was begun anew would differ from one that was not.
    """
    entry: Entry = {"prediction": "", "finish": None, "num_tokens": sum(scores.num_tokens), "error": None}
    if scores.error:
        return {**entry, "error": scores.error}
    means = scores.means
    best, best_normalized = (max(range(len(values)), key=values.__getitem__) for values in (scores.sums, means))
    return {
        **entry,
        "prediction": candidates[best],
        "prediction_normalized": candidates[best_normalized],
    }


def _run_around_failures(
    requests: list[Request | str],
    pending: list[int],
    run: Run,
    keep: OnResult,
    fail: Callable[[int, UserError], None],
) -> None:
    """Halve what a UserError stopped until the rows that cause it stand alone."""
    answered: set[int] = set()
    failures: list[tuple[int, UserError]] = []
    groups = [pending] if pending else []
    while groups:
        group = [index for index in groups.pop() if index not in answered]
        if not group:
            continue

        def on_result(place: int, result: Any, group: list[int] = group) -> None:
            if group[place] not in answered:
                answered.add(group[place])
                keep(group[place], result)

        try:
            run([requests[index] for index in group], on_result)
        except UserError as error:
            left = [index for index in group if index not in answered]
            if len(left) > 1:
                half = len(left) // 2
                groups += [left[half:], left[:half]]
                continue
            failures += [(index, error) for index in left]
            if not answered and len(failures) >= _HOPELESS:
                raise UserError(
                    f"{len(failures)} rows failed and none was answered; the first one: {failures[0][1]}"
                ) from error
        else:
            if not answered.issuperset(group):
                raise RuntimeError(f"the generator left {len(set(group) - answered)} requests unanswered")
    for index, error in failures:
        fail(index, error)


def _about(row: Question) -> Entry:
    entry: Entry = {"question_id": row.id, "image": str(row.image) if row.image else None, "question": row.text}
    entry["reference"] = row.reference
    if row.options:
        entry["options"] = list(row.options)
    return entry | row.groups


def _failure(row: Question, error: str) -> Entry:
    return {**_about(row), "prediction": "", "finish": None, "num_tokens": 0, "error": error}
