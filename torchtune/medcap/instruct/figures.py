"""Figures with captions and the sentences that mention them: what conversations are made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.fields import image_of, text_of, words
from medcap.datasets.published.reading import Tally, csv_records, json_records
from medcap.datasets.rows.data_files import check_data_file
from medcap.datasets.rows.delimited import delimiter_of
from medcap.errors import UserError
from medcap.plurals import none_of

DELIMITED = (".csv", ".tsv")
# Columns by their usual names, LLaVA-Med's first (microsoft/LLaVA-Med v1.0.0, llava/instruct/).
USUAL = {
    "id": ("pair_id", "id"),
    "image": ("image",),
    "caption": ("fig_caption", "caption"),
    "label": ("fig_label",),
    "mentions": ("in_text_mention", "mentions"),
    "domain": ("domain",),
}


@dataclass(frozen=True)
class Columns:
    """The names of a file's columns; "" takes the usual ones.

    Attributes:
        id: what tells figures apart; without it the image's name does.
        image: name of the image file; without it the image is ``<id>.jpg``, as in LLaVA-Med's data.
        caption: the caption.
        label: what the article calls the figure, such as "Fig. 2".
        mentions: sentences of the article that mention the figure.
        domain: kind of image, for turns between the kinds.
    """

    id: str = ""
    image: str = ""
    caption: str = ""
    label: str = ""
    mentions: str = ""
    domain: str = ""

    def name(self, what: str, record: Mapping[str, Any]) -> str:
        """Return the column of a record that holds ``what``; the first usual name where it has none."""
        given = getattr(self, what)
        return given or next((name for name in USUAL[what] if name in record), USUAL[what][0])


@dataclass(frozen=True)
class Figure:
    """A figure of an article.

    Attributes:
        id: tells it apart from all others of its file.
        image: name of the image file.
        caption: the caption.
        label: what the article calls the figure; "" where it is not known.
        mentions: sentences that mention it.
        domain: kind of image; "" where it is not known.
        fields: further values that go into the row of its conversation.
    """

    id: str
    image: str
    caption: str
    label: str = ""
    mentions: tuple[str, ...] = ()
    domain: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_figures(path: Path, columns: Columns, tally: Tally) -> list[Figure]:
    """Read figures with captions.

    Args:
        path: LLaVA-Med's ``fig_captions`` (one object: domain -> list of figures), a JSON array, JSONL, CSV or TSV.
        columns: the names of the columns.
        tally: counts what is read, and what is left out by reason: damaged lines, figures without a caption or an id,
            and ids that stood before.

    Returns:
        The figures, one of each domain in turn, those of a domain in the order of the file.

    Raises:
        UserError: if the file cannot be read, or not one figure can be used.
    """
    found: dict[str, list[Figure]] = defaultdict(list)
    seen: set[str] = set()
    first: Mapping[str, Any] | None = None
    for location, record, domain in _records(path, tally):
        first = record if first is None else first
        try:
            figure = _figure(record, columns, domain)
        except SkipRecord as skipped:
            tally.skip(str(skipped), location)
            continue
        if figure.id in seen:
            tally.skip("another figure before it has the same id", location)
            continue
        seen.add(figure.id)
        found[figure.domain].append(figure)
    if not found:
        raise _nothing(path, tally, first)
    in_turn = chain.from_iterable(zip_longest(*found.values()))
    return [figure for figure in in_turn if figure is not None]


def _records(path: Path, tally: Tally) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield the place of each record, the record, and the domain that it stands under."""
    if path.suffix.lower() in DELIMITED:
        for location, row in csv_records(path, (), tally, delimiter_of(path)):
            yield location, row, ""
        return
    domains = _by_domain(path)
    if domains is None:
        for location, record in json_records(path, tally):
            yield location, record, ""
        return
    for domain, records in domains.items():
        for index, record in enumerate(records):
            location = f"{path}, {domain!r}, row {index}"
            tally.read += 1
            if isinstance(record, Mapping):
                yield location, record, domain
            else:
                tally.skip("the row is not an object", location)


def _by_domain(path: Path) -> Mapping[str, Sequence[Any]] | None:
    """Return the content of a ``fig_captions`` file; None for a file of another layout."""
    check_data_file(path)
    try:
        with path.open("rb") as file:
            start = b""
            while not start.strip() and (line := file.readline()):
                start += line
            if not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
                return None
            try:
                # JSONL is recognised by its first line: a large file is not read whole.
                value = parse_json(start.removeprefix(b"\xef\xbb\xbf"))
            except JsonError:
                value = parse_json((start + file.read()).removeprefix(b"\xef\xbb\xbf"))
    except JsonError:
        return None
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    lists = isinstance(value, Mapping) and value and all(isinstance(records, list) for records in value.values())
    return value if lists else None


def _figure(record: Mapping[str, Any], columns: Columns, domain: str) -> Figure:
    caption = text_of(record, columns.name("caption", record))
    image_column, id_column = columns.name("image", record), columns.name("id", record)
    if columns.image or image_column in record:
        image = image_of(record, image_column)
        id = text_of(record, id_column) if columns.id or id_column in record else image
    else:
        id = text_of(record, id_column)
        image = image_of({"image": f"{id}.jpg"}, "image")
    label = record.get(columns.name("label", record))
    own = record.get(columns.name("domain", record))
    if columns.domain and own is None:
        raise SkipRecord(f"there is no '{columns.domain}'")
    return Figure(
        id=id,
        image=image,
        caption=caption,
        label="" if label in (None, "") else words(label, "label"),
        mentions=_mentions(record.get(columns.name("mentions", record))),
        domain=domain or _domain(own),
        fields={"domain": own} if own not in (None, "") else {"domain": domain} if domain else {},
    )


def _mentions(value: Any) -> tuple[str, ...]:
    """Return sentences: texts, LLaVA-Med's ``{"tokens": text}``, or a list of these, also as JSON in a cell."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except JsonError:
            value = [value]
    sentences = value if isinstance(value, list) else [value]
    texts = (item.get("tokens") if isinstance(item, Mapping) else item for item in sentences)
    return tuple(" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip())


def _domain(value: Any) -> str:
    """Return the name of a domain: a text, or the first that is true of LLaVA-Med's five."""
    if isinstance(value, Mapping):
        return next((str(name) for name, holds in value.items() if holds), "")
    return "" if value is None else str(value).strip()


def _nothing(path: Path, tally: Tally, first: Mapping[str, Any] | None) -> UserError:
    reasons = "; ".join(
        f"{number:,}: {reason} (first: {tally.first[reason]})" for reason, number in tally.skipped.items()
    )
    columns = ", ".join(map(str, first or {})) or "nothing"
    return UserError(
        f"{path}: {none_of(tally.read, 'figure')} can be used"
        + (f", {reasons}" if reasons else "")
        + f"; name the columns by --caption-column, --id-column and --image-column (the first row has: {columns})"
    )
