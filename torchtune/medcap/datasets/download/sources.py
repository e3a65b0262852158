"""The one table of addresses: what ``medcap download`` fetches, from where, and when that was last known to work.

No address was tried when this table was written: ``known`` says from what one is known, and when. A listing (of the
Hugging Face hub, Zenodo or OSF) is asked for names, sizes and checksums, so none of them is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HUB = "https://huggingface.co"
ZENODO = "https://zenodo.org"
OSF = "https://api.osf.io"
PMC_HOST = "ftp.ncbi.nlm.nih.gov"
# PMC's articles, in the order in which they are tried. {tar} is the path after /pub/pmc/ in LLaVA-Med's file, {article}
# the number (PMC7236913), {name} the name of the figure's file.
PMC_FIGURE = "https://pmc-oa-opendata.s3.amazonaws.com/{article}.1/{name}"
PMC_TARS = (f"https://{PMC_HOST}/pub/pmc/{{tar}}", f"https://{PMC_HOST}/pub/pmc/deprecated/{{tar}}")

_LLAVA_MED = "d406e3fc7c3d1e4c797a7676de18cbfd070b6d2c"  # a commit of microsoft/LLaVA-Med
_LLAVA_MED_ADDRESSES = (
    f"https://media.githubusercontent.com/media/microsoft/LLaVA-Med/{_LLAVA_MED}/data/",
    "https://hanoverprod.z21.web.core.windows.net/med_llava/",
)


@dataclass(frozen=True)
class Pick:
    """Files of a listing, and where they go.

    Attributes:
        pattern: pattern of their paths in the listing, as :mod:`fnmatch` has it.
        folder: folder below that of all downloads.
        name: another name for a single file; by default a file keeps its path in the listing.
        unpack: a zip file whose images are wanted: ``tree`` keeps its folders below the one that all of them have in
            common, ``flat`` drops all folders. The files of the archive then lie directly in ``folder``.
    """

    pattern: str
    folder: str
    name: str = ""
    unpack: Literal["", "tree", "flat"] = ""


@dataclass(frozen=True)
class Listing:
    """A place that lists its files.

    Attributes:
        kind: ``hub`` (a data set of the Hugging Face hub), ``zenodo`` (a record) or ``osf`` (a node).
        key: its name or number.
        picks: which files; the first pattern that fits a file decides.
    """

    kind: Literal["hub", "zenodo", "osf"]
    key: str
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class PublishedFile:
    """A file whose size and checksum are published.

    Attributes:
        path: where it goes, below the folder of all downloads.
        addresses: in the order in which they are tried.
        size: in bytes.
        sha256: hexadecimal digest.
    """

    path: str
    addresses: tuple[str, ...]
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A name of ``medcap download``.

    Attributes:
        what: what it is, for the list.
        licence: as the source states it.
        known: since when or from what the address is known to work.
        size: about how much is downloaded, for the list.
        listings: places that list their files.
        files: files with fixed addresses.
        figures: whether it is the figures of PMC's articles, see :mod:`medcap.datasets.download.pmc_images`.
        then: what ``medcap prepare`` takes to read it, with options.
    """

    what: str
    licence: str
    known: str
    size: str
    listings: tuple[Listing, ...] = ()
    files: tuple[PublishedFile, ...] = ()
    figures: bool = False
    then: tuple[str, ...] = ()


