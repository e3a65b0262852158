"""The page about a cleaned file: counts by rule, what the rules did, and conversations to read."""

from __future__ import annotations

from pathlib import Path

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.instruct.clean import REPORT, ROW_RULES, Cleaned, CleaningChoices
from medcap.instruct.cleaning import RULES, Effect
from medcap.report.conversations import Conversations, Talk
from medcap.report.page_frame import Page
from medcap.report.pictures import spread
from medcap.report.sections import Bar, Card, Cards, Facts, Notices, Table

_MOST_EFFECTS = 12  # shown of each rule
_MOST_LETTERS = 400


def write_page(done: Cleaned, choices: CleaningChoices, out: Path) -> Path:
    """Write ``report.html``.

    Args:
        done: what was done.
        choices: what was to be removed.
        out: folder.

    Returns:
        The page's path.
    """
    rows = done.read.read
    left = sum(len(row.pairs) for row in done.rows)
    roots = [done.source.parent, Path.cwd(), *choices.held_out.image_roots]
    reader = ImageReader(roots, keys=LimitKeys("--image-root", None))
    talks = [Talk(row.id, row.pairs, row.path) for row in done.rows]
    page = Page(
        "Instruction data, cleaned",
        str(done.source),
        [
            Cards(
                [
                    Card("rows left", f"{len(done.rows):,}", f"of {rows:,}", _bar(len(done.rows), rows), main=True),
                    Card("questions left", f"{left:,}", f"of {done.pairs:,}", _bar(left, done.pairs)),
                ]
            ),
            Notices(done.notices) if done.notices else None,
            _rules(done),
            _unusable(done),
            *(_effects(done, rule) for rule in (*RULES, *ROW_RULES)),
            Conversations("What is left", talks, "Evenly spaced over the file. Read them before you train.", reader),
            Facts(
                "Settings",
                {
                    "phrases": choices.phrases.name,
                    "similarity of near-duplicates": choices.similarity or "not removed",
                    "test sets": ", ".join(map(str, choices.held_out.sources)) or "none",
                    "seed": choices.seed,
                },
            ),
        ],
        eyebrow="medcap instruct clean",
    )
    return page.write(out / REPORT)


def _bar(part: int, whole: int) -> Bar | None:
    return Bar(part / whole, part / whole, part / whole) if whole else None


def _rules(done: Cleaned) -> Table:
    rows = [[rule, f"pairs {what}", done.by_rule[rule]] for rule, what in RULES.items()]
    rows += [[rule, "rows removed", done.by_rule[rule]] for rule in ROW_RULES]
    rows.append(["a turn has no partner or no words", "turns left out", done.malformed])
    return Table("Rules", ["rule", "what", "how often"], rows)


def _unusable(done: Cleaned) -> Table | None:
    rows = [[reason, count, done.read.first[reason]] for reason, count in done.read.skipped.most_common()]
    return Table("Rows that cannot be used", ["reason", "rows", "first"], rows) if rows else None


def _effects(done: Cleaned, rule: str) -> Table | None:
    effects = [(id, effect) for id, effect in done.effects if effect.rule == rule]
    if not effects:
        return None
    shown = [_line(*effects[number]) for number in spread(list(range(len(effects))), _MOST_EFFECTS)]
    about = "why" if rule in ROW_RULES else "question"
    note = f"{len(shown)} of {len(effects):,}, evenly spaced over the file; removed.jsonl has all of them."
    return Table(f"Rule: {rule}", ["row", about, "before", "after"], shown, note, wide=True)


def _line(id: str, effect: Effect) -> list[str]:
    return [
        id,
        _short(effect.question),
        _short(effect.before),
        "removed" if effect.after is None else _short(effect.after),
    ]


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"
