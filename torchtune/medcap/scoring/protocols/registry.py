"""Scoring rules by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from medcap.errors import UserError
from medcap.scoring.protocols.base import Protocol
from medcap.scoring.protocols.coco import Coco
from medcap.scoring.protocols.exact import Exact
from medcap.scoring.protocols.grounding.bird import BirdRo, BirdRoStrict, BirdVg, BirdVgStrict
from medcap.scoring.protocols.grounding.boxes import Boxes
from medcap.scoring.protocols.grounding.captions import BirdGc, BirdGcStrict, BirdMii, BirdMiiStrict
from medcap.scoring.protocols.grounding.colongpt import ColonGpt, ColonGptStrict
from medcap.scoring.protocols.imageclef import ImageClefBertScore, ImageClefRouge
from medcap.scoring.protocols.likeliest_option import LikelyLetter, LikelyText, LikelyTextNormalized, OmniMedVqaPrefix
from medcap.scoring.protocols.llava_med import LlavaMed, LlavaMedBatch, LlavaMedStrict
from medcap.scoring.protocols.medplib import Medplib
from medcap.scoring.protocols.multiple_choice import MedcapLetter, MedcapOption, OmniMedVqaQa
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
        ReportOptions,
        ImageClefRouge,
        ImageClefBertScore,
    )
}
# For a model that is asked here: what it finds likely is in no other file of answers.
ALL_PROTOCOLS: dict[str, type[Protocol]] = PROTOCOLS | {
    protocol.name: protocol for protocol in (LikelyText, LikelyTextNormalized, LikelyLetter, OmniMedVqaPrefix)
}


def make_protocol(name: str, candidates: Sequence[str] | None = None) -> Protocol:
    """Make a protocol.

    Args:
        name: one of ``PROTOCOLS``.
        candidates: answers of a training set, for ``llava_med``'s ``open.accuracy``; the other protocols ignore them.

    Returns:
        The protocol.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        raise UserError(f"there is no protocol {name!r}{hint} there are: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    return LlavaMed(candidates) if protocol is LlavaMed else protocol()
