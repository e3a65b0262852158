import numpy as np
import pytest

from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.datasets.inspection.images import read_header
from medcap.datasets.inspection.rows import RowChecker
from medcap.datasets.inspection.statistics import image_statistics, plan_epoch
from medcap.datasets.inspection.survey import survey
from medcap.models.tokenizers import llama3_tokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    workspace = Workspace(folder)
    rows = [*workspace.records(), {"conversations": []}]
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), 4)
    source = str(workspace.write_data("rows.json", rows))
    return chat_dataset(tokenizer, source=source, max_seq_len=96, packed=True, image_roots=[str(folder)])


def look(dataset):
    checker = RowChecker(dataset.rows, dataset.reader, "auto", dataset.tokenizer, dataset.row_length)
    checker.prompt_prefix = dataset.prompt_prefix
    return survey(checker, 1, read_header)


@pytest.mark.parametrize("share", [True, False])
def test_the_plan_is_that_of_training(dataset, share):
    dataset.share_images = share
    plan = dataset.plan(seed=5)
    found = plan_epoch(look(dataset), batch_size=2, share=share, seed=5)
    assert (found.units, found.documents, found.samples) == (len(plan), len(plan.documents) - 1, 13)
    batches = [
        dataset.load(plan, start, min(start + 2, len(plan)), lambda image: _small())[0]
        for start in range(0, len(plan), 2)
    ]
    assert found.steps == len(batches)
    assert found.tokens == sum(batch.num_tokens for batch in batches)
    assert found.fill == found.tokens / (96 * len(plan))
    assert found.documents == (5 if share else 13)
    assert found.images >= sum(batch.num_images for batch in batches)
    assert found.most_images >= max(batch.num_images for batch in batches)
    assert (found.saved_by_sharing > 0) == share


def _small():
    import torch

    return torch.zeros(3, 8, 8)


def test_unpacked_units_are_samples(dataset):
    found = plan_epoch(look(dataset), batch_size=2, accumulated=2, packed=False)
    assert (found.units, found.steps, found.fill, found.images, found.most_images) == (13, 4, None, 12, 2)
    assert found.saved_by_preamble == 12 * len(dataset.prompt_prefix)


def test_images_are_counted_once_with_size_and_format(dataset):
    found = image_statistics(look(dataset))
    assert (found["files"], found["named"], found["unreadable"], found["formats"]) == (4, 12, 0, {"PNG": 4})
    assert found["images_a_row"] == {0: 1, 1: 12}
    assert (found["shorter_side"]["max"], found["longer_side"]["min"]) == (20, 24)


def test_the_lengths_are_those_that_training_counts(dataset):
    lengths = [0 if row == 13 else len(dataset.sample(row).tokens) for row in range(14)]
    assert np.array_equal(look(dataset).lengths["sample"], lengths)
