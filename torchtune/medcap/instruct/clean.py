"""Conversations that a model wrote, made fit to train on: rule by rule, and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.data.row_layouts import CONVERSATION_KEYS, PLACEHOLDER, folder_of
from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.fields import image_of
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.reading import Tally, json_records, progress
from medcap.datasets.rows.sharegpt import plain_words
from medcap.errors import UserError
from medcap.files import keep_inputs, make_folder, plain, write_json
from medcap.instruct.cleaning import RULES, Effect, Pair, clean_pairs
from medcap.instruct.duplicates import LOWEST_SIMILARITY, NearDuplicates
from medcap.instruct.leaks import FoundLeaks, HeldOutSets, find_leaked_images
from medcap.instruct.phrases import PHRASES, read_phrases
from medcap.instruct.replies import Unusable, read_conversation
from medcap.instruct.rows import CONVERSATIONS, IMAGE, conversation_row, toss, write_rows
from medcap.instruct.summary import QUESTIONS, reason_lines, reasons
from medcap.language_models.recorded import ID_KEYS
from medcap.plurals import counted, none_of

REMOVED, SUMMARY, REPORT = "removed.jsonl", "summary.json", "report.html"
NO_PAIR, DUPLICATE, LEAKED = "no pair is left", "nearly the same as a row before", "its image is in a test set"
ROW_RULES = (NO_PAIR, DUPLICATE, LEAKED)


@dataclass(frozen=True)
class CleaningChoices:
    """What is removed besides what the phrases decide.

    Attributes:
        phrases: file of the phrases.
        similarity: rows at least this similar to one before them are removed; 0 for none. See
            :class:`NearDuplicates`.
        held_out: test sets whose images no row may have.
        seed: decides where the image stands in rows that are made of replies.
    """

    phrases: Path = PHRASES
    similarity: float = 0.8
    held_out: HeldOutSets = field(default_factory=HeldOutSets)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.similarity and not LOWEST_SIMILARITY <= self.similarity <= 1:
            raise UserError(f"--similarity {self.similarity:g} must be {LOWEST_SIMILARITY:g} to 1, or 0 for none")


@dataclass(frozen=True)
class Row:
    """A conversation before or after the rules.

    Attributes:
        id: what people call it.
        pairs: questions and answers.
        image: name of its image; None for a conversation in words.
        image_last: the image stands after the first question.
        fields: its other fields.
    """

    id: str
    pairs: tuple[Pair, ...]
    image: str | None
    image_last: bool
    fields: Mapping[str, Any]

    @property
    def path(self) -> str | None:
        """Path of its image, with the folder that medcap 2024's ``meta`` names."""
        meta = self.fields.get("meta")
        folder = folder_of(meta) if isinstance(meta, str) else None
        return self.image if self.image is None or folder is None else os.path.join(folder, self.image)

    @property
    def text(self) -> str:
        """All words of the conversation."""
        return "\n".join(text for pair in self.pairs for text in pair)


@dataclass
class Cleaned:
    """What came of a file.

    Attributes:
        source: the file.
        read: what was read, and what could not be used, by reason.
        rows: the rows that are left.
        pairs: questions with answers that were read.
        malformed: turns of replies that have no partner or no words.
        by_rule: pairs that each rule of ``RULES`` changed or removed, rows that each of ``ROW_RULES`` removed.
        effects: what was done to which row, in the order of the file.
        leaks: what the search in the test sets has found; None where none was named.
    """

    source: Path
    read: Tally
    rows: list[Row] = field(default_factory=list)
    pairs: int = 0
    malformed: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    effects: list[tuple[str, Effect]] = field(default_factory=list)
    leaks: FoundLeaks | None = None

    @property
    def notices(self) -> list[str]:
        """Lines that the user should see."""
        if self.leaks is not None:
            return self.leaks.notices
        return ["no test set was named by --test, so images of tests were not looked for"]


def clean(source: Path, out: Path, choices: CleaningChoices) -> Cleaned:
    """Apply all rules to a file of conversations.

    Writes into ``out``: ``conversations.jsonl``, ``removed.jsonl`` (every change: the row, the rule, the text before
    and after) and ``summary.json``.

    Args:
        source: JSON or JSONL: rows with ``conversations``, or what LLaVA-Med's generator writes (``pair_id``,
            ``result``; the image is ``<pair_id>.jpg``).
        out: folder, made if it is not there.
        choices: what is removed.

    Returns:
        What was done.

    Raises:
        UserError: if the file, the phrases or a test set cannot be read, or no row is left.
    """
    keep_inputs("--out", out / CONVERSATIONS, source)
    phrases = read_phrases(choices.phrases)
    done = Cleaned(source, Tally())
    kept: list[Row] = []
    for row in _rows(source, done, choices.seed):
        done.pairs += len(row.pairs)
        pairs, effects = clean_pairs(row.pairs, phrases)
        for effect in effects:
            done.by_rule[effect.rule] += 1
            done.effects.append((row.id, effect))
        if pairs:
            kept.append(Row(row.id, tuple(pairs), row.image, row.image_last, row.fields))
        else:
            _remove(done, row, NO_PAIR, "")
    kept = _without_duplicates(kept, choices.similarity, done)
    if choices.held_out.sources:
        images = list(dict.fromkeys(row.path for row in kept if row.path is not None))
        done.leaks = find_leaked_images(images, source, choices.held_out)
        kept = _without_leaks(kept, done.leaks, done)
    done.rows = kept
    if not kept:
        raise UserError(f"{source}: {none_of(done.read.read, 'row')} is left: {_counts(done)}")
    make_folder(out, "--out")
    write_rows(
        out / CONVERSATIONS, (conversation_row(row.pairs, row.image, row.image_last, row.fields) for row in kept)
    )
    write_rows(out / REMOVED, (_change(id, effect) for id, effect in done.effects))
    write_json(out / SUMMARY, plain(as_dict(done, choices)))
    return done


