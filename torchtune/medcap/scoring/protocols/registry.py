"""The protocols by name; a new one is a file and a line here. How it asks is its ``prompt``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from medcap.errors import UserError
from medcap.scoring.protocols.base import Protocol
from medcap.scoring.protocols.coco import Coco, CocoStrict
from medcap.scoring.protocols.exact import Exact
from medcap.scoring.protocols.grounding.bird import BirdRo, BirdRoStrict, BirdVg, BirdVgStrict
from medcap.scoring.protocols.grounding.boxes import Boxes
from medcap.scoring.protocols.grounding.captions import BirdGc, BirdGcStrict, BirdMii, BirdMiiStrict
from medcap.scoring.protocols.grounding.colongpt import ColonGpt, ColonGptStrict
from medcap.scoring.protocols.harnesses.lmms_eval_slake import LmmsEvalSlake
from medcap.scoring.protocols.harnesses.medevalkit import MedEvalKit, MedEvalKitCorrected, dataset_name
from medcap.scoring.protocols.harnesses.vlmevalkit import VlmEvalKit
from medcap.scoring.protocols.imageclef import ImageClefBertScore, ImageClefRouge
from medcap.scoring.protocols.likeliest_option import LikelyLetter, LikelyText, LikelyTextNormalized, OmniMedVqaPrefix
from medcap.scoring.protocols.llava_med import LlavaMed, LlavaMedBatch, LlavaMedStrict
from medcap.scoring.protocols.medplib import Medplib
from medcap.scoring.protocols.multiple_choice import MedcapLetter, MedcapOption
from medcap.scoring.protocols.omnimedvqa import OmniMedVqaQa
from medcap.scoring.protocols.report_options import ReportOptions
from medcap.scoring.protocols.segmentation.masks import Masks
from medcap.scoring.protocols.segmentation.medplib_seg import MedplibSeg

# For answers from anywhere.
PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (
        LlavaMed,
        LlavaMedBatch,
        LlavaMedStrict,
        Medplib,
        OmniMedVqaQa,
        MedcapLetter,
        MedcapOption,
        Exact,
        Coco,
        ColonGpt,
        ColonGptStrict,
        BirdVg,
        BirdVgStrict,
        BirdRo,
        BirdRoStrict,
        BirdGc,
        BirdGcStrict,
        BirdMii,
        BirdMiiStrict,
        Boxes,
        MedplibSeg,
        Masks,
        MedEvalKit,
        MedEvalKitCorrected,
        VlmEvalKit,
        LmmsEvalSlake,
        CocoStrict,
        ReportOptions,
        ImageClefRouge,
        ImageClefBertScore,
    )
}
# For a model that is asked here: what it finds likely is in no other file of answers.
ALL_PROTOCOLS: dict[str, type[Protocol]] = PROTOCOLS | {
    protocol.name: protocol for protocol in (LikelyText, LikelyTextNormalized, LikelyLetter, OmniMedVqaPrefix)
}


def make_protocol(text: str, candidates: Sequence[str] | None = None, dataset: str = "") -> Protocol:
    """Make a protocol.

    Args:
        text: a name of ``PROTOCOLS``, perhaps with options, ``medevalkit:dataset=slake:commit=564d279``, or a variant,
            ``medevalkit@564d279``.
        candidates: answers of a training set, for ``llava_med``'s ``open.accuracy``; the other protocols ignore them.
        dataset: the benchmark, for a protocol with that option where the text does not say it; names that such a
            protocol does not know are ignored.

    Returns:
        The protocol.

    Raises:
        UserError: if there is none of that name, or it has no such option.
    """
    return make_protocols([text], candidates, dataset)[0]


def make_protocols(
    texts: Iterable[str],
    candidates: Sequence[str] | None = None,
    dataset: str = "",
    among: Mapping[str, type[Protocol]] = PROTOCOLS,
) -> list[Protocol]:
    """Make several protocols; one that is named twice is made once.

    Args:
        texts: see :func:`make_protocol`, as the next two.
        candidates: answers of a training set.
        dataset: the benchmark.
        among: the protocols that there are.

    Returns:
        The protocols, each with another ``name``.

    Raises:
        UserError: if one cannot be made, or two that differ would have one name.
    """
    made: dict[str, Protocol] = {}
    for text in dict.fromkeys(texts):
        name, variant, options = _read(text)
        if name not in among:
            close = difflib.get_close_matches(name, among, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise UserError(f"there is no protocol {name!r}{hint} there are: {', '.join(among)}")
        protocol = among[name]
        if variant and variant not in protocol.variants:
            has = f"there are {', '.join(protocol.variants)}" if protocol.variants else f"{name} has no variants"
            raise UserError(f"protocol {text}: {variant!r} is unknown; {has}")
        options = {**protocol.variants.get(variant, {}), **options}
        known = dataset_name(dataset)
        if known and "dataset" in protocol.option_names:
            options.setdefault("dataset", known)
        one = LlavaMed(candidates) if protocol is LlavaMed and not options else protocol.of_options(options)
        if one.name in made:
            raise UserError(f"protocol {text}: {one.name} is named twice with other options: score by one of them")
        made[one.name] = one
    return list(made.values())


def base_name(text: str) -> str:
    """Return the name of a protocol without its variant and options."""
    return text.partition(":")[0].partition("@")[0].strip()


def _read(text: str) -> tuple[str, str, dict[str, str]]:
    """Return name, variant and options of ``name@variant:option=value:option=value``."""
    first, *parts = (part.strip() for part in text.split(":"))
    options: dict[str, str] = {}
    for part in parts:
        option, sign, value = part.partition("=")
        if not (option and sign and value):
            raise UserError(f"protocol {text}: {part!r} is no option: write {first}:OPTION=VALUE")
        options[option] = value
    return base_name(text), first.partition("@")[2], options
