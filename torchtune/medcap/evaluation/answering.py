"""Write answers to a predictions file: only questions without one are asked, and one bad row never stops the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import Size, boxes_as_json
from medcap.data.boxes.style import BoxStyle
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.predictions import PredictionFile, request_fingerprint
from medcap.evaluation.shared.predictions import open_shared
from medcap.generation.request import CandidateScores, Generation, Request, Sampling
from medcap.plurals import counted, none_of
from medcap.scoring.answer_masks import masks_as_json
from medcap.scoring.question import Question

if TYPE_CHECKING:
    from medcap.evaluation.shared.team import Team
    from medcap.generation.generator import Generator, OnGeneration, OnScores

Entry = dict[str, Any]
OnResult = Callable[[int, Any], None]
Run = Callable[[list[Request], OnResult], Any]

# After this many failures without a success, the cause is not a single row.
_HOPELESS = 16


@dataclass(frozen=True)
class Engine:
    """The model as a prompt method uses it.

    Attributes:
        generator: answers, and scores candidates. A result with an ``error`` is a failure of its question; a UserError
            counts against the questions that cause it.
        sampling: sampling of free answers.
        debug: print every prompt and its answer to standard error.
    """

    generator: Generator
    sampling: Sampling
    debug: bool = False

    @property
    def adapters(self) -> tuple[str, ...]:
        """Components that a request to the plain language model does without."""
        return self.generator.model.adapters

    @property
    def box_style(self) -> BoxStyle:
        """How the run writes boxes."""
        return self.generator.box_style

    def size_of(self, image: ImageRef) -> Size:
        """Return width and height of an image in pixels."""
        return self.generator.reader.shown_size(image)

    def generate(self, requests: list[Request], on_result: OnGeneration) -> None:
        """Answer requests; ``on_result`` is called with the index of each and its ``Generation``, once it is there."""

        def show(index: int, generation: Generation) -> None:
            tokenizer = self.generator.tokenizer_of(requests[index])
            prompt = tokenizer.prompt(requests[index].messages)
            words = [token for token in prompt.tokens if token not in tokenizer.placeholders]
            text = tokenizer.tokenizer.decode(words, skip_special_tokens=False)
            print(f"[{requests[index].id}] {text}\n  -> {generation.text}", file=sys.stderr)
            on_result(index, generation)

        self.generator.generate(requests, self.sampling, show if self.debug else on_result)

    def score(
        self, requests: list[Request], candidates: list[list[str]], end_of_turn: bool, on_result: OnScores
    ) -> None:
        """Score the candidates of each request; see :meth:`generate` for ``on_result``."""
        self.generator.score(requests, candidates, end_of_turn, on_result)


@dataclass(frozen=True)
class PredictionStore:
    """Where answers are kept.

    Attributes:
        folder: folder of the task.
        settings: everything that decides an answer besides the request: checkpoint fingerprint, sampling.
        suffix: suffix of the file's name, such as ``_shuffled_image``.
        overwrite: answer every question again.
        keep_old: also use answers that were made under other settings.
        opened: files of this run, each with the number of its questions that other settings made; shared by the stores
            that are made from this one.
    """

    folder: Path
    settings: Mapping[str, Any]
    suffix: str = ""
    overwrite: bool = False
    keep_old: bool = False
    opened: dict[Path, int] = field(default_factory=dict)
    team: Team | None = None

    def open(self, name: str, settings: Mapping[str, Any] | None = None) -> PredictionFile:
        """Open ``<folder>/<name><suffix>.jsonl``; see :class:`PredictionFile` for what it raises.

        Args:
            name: name of the file.
            settings: settings of this file in addition to the common ones.
        """
        path = self.folder / f"{name}{self.suffix}.jsonl"
        # A question that this run has already asked again is not asked a third time.
        overwrite = self.overwrite and path not in self.opened
        settings = {**self.settings, **(settings or {})}
        if self.team is None:
            file = PredictionFile(path, settings, overwrite, self.keep_old)
        else:
            file = open_shared(path, settings, overwrite, self.keep_old, self.team)
        self.opened.setdefault(path, file.num_old)
        return file


def generated(generation: Generation) -> Entry:
    """Return what an entry holds of a generated answer; ``boxes`` and ``masks`` are not yet in the form of a file."""
    return {
        "prediction": generation.text,
        "finish": generation.finish,
        "num_tokens": len(generation.tokens),
        "error": generation.error or None,
        **({} if generation.outputs.boxes is None else {"boxes": generation.outputs.boxes}),
        **({} if generation.outputs.masks is None else {"masks": generation.outputs.masks}),
        **({} if generation.outputs.experts is None else {"experts": list(generation.outputs.experts)}),
    }


def collect(
    questions: Sequence[Question],
    requests: Sequence[Request | str],
    run: Run,
    make: Callable[[int, Any], Entry],
    file: PredictionFile,
    extra: Sequence[Any] | None = None,
) -> list[Entry]:
    """Ask, taking from the file what it already has.

    Args:
        questions: what the requests are about.
        requests: one a question, or why the question cannot be asked, which is then a failure.
        run: asks; see :class:`Engine`.
        make: maps a request's index and its result to the entry's fields besides the question.
        file: the answers.
        extra: values that decide an answer besides the request, one for each question.

    Returns:
        For each question its entry in the file: question_id, image (and all ``images`` of several), question,
        reference, options and groups as far as the question has them, prediction ("" for a failure), finish,
        num_tokens, error, fingerprint.

    Raises:
        UserError: if every question fails.
    """
    more = extra or [None] * len(questions)
    fingerprints = [
        request_fingerprint(request if isinstance(request, Request) else Request([], question.id), part)
        for question, request, part in zip(questions, requests, more, strict=True)
    ]
    pending = []
    for index, (question, request, fingerprint) in enumerate(zip(questions, requests, fingerprints, strict=True)):
        if file.has_answer(fingerprint):
            continue
        if question.problem is None and isinstance(request, Request):
            pending.append(index)
            continue
        entry = _failure(question, question.problem or str(request))
        known = file.rows.get(fingerprint)
        if known is None or known["error"] != entry["error"]:
            file.append({**entry, "fingerprint": fingerprint})

    def keep(index: int, result: Any) -> None:
        entry = {**_about(questions[index]), **make(index, result), "fingerprint": fingerprints[index]}
        if "boxes" in entry:
            entry["boxes"] = boxes_as_json(entry["boxes"], questions[index].image_size)
        if "masks" in entry:
            entry["masks"] = masks_as_json(entry["masks"])
        file.append(entry)

    def fail(index: int, error: UserError) -> None:
        file.append({**_failure(questions[index], str(error)), "fingerprint": fingerprints[index]})

    while True:
        asking = _Asking(requests, run, keep, fail, file.any_answered)
        for part in file.shares(pending, requests, more):
            asking.ask(part)
        asking.finish()
        file.settle(fingerprints)
        # Of several processes, one may have ended with answers that it had not written.
        pending = [index for index in pending if fingerprints[index] not in file.rows]
        if not pending:
            break
    entries = [file.rows[fingerprint] for fingerprint in fingerprints]
    # [Contract] a mistake that concerns every row must stop the run, not become a score of 0.
    if all(entry.get("error") for entry in entries):
        raise UserError(f"{none_of(len(entries), 'row')} can be answered; the first one: {entries[0]['error']}")
    return entries


def scored(candidates: Sequence[str], scores: CandidateScores) -> Entry:
    """Return what an entry holds of scored candidates.

    Args:
        candidates: what was scored.
        scores: scores of each row.

    Returns:
        ``prediction`` is the candidate with the highest log-probability, ``prediction_normalized`` that with the
        highest one a token; the first one wins among equals. The log-probabilities themselves are not kept: their
        last digits depend on the batch, and a file that was started over would differ from one that was not.
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


