"""Prompts about one image as a tree: what they begin with once, then a branch each, then a leaf for each candidate.

A tree is one row of a forward pass. A branch is visible only to itself and its leaves, so the result is what each
prompt alone would give, while an image costs its tokens once however many questions follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from medcap.data.question_regions import QuestionRegion
from medcap.generation.decoding.seen_image import SeenImage
from medcap.generation.request import GREEDY, PreparedImage, RequestImage, Sampling

MAX_TREE_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request, ready to run.

    Attributes:
        index: index in the list of requests.
        key: its id, or its index where it has none.
        tokens: ``[n]`` int32.
        images: images of its runs of image tokens, in order.
        image_lengths: image tokens of each image.
        limit: most tokens of its answer.
        candidates: ``[m]`` int32 each; answers to be scored, none for generation.
        sampling: how the tokens of its answer are chosen.
        without: components that the model does without for it.
        route: weights of the experts for all its tokens; empty where each token chooses, or there are none.
        regions: the regions that it names, in order.
    """

    index: int
    key: str
    tokens: np.ndarray
    images: list[RequestImage]
    image_lengths: list[int]
    limit: int = 0
    candidates: Sequence[np.ndarray] = ()
    sampling: Sampling = GREEDY
    without: tuple[str, ...] = ()
    route: tuple[float, ...] = ()
    regions: tuple[QuestionRegion, ...] = ()

    @property
    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """What of the model answers it; prompts are computed together where this is equal."""
        return self.without, self.route

    @property
    def capacity(self) -> int:
        """Tokens of the prompt and its longest answer."""
        return len(self.tokens) + self.limit

    @property
    def num_leaf_tokens(self) -> int:
        """Tokens of the candidates that are read: of each all but the last, which is only predicted."""
        return sum(len(candidate) - 1 for candidate in self.candidates)


