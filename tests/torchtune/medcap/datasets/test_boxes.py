import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap.data.boxes.box import Box
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.data.row_boxes import place_boxes
from medcap.datasets import chat, chat_rows
from medcap.datasets.chat import chat_dataset
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.tokenizers import llama3_tokenizer

PREPROCESS = Preprocess(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    Image.fromarray(np.zeros((20, 40), dtype=np.uint8)).save(folder / "wide.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), 4)


def write(folder, name, answers, **fields):
    rows = [
        {
            "image": "wide.png",
            "conversations": [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": answer}],
            **fields,
        }
        for answer in answers
    ]
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def said(dataset, index, tokenizer):
    return tokenizer.decode([token for token in dataset.sample(index).targets.tolist() if token >= 0])


def test_the_answers_of_samples_are_in_the_notation_and_frame_of_the_run(folder, tokenizer):
    source = write(folder, "rows.json", ["{<10><5><20><15>}", "[0.25, 0.25, 0.5, 0.75]"])
    dataset = chat_dataset(tokenizer, source=source, box_write="thousandths")
    assert [said(dataset, index, tokenizer) for index in (0, 1)] == ["[250, 250, 500, 750]"] * 2
    # The tower is shown columns 10 to 30 of 40.
    dataset = chat_dataset(tokenizer, source=source, box_write="coloninst", box_frame="shown", preprocess=PREPROCESS)
    assert [said(dataset, index, tokenizer) for index in (0, 1)] == ["{<0><2><4><6>}"] * 2
    padded = chat_dataset(
        tokenizer, source=source, box_write="shares", box_frame="shown", preprocess=PREPROCESS, view={"fit": "pad"}
    )
    assert said(padded, 0, tokenizer) == "[0.2500, 0.3750, 0.5000, 0.6250]"


def test_the_boxes_of_answers_are_targets_of_a_head(folder, tokenizer, monkeypatch):
    records = []

    def note(*arguments):
        records.append(place_boxes(*arguments))
        return records[-1]

    monkeypatch.setattr(chat_rows, "place_boxes", note)
    source = write(folder, "head.json", ["There: <BOX>"], boxes=[[10, 5, 20, 15]])
    monkeypatch.setattr(chat, "COUNT_ALWAYS", -1)
    dataset = chat_dataset(tokenizer, source=source, share_preamble=False, box_answer="head")
    with contextlib.suppress(UserError):  # of a model that has no such word
        dataset.sample(0)
    assert records[0].boxes == (Box((0.25, 0.25, 0.5, 0.75)),)
    assert records[0].messages[1].text_content == "There: <BOX>"


def test_a_row_whose_box_is_not_shown_is_left_out_and_named(folder, tokenizer):
    source = write(folder, "cut.json", ["[0.5, 0.5, 0.75, 0.75]", "[0.0, 0.0, 0.1, 1.0]"])
    dataset = chat_dataset(tokenizer, source=source, box_frame="shown", preprocess=PREPROCESS)
    (bad,) = dataset.bad
    assert bad.name == f"{source}, row 1"
    assert bad.reason == (
        f"{source}, row 1: [0.0, 0.0, 0.1, 1.0] (0, 0, 4, 20 in pixels) is outside what the tower is shown of its image"
        " of 40 x 20: dataset.view.fit=pad shows all of an image; or remove the row"
    )


def test_nan_in_a_file_is_a_bad_row(folder, tokenizer):
    source = write(folder, "nan.json", ["<BOX>", "Here."], boxes=[[10, float("nan"), 20, 15]])
    (bad,) = chat_dataset(tokenizer, source=source).bad
    assert "'boxes' holds [10, nan, 20, 15]: a box is four numbers" in bad.reason


def test_rows_without_boxes_open_no_header(folder, tokenizer, monkeypatch):
    monkeypatch.setattr(ImageReader, "shown_size", None)  # calling it fails
    source = write(folder, "plain.json", ["Nowhere.", "Grade [2, 3]"])
    assert not chat_dataset(tokenizer, source=source, box_write="qwen", box_answer="head").bad
    boxed = write(folder, "boxed.json", ["{<10><5><20><15>}"])
    assert said(chat_dataset(tokenizer, source=boxed), 0, tokenizer) == "{<10><5><20><15>}"


def test_each_source_has_its_own_notation(folder, tokenizer):
    pixels = write(folder, "pixels.json", ["{<10><5><20><15>}"])
    thousandths = write(folder, "small.json", ["[0, 0, 1, 1]"])
    sources = [{"source": pixels}, {"source": thousandths, "box_format": "thousandths", "box_write": "coloninst"}]
    dataset = chat_dataset(tokenizer, sources=sources, box_write="qwen")
    assert [said(part, 0, tokenizer) for part in dataset.parts] == [
        "<box>(250,250),(500,750)</box>",
        "{<0><0><1><1>}",
    ]


def test_what_changes_the_texts_changes_the_fingerprint(folder, tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "COUNT_ALWAYS", -1)  # rows need not be read
    source = write(folder, "rows.json", ["{<10><5><20><15>}"])

    def fingerprint(**keys):
        return chat_dataset(tokenizer, source=source, share_preamble=False, **keys).fingerprint

    shown = {"box_frame": "shown", "preprocess": PREPROCESS}
    found = [
        fingerprint(),
        fingerprint(box_format="coloninst"),
        fingerprint(box_write="qwen"),
        fingerprint(box_answer="head"),
        fingerprint(**shown),
        fingerprint(box_frame="shown", preprocess=Preprocess(8, resize_mode="squash")),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == fingerprint(preprocess=PREPROCESS, box_answer="text", box_frame="original")


def test_a_notation_that_is_unknown_is_refused(folder, tokenizer):
    source = write(folder, "rows.json", ["{<10><5><20><15>}"])
    with pytest.raises(UserError, match="box_write=pixels must be one of coloninst, qwen, shares, thousandths"):
        chat_dataset(tokenizer, source=source, box_write="pixels")
    with pytest.raises(UserError, match="box_frame=shown: the tower is not known here"):
        chat_dataset(tokenizer, source=source, box_frame="shown")
    with pytest.raises(UserError, match=r"dataset.sources.0.box_format='pixels' must be one of"):
        chat_dataset(tokenizer, sources=[{"source": source, "box_format": "pixels"}])


@pytest.mark.slow
def test_a_run_knows_what_its_tower_is_shown(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    rows = [row for row in workspace.records() if "image" in row]
    for row in rows:
        row["conversations"][1]["value"] = "{<2><0><12><10>}"
    # The images are 24 x 20: the first two columns are cut off.
    rows[0]["conversations"][1]["value"] = "{<0><0><2><10>}"
    workspace.write_data("train.json", rows)
    with pytest.raises(SystemExit):
        workspace.train("dataset.view.fit=crop", "dataset.box_frame=shown", "max_bad_fraction=0")
    printed = capsys.readouterr().err
    assert "row 0: {<0><0><2><10>} (0, 0, 2, 10 in pixels) is outside what the tower is shown" in printed
