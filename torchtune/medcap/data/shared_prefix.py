"""The words that samples begin with, before anything that is learnt or seen.

Their keys and values in a frozen language model never change, so a model computes them once (``cache_prompt_prefix`` of
``VisionLanguageModel``) and samples leave them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from medcap.data.packing import Sample
from medcap.modules.label_loss import IGNORE_INDEX


def find_prompt_prefix(samples: Iterable[Sample], image_token_id: int) -> tuple[int, ...]:
    """Return the prefix that saves the most tokens if it is computed once for all samples that begin with it.

    Args:
        samples: some of a dataset, whole.
        image_token_id: the id at image positions.

    Returns:
        Token ids; none if no two samples begin alike.
    """
    heads = [sample.tokens[: _head_length(sample, image_token_id)].tolist() for sample in samples]
    counts = Counter(tuple(head[:length]) for head in heads for length in range(1, len(head) + 1))
    shared = [(len(head) * (count - 1), head) for head, count in counts.items() if count > 1]
    return max(shared, default=(0, ()))[1]


def continue_prompt_prefix(sample: Sample, prompt_prefix: tuple[int, ...], image_token_id: int) -> Sample:
    """Leave the prompt prefix out of a sample that begins with it.

    Args:
        sample: a whole one.
        prompt_prefix: prompt prefix from :func:`find_prompt_prefix`.
        image_token_id: the id at image positions.

    Returns:
        The rest of it, or the sample itself if it begins otherwise or with something that is learnt.
    """
    count = len(prompt_prefix)
    # Keep at least one token, so that no sample becomes empty.
    if not count or count > _head_length(sample, image_token_id) or count >= len(sample.tokens):
        return sample
    if tuple(sample.tokens[:count].tolist()) != prompt_prefix:
        return sample
    return replace(
        sample,
        tokens=sample.tokens[count:],
        targets=sample.targets[count:],
        images_end=max(sample.images_end - count, 0),
        start=count,
        boxes=tuple(replace(box, position=box.position - count) for box in sample.boxes),
        masks=tuple(replace(mask, position=mask.position - count) for mask in sample.masks),
        regions=tuple(replace(region, position=region.position - count) for region in sample.regions),
    )


def _head_length(sample: Sample, image_token_id: int) -> int:
    """Tokens before the first of an image or a region and before the first that predicts something."""
    ends = (sample.tokens == image_token_id) | (sample.targets != IGNORE_INDEX)
    first = int(np.argmax(ends)) if ends.any() else len(sample.tokens)
    return min([first, *(region.position for region in sample.regions)])
