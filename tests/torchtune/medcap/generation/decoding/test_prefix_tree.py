import numpy as np
import torch

from medcap.generation.decoding.prefix_tree import Prompt, Tree, chunks, pack_trees, plan_trees
from medcap.modules.attention_mask import tree_attention_mask

IMAGE = 9


def prompt(
    index: int, tokens: list[int], images: tuple[str, ...] = (), candidates: tuple[list[int], ...] = ()
) -> Prompt:
    scored = [np.array(candidate, dtype=np.int32) for candidate in candidates]
    return Prompt(index, str(index), np.array(tokens, dtype=np.int32), list(images), [2] * len(images), 4, scored)


def layout(trees: list[Tree]) -> list[tuple[list[int], int]]:
    return [([member.index for member in tree.prompts], tree.num_shared) for tree in trees]


def plan(prompts: list[Prompt], **options: int) -> list[tuple[list[int], int]]:
    return layout(plan_trees(prompts, IMAGE, **{"max_branches": 8, **options}))


def test_prompts_of_one_image_share_their_beginning():
    asked = [
        prompt(0, [1, IMAGE, IMAGE, 2, 3, 4], ("a",)),
        prompt(1, [1, IMAGE, IMAGE, 5], ("b",)),
        prompt(2, [1, IMAGE, IMAGE, 2, 3, 6, 7], ("a",)),
    ]
    assert plan(asked) == [([0, 2], 5), ([1], 0)]


def test_equal_prompts_keep_a_token_each():
    asked = [prompt(index, [1, IMAGE, 2, 3], ("a",)) for index in range(2)]
    assert plan(asked) == [([0, 1], 3)]


def test_an_image_is_never_cut():
    early, late = prompt(0, [1, IMAGE, IMAGE, 2], ("a",)), prompt(1, [1, 5, IMAGE, IMAGE, 2], ("a",))
    assert plan([early, late]) == [([0], 0), ([1], 0)]
    ends_with_it = [prompt(index, [1, IMAGE, IMAGE], ("a",)) for index in range(2)]
    assert plan(ends_with_it) == [([0], 0), ([1], 0)]


def test_only_the_same_images_in_the_same_order_are_shared():
    tokens = [1, IMAGE, 2, IMAGE, 3]
    asked = [prompt(0, tokens, ("a", "b")), prompt(1, tokens, ("b", "a")), prompt(2, tokens, ("a", "b"))]
    assert plan(asked) == [([0, 2], 4), ([1], 0)]


def test_text_alone_is_not_shared():
    assert plan([prompt(index, [1, 2, 3, 4]) for index in range(2)]) == [([0], 0), ([1], 0)]


def test_a_tree_has_so_many_branches_and_tokens_at_most():
    asked = [prompt(index, [1, IMAGE, 2, 3, index], ("a",), ([7, 7],)) for index in range(5)]
    assert [members for members, _ in plan(asked, max_branches=2)] == [[0, 1], [2, 3], [4]]
    trees = plan_trees(asked, IMAGE, 8, max_tokens=8)
    assert [[member.index for member in tree.prompts] for tree in trees] == [[0, 1], [2, 3], [4]]
    assert [tree.num_tokens for tree in trees] == [8, 8, 6]
    assert len(plan_trees(asked, IMAGE, 8, max_tokens=1)) == 5


def test_the_layout_of_a_tree():
    tree = Tree(
        [prompt(0, [1, IMAGE, 2, 3], ("a",), ([5, 6, 7], [8])), prompt(1, [1, IMAGE, 4], ("a",), ([5, 6],))],
        num_shared=2,
    )
    alone = Tree([prompt(2, [1, 2])])
    packed = pack_trees([tree, alone])
    assert packed.tokens.tolist() == [[1, IMAGE, 2, 3, 5, 6, 4, 5], [1, 2, 0, 0, 0, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 5, 2, 3], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert packed.branch.tolist() == [[0, 0, 1, 1, 1, 1, 2, 2], [1, 1, -1, -1, -1, -1, -1, -1]]
    assert packed.leaf.tolist() == [[0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]]
    assert (packed.last, packed.leaves) == ([3, 6, 9], [[4, 6], [7], []])
    assert packed.sources(1, 3).tolist() == [0, 1, 6]
    assert packed.sources(2, 2).tolist() == [8, 9]


def test_who_sees_whom_in_a_tree():
    branch = torch.tensor([[0, 1, 1, 1, 1, 2, -1]])
    leaf = torch.tensor([[0, 0, 1, 1, 2, 0, 0]])
    seen = tree_attention_mask(branch, leaf)[0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_passes_hold_so_many_tokens_at_most():
    trees = [Tree([prompt(index, [1] * length)]) for index, length in enumerate((6, 5, 5, 2, 2))]
    assert [[tree.num_tokens for tree in part] for part in chunks(trees, 12)] == [[6, 5], [5, 2], [2]]
    assert [len(part) for part in chunks(trees, 1)] == [1, 1, 1, 1, 1]
