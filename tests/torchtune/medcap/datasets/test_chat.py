import dataclasses
import io
import tarfile

import numpy as np
import pytest
from torchvision.transforms.functional import resize, to_tensor

from helpers.dicom_files import write_dicom
from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.views import View
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.datasets.chat import chat_dataset
from medcap.datasets.chat_rows import ChatDataset
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


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_sample_is_in_exactly_one_unit_of_an_epoch(workspace, tokenizer, packed, epoch):
    dataset = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96, packed=packed)
    plans = [dataset.plan(seed=3, epoch=number) for number in (epoch, epoch, epoch + 1)]
    samples = [plan.samples_of(0, len(plan)) for plan in plans]
    assert sorted(samples[0]) == list(range(13))
    assert samples[0] == samples[1]
    assert samples[0] != samples[2]


def test_units_are_samples_or_rows(workspace, tokenizer):
    unpacked = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96)
    assert len(unpacked.plan()) == 13
    packed = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96, packed=True)
    plan = packed.plan()
    assert 1 < len(plan) < 13
    batch, bad = packed.load(plan, 0, 2, small)
    assert batch.tokens.shape == (2, 96)
    assert not bad


def test_each_view_of_an_image_is_opened_once_and_is_in_its_own_row(workspace, tokenizer, monkeypatch):
    frames = np.stack([np.full((4, 4), 51 * number, dtype=np.uint8) for number in range(3)])
    write_dicom(workspace.folder / "images" / "scan.dcm", frames)
    row = {**workspace.records()[0], "image": "images/scan.dcm"}
    dataset = chat_dataset(tokenizer, source=str(workspace.write_data("scans.json", [row] * 4)), max_seq_len=96)
    plain = dataset.sample
    last = dataclasses.replace(plain(0).images[0], view=View(frames=2))
    monkeypatch.setattr(
        dataset,
        "sample",
        lambda index: dataclasses.replace(plain(index), images=(last,)) if index > 1 else plain(index),
    )
    opened = []
    batch, bad = dataset.load(dataset.plan(), 0, 4, lambda image: opened.append(image) or small(image))
    assert (len(opened), batch.num_images, bad) == (2, 2, [])
    assert sorted(batch.images[:, 0, 0, 0].tolist()) == pytest.approx([0.2, 0.4])


def test_a_damaged_image_takes_only_its_own_samples_along(workspace, tokenizer):
    for packed in (True, False):
        dataset = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=200, packed=packed)
        whole = (workspace.folder / "images" / "1.png").read_bytes()
        (workspace.folder / "images" / "1.png").write_bytes(b"cut")
        plan = dataset.plan()
        batch, bad = dataset.load(plan, 0, len(plan), small)
        assert sorted(row.name for row in bad) == [f"{workspace.data}, row {index}" for index in (1, 5, 9)]
        assert len(batch.names) == 10
        assert batch.images.shape == (3, 3, 8, 8)
        assert len(batch.image_positions) == 3 * 4
        assert len(dataset.check_images(limit=100)) == 3
        assert len(dataset.check_images(limit=2)) == 0
        (workspace.folder / "images" / "1.png").write_bytes(whole)


def test_a_bad_row_is_in_no_plan(workspace, tokenizer):
    rows = workspace.records()
    del rows[2]["conversations"]
    source = str(workspace.write_data("bad.json", rows))
    dataset = chat_dataset(tokenizer, source=source, max_seq_len=96)
    assert [row.name for row in dataset.bad] == [f"{source}, row 2"]
    assert "there is no 'conversations'" in dataset.bad[0].reason
    assert sorted(dataset.plan().samples_of(0, 12)) == [0, 1, *range(3, 13)]


