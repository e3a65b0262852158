"""Med-GRIT-270k: conversations about regions of medical images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medcap.data.boxes.notations import find_boxes
from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.questions import find_source, image_folders, locate
from medcap.datasets.conversion.text_boxes import with_boxes_inside
from medcap.datasets.published import medgrit


@dataclass(frozen=True)
class MedGrit(Converter):
    """The training file in Qwen-VL's notation, which the rows keep; several turns are one conversation."""

    name = "medgrit"
    converts = "Med-GRIT-270k: conversations about regions of medical images"
    download = (
        "put the training file of Med-GRIT-270k (ShawnHuang497/BiRD, on request) into Med-GRIT-270k, and the images of"
        " SA-Med2D-20M (SAMed2Dv1/images) into Med-GRIT-270k/images or SAMed2Dv1/images"
    )
    output = "medgrit_train.jsonl"

    def examples(self, folders: Folders) -> Examples:
        layout = medgrit.layout("train")
        found = find_source(self, folders, layout)
        locations = image_folders(self, folders, layout)

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            for path in found.files:
                for it in medgrit.conversations(Path(path), tally):
                    try:
                        example = with_boxes_inside(Example(it.turns, it.images), "qwen")
                    except SkipRecord as reason:
                        tally.skip(str(reason), it.location)
                        continue
                    example = locate(example, locations)
                    patient = medgrit.patient_of(it.images[0])
                    fields = {"patient": patient} if patient else {}
                    phrase = medgrit.phrase_of(it.turns[0][0])
                    # One question for a box: what a prior learnt from answers is asked by.
                    if len(it.turns) == 1 and phrase and find_boxes(it.turns[0][1], 1000, 1000):
                        fields |= {"task": "VG", "phrase": phrase}
                    yield it.location, replace(example, fields=fields)

        return read
