"""MedEvalKit's scores of seven benchmarks, with the defects of the commit that is named, and without them.

Source: alibaba-damo-academy/MedEvalKit, ``cal_metrics`` of
``utils/{VQA_RAD,SLAKE,PATH_VQA,PMC_VQA,OmniMedVQA,MedXpertQA,MedFrameQA}/*.py``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from medcap.errors import UserError
from medcap.scoring.protocols.base import Prompt, Protocol, ProtocolScores
from medcap.scoring.protocols.harnesses import medevalkit_replies as replies
from medcap.scoring.protocols.open_closed import CLOSED, OPEN
from medcap.scoring.protocols.summary import (
    check_answers,
    count_notice,
    one_reference_notice,
    reasoning_notice,
    row_means,
)
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply

VQA_RAD, SLAKE, PATH_VQA, PMC_VQA, OMNIMEDVQA = "vqarad", "slake", "pathvqa", "pmcvqa", "omnimedvqa"
MEDXPERTQA, MEDFRAMEQA = "medxpertqa", "medframeqa"
DATASETS = (VQA_RAD, SLAKE, PATH_VQA, PMC_VQA, OMNIMEDVQA, MEDXPERTQA, MEDFRAMEQA)
# What stands between an option's letter and its text; and where ``<answer>`` is looked for first.
_WITH_OPTIONS = {PMC_VQA: ":", OMNIMEDVQA: ". ", MEDXPERTQA: ". ", MEDFRAMEQA: "."}
_TAGGED = (OMNIMEDVQA, MEDXPERTQA)
# The release, two commits of 2025-10-23, and the newest one that was read, of 2026-02-24.
RELEASE, DOUBLE_COUNT, FIXED, HEAD = "2025-06", "564d279", "25676be", "9b12e3b"
COMMITS = (RELEASE, DOUBLE_COUNT, FIXED, HEAD)
_VERDICTS = {"right": True, "true": True, "wrong": False, "false": False, "unparsed": False}


@dataclass(frozen=True)
class _Judged:
    """How often a right answer counts where a judge says what is right: by the rule, and by the judge.

    Attributes:
        closed: in the closed accuracy and in the accuracy, of a closed question.
        open: in the accuracy, of an open question; in the open accuracy it is always the judge's verdict once.
        asks_closed: whether the judge is asked about closed questions.
    """

    closed: tuple[int, int] = (1, 0)
    open: tuple[int, int] = (0, 1)
    asks_closed: bool = False


_SOUND = _Judged()
_NO_CLOSED = _Judged(closed=(0, 0))
_ALL_JUDGED = _Judged(closed=(0, 1), asks_closed=True)
# VQA_RAD.py:124-135, SLAKE.py:153-168, PATH_VQA.py:123-135 at HEAD.
_JUDGED = {
    VQA_RAD: {RELEASE: _NO_CLOSED, DOUBLE_COUNT: _Judged(open=(1, 1)), FIXED: _SOUND, HEAD: _SOUND},
    SLAKE: dict.fromkeys(COMMITS, _ALL_JUDGED) | {HEAD: _Judged(closed=(1, 1), asks_closed=True)},
    PATH_VQA: dict.fromkeys(COMMITS, _NO_CLOSED),
}


def dataset_name(text: str) -> str:
    """Return which of ``DATASETS`` a name means, whatever its case and marks (``PATH_VQA``); "" for any other."""
    plain = "".join(character for character in text.lower() if character.isalnum())
    return plain if plain in DATASETS else ""


def _named(question: Question) -> str:
    return dataset_name(question.meta.get("dataset", ""))


def _stated_type(question: Question) -> str:
    return question.answer_type.strip().upper()


def _benchmark_of(question: Question) -> str:
    options = [option for option in question.lettered if option]
    return _named(question) or (OMNIMEDVQA if len(options) > 1 else VQA_RAD)


class MedEvalKit(Protocol):
    """MedEvalKit by its rules; and with the verdicts of a judge, where the rows hold some.

    ``accuracy`` is over all rows, ``open.accuracy`` and ``closed.accuracy`` over those of VQA-RAD, SLAKE and PathVQA.
    With a judge they can exceed 1, where the published program counts an answer twice.

    Options:
        dataset: one of ``DATASETS``, of all rows; without it each row's field ``dataset`` says it. A row without one is
            read as OmniMedVQA's if it has options, else as VQA-RAD's, and a notice says so.
        commit: whose defects it has, one of ``COMMITS``; the newest by default.
        judge: ``true`` needs verdicts, ``false`` ignores them; by default they count where there are any.

    Three of the published program's ends are no scores and are read so: a benchmark without open (or closed) questions
    has no such score, where the program divides by 0; an open reply without words, on which it stops, is wrong; a row
    whose judge failed is wrong.

    Example:
        >>> MedEvalKit(dataset="slake", commit="25676be").score(answers).scores["accuracy"]
    """

    name = "medevalkit"
    description = "MedEvalKit's scores as published"
    option_names = ("dataset", "commit", "judge")
    variants: ClassVar[Mapping[str, Mapping[str, str]]] = {commit: {"commit": commit} for commit in COMMITS}
    headline = "accuracy"
    published = True

    def __init__(self, dataset: str = "", commit: str = HEAD, judge: str = "") -> None:
        known = dataset_name(dataset)
        if dataset and not known:
            raise UserError(f"{self.name}: dataset={dataset} is unknown; there are {', '.join(DATASETS)}")
        if judge not in ("", "true", "false"):
            raise UserError(f"{self.name}: judge={judge} is unknown; it is true or false")
        commit = HEAD if commit == "HEAD" else commit[:7]
        if commit not in COMMITS:
            raise UserError(f"{self.name}: commit={commit} is unknown; there are {', '.join(COMMITS)}")
        self._dataset, self._commit, self._judge = known, commit, judge
        if known in _WITH_OPTIONS:
            self.prompt = Prompt.LETTERED_OPTIONS
        self._describe()

    def _describe(self) -> None:
        if self._commit != HEAD:
            self.name = f"{self.name}@{self._commit}"
        self.description = (
            f"MedEvalKit's scores as published, with the defects of commit {self._commit}: yes and no as substrings,"
            " other closed and open answers by equality; options by letter, text or difflib, where an empty answer is"
            " the first option; with a judge's verdicts, where rows hold them, as the program counts them"
        )

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        datasets = [self._dataset or _benchmark_of(answer.question) for answer in answers]
        unnamed = [] if self._dataset else [answer for answer in answers if not _named(answer.question)]
        verdicts = self._verdicts(answers, datasets)
        rows = [
            self._row_of_options(answer, dataset)
            if dataset in _WITH_OPTIONS
            else self._row_of_words(answer, dataset, None if verdicts is None else verdicts[index])
            for index, (answer, dataset) in enumerate(zip(answers, datasets, strict=True))
        ]
        kinds = [row.pop("kind") for row in rows]
        counts |= {f"{kind}.n": kinds.count(kind) for kind in (OPEN, CLOSED) if kind in kinds}
        names = ["accuracy", *(f"{kind}.accuracy" for kind in (OPEN, CLOSED))]
        names += [f"{OPEN}.{measure}" for measure in ("precision", "recall", "f1")]
        scores, intervals = row_means(rows, {name: name for name in names})
        notices = one_reference_notice(answers) + reasoning_notice(answers, self.published)
        notices += count_notice(
            f"rows that name no benchmark, read as {VQA_RAD}'s, with options as {OMNIMEDVQA}'s; to name it:"
            f" {self.name.partition('@')[0]}:dataset={SLAKE}, or a field 'dataset' of each row",
            unnamed,
            answers,
        )
        notices += self._notices(answers, datasets, kinds, rows, verdicts is not None)
        return ProtocolScores(scores, intervals, rows, counts, notices)

    def _verdicts(self, answers: Sequence[Answer], datasets: Sequence[str]) -> list[bool] | None:
        """Return what the judge says of each row, None where the rule decides alone."""
        if self._judge == "false":
            return None
        given = [
            answer.verdict if dataset in _JUDGED else None for answer, dataset in zip(answers, datasets, strict=True)
        ]
        if not any(given):
            if self._judge == "true":
                raise UserError(
                    f"{self.name}: judge=true, but no row has a 'verdict': score the judge's verdicts.jsonl"
                )
            return None
        found = []
        for answer, verdict in zip(answers, given, strict=True):
            if verdict and verdict.strip().lower() not in _VERDICTS:
                raise UserError(
                    f"{self.name}: row {answer.question.id} has the verdict {verdict[:40]!r}: it is RIGHT, WRONG,"
                    " UNPARSED, true or false"
                )
            found.append(bool(verdict) and _VERDICTS[str(verdict).strip().lower()])
        return found

    def _row_of_words(self, answer: Answer, dataset: str, verdict: bool | None) -> dict[str, Any]:
        said = replies.given_answer(self._reply(answer))
        reference = answer.question.references[0]
        if dataset != SLAKE:
            said, reference = said.lower().strip(), reference.lower().strip()
        if dataset == SLAKE:
            kind = OPEN if _stated_type(answer.question) == "OPEN" else CLOSED
        else:
            kind = CLOSED if reference in ("yes", "no") else OPEN
        right = self._closed_right(said, reference) if kind == CLOSED else replies.after_cues(said) == reference.lower()
        own = total = float(right)
        correct = right
        if verdict is not None:
            judged = self._judged(dataset)
            by_rule, by_judge = judged.closed if kind == CLOSED else judged.open
            total = float(by_rule * right + by_judge * verdict)
            own = total if kind == CLOSED else float(verdict)
            correct = verdict if kind == OPEN or judged.asks_closed else right
        values = {"accuracy": total, f"{kind}.accuracy": own}
        if kind == OPEN:
            values |= self._measures(replies.after_cues(said), reference)
        return {"question_id": answer.question.id, "kind": kind, **values, "correct": correct, "value": total}

    def _row_of_options(self, answer: Answer, dataset: str) -> dict[str, Any]:
        choices, reference = shown_choices(answer.question, dataset)
        place, right = None, False
        if choices:
            reply = self._reply(answer)
            reply = replies.tagged(reply, "answer") if dataset in _TAGGED else reply
            place, right = replies.chosen_option(choices, reference, reply, first_if_none=self.published)
        options = [option for option in answer.question.lettered if option]
        values = {"accuracy": float(right), "correct": right, "value": float(right)}
        choice = None if place is None else options[place]
        return {"question_id": answer.question.id, "kind": None, "choice": choice, **values}

    def _reply(self, answer: Answer) -> str:
        return answer.prediction

    def _closed_right(self, said: str, reference: str) -> bool:
        # Published, SLAKE's "Yes" and "No" are not among these, so that its answers must be equal.
        if reference in ("yes", "no"):
            return replies.says_yes_or_no(said, reference)
        return replies.equals_closed(said, reference)

    def _judged(self, dataset: str) -> _Judged:
        return _JUDGED[dataset][self._commit]

    def _measures(self, said: str, reference: str) -> dict[str, float]:
        # Published, the function's F1, precision and recall are taken for precision, recall and F1.
        precision, recall, f1 = replies.word_measures(said, reference)
        return {"open.precision": f1, "open.recall": precision, "open.f1": recall}

    def _notices(
        self,
        answers: Sequence[Answer],
        datasets: Sequence[str],
        kinds: Sequence[str | None],
        rows: Sequence[dict[str, Any]],
        judged: bool,
    ) -> list[str]:
        pairs = list(zip(answers, datasets, kinds, strict=True))
        asked = [
            answer
            for answer, dataset, kind in pairs
            if dataset in _JUDGED and (kind == OPEN or self._judged(dataset).asks_closed)
        ]
        silent = [answer for answer in asked if not answer.verdict] if judged else []
        wordless = [
            answer
            for answer, _, kind in pairs
            if kind == OPEN and not replies.after_cues(replies.given_answer(answer.prediction)).split()
        ]
        lucky = [answer for answer, row in zip(answers, rows, strict=True) if answer.failed and row["value"]]
        twice = [answer for answer, row in zip(answers, rows, strict=True) if row["value"] > 1]
        bare = [answer for answer, dataset, _ in pairs if dataset in _WITH_OPTIONS and not answer.question.options]
        lines = [f"the judge's verdicts decide {len(asked):,} of {len(answers):,} rows"] if judged else []
        lines += count_notice("rows without a verdict of the judge, counted as wrong", silent, asked)
        lines += count_notice("right answers that the published program counts twice", twice, answers)
        lines += count_notice("rows without options, counted as wrong", bare, answers)
        unsaid = [
            answer
            for answer, dataset, _ in pairs
            if dataset == SLAKE and _stated_type(answer.question) not in ("OPEN", "CLOSED")
        ]
        lines += count_notice("rows whose answer_type is not OPEN or CLOSED, read as closed", unsaid, answers)
        lines += count_notice("rows without an answer that the published rule counts as right", lucky, answers)
        if self.published:
            lines += count_notice(
                "open questions without a word in the answer, on which the published program stops",
                wordless,
                answers,
            )
        return lines


class MedEvalKitCorrected(MedEvalKit):
    """MedEvalKit without the defects that are known of it.

    It differs from the published rule in these and in nothing else:

    - with a judge: open questions count by the judge, closed ones by the rule, each once, in every benchmark;
    - yes and no are whole words, in SLAKE ("Yes", "No") too;
    - a reply that resembles no option, and an empty one, is wrong;
    - precision, recall and F1 have their own names;
    - a model's reasoning is taken off first.
    """

    name = "medevalkit_corrected"
    option_names = ("dataset", "judge")
    variants: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    published = False

    def __init__(self, dataset: str = "", judge: str = "") -> None:
        super().__init__(dataset, HEAD, judge)

    def _describe(self) -> None:
        self.description = (
            "MedEvalKit's scores without its defects: each question counts once, open ones by a judge's verdicts where"
            " rows hold them; yes and no as whole words, other closed and open answers by equality; options by letter,"
            " text or difflib, where an answer that resembles none is wrong; a model's reasoning is taken off first"
        )

    def _reply(self, answer: Answer) -> str:
        return final_reply(answer.prediction)

    def _closed_right(self, said: str, reference: str) -> bool:
        if reference.lower() in ("yes", "no"):
            return replies.says_yes_or_no_word(said, reference)
        return replies.equals_closed(said, reference)

    def _judged(self, dataset: str) -> _Judged:
        return _SOUND

    def _measures(self, said: str, reference: str) -> dict[str, float]:
        precision, recall, f1 = replies.word_measures(said, reference)
        return {"open.precision": precision, "open.recall": recall, "open.f1": f1}


def shown_choices(question: Question, dataset: str) -> tuple[list[str], str]:
    """Return the options as MedEvalKit has them, and its reference.

    OmniMedVQA's and MedXpertQA's are ``A. heart``, with the letter of the column, MedFrameQA's ``A.heart``; PMC-VQA's
    file has them as ``A:heart``.

    Args:
        question: its first reference is an option's text, or a letter.
        dataset: one of those that have options.

    Returns:
        The options that there are. The reference is the letter of the option with its text: of several the last one's
        in OmniMedVQA, the first one's elsewhere; without such an option it stays as it is.
    """
    mark = _WITH_OPTIONS[dataset]
    lettered = [
        (letter, option) for letter, option in zip(string.ascii_uppercase, question.lettered, strict=False) if option
    ]
    reference = question.references[0]
    same = [letter for letter, option in lettered if option == reference]
    if same:
        reference = same[-1] if dataset == OMNIMEDVQA else same[0]
    return [f"{letter}{mark}{option}" for letter, option in lettered], reference
