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


def test_block_mask_equals_the_boolean_mask():
    generator = torch.Generator().manual_seed(0)
    document = torch.randint(-1, 4, (2, 37), generator=generator).sort(dim=1).values
    branch = torch.randint(0, 3, (2, 37), generator=generator)
    block = packed_attention_mask(document, branch, flex=True)
    query, key = torch.meshgrid(torch.arange(37), torch.arange(37), indexing="ij")
    for row in range(2):
        expected = packed_attention_mask(document, branch)[row]
        assert torch.equal(block.mask_mod(torch.tensor(row), torch.tensor(0), query, key), expected)


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


def test_block_mask_with_a_prompt_prefix_equals_the_boolean_mask():
    generator = torch.Generator().manual_seed(0)
    document = torch.randint(-1, 4, (2, 37), generator=generator).sort(dim=1).values
    branch = torch.randint(0, 3, (2, 37), generator=generator)
    after = torch.isin(document, torch.tensor([0, 2])).long()
    block = packed_attention_mask(document, branch, True, after, 5)
    query, key = torch.meshgrid(torch.arange(37), torch.arange(42), indexing="ij")
    for row in range(2):
        expected = packed_attention_mask(document, branch, False, after, 5)[row]
        assert torch.equal(block.mask_mod(torch.tensor(row), torch.tensor(0), query, key), expected)
