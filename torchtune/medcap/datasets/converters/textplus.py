"""medcap 2024's three mixtures, in its order and under its names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, Tally
from medcap.datasets.converters.llava_med_text import LlavaMedText
from medcap.datasets.converters.medicat import FILE, MedICaT
from medcap.datasets.converters.pmc_patients import PmcPatients
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.datasets.converters.pmcvqa_text import PmcVqaText
from medcap.datasets.converters.pubmedvision import PubMedVision
from medcap.datasets.converters.rocov2 import Rocov2

_TEXT = (PmcVqaText, Rocov2, LlavaMedText, PubMedVision)


class TextPlus(Converter):
    """The first mixture; the others add to it."""

    name = "textplus"
    converts = "medcap 2024's mixture: PMC-VQA-text, ROCOv2, LLaVA-Med-60K-IM-text, PubMedVision"
    download = "see pmcvqa-text, rocov2, llava-med-60k-im-text and pubmedvision"
    output = "textplus_train.json"
    captions = True
    parts: ClassVar[tuple[type[Converter], ...]] = _TEXT

    def examples(self, folders: Folders) -> Examples:
        # medcap takes MedICaT, which must be asked for, if it is there.
        there = [part for part in self.parts if part is not MedICaT or os.path.isfile(os.path.join(folders.data, FILE))]
        sources = [part().examples(folders) for part in there]

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            for source in sources:
                yield from source(tally)

        return read


class TextPlusPmcOa(TextPlus):
    """With MedICaT, if it is there, and PMC-OA."""

    name = "textplus-pmcoa"
    converts = "textplus, then MedICaT (if it is there) and PMC-OA"
    download = "see textplus, medicat and pmcoa"
    output = "textplus_pmcoa_train.json"
    parts: ClassVar[tuple[type[Converter], ...]] = (*_TEXT, MedICaT, PmcOa)


class TextPlusPmcOaPatients(TextPlus):
    """With PMC-Patients too."""

    name = "textplus-pmcoa-patients"
    converts = "textplus-pmcoa, then PMC-Patients: what medcap was trained on"
    download = "see textplus-pmcoa and pmc-patients"
    output = "textplus_pmcoa_patients_train.json"
    parts: ClassVar[tuple[type[Converter], ...]] = (*_TEXT, MedICaT, PmcOa, PmcPatients)
