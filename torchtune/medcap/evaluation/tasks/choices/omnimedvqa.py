"""OmniMedVQA's open part: multiple-choice questions about images of many sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medcap.datasets.published.fields import field_text, option_texts
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.published.reading import Strict, json_records
from medcap.errors import UserError
from medcap.evaluation.medcap_2024_tables import omnimedvqa_tables
from medcap.evaluation.tasks.base import Benchmark, LoadOptions, Task, is_whole, make_benchmark, take_chunk
from medcap.evaluation.tasks.official import find_benchmark, row_maker
from medcap.scoring.question import Question

# medcap 2024's eight, exactly as in the files (custom_generate_func.py, test_omnimedvqa).
MODALITIES = (
    "CT(Computed Tomography)",
    "X-Ray",
    "Dermoscopy",
    "Fundus Photography",
    "OCT (Optical Coherence Tomography",
    "ultrasound",
    "MR (Mag-netic Resonance Imaging)",
    "Microscopy Images",
)
PUBLISHED = {"rows": 88_996}
_TREE = "QA_information/Open-access"
_OPTIONS = ("option_A", "option_B", "option_C", "option_D")
_UNNAMED = "(none)"


@dataclass(frozen=True)
class OmniMedVqaOptions(LoadOptions):
    """Which part is read.

    Attributes:
        modalities: None for medcap 2024's eight, ``all``, one name or several.
        test_chunk: number of parts that the rows are cut into; None or -1 for everything.
        test_chunk_idx: the part to take, from 0; None or -1 for everything.
    """

    modalities: str | Sequence[str] | None = None
    test_chunk: int | None = None
    test_chunk_idx: int | None = None


class OmniMedVqaTask(Task):
    """``OmniMedVQA/QA_information/Open-access/*.json``, in the order of the file names.

    A record has ``question_id``, ``question``, ``gt_answer``, ``image_path`` (relative to ``OmniMedVQA/``),
    ``option_A`` to ``option_D`` (two-option questions have only two), ``modality_type``, ``question_type`` and
    ``dataset``. The one record whose key is misspelt ``modality`` is read too: medcap dropped it and so scored
    88,995 rows.
    """

    name = "omnimedvqa"
    title = "OmniMedVQA"
    protocols = ("option_text", "omnimedvqa_qa")
    mode_protocols = ("medcap_option", "medcap_letter")
    Options = OmniMedVqaOptions
    legacy_table = staticmethod(omnimedvqa_tables)

    def folder(self, options: OmniMedVqaOptions) -> str:
        """Return the name of its result folder; a part of it has its own."""
        chunk, index = options.test_chunk, options.test_chunk_idx
        return self.name if is_whole(chunk, index) else f"{self.name}-{index}_{chunk}"

    def load(self, source: str | Path, options: OmniMedVqaOptions = OmniMedVqaOptions()) -> Benchmark:
        """Read the chosen modalities, and of these the chosen chunk; see :meth:`Task.load`."""
        layout = Layout(("OmniMedVQA", "OmniMedVQA/OmniMedVQA"), {"json": (f"{_TREE}/*.json", "Open-access/*.json")})
        found = find_benchmark(
            source,
            self.title,
            layout,
            f"OmniMedVQA/{_TREE}/*.json and OmniMedVQA/Images (foreverbeliever/OmniMedVQA on the hub)",
        )
        folder = found.folder.parent if found.folder.name == "QA_information" else found.folder
        make_row, roots = row_maker(replace(found, folder=folder), layout, options)
        rows = []
        for path in found.files:
            strict = Strict(self.title)
            for index, (location, record) in enumerate(json_records(path, strict)):
                strict.check_first(path, record, ("question", "gt_answer", "image_path"))
                question = PublishedQuestion(
                    location,
                    field_text(record.get("question_id")) or f"{path.stem}-{index}",
                    record.get("question"),
                    [record.get("gt_answer")],
                    record.get("image_path"),
                    options=option_texts(record.get(key) for key in _OPTIONS),
                    meta={
                        "modality": record.get("modality_type") or record.get("modality"),
                        "question_type": record.get("question_type"),
                        "dataset": record.get("dataset"),
                    },
                )
                rows.append(make_row(question))
        kept, notices, complete = select_modalities(rows, options.modalities)
        few = [row for row in kept if len(row.options) < 2]
        if few:
            notices.append(
                f"{len(few):,} of {len(kept):,} rows have fewer than two options; the first one: {few[0].id}"
            )
        whole = make_benchmark(
            kept,
            found.source,
            found.files,
            folder,
            roots=roots,
            expected=PUBLISHED if complete and not found.named else None,
            notices=notices,
        )
        part = take_chunk(whole.rows, options.test_chunk, options.test_chunk_idx)
        if len(part) == len(whole.rows):
            return whole
        line = f"chunk {options.test_chunk_idx} of {options.test_chunk}: {len(part):,} of {len(whole.rows):,} rows"
        return replace(whole, rows=part, notices=[*whole.notices, line])


def select_modalities(
    rows: Sequence[Question], modalities: str | Sequence[str] | None
) -> tuple[list[Question], list[str], bool]:
    """Keep the rows of some modalities.

    Args:
        rows: all of them.
        modalities: None for medcap 2024's eight, ``all``, or names (a list, or text with commas between them): as in
            the files, or the part before the bracket, in any case: ``CT`` is ``CT(Computed Tomography)``.

    Returns:
        The rows, a line about those left out if there are any, and whether the published count applies.

    Raises:
        UserError: if a name is not among the modalities of the rows.
    """
    present = Counter(row.meta.get("modality", _UNNAMED) for row in rows)
    if modalities is None:
        wanted = set(MODALITIES)
    else:
        names = modalities.split(",") if isinstance(modalities, str) else [str(name) for name in modalities]
        names = [name.strip() for name in names if name.strip()]
        if [name.lower() for name in names] == ["all"]:
            return list(rows), [], True
        wanted = {_matching(name, present) for name in names}
        if not wanted:
            raise UserError("modalities is empty: name some, or modalities=all")
    kept = [row for row in rows if row.meta.get("modality", _UNNAMED) in wanted]
    dropped = [f"{name} ({number:,})" for name, number in sorted(present.items()) if name not in wanted]
    if not kept:
        raise UserError(
            f"modalities: no row is of medcap 2024's eight modalities; there are {', '.join(dropped) or 'none at all'};"
            " modalities=all reads everything"
        )
    line = (
        f"{len(rows) - len(kept):,} of {len(rows):,} rows are of other modalities and left out: {', '.join(dropped)};"
        " modalities=all reads them"
    )
    return kept, [line] if dropped else [], modalities is None


def _matching(name: str, present: Counter[str]) -> str:
    for known in present:
        if name.lower() in (known.lower(), known.partition("(")[0].strip().lower()):
            return known
    raise UserError(f"modalities: {name!r} is not among those of the files: {', '.join(sorted(present))}")