@dataclass(frozen=True)
class Tree:
    """Prompts that share their beginning.

    Attributes:
        prompts: at least one.
        num_shared: tokens that all of them begin with; 0 for a single prompt.
        image_rows: ``[sum of K_i, d]`` image tokens of its images, once they are encoded.
        last_image: its last image, once it is encoded.
        region_rows: ``[n, d]`` tokens of its prompts' regions, once they are encoded; None without any.
    """

    prompts: list[Prompt]
    num_shared: int = 0
    image_rows: Tensor | None = None
    last_image: SeenImage | None = None
    region_rows: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole row."""
        own = sum(len(prompt.tokens) - self.num_shared + prompt.num_leaf_tokens for prompt in self.prompts)
        return self.num_shared + own

    @property
    def capacity(self) -> int:
        """Most tokens of a prompt and its answer."""
        return max(prompt.capacity for prompt in self.prompts)

    @property
    def images(self) -> list[RequestImage]:
        """Of the runs of image tokens in the row."""
        return self.prompts[0].images


@dataclass(frozen=True)
class PackedTrees:
    """Trees laid out as rows of one forward pass, in the host's memory.

    Attributes:
        tokens: ``[R, S]`` int64, padded with 0.
        positions: ``[R, S]`` int64, of each token within its own prompt.
        branch: ``[R, S]`` int64; see ``tree_attention_mask``.
        leaf: ``[R, S]`` int64.
        last: flat index of each prompt's last token, in the order of the trees' prompts.
        shared: for each prompt, the flat index at which its row begins and the number of tokens it shares.
        own: for each prompt, the flat index at which its branch begins.
        leaves: for each prompt, the flat index at which each candidate's leaf begins.
    """

    tokens: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    leaf: np.ndarray
    last: list[int]
    shared: list[tuple[int, int]]
    own: list[int]
    leaves: list[list[int]] = field(default_factory=list)

    def sources(self, leaf_number: int, num_tokens: int) -> np.ndarray:
        """Flat indices of a prompt's tokens, from its first to its last.

        Args:
            leaf_number: number of the prompt's leaf.
            num_tokens: number of tokens of the prompt.

        Returns:
            ``[num_tokens]`` int64.
        """
        start, num_shared = self.shared[leaf_number]
        own = self.own[leaf_number] + np.arange(num_tokens - num_shared)
        return np.concatenate([start + np.arange(num_shared), own])


def image_key(image: RequestImage) -> Hashable:
    """Return what two requests about the same image have in common: the reference, its content, or the very picture."""
    if isinstance(image, PreparedImage):
        return ("prepared", image.key)
    return ("memory", id(image)) if isinstance(image, Image.Image) else image


def plan_trees(
    prompts: Sequence[Prompt], image_token_id: int, max_branches: int, max_tokens: int = MAX_TREE_TOKENS
) -> list[Tree]:
    """Put the prompts about the same images together.

    Args:
        prompts: prompts in any order.
        image_token_id: the id at image positions.
        max_branches: most prompts of a tree.
        max_tokens: most tokens of a tree; a single prompt may have more.

    Returns:
        Trees in the order of their first prompts; prompts of text only are never shared, as few of their tokens agree.
    """
    groups: dict[Any, list[Prompt]] = {}
    for prompt in prompts:
        key = tuple(map(image_key, prompt.images)) or ("text", prompt.index)
        groups.setdefault(key, []).append(prompt)
    trees: list[Tree] = []
    for group in groups.values():
        num_shared = _num_shared(group, image_token_id)
        if num_shared:
            trees += [Tree(part, num_shared) for part in _parts(group, num_shared, max_branches, max_tokens)]
        else:
            trees += [Tree([prompt]) for prompt in group]
    return trees


def pack_trees(trees: Sequence[Tree]) -> PackedTrees:
    """Lay trees out as rows.

    Args:
        trees: R of them.

    Returns:
        The rows, padded on the right to the longest.
    """
    length = max(tree.num_tokens for tree in trees)
    tokens, positions, leaf = (np.zeros((len(trees), length), dtype=np.int64) for _ in range(3))
    branch = np.full((len(trees), length), -1, dtype=np.int64)
    last, shared, own, leaves = [], [], [], []
    for row, tree in enumerate(trees):
        first = row * length
        end = tree.num_shared
        tokens[row, :end] = tree.prompts[0].tokens[:end]
        positions[row, :end] = np.arange(end)
        branch[row, :end] = 0
        for number, prompt in enumerate(tree.prompts, start=1):
            start, end = end, end + len(prompt.tokens) - tree.num_shared
            tokens[row, start:end] = prompt.tokens[tree.num_shared :]
            positions[row, start:end] = np.arange(tree.num_shared, len(prompt.tokens))
            branch[row, start:end] = number
            shared.append((first, tree.num_shared))
            own.append(first + start)
            last.append(first + end - 1)
            leaves.append([])
            for leaf_number, candidate in enumerate(prompt.candidates, start=1):
                start, end = end, end + len(candidate) - 1
                tokens[row, start:end] = candidate[:-1]
                positions[row, start:end] = np.arange(len(prompt.tokens), len(prompt.tokens) + len(candidate) - 1)
                branch[row, start:end] = number
                leaf[row, start:end] = leaf_number
                leaves[-1].append(first + start)
    return PackedTrees(tokens, positions, branch, leaf, last, shared, own, leaves)


def chunks(trees: Sequence[Tree], max_tokens: int) -> list[list[Tree]]:
    """Cut a list of trees into forward passes.

    Args:
        trees: the longer first, for little padding.
        max_tokens: most tokens of a pass, padding included; a single longer tree is a pass.

    Returns:
        The passes, in the order of the trees.
    """
    passes: list[list[Tree]] = []
    longest = 0
    for tree in trees:
        longest = max(longest, tree.num_tokens)
        if passes and (len(passes[-1]) + 1) * longest <= max_tokens:
            passes[-1].append(tree)
        else:
            passes.append([tree])
            longest = tree.num_tokens
    return passes


def _parts(group: list[Prompt], num_shared: int, max_branches: int, max_tokens: int) -> list[list[Prompt]]:
    parts: list[list[Prompt]] = []
    used = 0
    for prompt in group:
        size = len(prompt.tokens) - num_shared + prompt.num_leaf_tokens
        if not parts or len(parts[-1]) == max_branches or used + size > max_tokens:
            parts.append([])
            used = num_shared
        parts[-1].append(prompt)
        used += size
    return parts


def _num_shared(prompts: Sequence[Prompt], image_token_id: int) -> int:
    """Tokens that all prompts begin with, the images among them; 0 where there is nothing to gain."""
    if len(prompts) < 2:
        return 0
    first = prompts[0].tokens
    # A branch keeps at least its last token: that is where its answer begins.
    length = min(len(prompt.tokens) for prompt in prompts) - 1
    # The tokens of different regions are equal.
    length = min([length, *(region.position for prompt in prompts for region in prompt.regions)])
    for prompt in prompts[1:]:
        differs = np.flatnonzero(first[:length] != prompt.tokens[:length])
        length = int(differs[0]) if len(differs) else length
    image_positions = np.flatnonzero(first == image_token_id)
    # [Contract] an image belongs to the prefix as a whole: half a run would have half its rows.
    return length if len(image_positions) and image_positions[-1] < length else 0


def longest_answer(trees: Sequence[Tree]) -> int:
    """Return the most tokens that an answer of these trees may have."""
    return max(prompt.limit for tree in trees for prompt in tree.prompts)


def num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return next(
        (position for position, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
