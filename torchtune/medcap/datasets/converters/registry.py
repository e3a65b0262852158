"""Converters from published data sets to training files; one file each, listed here."""

from __future__ import annotations

from medcap.datasets.conversion.base import Converter
from medcap.datasets.converters.coco import CocoBoxes
from medcap.datasets.converters.coloninst import ColonInst
from medcap.datasets.converters.csv_boxes import CsvBoxes
from medcap.datasets.converters.csv_table import CsvTable
from medcap.datasets.converters.image_folder import ImageFolder
from medcap.datasets.converters.iu_xray import IuXray
from medcap.datasets.converters.llava_med import LlavaMed
from medcap.datasets.converters.llava_med_text import LlavaMedText
from medcap.datasets.converters.mask_folder import MaskFolder
from medcap.datasets.converters.mecovqa import MeCoVqa
from medcap.datasets.converters.medgrit import MedGrit
from medcap.datasets.converters.medicat import MedICaT
from medcap.datasets.converters.medsegbench import MedSegBench
from medcap.datasets.converters.mscxr import MsCxr
from medcap.datasets.converters.padchest_gr import PadChestGr
from medcap.datasets.converters.pathvqa import PathVqa
from medcap.datasets.converters.pmc_patients import PmcPatients
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.datasets.converters.pmcvqa import PmcVqa
from medcap.datasets.converters.pmcvqa_text import PmcVqaText
from medcap.datasets.converters.pubmedvision import PubMedVision
from medcap.datasets.converters.radrestruct import RadReStruct
from medcap.datasets.converters.rocov2 import Rocov2
from medcap.datasets.converters.slake import Slake
from medcap.datasets.converters.slake_boxes import SlakeBoxes
from medcap.datasets.converters.slake_masks import SlakeMasks
from medcap.datasets.converters.textplus import TextPlus, TextPlusPmcOa, TextPlusPmcOaPatients
from medcap.datasets.converters.vindr_cxr import VinDrCxr
from medcap.datasets.converters.vqamed import VqaMed
from medcap.datasets.converters.vqarad import VqaRadText
from medcap.datasets.converters.vqarad_qa import VqaRadQuestions

CONVERTERS: dict[str, type[Converter]] = {
    converter.name: converter
    for converter in (
        PmcOa,
        VqaRadText,
        TextPlus,
        TextPlusPmcOa,
        TextPlusPmcOaPatients,
        PmcVqaText,
        Rocov2,
        LlavaMedText,
        PubMedVision,
        MedICaT,
        PmcPatients,
        LlavaMed,
        PmcVqa,
        VqaRadQuestions,
        Slake,
        PathVqa,
        VqaMed,
        ColonInst,
        MedGrit,
        SlakeBoxes,
        MsCxr,
        PadChestGr,
        VinDrCxr,
        CsvTable,
        ImageFolder,
        CocoBoxes,
        CsvBoxes,
        MaskFolder,
        SlakeMasks,
        MedSegBench,
        MeCoVqa,
        RadReStruct,
        IuXray,
    )
}
