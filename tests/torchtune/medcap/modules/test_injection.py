import pytest
import torch

from medcap.modules.injection import inject_image_rows


def test_rows_go_to_their_positions_in_order():
    embeddings = torch.zeros(2, 3, 2)
    rows = torch.arange(8.0).reshape(4, 2)
    result = inject_image_rows(embeddings, rows, torch.tensor([1, 2, 3, 4]))
    assert result.tolist() == [[[0, 0], [0, 1], [2, 3]], [[4, 5], [6, 7], [0, 0]]]
    assert embeddings.abs().sum() == 0


def test_gradient_reaches_the_rows_and_not_the_overwritten_embeddings():
    embeddings = torch.zeros(1, 3, 1, requires_grad=True)
    rows = torch.zeros(1, 1, requires_grad=True)
    result = inject_image_rows(embeddings, rows, torch.tensor([1]))
    (result * torch.tensor([[[1.0], [2.0], [3.0]]])).sum().backward()
    assert embeddings.grad.flatten().tolist() == [1, 0, 3]
    assert rows.grad.item() == 2


@pytest.mark.parametrize("count", [3, 5])
def test_a_wrong_number_of_positions_is_an_error(count):
    with pytest.raises(ValueError, match=f"{count} image positions"):
        inject_image_rows(torch.zeros(1, 6, 2), torch.zeros(4, 2), torch.arange(count))
