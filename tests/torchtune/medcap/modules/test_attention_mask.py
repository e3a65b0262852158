import torch

from medcap.modules.attention_mask import packed_attention_mask


def test_branches_see_the_prefix_and_themselves_only():
    document = torch.tensor([[0, 0, 0, 0, 1, -1, -1]])
    branch = torch.tensor([[0, 0, 1, 2, 0, 0, 0]])
    mask = packed_attention_mask(document, branch)
    assert mask.int().tolist() == [
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1, 1],
        ]
    ]


def test_documents_that_continue_the_prompt_prefix_see_all_of_it():
    document = torch.tensor([[0, 0, 1, -1]])
    after = torch.tensor([[1, 1, 0, 0]])
    mask = packed_attention_mask(
        document, torch.zeros_like(document), after_prompt_prefix=after, prompt_prefix_length=2
    )
    assert mask.int().tolist() == [
        [
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ]
