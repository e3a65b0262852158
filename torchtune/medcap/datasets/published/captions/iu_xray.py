"""IU X-Ray's reports, in the two forms that are passed on with a split; the original at Open-i has none.

``annotation.json`` of R2Gen (Chen et al., 2020, arXiv:2010.16056; zhjohnchan/R2Gen, ``iu_xray.zip``) is an object of
``train``, ``val`` and ``test``; a row has ``id`` (``CXR2384_IM-0942``), ``report``, ``image_path`` (two names below
``images``) and ``split``. ``test.json`` of MedEvalKit (9b12e3b, ``utils/IU_XRAY``) is an array of rows with ``image``
(or ``image_path``), ``findings`` and ``impression`` (or ``section_findings`` and ``section_impression``); its reference
is both sections in one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.published.captions.caption import PublishedCaption
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.reading import Tally, json_records
from medcap.errors import UserError

R2GEN, SECTIONS = "r2gen", "sections"
LAYOUT = Layout(
    ("iu_xray", "iu_xray/iu_xray", "IU_XRAY", "IU-Xray", "IU_Xray"),
    {R2GEN: ("annotation.json",), SECTIONS: ("test.json",)},
    ("images", "images/images_normalized"),
)
# What is asked for each form, in training rows as in the benchmark.
WORDS = {
    R2GEN: "Write the findings of the radiology report of these chest X-rays.",
    SECTIONS: "Write the radiology report of these chest X-rays: findings, then impression.",
}
_PATIENT = re.compile(r"(?:^|/)(CXR\d+)")


def reports(found: Found, tally: Tally, split: str = "test") -> Iterator[PublishedCaption]:
    """Read the reports of a split.

    Args:
        found: the file.
        tally: counts damaged rows.
        split: ``train``, ``val`` or ``test`` of R2Gen's file.

    Raises:
        UserError: if the file is damaged, or has no such split.
    """
    path = found.files[0]
    if found.kind == SECTIONS:
        yield from _sections(path, tally)
        return
    for index, row in enumerate(_split(path, split)):
        tally.read += 1
        location = f"{path}, {split}, row {index}"
        if not isinstance(row, Mapping):
            tally.skip("the row is not an object", location)
            continue
        name = field_text(row.get("id")) or str(index)
        yield _report(location, name, field_text(row.get("report")), row.get("image_path"))


def _split(path: Path, split: str) -> list[Any]:
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    except JsonError as error:
        raise UserError(f"{path}: not valid JSON ({error}): download it again") from error
    rows = value.get(split) if isinstance(value, Mapping) else None
    if not isinstance(rows, list):
        has = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise UserError(f"{path} is not R2Gen's annotation.json of IU X-Ray: it has no list '{split}' (it has: {has})")
    return rows


def _sections(path: Path, tally: Tally) -> Iterator[PublishedCaption]:
    for index, (location, row) in enumerate(json_records(path, tally)):
        findings, impression = (_section(row, name) for name in ("findings", "impression"))
        images = row.get("image", row.get("image_path"))
        names = images if isinstance(images, list) else [images]
        text = f"Findings: {findings or 'None'} Impression: {impression or 'None'}." if findings or impression else ""
        yield _report(location, field_text(row.get("id")) or str(index), text, names)


def _section(row: Mapping[str, Any], name: str) -> str:
    return field_text(row.get(name, row.get(f"section_{name}")))


def _report(location: str, name: str, text: str, images: Any) -> PublishedCaption:
    names = tuple(field_text(image) or None for image in images) if isinstance(images, list) else ()
    patient = _PATIENT.search(name) or _PATIENT.search(next(filter(None, names), ""))
    return PublishedCaption(location, name, text, names, meta={"patient": patient[1]} if patient else {})