class _Asking:
    """Asks, and halves the questions that raised a UserError until only those that cause it are left.

    Args:
        requests: all of them.
        run: asks some.
        keep: keeps an answer.
        fail: keeps the failure of a question.
        any_answered: says whether another process has got an answer.
    """

    def __init__(
        self,
        requests: Sequence[Any],
        run: Run,
        keep: OnResult,
        fail: Callable[[int, UserError], None],
        any_answered: Callable[[], bool],
    ) -> None:
        self._requests, self._run, self._keep, self._fail = requests, run, keep, fail
        self._any_answered = any_answered
        self._answered: set[int] = set()
        self._failures: list[tuple[int, UserError]] = []

    def ask(self, indices: Sequence[int]) -> None:
        """Ask some of the requests.

        Raises:
            UserError: if many failed and none was answered.
        """
        answered = self._answered
        groups = [list(indices)]
        while groups:
            group = [index for index in groups.pop() if index not in answered]
            if not group:
                continue

            def on_result(position: int, result: Any, group: list[int] = group) -> None:
                if group[position] not in answered:
                    answered.add(group[position])
                    self._keep(group[position], result)

            try:
                self._run([self._requests[index] for index in group], on_result)
            except UserError as error:
                left = [index for index in group if index not in answered]
                if len(left) > 1:
                    half = len(left) // 2
                    groups += [left[half:], left[:half]]
                    continue
                self._failures += [(index, error) for index in left]
                self._refuse_hopeless(error)
            else:
                if not answered.issuperset(group):
                    raise RuntimeError(f"the generator left {len(set(group) - answered)} requests unanswered")

    def finish(self) -> None:
        """Keep the failures."""
        for index, error in self._failures:
            self._fail(index, error)

    def _refuse_hopeless(self, error: UserError) -> None:
        if not self._answered and len(self._failures) >= _HOPELESS and not self._any_answered():
            raise UserError(
                f"{counted(len(self._failures), 'row')} failed and none was answered; the first one:"
                f" {self._failures[0][1]}"
            ) from error


def _about(question: Question) -> Entry:
    entry: Entry = {
        "question_id": question.id,
        **question.image_fields,
        "question": question.text,
    }
    entry["reference"] = question.reference
    if question.options:
        entry["options"] = list(question.options)
    if question.boxes is not None:
        entry["reference_boxes"] = boxes_as_json(question.boxes, question.image_size)
    if question.masks is not None:
        entry["reference_masks"] = masks_as_json(question.masks, question.mask_labels)
    if question.image_size is not None:
        entry["image_size"] = list(question.image_size)
    return entry | question.facts


def _failure(question: Question, error: str) -> Entry:
    return {**_about(question), "prediction": "", "finish": None, "num_tokens": 0, "error": error}
