import pytest
from torchvision.transforms.functional import resize, to_tensor

from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap.data.tokenization import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), 4)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_sample_stands_in_exactly_one_batch_of_an_epoch(workspace, tokenizer, packed, epoch):
    dataset = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96, packed=packed)
    plans = dataset.plan(batch_size=2, seed=3, epoch=epoch)
    assert sorted(sample for plan in plans for sample in plan.samples) == list(range(13))
    assert plans == dataset.plan(batch_size=2, seed=3, epoch=epoch)
    assert plans != dataset.plan(batch_size=2, seed=3, epoch=epoch + 1)


def test_a_batch_size_counts_samples_or_rows(workspace, tokenizer):
    unpacked = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96)
    assert [len(plan.samples) for plan in unpacked.plan(batch_size=4)] == [4, 4, 4, 1]
    packed = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96, packed=True)
    plans = packed.plan(batch_size=2)
    assert all(len(plan.rows) == 2 for plan in plans[:-1])
    assert {plan.row_length for plan in plans} == {96}


def test_a_damaged_image_takes_only_its_own_samples_along(workspace, tokenizer):
    dataset = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=200, packed=True)
    (workspace.folder / "images" / "1.png").write_bytes(b"cut")
    (plan,) = dataset.plan(batch_size=100)
    batch, bad = dataset.load(plan, lambda image: to_tensor(resize(image, [8, 8])))
    assert len(bad) == 3
    assert len(batch.names) == 10
    assert batch.images.shape == (3, 3, 8, 8)
    assert len(batch.image_positions) == 3 * 4
    assert [row.name for row in dataset.check_images(limit=0)] == [f"{workspace.data}, row 1"]


def test_a_file_without_a_usable_row_is_an_error(workspace, tokenizer):
    path = workspace.write_data("none.json", [{"image": "a.png"}])
    with pytest.raises(UserError, match="holds no usable row"):
        chat_dataset(tokenizer, source=str(path))
    with pytest.raises(UserError, match="holds no rows"):
        chat_dataset(tokenizer, source=str(workspace.write_data("empty.json", [])))
