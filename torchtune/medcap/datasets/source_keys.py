"""Check the keys that name the training data: ``dataset.source``, or ``dataset.sources`` for a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from medcap.configuration import HOME_EXPANDED, Configuration, Number, OneOf, PathText, SectionList
from medcap.data.boxes.notations import NOTATIONS
from medcap.data.boxes.style import ANSWERS, BOX_KEYS, FRAMES
from medcap.data.row_examples import MODES
from medcap.datasets.view_keys import ViewRule
from medcap.errors import UserError

BoxNotation = Annotated[str | None, OneOf(NOTATIONS)]
BoxAnswer = Annotated[str | None, OneOf(ANSWERS)]
BoxFrame = Annotated[str | None, OneOf(FRAMES)]
ExampleMode = Annotated[str | None, OneOf(MODES)]


class SourceArguments(Configuration):
    """Keys of one source of a mixture; what it leaves out is read as ``dataset`` says."""

    source: PathText = Field(description="Data file or tar shards, as dataset.source.")
    weight: Number | None = Field(None, gt=0, description="Its share of an epoch; without any weights, every row once.")
    name: str | None = Field(None, description="Its name in messages; null takes the file's name.")
    conversation_style: str | None = Field(None, description="As dataset.conversation_style, for this source.")
    image_roots: Annotated[list[str] | None, HOME_EXPANDED] = Field(
        None, description="As dataset.image_roots, for this source."
    )
    view: Annotated[dict[str, Any] | None, ViewRule()] = Field(
        None, description="As dataset.view, for this source; a key that it leaves out is dataset.view's."
    )
    train_on_input: bool | None = Field(None, description="As dataset.train_on_input, for this source.")
    train_on_header: bool | None = Field(None, description="As dataset.train_on_header, for this source.")
    mask_after_image: bool | None = Field(None, description="As dataset.mask_after_image, for this source.")
    examples: ExampleMode = Field(None, description="As dataset.examples, for this source.")
    box_format: BoxNotation = Field(None, description="As dataset.box_format, for this source.")
    box_write: BoxNotation = Field(None, description="As dataset.box_write, for this source.")
    box_answer: BoxAnswer = Field(None, description="As dataset.box_answer, for this source.")
    box_frame: BoxFrame = Field(None, description="As dataset.box_frame, for this source.")

    def box_keys(self) -> dict[str, str]:
        """Return the keys of this source that say how its boxes are written."""
        return self.model_dump(include=set(BOX_KEYS), exclude_none=True)


def check_sources(
    source: str | None, sources: Sequence[Mapping[str, Any]] | None, epoch_samples: int | None = None
) -> list[SourceArguments]:
    """Check the keys that name the training data.

    Args:
        source: ``dataset.source``.
        sources: ``dataset.sources``.
        epoch_samples: ``dataset.epoch_samples``.

    Returns:
        The sources; only one if ``source`` names it.

    Raises:
        UserError: if a key is missing or wrong; the message names it.
    """
    if sources is None:
        if source is None:
            raise UserError("dataset.source is missing: add dataset.source=..., or dataset.sources=[...] for several")
        if epoch_samples is not None:
            raise UserError("dataset.epoch_samples is for dataset.sources: name the file there, or remove it")
        return [SourceArguments.model_validate({"source": source})]
    if source is not None:
        raise UserError("dataset.source and dataset.sources are both given: set one of them to null")
    checked = SectionList(SourceArguments).checked([dict(given) for given in sources], "dataset.sources") or []
    found = [SourceArguments.model_validate(given) for given in checked]
    without = [number for number, given in enumerate(found) if given.weight is None]
    if without and len(without) < len(found):
        raise UserError(
            f"dataset.sources.{without[0]}.weight is missing: give each source a weight, or none for all rows of all"
            " sources once in an epoch"
        )
    names = source_names(found)
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"dataset.sources: two sources are called {twice}: give them a name, such as name: other")
    return found


def source_names(sources: Sequence[SourceArguments]) -> list[str]:
    """Return the names of the sources for messages."""
    return [given.name or Path(given.source).stem for given in sources]


def source_files(dataset: Mapping[str, Any]) -> list[str]:
    """Return the data files that a configuration's ``dataset`` names."""
    source = dataset.get("source")
    sources = source if isinstance(source, list) else [source] if source else []
    return [*sources, *(given["source"] for given in dataset.get("sources") or [])]
