"""ROCOv2's files: captions of radiology figures.

Zenodo's record 8333645 (Rückert et al., 2024, arXiv:2405.10004) has ``test_captions.csv`` with the columns ``ID`` and
``Caption``, and ``test_images.zip`` with the images ``test/<ID>.jpg``; likewise ``train`` and ``valid``. The hub's copy
``eltorio/ROCOv2-radiology`` has ``data/test-*.parquet`` with ``image``, ``image_id``, ``caption`` and ``cui``.
"""

from __future__ import annotations

from collections.abc import Iterator

from medcap.datasets.published.captions.caption import PublishedCaption
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.reading import Tally, csv_records, parquet_records
from medcap.datasets.rows.parquet_rows import image_content

COLUMNS = ("ID", "Caption")
SUFFIX = ".jpg"
TABLE_FOLDERS = ("PMC-VQA-text", "ROCOv2")  # the first is where medcap 2024 has it


def layout(split: str) -> Layout:
    """Return the names of the files of a split: ``train``, ``valid`` or ``test``."""
    kinds = {
        "csv": (f"{split}_captions.csv", f"{split}/{split}_captions.csv"),
        HUB: hub_files("validation" if split == "valid" else split),
    }
    folders = (*TABLE_FOLDERS, "ROCOv2-radiology")
    return Layout(folders, kinds, (split, f"{split}_images/{split}", f"{split}_images", f"{split}/{split}", "images"))


def captions(found: Found, tally: Tally) -> Iterator[PublishedCaption]:
    """Read the captions of a split.

    Args:
        found: the files.
        tally: counts damaged rows.

    Raises:
        UserError: if a file is damaged or lacks a column.
    """
    if found.kind == HUB:
        rows = parquet_records(found.files, ("image", "image_id", "caption"), tally)
        for index, (location, row) in enumerate(rows):
            name = field_text(row.get("image_id")) or str(index)
            yield PublishedCaption(location, name, field_text(row.get("caption")), (image_content(row.get("image")),))
        return
    for location, fields in csv_records(found.files[0], COLUMNS, tally):
        name = fields["ID"].strip()
        yield PublishedCaption(location, name, fields["Caption"].strip(), (name,), (SUFFIX, ""))
