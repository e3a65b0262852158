"""``medcap score FILE --protocol P``: score a file of answers from anywhere, without a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.scoring.protocols.base import ProtocolScores

# As in medcap.scoring.protocols.registry, which a list of the commands need not import.
PROTOCOL_NAMES = (
    *("llava_med", "llava_med_batch", "llava_med_strict", "medplib", "omnimedvqa_qa", "medcap_letter", "medcap_option"),
    *("exact", "coco", "colongpt", "colongpt_strict", "bird_vg", "bird_vg_strict", "bird_ro", "bird_ro_strict"),
    *("bird_gc", "bird_gc_strict", "bird_mii", "bird_mii_strict", "boxes", "medplib_seg", "masks", "medevalkit"),
    *("medevalkit_corrected", "vlmevalkit", "lmms_eval_slake", "coco_strict"),
    *("report_options", "imageclef_rouge", "imageclef_bertscore"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap score``.
    """
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="JSON or JSONL with question_id, reference, prediction in each row; boxes also as boxes, reference_boxes;"
        " masks as prediction_mask, reference_mask or masks, reference_masks",
    )
    parser.add_argument(
        "--protocol",
        action="append",
        required=True,
        metavar="P",
        help="scoring rule, may be repeated, perhaps with options such as medevalkit:dataset=slake:commit=564d279:"
        f" {', '.join(PROTOCOL_NAMES)}",
    )
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="candidate answers, for the open accuracy of llava_med"
    )
    parser.add_argument("--per-row", type=Path, metavar="OUT.jsonl", help="write each row's values there")


def run(options: argparse.Namespace) -> None:
    """Score the file and print one JSON object; notices go to standard error too.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a file cannot be read or written, there is no protocol of a name, or a protocol cannot score the
            rows.
    """
    from medcap.files import keep_inputs, plain, write_text
    from medcap.scoring.answers import read_answers, read_candidates, task_of_answers
    from medcap.scoring.protocols.llava_med import LlavaMed
    from medcap.scoring.protocols.registry import make_protocols

    names = list(dict.fromkeys(options.protocol))
    candidates = None
    if options.candidates is not None:
        if LlavaMed.name not in names:
            raise UserError(f"--candidates is for the protocol {LlavaMed.name}, which is not among {', '.join(names)}")
        candidates = read_candidates(options.candidates)
    protocols = make_protocols(names, candidates, task_of_answers(options.file))
    if options.per_row is not None:
        keep_inputs("--per-row", options.per_row, options.file, use="scored")
    answers = read_answers(options.file)
    results = {protocol.name: protocol.score(answers) for protocol in protocols}
    if options.per_row is not None:
        lines = (json.dumps(plain(row), allow_nan=False) for row in _row_values(results))
        try:
            write_text(options.per_row, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise UserError(f"--per-row {options.per_row} cannot be written: {error.strerror}") from error
    for name, result in results.items():
        for notice in result.notices:
            print(f"{name}: {notice}", file=sys.stderr)
    print(json.dumps(plain({name: _summary(result) for name, result in results.items()}), indent=2, allow_nan=False))


def _summary(result: ProtocolScores) -> dict[str, Any]:
    from medcap.scoring.protocols.base import nested

    return {
        **nested({**result.counts, **result.scores}),
        "intervals": nested(result.intervals),
        "notices": result.notices,
    }


def _row_values(results: Mapping[str, ProtocolScores]) -> list[dict[str, Any]]:
    from medcap.scoring.protocols.base import nested

    lines: list[dict[str, Any]] = []
    for rows in zip(*(result.rows for result in results.values()), strict=True):
        line = {"question_id": rows[0]["question_id"]}
        for name, row in zip(results, rows, strict=True):
            line[name] = nested({key: value for key, value in row.items() if key != "question_id"})
        lines.append(line)
    return lines
