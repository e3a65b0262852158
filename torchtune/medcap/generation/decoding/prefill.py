"""One forward pass over trees of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.generation.decoding.host_copy import copy_together
from medcap.generation.decoding.image_rows import ImageRows
from medcap.generation.decoding.prefix_tree import PackedTrees, Prompt, Tree
from medcap.generation.request import RequestImage
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.attention_mask import added_mask, tree_attention_mask

# Most tokens of one pass, padding included: activations stay small next to the weights; on a CPU they fit its caches.
PREFILL_TOKENS = 8192
PREFILL_TOKENS_ON_CPU = 2048


def prefill_tokens(device: torch.device) -> int:
    """Most tokens of one pass on a device."""
    return PREFILL_TOKENS_ON_CPU if device.type == "cpu" else PREFILL_TOKENS


def with_image_rows(
    tree: Tree, images: ImageRows, ahead: Iterable[RequestImage]
) -> tuple[Tree | None, dict[Prompt, str]]:
    """Look at a tree's images, and at the regions that its prompts name.

    Args:
        tree: its images may be encoded already.
        images: encodes.
        ahead: images of the trees that come next.

    Returns:
        The tree with its image rows and with those prompts that can be answered, or None if none can; and why each of
        the others cannot.
    """
    if not tree.images:
        return tree, {}
    images.encode(tree.images, ahead)
    failure = next(filter(None, map(images.failure, tree.images)), "")
    # [Contract] the n-th image fills the n-th run: a file that changed since the prompt was made may not fit.
    if not failure and [images.num_rows(image) for image in tree.images] != tree.prompts[0].image_lengths:
        failure = "an image changed while its request waited: ask again"
    if failure:
        return None, dict.fromkeys(tree.prompts, failure)
    kept, rows, failed = [], [], dict[Prompt, str]()
    for prompt in tree.prompts:
        try:
            rows += [images.encode_region(one, prompt.images[one.image]) for one in prompt.regions]
            kept.append(prompt)
        except UserError as error:
            failed[prompt] = str(error)
    looked = replace(
        tree,
        prompts=kept,
        image_rows=images.rows_of(tree.images),
        last_image=images.seen(tree.images[-1]),
        region_rows=torch.cat(rows) if rows else None,
    )
    return (looked if kept else None), failed


def run_trees(
    model: VisionLanguageModel, trees: Sequence[Tree], packed: PackedTrees, output_positions: Sequence[int] | np.ndarray
) -> Tensor:
    """Run trees through the decoder.

    Args:
        model: model in eval mode.
        trees: trees with their image rows.
        packed: layout of the same trees.
        output_positions: ``[n]`` flat positions of the tokens whose successors are wanted.

    Returns:
        ``[n, d]``, their hidden states before the final norm.
    """
    rows = [tree.image_rows for tree in trees if tree.image_rows is not None]
    places = np.flatnonzero(packed.tokens == model.image_token_id)
    regions = [tree.region_rows for tree in trees if tree.region_rows is not None]
    if regions:
        # Those of a tree stand in its branches, in the order of its prompts.
        places = np.concatenate([places, np.flatnonzero(packed.tokens == model.region_token_id)])
    tokens, positions, branch, leaf, places, outputs = copy_together(
        [packed.tokens, packed.positions, packed.branch, packed.leaf, places, output_positions], model.device
    )
    seen = torch.cat([*rows, *regions]) if rows else None  # [sum of K_i, d]
    embeddings = model.embed(tokens, seen, places)  # [R, S, d]
    # Added, not boolean: a boolean mask would be turned into this one again in every layer.
    mask = added_mask(tree_attention_mask(branch, leaf), model.dtype)
    return model.hidden_at(embeddings, outputs, mask, positions)


def mask_logits(model: VisionLanguageModel, logits: Tensor, vocab_size: int) -> Tensor:
    """Leave what may be said: words of the vocabulary, and never the image token.

    Args:
        model: model whose logits they are.
        logits: ``[n, V]`` float32; changed in place.
        vocab_size: vocab size of the tokenizer, without added words.

    Returns:
        The same, minus infinity where nothing may be said.
    """
    # Added words have their columns after those of the table.
    logits[:, vocab_size : model.decoder.tok_embeddings.num_embeddings] = -torch.inf
    logits[:, model.image_token_id : model.image_token_id + 1] = -torch.inf
    return logits
