"""PMC-Patients: the case that an image belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.disk_table import DiskTable
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.fields import text_of
from medcap.datasets.conversion.instructions import CASE_REPORT
from medcap.datasets.conversion.listing import sorted_files
from medcap.datasets.published.reading import csv_heading, csv_records, progress

_COLUMNS = ("file_path", "patient")


class PmcPatients(Converter):
    """``PMC-Patients.csv`` (``file_path``, whose stem is the article's number, and ``patient``) and images named
    ``<article>_*.jpg``: a row for each image and each patient of its article, sorted by image."""

    name = "pmc-patients"
    converts = "PMC-Patients: the case reports that go with an article's images"
    download = (
        "download PMC-Patients.csv of zhengyun21/PMC-Patients and images.zip of myeongkyunkang/PMC-Patients-images"
        " from the hub to PMC-VQA-text, and unpack the zip file to PMC-VQA-text/images_patients"
    )
    output = "pmc-patients_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = Path(self.need(folders, "PMC-VQA-text/PMC-Patients.csv"))
        # The images decide what rows there are, so they must be there whatever is asked for.
        images = self.need(folders, "PMC-VQA-text/images_patients/images")
        csv_heading(file, _COLUMNS)

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            with DiskTable(folders.out) as patients:
                for location, record in csv_records(file, _COLUMNS, tally):
                    try:
                        article = text_of(record, "file_path").rpartition("/")[2].partition(".")[0]
                        patients.add(article, text_of(record, "patient"))
                    except SkipRecord as reason:
                        tally.skip(str(reason), location)
                for name in progress(sorted_files(images, (".jpg",)), "images", "image"):
                    texts = patients.texts(name.partition("_")[0])
                    if not texts:
                        tally.skip("an image of an article that has no patient", f"{images}/{name}")
                    for text in texts:
                        yield f"{images}/{name}", Example([("", text)], (name,), images, CASE_REPORT)

        return read
