"""Answers to be judged: medcap 2024's raw tables, our predictions, or any file of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medcap.datasets.published import llava_med_chat
from medcap.datasets.published.reading import Strict
from medcap.datasets.rows.delimited import WRONG_COUNT, read_heading, read_records
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.question import GROUPS, Answer, Question

_COLUMNS = ("instruction", "output", "generated")
_GROUP_COLUMNS = {group: (group,) for group in GROUPS} | {"modality": ("modality", "modality_type")}
_FIRST_USER = "<|start_header_id|>user<|end_header_id|>"
_OPENED_USER = f"<|eot_id|>{_FIRST_USER}"
_OPENED_ASSISTANT = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"


def read_judged(source: str | Path) -> list[Answer]:
    """Read answers that are to be judged.

    Args:
        source: ``.csv``: medcap 2024's raw table, see :func:`read_raw_table`; else JSON or JSONL, see ``read_answers``.

    Returns:
        The answers in the order of the file, each with a question.

    Raises:
        UserError: naming file and row, if it is missing, empty or of another form.
    """
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"csv_path={path}: no such file; give medcap 2024's raw CSV, a predictions.jsonl or answers in JSON"
        )
    answers = read_raw_table(path) if path.suffix.lower() == ".csv" else read_answers(path)
    if not answers:
        raise UserError(f"{path} holds no answers")
    unasked = next((answer.question.id for answer in answers if not answer.question.text.strip()), None)
    if unasked is not None:
        raise UserError(f"{path}: the row with question_id {unasked!r} has no question, which a judge must know")
    return answers


def read_chat_answers(source: str | Path, question_file: str | Path) -> list[Answer]:
    """Read answers to LLaVA-Med's conversations, such as its own answer files, with the published questions.

    Args:
        source: JSON or JSONL with ``question_id`` and ``text`` (or ``prediction``, ``ans2``).
        question_file: ``llava_med_eval_qa50_qa.jsonl``.

    Returns:
        An answer for each question, in the order of the questions; one without an answer is a failure.

    Raises:
        UserError: if a file is missing or damaged, or the two have no ``question_id`` in common.
    """
    for key, path in (("csv_path", Path(source)), ("question_file", Path(question_file))):
        if not path.is_file():
            raise UserError(f"{key}={path}: no such file")
    given: dict[str, str] = {}
    for index, row in read_rows(source):
        if not isinstance(row, Mapping) or "question_id" not in row:
            raise UserError(f"{source}, row {index}: there is no 'question_id'")
        texts = [row[key] for key in ("prediction", "ans2", "text") if isinstance(row.get(key), str)]
        given[str(row["question_id"])] = texts[0] if texts else ""
    questions = [
        it for it in llava_med_chat.questions(Path(question_file), Strict("LLaVA-Med's conversations")) if it.answer
    ]
    if not any(it.id in given for it in questions):
        raise UserError(
            f"{source} and {question_file} have no question_id in common: give the questions of these answers"
        )
    return [
        Answer(
            Question(
                id=it.id,
                messages=(),
                references=(it.answer,),
                meta={"question_type": it.kind, "modality": it.domain, "context": it.context},
                words=it.question,
                image_names=(it.image,) if it.image else (),
            ),
            given.get(it.id, ""),
        )
        for it in questions
    ]


def read_raw_table(path: Path) -> list[Answer]:
    """Read medcap 2024's raw table: ``image,instruction,output,generated`` (chat_llama3_quant.py, exp eval_vqa).

    Every cell is text, "None" and "nan" as well. The columns of ``GROUPS``, ``question_id`` and OmniMedVQA's
    ``modality_type`` are read where they are there.

    Args:
        path: the CSV file, UTF-8 with or without a byte order mark.

    Returns:
        The answers. Ids are unique: the second row of one id gets ``id#2``, a row without one its number from 0.

    Raises:
        UserError: if it is not such a table; the message has the line.
    """
    try:
        return _with_unique_ids([_answer(row, number) for number, row in enumerate(_rows(path))])
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def last_question(instruction: str) -> str:
    """Return the last user turn of a prompt that is Llama 3's template as text.

    Args:
        instruction: such a prompt; a text without the template's markers is the question itself.

    Returns:
        The words, stripped.
    """
    turn = instruction.rpartition(_OPENED_USER)[2].partition(_OPENED_ASSISTANT)[0].strip()
    return turn.removeprefix(_FIRST_USER).strip()  # medcap leaves the header where there is one turn only


def _rows(path: Path) -> Iterator[dict[str, str]]:
    columns = read_heading(path)
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise UserError(
            f"{path}: there is no column {missing[0]} (there are: {', '.join(columns) or 'none'}); medcap 2024's raw"
            " tables have image,instruction,output,generated"
        )
    for record in read_records(path, columns):
        location = f"{path}, {record.location}"
        if record.problem == WRONG_COUNT:
            raise UserError(
                f"{location}: {len(record.fields)} cells under {len(columns)} columns; is the file cut off, or a quote"
                " missing?"
            )
        if record.problem is not None:
            raise UserError(f"{location}: not valid CSV ({record.problem}); is the file cut off?")
        yield dict(zip(columns, record.fields, strict=True))


def _answer(row: Mapping[str, str], number: int) -> Answer:
    groups = {
        group: next((row[name] for name in names if row.get(name)), "") for group, names in _GROUP_COLUMNS.items()
    }
    question = Question(
        id=row.get("question_id") or str(number),
        messages=(),
        references=(row["output"],),
        answer_type=row.get("answer_type", ""),
        meta={group: value for group, value in groups.items() if value},
        words=last_question(row["instruction"]),
        image_names=(row["image"],) if row.get("image") else (),
    )
    return Answer(question, row["generated"])


def _with_unique_ids(answers: Sequence[Answer]) -> list[Answer]:
    seen: dict[str, int] = {}
    result = []
    for answer in answers:
        question = answer.question
        seen[question.id] = count = seen.get(question.id, 0) + 1
        named = question if count == 1 else replace(question, id=f"{question.id}#{count}")
        result.append(replace(answer, question=named))
    return result