def _llava_med(path: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(f"llava_med/{path}", tuple(base + path for base in _LLAVA_MED_ADDRESSES), size, sha256)


def _hub(key: str, *picks: Pick) -> Listing:
    return Listing("hub", key, picks)


# Sizes and digests of LLaVA-Med's files: the git-lfs pointers of the commit above.
SOURCES: dict[str, Source] = {
    "llava-med": Source(
        "LLaVA-Med: alignment, instructions, figure captions, the 193 questions, the list of images",
        "CC BY-NC 4.0",
        "git-lfs pointers of microsoft/LLaVA-Med at d406e3f; the former addresses on hanoverprod, tried second, were"
        " reported dead on 2025-05-09 and 2025-06-15 (jiangsongtao/Med-MoE#22, microsoft/LLaVA-Med#122)",
        "0.9 GB",
        files=(
            _llava_med(
                "alignment/llava_med_alignment_500k.json",
                358112840,
                "007456f3d6c2091466b3fb6cd0573f61a63fd0c937e568f44113d5a1f23e8b93",
            ),
            _llava_med(
                "instruct/llava_med_instruct_10k.json",
                20176754,
                "84f75c2b83404fe7dd1631212b4ad73228a0dad77bb819ab29c511a535a279c8",
            ),
            _llava_med(
                "instruct/llava_med_instruct_60k.json",
                88758916,
                "cf84c82fb58e391d6cf198e2657b6fc8584a180509b8813c3604ce46f6275c19",
            ),
            _llava_med(
                "instruct/llava_med_instruct_60k_inline_mention.json",
                87669379,
                "b3649f4193a51215aee4519b44d8436a4200e182d6a78a3cb78672d97bea948a",
            ),
            _llava_med(
                "instruct/llava_med_instruct_fig_captions.json",
                169224662,
                "1d58b7befd2687695cbba04e4f51fd648899b25f4f567815eb49538faf6f07fb",
            ),
            _llava_med(
                "eval/llava_med_eval_qa50_qa.jsonl",
                262328,
                "48c6b680a962dbf8caf63e3ded2bef7770dccf9c2602f32e5f05f4b907266f25",
            ),
            _llava_med(
                "eval/llava_med_eval_qa50_fig_captions.json",
                53066,
                "64a4de84f8959a049ab9de68572318c6a299194b24368084159ef1f4a259aa66",
            ),
            _llava_med(
                "eval/llava_med_qa50_instruct_caption_in_text_cleaned-60k-3epoch.json",
                103392,
                "442b2ea3bda35ddcd57475f350ee6b2e938da02835792232925b01fde0a288ef",
            ),
            _llava_med(
                "llava_med_image_urls.jsonl",
                128785989,
                "2604441ec3d1f6324d21846cfd44f92eab29454beed1da42a98d943b41731e44",
            ),
        ),
        then=("llava-med",),
    ),
    "llava-med-images": Source(
        "LLaVA-Med's images: the figures of PMC's articles that llava_med_image_urls.jsonl lists",
        "that of each article (PMC Open Access Subset)",
        "single files of PMC's bucket on AWS: 2026-10-09 (torchcell's records of what it fetched there); the tar files"
        " on ftp.ncbi.nlm.nih.gov: 2026-04-13, when they were moved to deprecated/, to be removed in August 2026"
        " (pmc.ncbi.nlm.nih.gov/tools/cloud)",
        "depends on --only",
        figures=True,
        then=("llava-med",),
    ),
    "pmc-oa": Source(
        "PMC-OA: captions and subfigures",
        "see its card",
        "2025-04 (stored page of the hub's file list)",
        "24 GB",
        (
            _hub(
                "axiong/pmc_oa",
                Pick("train.jsonl", "pmc_oa"),
                Pick("images.zip", "pmc_oa/caption_T060_filtered_top4_sep_v0_subfigures", unpack="tree"),
            ),
        ),
        then=("pmcoa",),
    ),
    "vqarad": Source(
        "VQA-RAD: questions and images, as published",
        "CC0 1.0",
        "2025-01-19 (a public loader of files.osf.io/v1/resources/89kps says that it was tested then)",
        "not known",
        (Listing("osf", "89kps", (Pick("*", "VQA_RAD"),)),),
        then=("vqarad-qa", "vqarad"),
    ),
    "vqarad-hub": Source(
        "VQA-RAD: the hub's copy, without repeated questions",
        "CC0 1.0",
        "2025 (stored page of the hub's file list)",
        "34 MB",
        (_hub("flaviagiammarino/vqa-rad", Pick("data/*.parquet", "vqa-rad")),),
        then=("vqarad-qa",),
    ),
    "vqarad-text": Source(
        "VQA-RAD-text: medcap 2024's paragraphs; the images come with vqarad",
        "see its card",
        "2025 (stored page of the hub's commits, the last of 2024-07-06)",
        "not known",
        (_hub("myeongkyunkang/VQA-RAD-text", Pick("train_text.json", "VQA_RAD"), Pick("test_text.json", "VQA_RAD")),),
        then=("vqarad",),
    ),
    "pmcvqa-text": Source(
        "PMC-VQA-text: medcap 2024's paragraphs and the images",
        "see its card",
        "2025 (stored page of the hub's list of data sets)",
        "not known",
        (
            _hub(
                "myeongkyunkang/PMC-VQA-text",
                Pick("train_text.json", "PMC-VQA-text"),
                Pick("images*.zip", "PMC-VQA-text/images", unpack="tree"),
            ),
        ),
        then=("pmcvqa-text",),
    ),
    "rocov2": Source(
        "ROCOv2: captions of radiology figures, training part",
        "see its record",
        "not known (record 10821435 holds ROCOv2, too)",
        "not known",
        (
            Listing(
                "zenodo",
                "8333645",
                (
                    Pick("train_captions.csv", "PMC-VQA-text"),
                    Pick("train_images.zip", "PMC-VQA-text/train", unpack="tree"),
                ),
            ),
        ),
        then=("rocov2",),
    ),
    "llava-med-60k-im-text": Source(
        "LLaVA-Med-60K-IM-text: medcap 2024's paragraphs and the images",
        "see its card",
        "2025 (stored page of the hub's list of data sets)",
        "not known",
        (
            _hub(
                "myeongkyunkang/LLaVA-Med-60K-IM-text",
                Pick("train_text.json", "PMC-VQA-text", name="train_text_med60k.json"),
                Pick("images.zip", "PMC-VQA-text/images_med60k/images", unpack="tree"),
            ),
        ),
        then=("llava-med-60k-im-text",),
    ),
    "pubmedvision": Source(
        "PubMedVision: alignment descriptions and 20 zip files of images",
        "Apache 2.0",
        "2025-05 (stored page of the hub's file list)",
        "58 GB",
        (
            _hub(
                "FreedomIntelligence/PubMedVision",
                Pick("PubMedVision_Alignment_VQA.json", "PMC-VQA-text"),
                Pick("images_*.zip", "PMC-VQA-text/images_vision", unpack="flat"),
            ),
        ),
        then=("pubmedvision",),
    ),
    "pmc-patients": Source(
        "PMC-Patients: case reports and the images of their articles",
        "CC BY-NC-SA 4.0",
        "2025-09 (stored page of the hub's file list); the images: 2025 (stored page of the hub's list of data sets)",
        "0.5 GB and the images",
        (
            _hub("zhengyun21/PMC-Patients", Pick("PMC-Patients.csv", "PMC-VQA-text")),
            _hub(
                "myeongkyunkang/PMC-Patients-images",
                Pick("images.zip", "PMC-VQA-text/images_patients/images", unpack="tree"),
            ),
        ),
        then=("pmc-patients",),
    ),
    "pmcvqa": Source(
        "PMC-VQA, version 1: four-option questions about figures",
        "see its card",
        "2025-04 (stored page of the hub's file list)",
        "19 GB",
        (
            _hub(
                "RadGenome/PMC-VQA",
                Pick("train.csv", "PMC-VQA"),
                Pick("test.csv", "PMC-VQA"),
                Pick("test_clean.csv", "PMC-VQA"),
                Pick("images.zip", "PMC-VQA/images", unpack="tree"),
            ),
        ),
        then=("pmcvqa",),
    ),
    "pmcvqa-2": Source(
        "PMC-VQA, version 2: the same with single images",
        "see its card",
        "2025-04 (stored page of the hub's file list)",
        "2.3 GB",
        (
            _hub(
                "RadGenome/PMC-VQA",
                Pick("train_2.csv", "PMC-VQA"),
                Pick("test_2.csv", "PMC-VQA"),
                Pick("images_2.zip", "PMC-VQA/images_2", unpack="tree"),
            ),
        ),
        then=("pmcvqa --version 2",),
    ),
    "slake": Source(
        "SLAKE: questions, images, boxes and masks",
        "CC BY 4.0",
        "2025 (stored page of the hub's file list)",
        "0.2 GB",
        (
            _hub(
                "BoKelvin/SLAKE",
                Pick("validation.json", "Slake1.0", name="validate.json"),
                Pick("imgs.zip", "Slake1.0/imgs", unpack="tree"),
                Pick("*.json", "Slake1.0"),
                Pick("mask.txt", "Slake1.0"),
            ),
        ),
        then=("slake", "slake-boxes", "slake-masks"),
    ),
    "slake-english": Source(
        "SLAKE: the hub's English copy, images included",
        "see its card",
        "2025-03 (stored page of the hub's file list)",
        "61 MB",
        (_hub("mdwiratathya/SLAKE-vqa-english", Pick("data/*.parquet", "SLAKE-vqa-english")),),
        then=("slake",),
    ),
    "path-vqa": Source(
        "PathVQA: the hub's copy, images included",
        "see its card",
        "not known",
        "not known",
        (_hub("flaviagiammarino/path-vqa", Pick("data/*.parquet", "path-vqa")),),
        then=("pathvqa",),
    ),
    "coloninst": Source(
        "ColonINST: its rows; the images come from other data sets, as its guideline says",
        "Apache 2.0",
        "2025-03 (stored page of the hub's file list)",
        "not known",
        (
            _hub(
                "ai4colonoscopy/ColonINST-v1",
                Pick("train/*.json", "ColonINST/Json-file"),
                Pick("val/*.json", "ColonINST/Json-file"),
                Pick("test/*.json", "ColonINST/Json-file"),
            ),
        ),
        then=("coloninst",),
    ),
    "medsegbench": Source(
        "MedSegBench: 35 sets of images and masks; choose by --files, such as 'polypgen_256.npz'",
        "that of each set (medsegbench/info.py)",
        "2024-11-25 (its paper, doi 10.1038/s41597-024-04159-2); its README names record 13359660, others 13358372",
        "not known",
        (
            Listing("zenodo", "13358372", (Pick("*.npz", "MedSegBench"),)),
            Listing("zenodo", "13359660", (Pick("*.npz", "MedSegBench"),)),
        ),
        then=("medsegbench",),
    ),
}


def sources_for(converter: str) -> list[str]:
    """Return the names of what a converter reads, of those that can be downloaded."""
    return [name for name, source in SOURCES.items() if any(then.split()[0] == converter for then in source.then)]
