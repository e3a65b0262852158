"""Draw the samples of a training step so that they fill our packed rows, as the data loader's do.

A GPU computes a row's padding as it computes words. The loader chooses among all samples of an epoch and leaves almost
none; the few samples of one padded batch would leave a third of a row, or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from training_workloads import IMAGE, WORKLOADS, Example, Preset

from medcap.data.epoch_order import plan_packed
from medcap.data.images.reference import ImageRef
from medcap.data.packing import Sample, make_table
from medcap.data.shared_prefix import continue_prompt_prefix, find_prompt_prefix

# So many images in a row that fit into no row any more, and the rows are full.
_TRIES = 24


def draw_examples(workload: str, preset: Preset, seed: int) -> list[Example]:
    """Return the samples of a step.

    Args:
        workload: one of ``WORKLOADS``.
        preset: with ``rows``, images are drawn until no further one fits into so many rows; otherwise it is one batch.
        seed: of the random numbers.
    """
    if preset.rows is None:
        return WORKLOADS[workload](preset, seed)
    chosen: list[Example] = []
    misses, number, images = 0, 0, 0
    while misses < _TRIES:
        batch = WORKLOADS[workload](preset, 1000 * seed + number)
        number += 1
        for image in sorted({example.image for example in batch}):
            further = [replace(example, image=images) for example in batch if example.image == image]
            while further and num_rows([*chosen, *further], preset) > preset.rows:
                further.pop()  # the last image may be asked less
            chosen += further
            images, misses = (images + 1, 0) if further else (images, misses + 1)
    return chosen


def num_rows(examples: Sequence[Example], preset: Preset) -> int:
    """Return how many rows samples are packed into, without their prompt prefix."""
    samples = [sample_of(example, preset) for example in examples]
    prefix = find_prompt_prefix(samples, IMAGE)
    return len(pack([continue_prompt_prefix(sample, prefix, IMAGE) for sample in samples], preset))


def pack(samples: Sequence[Sample], preset: Preset) -> list[list[list[int]]]:
    """Return the documents of each row, and the samples of each document."""
    plan = plan_packed(make_table(samples), np.arange(len(samples)), preset.row_length)
    return plan.rows(0, len(plan))


def sample_of(example: Example, preset: Preset) -> Sample:
    """Return an example as the loader makes it."""
    tokens, labels = example.tokens(preset.image_tokens)
    return Sample(
        np.array(tokens[:-1], dtype=np.int32),
        np.array(labels[1:], dtype=np.int32),
        (ImageRef(str(example.image)),),
        (preset.image_tokens,),
        5 + preset.image_tokens,
        "sample",
    )
