from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import resize, to_tensor

from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer


def small(image):
    return to_tensor(resize(image, [8, 8]))


@pytest.fixture
def tokenizer(tmp_path):
    return ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), 4)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def open_mixture(workspace, tokenizer):
    """Open files a, b and c of 5, 7 and 1 rows; arguments change what is said of them, or of the data set."""
    rows = workspace.records()
    files = [
        workspace.write_data(f"{name}.json", part)
        for name, part in (("a", rows[:5]), ("b", rows[5:12]), ("c", rows[12:]))
    ]

    def opened(*weights, own=({}, {}, {}), **options):
        sources = [{"source": str(file)} for file in files]
        for given, weight, further in zip(sources, weights or [None] * 3, own, strict=True):
            given |= further if weight is None else {"weight": weight, **further}
        return chat_dataset(tokenizer, sources=sources, **{"max_seq_len": 96, **options})

    return opened


def samples(dataset, **options):
    plan = dataset.plan(**options)
    return plan.samples_of(0, len(plan))


def test_without_weights_an_epoch_holds_every_row_once(open_mixture):
    for packed in (True, False):
        dataset = open_mixture(packed=packed)
        for epoch in (0, 1):
            assert sorted(samples(dataset, seed=3, epoch=epoch)) == list(range(13))
        assert samples(dataset, epoch=0) != samples(dataset, epoch=1)


@pytest.mark.parametrize("packed", [True, False])
def test_shares_are_exact_and_rows_come_equally_often(open_mixture, packed):
    dataset = open_mixture(0.5, 0.3, 0.2, packed=packed, epoch_samples=20)
    shown = Counter()
    for epoch in range(7):
        found = samples(dataset, seed=1, epoch=epoch)
        assert [sum(start <= row < stop for row in found) for start, stop in ((0, 5), (5, 12), (12, 13))] == [10, 6, 4]
        shown.update(found)
    # 70 samples of 5 rows, 42 of 7, 28 of one.
    assert shown == Counter({**dict.fromkeys(range(5), 14), **dict.fromkeys(range(5, 12), 6), 12: 28})


def test_passes_over_a_small_source_are_whole_from_epoch_to_epoch(open_mixture, monkeypatch):
    monkeypatch.setattr("medcap.datasets.mixture._SMALL", 12)  # blocks of three passes over a, and of two over b
    dataset = open_mixture(8, 1, 1, epoch_samples=20)
    shown = [row for epoch in range(5) for row in samples(dataset, seed=1, epoch=epoch) if row < 5]
    passes = [shown[start : start + 5] for start in range(0, 80, 5)]
    assert len(shown) == 80
    assert all(sorted(rows) == [0, 1, 2, 3, 4] for rows in passes)
    assert len(set(map(tuple, passes))) > 12


def test_a_row_that_comes_again_is_in_another_document(open_mixture):
    dataset = open_mixture(8, 1, 1, packed=True, epoch_samples=30)
    plan = dataset.plan(seed=2, epoch=3)
    documents = [document for row in plan.rows(0, len(plan)) for document in row]
    assert sum(map(len, documents)) == 30
    assert any(len(document) > 1 for document in documents)
    assert all(len(set(document)) == len(document) for document in documents)


def test_samples_of_two_sources_share_an_image(open_mixture):
    # Rows 0, 4 and 8 of all show the first image; 0 and 4 are of the first source, 8 of the second.
    dataset = open_mixture(packed=True)
    plan = dataset.plan(seed=0)
    assert [0, 4, 8] in [sorted(document) for row in plan.rows(0, len(plan)) for document in row]


def test_the_list_of_one_source_has_the_plans_of_that_source(workspace, tokenizer):
    for packed in (True, False):
        options = {"max_seq_len": 96, "packed": packed}
        one = chat_dataset(tokenizer, source=str(workspace.data), **options)
        listed = chat_dataset(tokenizer, sources=[{"source": str(workspace.data), "weight": 2}], **options)
        for shuffle in (True, False):
            assert samples(one, seed=5, epoch=4, shuffle=shuffle) == samples(listed, seed=5, epoch=4, shuffle=shuffle)


