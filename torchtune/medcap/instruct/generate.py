"""Conversations about figures, written by a language model that reads their captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medcap.datasets.published.reading import Tally
from medcap.files import plain, write_json
from medcap.instruct.asking import Asked, Asking, ask_all, tally_failures
from medcap.instruct.figures import Columns, Figure, read_figures
from medcap.instruct.prompts import conversation_style, figure_words
from medcap.instruct.replies import Unusable, read_conversation
from medcap.instruct.rows import CONVERSATIONS, conversation_row, toss, write_rows
from medcap.instruct.summary import QUESTIONS, TURNS, Summary
from medcap.language_models.base import LanguageModel

FAILURES, SUMMARY = "failures.jsonl", "summary.json"


def generate(
    source: Path,
    columns: Columns,
    model: LanguageModel,
    out: Path,
    asking: Asking,
    mentions: bool = True,
    seed: int = 0,
) -> Summary:
    """Have a model write a conversation about each figure.

    Writes into ``out``: ``replies.jsonl`` (every reply, as soon as it is there), ``conversations.jsonl`` (rows in
    LLaVA's layout), ``failures.jsonl`` (figures without a conversation, and the reason) and ``summary.json``. The same
    command goes on after a kill.

    Args:
        source: figures with captions; see :func:`read_figures`.
        columns: the names of its columns.
        model: who writes.
        out: folder, made if it is not there.
        asking: limits and other choices.
        mentions: give the model the sentences that mention a figure, too.
        seed: decides which rows have the image after the first question.

    Returns:
        The counts.

    Raises:
        UserError: if the figures cannot be read, the model cannot be asked, or the folder belongs to other settings.
    """
    left_out, failed = Tally(), Tally()
    style = conversation_style(mentions, asking.examples)
    figures = read_figures(source, columns, left_out)[: asking.most]
    words = {figure.id: figure_words(figure, mentions) for figure in figures}
    asked = ask_all(model, style, words, out, asking, read_conversation)
    tally_failures(asked, failed)
    counts: Counter[str] = Counter()
    rows = write_rows(out / CONVERSATIONS, _rows(figures, asked, failed, counts, seed))
    return finish(Summary("figures", str(source), left_out, len(figures), asked, failed, rows, counts), out)


def finish(summary: Summary, out: Path) -> Summary:
    """Write ``failures.jsonl`` and ``summary.json``.

    Args:
        summary: the counts.
        out: folder.

    Returns:
        The same summary.
    """
    write_rows(out / FAILURES, ({"id": id, "error": error} for id, error in summary.asked.failures.items()))
    write_json(out / SUMMARY, plain(summary.as_dict()))
    return summary


def _rows(
    figures: list[Figure], asked: Asked, failed: Tally, counts: Counter[str], seed: int
) -> Iterator[dict[str, Any]]:
    for figure in figures:
        reply = asked.replies.get(figure.id)
        if reply is None:
            continue
        try:
            conversation = read_conversation(reply.text, reply.finish)
        except Unusable as reason:
            failed.skip(str(reason), figure.id)
            asked.failures[figure.id] = str(reason)
            continue
        counts[QUESTIONS[1]] += len(conversation.pairs)
        counts[TURNS[1]] += conversation.malformed
        fields = {"id": figure.id, **figure.fields}
        yield conversation_row(conversation.pairs, figure.image, toss(figure.id, seed), fields)