def _change(id: str, effect: Effect) -> dict[str, Any]:
    about = "why" if effect.rule in ROW_RULES else "question"
    return {"id": id, "rule": effect.rule, about: effect.question, "before": effect.before, "after": effect.after}


def as_dict(done: Cleaned, choices: CleaningChoices) -> dict[str, Any]:
    """Return the counts for a JSON file."""
    leaks = done.leaks
    return {
        "source": str(done.source),
        "rows_read": done.read.read,
        "unusable": reasons(done.read),
        "pairs_read": done.pairs,
        "turns_without_partner": done.malformed,
        "pairs": {rule: {"what": what, "count": done.by_rule[rule]} for rule, what in RULES.items()},
        "rows_removed": {rule: done.by_rule[rule] for rule in ROW_RULES},
        "rows_left": len(done.rows),
        "pairs_left": sum(len(row.pairs) for row in done.rows),
        "similarity": choices.similarity,
        "test_sets": None
        if leaks is None
        else {
            "images": leaks.test_images,
            "compared": leaks.compared,
            "unreadable": leaks.unreadable,
            "flat": leaks.flat,
            "found": leaks.by_image,
        },
        "notices": done.notices,
    }


def text(done: Cleaned) -> str:
    """Return the counts for a terminal."""
    lines = [f"{done.source}: {counted(done.read.read, 'row')} read, {counted(done.pairs, *QUESTIONS)}"]
    lines += reason_lines("not usable", done.read)
    lines.append(f"  {counted(done.malformed, 'turn')} left out: without a partner or words")
    lines += [f"  {counted(done.by_rule[rule], 'pair')} {what}: {rule}" for rule, what in RULES.items()]
    lines += [f"  {counted(done.by_rule[rule], 'row')} removed: {rule}" for rule in ROW_RULES]
    left = sum(len(row.pairs) for row in done.rows)
    lines.append(f"{counted(len(done.rows), 'row')} left, {counted(left, *QUESTIONS)}")
    return "\n".join([*lines, *(f"note: {notice}" for notice in done.notices)])


def _rows(source: Path, done: Cleaned, seed: int) -> Iterator[Row]:
    tally = done.read
    for location, record in json_records(source, tally):
        try:
            yield _row(record, location, done, seed)
        except (SkipRecord, Unusable) as reason:
            tally.skip(str(reason), location)


def _row(record: Mapping[str, Any], location: str, done: Cleaned, seed: int) -> Row:
    id = next((field_text(record[key]) for key in ID_KEYS if key in record), "") or location
    key = next((key for key in CONVERSATION_KEYS if key in record), None)
    if key is None:
        return _row_of_reply(record, id, done, seed)
    try:
        turns = list(conversation_questions(record[key], key))
    except UserError as error:
        raise SkipRecord(str(error)) from None
    if isinstance(record.get("image"), list):
        raise SkipRecord("a row with several images is not cleaned")
    first = turns[0][0].strip()
    image = image_of(record, "image") if record.get("image") else None
    pairs = tuple((question_text(asked), plain_words(answered)) for asked, answered in turns)
    fields = {name: value for name, value in record.items() if name not in (key, "image")}
    # The placeholder alone, as captions have it, stands first.
    last = first.endswith((IMAGE, PLACEHOLDER)) and not first.startswith((IMAGE, PLACEHOLDER))
    return Row(id, pairs, image, last, fields)


def _row_of_reply(record: Mapping[str, Any], id: str, done: Cleaned, seed: int) -> Row:
    if "reply" in record:
        # Such a row does not say which image it is about.
        raise SkipRecord("the row is a reply: clean conversations.jsonl, which lies beside it")
    reply = record.get("result")
    if not isinstance(reply, str):
        raise SkipRecord(f"there is no '{CONVERSATION_KEYS[0]}'")
    conversation = read_conversation(reply)
    done.malformed += conversation.malformed
    image = image_of(record if record.get("image") else {"image": f"{id}.jpg"}, "image")
    domain = {"domain": record["domain"]} if "domain" in record else {}
    return Row(id, conversation.pairs, image, toss(id, seed), {"id": id, **domain})


def _without_duplicates(rows: list[Row], similarity: float, done: Cleaned) -> list[Row]:
    if not similarity:
        return rows
    seen = NearDuplicates(similarity)
    kept: list[Row] = []
    for row in progress(rows, "near-duplicates", "row"):
        near = seen.add(row.id, row.text)
        if near is None:
            kept.append(row)
        else:
            _remove(done, row, DUPLICATE, f"{near[1]:.2f} like {near[0]}")
    return kept


def _without_leaks(rows: list[Row], leaks: FoundLeaks, done: Cleaned) -> list[Row]:
    kept: list[Row] = []
    for row in rows:
        reason = leaks.by_image.get(row.path) if row.path is not None else None
        if reason is None:
            kept.append(row)
        else:
            _remove(done, row, LEAKED, f"{row.image}: {reason}")
    return kept


def _remove(done: Cleaned, row: Row, rule: str, reason: str) -> None:
    done.by_rule[rule] += 1
    done.effects.append((row.id, Effect(rule, reason, row.text, None)))


def _counts(done: Cleaned) -> str:
    unusable = [f"{count:,}: {reason}" for reason, count in done.read.skipped.most_common()]
    removed = [f"{done.by_rule[rule]:,}: {rule}" for rule in (*RULES, *ROW_RULES) if done.by_rule[rule]]
    return "; ".join([*unusable, *removed]) or "the file holds none"