def test_batches_and_bad_rows_name_file_and_row(open_mixture, workspace):
    dataset = open_mixture()
    (workspace.folder / "images" / "1.png").write_bytes(b"cut")
    plan = dataset.plan(shuffle=False)
    batch, bad = dataset.load(plan, 0, 13, small)
    names = {
        f"{workspace.folder}/a.json, row 1",
        f"{workspace.folder}/b.json, row 0",
        f"{workspace.folder}/b.json, row 4",
    }
    assert {row.name for row in bad} == names
    assert {row.name for row in dataset.check_images(1000)} == names
    assert f"{workspace.folder}/c.json, row 0" in batch.names
    assert len(batch.names) == 10


def test_a_sample_that_comes_twice_in_a_batch_is_learnt_twice(open_mixture):
    dataset = open_mixture(1, 1, 4)
    plan = dataset.plan(shuffle=False)
    whole, _ = dataset.load(plan, 0, len(plan), small)
    assert sum(name.endswith("c.json, row 0") for name in whole.names) == 9


def test_each_source_has_its_own_image_folders_and_rules(open_mixture, workspace, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "images").mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * number, dtype=np.uint8)).save(elsewhere / f"images/{number}.png")
    plain = open_mixture()
    other = open_mixture(own=({}, {"image_roots": [str(elsewhere)], "train_on_input": True}, {}))
    assert plain.sample(0).targets.tolist() == other.sample(0).targets.tolist()
    assert (plain.sample(5).targets != -100).sum() < (other.sample(5).targets != -100).sum()
    assert [str(image.path) for image in other.sample(5).images] == [f"{elsewhere}/images/1.png"]
    assert [str(image.path) for image in other.sample(0).images] == [f"{workspace.folder}/images/0.png"]


def test_what_changes_the_plan_changes_the_fingerprint(open_mixture):
    first = open_mixture(5, 3, 1).plan_fingerprint
    assert open_mixture(10, 6, 2).plan_fingerprint == first  # the same shares
    changes = [((5, 3, 2), {}), ((5, 3, 1), {"epoch_samples": 14}), ((5, 3, 1), {"max_seq_len": 90})]
    changes.append(((5, 3, 1), {"own": ({}, {"train_on_input": True}, {})}))
    found = [open_mixture(*weights, **options).plan_fingerprint for weights, options in changes]
    assert len({first, *found}) == 5


def test_the_table_says_what_an_epoch_is_made_of(open_mixture):
    assert open_mixture(0.5, 0.3, 0.2, epoch_samples=20, own=({"name": "questions"}, {}, {})).describe() == (
        "  questions            5 rows           10 samples an epoch (50.0%), 2.00 passes\n"
        "  b                    7 rows            6 samples an epoch (30.0%), 0.86 passes\n"
        "  c                    1 rows            4 samples an epoch (20.0%), 4.00 passes"
    )


def test_a_source_without_a_usable_row_is_refused(workspace, tokenizer):
    empty = workspace.write_data("empty.json", [{"image": "images/9.png"}])
    with pytest.raises(UserError, match=r"empty.json holds no usable row"):
        chat_dataset(tokenizer, sources=[{"source": str(workspace.data)}, {"source": str(empty)}], max_seq_len=96)


def test_bad_rows_are_in_no_pass(workspace, tokenizer):
    rows = workspace.records()
    del rows[2]["conversations"]
    sources = [{"source": str(workspace.write_data("bad.json", rows))}, {"source": str(workspace.data)}]
    dataset = chat_dataset(tokenizer, sources=sources, max_seq_len=96)
    assert [row.name for row in dataset.bad] == [f"{workspace.folder}/bad.json, row 2"]
    assert dataset.num_rows == 26
    assert sorted(samples(dataset)) == [row for row in range(26) if row != 2]
