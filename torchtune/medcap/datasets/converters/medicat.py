"""MedICaT: captions of figures with the sentences that refer to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import safe_name, text_of
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.published.reading import json_records

FILE = "PMC-VQA-text/release/s2_full_figures_oa_nonroco_combined_medical_top4_public.jsonl"
# medcap leaves it out by name (convert_to_sharegpt.py of myeongkyunkang/medcap at c8910f0).
_DAMAGED = "ffd83b6453f94f2a1ddb346e324f5bdbf228c1f3_4-Figure3-1.png"


class MedICaT(Converter):
    """Rows with ``pdf_hash``, ``fig_uri``, ``s2_caption`` and ``s2orc_references`` (a list, or null)."""

    name = "medicat"
    converts = "MedICaT: captions with the sentences that refer to the figure"
    download = (
        "ask for MedICaT (allenai/medicat on GitHub) and unpack it to PMC-VQA-text, where medcap has it:"
        " PMC-VQA-text/release with the .jsonl file and figures"
    )
    output = "medicat_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = Path(self.need(folders, FILE))
        images = self.need_images(folders, "PMC-VQA-text/release/figures")

        def convert(record: Mapping[str, Any]) -> Iterator[Example]:
            image = safe_name(f"{text_of(record, 'pdf_hash')}_{text_of(record, 'fig_uri')}")
            if image == _DAMAGED:
                raise SkipRecord("a figure that is known to be damaged")
            references = record.get("s2orc_references") or []
            if not isinstance(references, list) or not all(isinstance(sentence, str) for sentence in references):
                raise SkipRecord("'s2orc_references' is not a list of texts")
            text = " ".join([text_of(record, "s2_caption"), *references])
            yield Example([("", text)], (image,), images, DESCRIBE)

        return lambda tally: each(json_records(file, tally), convert, tally)