def test_rows_that_were_not_counted_are_found_bad_when_they_are_loaded(workspace, tokenizer, monkeypatch):
    monkeypatch.setattr("medcap.datasets.chat.COUNT_ALWAYS", 0)
    rows = workspace.records()
    del rows[2]["conversations"]
    dataset = chat_dataset(tokenizer, source=str(workspace.write_data("bad.json", rows)), max_seq_len=96)
    assert dataset.bad == []
    batch, bad = dataset.load(dataset.plan(shuffle=False), 0, 4, small)
    assert len(batch.names) == 3
    assert "row 2: there is no 'conversations'" in bad[0].reason


def test_a_count_that_no_longer_fits_is_an_error_and_not_a_wrong_row(workspace, tokenizer):
    dataset = chat_dataset(tokenizer, source=str(workspace.data), max_seq_len=96, packed=True)
    plan = dataset.plan()
    dataset.rules = LabelRules(train_on_header=True)
    dataset.sample = lambda index: dataclasses.replace(ChatDataset.sample(dataset, index), tokens=np.arange(5))
    with pytest.raises(UserError, match="has 5 tokens, but"):
        dataset.load(plan, 0, 1, small)


def test_the_fingerprint_follows_everything_that_changes_a_plan(workspace, tokenizer):
    options = {"source": str(workspace.data), "max_seq_len": 96}
    first = chat_dataset(tokenizer, **options).fingerprint
    assert chat_dataset(tokenizer, **options).fingerprint == first
    for change in ({"max_seq_len": 90}, {"packed": True}, {"train_on_input": True}, {"share_images": False}):
        assert chat_dataset(tokenizer, **{**options, **change}).fingerprint != first
    other = workspace.write_data("other.json", workspace.records()[1:])
    assert chat_dataset(tokenizer, **{**options, "source": str(other)}).fingerprint != first
    more = ChatTokenizer(llama3_tokenizer(str(workspace.folder / "tokenizer" / "tokenizer.model")), 9)
    assert chat_dataset(more, **options).fingerprint != first


def test_a_file_without_a_usable_row_is_an_error(workspace, tokenizer):
    path = workspace.write_data("none.json", [{"image": "a.png"}])
    with pytest.raises(UserError, match="holds no usable row"):
        chat_dataset(tokenizer, source=str(path))
    with pytest.raises(UserError, match="holds no rows"):
        chat_dataset(tokenizer, source=str(workspace.write_data("empty.json", [])))


@pytest.mark.parametrize("packed", [True, False])
def test_rows_that_show_no_image_are_distinguished_from_others(workspace, tokenizer, packed):
    def has_images(rows):
        path = workspace.write_data("some.json", rows)
        return chat_dataset(tokenizer, source=str(path), max_seq_len=96, packed=packed).has_images()

    *shown, text = workspace.records()
    # An image behind words that are learnt shares nothing with other rows.
    late = {"conversations": [*text["conversations"], *shown[0]["conversations"]], "image": shown[0]["image"]}
    missing = {**shown[0], "image": "images/nowhere.png"}
    assert has_images([*[text] * 3, shown[0]])
    assert has_images([text, late])
    assert not has_images([text] * 3)
    assert not has_images([text, missing])


def test_a_shard_s_row_is_named_once(tokenizer, tmp_path):
    path = tmp_path / "a.tar"
    content = b'{"conversations": [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": " "}]}'
    with tarfile.open(path, "w") as tar:
        for name in ("k.json", "l.json"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError) as caught:
        chat_dataset(tokenizer, source=str(path), max_seq_len=96)
    assert str(caught.value) == (
        f"{path} holds no usable row; the first problem: {path}, sample k: no token is left to learn: the assistant"
        " says nothing"
    )


def test_half_of_a_character_is_a_bad_row_of_its_own(workspace, tokenizer):
    rows = workspace.records()
    rows[2]["conversations"][1]["value"] = "opacity \ud83d"
    source = str(workspace.write_data("half.json", rows))
    dataset = chat_dataset(tokenizer, source=source, max_seq_len=96)
    assert [row.name for row in dataset.bad] == [f"{source}, row 2"]
    assert "'opacity \\ud83d' holds half of a character" in dataset.bad[0].reason
