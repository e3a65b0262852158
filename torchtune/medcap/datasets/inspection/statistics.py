"""Statistics of a data file for a training run: tokens and images, and how well they fill rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcap.data.epoch_order import EpochOrder
from medcap.data.packing import SampleTable
from medcap.datasets.chat_rows import ChatDataset
from medcap.datasets.inspection.lengths import describe_lengths
from medcap.datasets.inspection.survey import Survey
from medcap.datasets.mixture import MixedDataset
from medcap.datasets.source_keys import SourceArguments
from medcap.datasets.training_dataset import TrainingDataset


def image_statistics(survey: Survey) -> dict[str, Any]:
    """Count formats and sizes of the image files, and images a row.

    Args:
        survey: survey whose images were looked at with ``read_header``.

    Returns:
        ``files``, ``unreadable``, ``named``; ``formats`` with their counts; ``shorter_side`` and ``longer_side`` as
        ``describe_lengths`` returns them; ``images_a_row`` has the number of usable rows for each number of images.
    """
    known = survey.images["width"] > 0
    width, height = survey.images["width"][known], survey.images["height"][known]
    a_row = Counter(np.diff(survey.starts)[survey.good_rows()].tolist())
    return {
        "files": len(known),
        "unreadable": int((~known).sum()),
        "named": len(survey.files),
        "formats": dict(Counter(survey.images["format"][known].tolist()).most_common()),
        "shorter_side": describe_lengths(np.minimum(width, height)),
        "longer_side": describe_lengths(np.maximum(width, height)),
        "images_a_row": dict(sorted(a_row.items())),
    }


def token_statistics(survey: Survey) -> dict[str, Any]:
    """Lengths of the usable rows, as training keeps them.

    Args:
        survey: made with a tokenizer.

    Returns:
        ``describe_lengths`` of ``total``, and of its parts ``image``, ``question`` (the words around it, the chat
        template among them) and ``answer`` (what is learnt); and ``rows_cut``, rows longer than ``max_seq_len``.
    """
    kept, learnt, image, whole = (_usable(survey, name) for name in ("kept", "learnt", "image", "whole"))
    return {
        "total": describe_lengths(kept),
        "image": describe_lengths(image),
        "question": describe_lengths(kept - learnt - image),
        "answer": describe_lengths(learnt),
        "rows_cut": int((whole > kept).sum()),
    }


@dataclass(frozen=True)
class Packing:
    """The first epoch as training plans it.

    Attributes:
        packed: whether batch items are rows, not samples.
        units: batch items of the epoch.
        steps: number of optimizer steps at one batch size.
        samples: number of samples in it.
        documents: number of documents they are packed into; unpacked, each batch makes its own, so as many as samples.
        tokens: that are computed in the epoch.
        fill: share of the rows' places that hold tokens; None for unpacked data, whose rows vary.
        saved_by_sharing: tokens that need not be computed again because samples show the same image.
        saved_by_preamble: tokens that need not be computed again because samples begin alike.
        images: that are encoded in the epoch, one for each document that shows it; of tiles, each picture.
        most_images: most images of one batch.
    """

    packed: bool
    units: int
    steps: int
    samples: int
    documents: int
    tokens: int
    fill: float | None
    saved_by_sharing: int
    saved_by_preamble: int
    images: int
    most_images: int


def plan_epoch(
    survey: Survey, batch_size: int, accumulated: int = 1, packed: bool = True, share: bool = True, seed: int = 0
) -> Packing:
    """Plan the first epoch of a run with these rows, as training does.

    Args:
        survey: made with a tokenizer.
        batch_size: items of a batch, over all processes.
        accumulated: batches of a step.
        packed: whether batch items are rows of ``max_seq_len`` tokens; else they are samples.
        share: samples of one image share it.
        seed: seed of the run.

    Returns:
        The plan's figures.
    """
    return plan_dataset(_dataset(survey, packed, share), [survey], batch_size, accumulated, seed)


def mix_surveys(
    surveys: Sequence[Survey],
    sources: Sequence[SourceArguments],
    epoch_samples: int | None = None,
    packed: bool = True,
    share: bool = True,
) -> MixedDataset:
    """Return the data set that training makes of several sources.

    Args:
        surveys: one of each source, made with a tokenizer.
        sources: their keys.
        epoch_samples: samples of the epoch; None for as many as there are usable rows.
        packed: as in :func:`plan_epoch`.
        share: as well.

    Raises:
        UserError: if the sources cannot be mixed.
    """
    return MixedDataset([_dataset(survey, packed, share) for survey in surveys], sources, epoch_samples)


def _dataset(survey: Survey, packed: bool, share: bool) -> ChatDataset:
    """Return the data set of training, counted by the survey."""
    of = survey.checker
    assert of.tokenizer is not None, "its caller has made the survey with one"
    dataset = ChatDataset(
        of.rows, of.reader, of.tokenizer, of.style, of.label_rules, of.max_seq_len, packed, share, of.prompt_prefix
    )
    lengths = np.where(_is_usable(survey), survey.lengths["sample"], 0)
    dataset.table = SampleTable(
        lengths.astype(np.int32), survey.lengths["prefix"].astype(np.int32), survey.lengths["group"]
    )
    return dataset


def plan_dataset(
    dataset: TrainingDataset, surveys: Sequence[Survey], batch_size: int, accumulated: int = 1, seed: int = 0
) -> Packing:
    """Plan the first epoch of a data set.

    Args:
        dataset: of one source, or the mixture of several.
        surveys: one of each source.
        batch_size: as in :func:`plan_epoch`, and so are the further ones.

    Returns:
        The plan's figures.
    """
    plan = dataset.plan(seed)
    assert dataset.table is not None, "the surveys have counted"
    order = plan.samples
    lengths = dataset.table.lengths[order].astype(np.int64)
    prefixes = dataset.table.prefixes[order].astype(np.int64)
    starts = np.concatenate([survey.lengths["start"] for survey in surveys])[order]
    # An image that is cut into tiles counts for each of its pictures.
    images_of = np.concatenate([survey.lengths["image"] for survey in surveys]) // dataset.tokenizer.num_image_tokens
    if dataset.packed:
        assert plan.documents is not None, "packed rows hold documents"
        num_documents = len(plan.documents) - 1
        tokens = int((lengths - prefixes).sum() + prefixes[plan.documents[:-1]].sum())
        fill = tokens / (len(plan) * dataset.row_length) if len(plan) else 0.0
        images = _images_of_rows(plan, images_of)
    else:
        tokens, num_documents, fill = int(lengths.sum()), len(order), None
        images = images_of[order]
    batches = np.add.reduceat(images, np.arange(0, len(images), batch_size)) if len(images) else images
    return Packing(
        packed=dataset.packed,
        units=len(plan),
        steps=-(-len(plan) // (batch_size * accumulated)),
        samples=len(order),
        documents=num_documents,
        tokens=tokens,
        fill=fill,
        saved_by_sharing=int(lengths.sum()) - tokens,
        # Computed once in a run.
        saved_by_preamble=max(int(starts.sum()) - len(dataset.prompt_prefix), 0),
        images=int(images.sum()),
        most_images=int(batches.max(initial=0)),
    )


def _images_of_rows(plan: EpochOrder, images_of: np.ndarray) -> np.ndarray:
    """``[u]``: images of each packed row, a document's once, which are those of its first sample."""
    if not len(plan):
        return np.zeros(0, dtype=np.int64)
    assert plan.documents is not None and plan.items is not None, "packed rows are counted"
    of_documents = images_of[plan.samples[plan.documents[:-1]]]
    return np.add.reduceat(of_documents, plan.items[:-1])


def _is_usable(survey: Survey) -> np.ndarray:
    usable = np.zeros(survey.num_rows, dtype=bool)
    usable[survey.good_rows()] = True
    return usable


def _usable(survey: Survey, name: str) -> np.ndarray:
    return survey.lengths[name][survey.good_rows()]
