"""Rows of example images through everything that reads data files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tokenizers import tiny_tokenizer_file
from helpers.workspace import Workspace
from medcap import cli
from medcap.data.added_tokens import AddedTokens
from medcap.data.base_tokenizer import vocab_size_of
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.datasets.leakage.image_sources import list_images
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.tokenizers import llama3_tokenizer

WIDTH, HEIGHT = 6, 4


@pytest.fixture
def folder(tmp_path):
    """Grey pictures of 6 x 4 pixels, and masks of their left half."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, : WIDTH // 2] = 1
    for number in range(4):
        Image.new("RGB", (WIDTH, HEIGHT), (60 * number,) * 3).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"{number}_mask.png")
    return tmp_path


@pytest.fixture
def tokenizer(tmp_path):
    base = llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer")))
    return ChatTokenizer(base, 2, AddedTokens(("<SEG>",), vocab_size_of(base), mask_word="<SEG>"))


def pair(number, **changed):
    return {"image": f"{number}.png", "mask": f"{number}_mask.png"} | changed


def row(query, *examples, **changed):
    return {"image": f"{query}.png", "target_mask": f"{query}_mask.png", "icl_examples": list(examples)} | changed


def write(folder, *rows):
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def read(tokenizer, path, **options):
    return chat_dataset(tokenizer, source=str(path), max_seq_len=512, share_preamble=False, **options)


def pixels(picture):
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)  # [3, H, W]


pixels.preprocess = Preprocess(HEIGHT, resize_mode="squash")  # where masks lie


@pytest.mark.parametrize("packed", [False, True])
def test_an_example_is_another_picture_than_the_same_image_as_a_query(folder, tokenizer, packed):
    dataset = read(tokenizer, write(folder, row(1, pair(2)), row(2, pair(1))), packed=packed)
    samples = [dataset.sample(index) for index in (0, 1)]
    assert [len(sample.images) for sample in samples] == [2, 2]
    assert samples[0].images_end == 2 * 2 + int(np.flatnonzero(samples[0].tokens == tokenizer.image_token_id)[0]) + len(
        tokenizer.tokenizer.encode("\nThe blue overlay is the reference segmentation mask.\nQuery: ", False, False)
    )
    plan = dataset.plan(shuffle=False)
    batch, bad = dataset.load(plan, 0, len(plan), pixels)
    assert not bad and batch.images.shape == (4, 3, HEIGHT, WIDTH)
    # Left half and right half of each picture: .45 * 120 + .55 * (118, 158, 224), and the picture itself.
    halves = [(image[:, 0, 0].tolist(), image[:, 0, -1].tolist()) for image in batch.images]
    assert halves == [
        ([118, 140, 177], [120] * 3),
        ([60] * 3, [60] * 3),
        ([91, 113, 150], [60] * 3),
        ([120] * 3, [120] * 3),
    ]


def test_the_mode_is_part_of_the_fingerprint_and_the_default_is_not(folder, tokenizer):
    path = write(folder, row(1, pair(2)))
    plain, overlay, separate = (read(tokenizer, path, examples=mode) for mode in (None, "overlay", "separate"))
    assert plain.fingerprint == overlay.fingerprint != separate.fingerprint
    assert [len(dataset.sample(0).images) for dataset in (overlay, separate)] == [2, 3]
    mixed = chat_dataset(
        tokenizer,
        sources=[{"source": str(path), "examples": "separate", "name": "a"}, {"source": str(path), "name": "b"}],
        max_seq_len=512,
    )
    assert sorted(len(mixed.sample(index).images) for index in (0, 1)) == [2, 3]


def test_a_mask_that_does_not_fit_takes_only_its_own_row_along(folder, tokenizer):
    Image.new("L", (HEIGHT, WIDTH), 1).save(folder / "turned.png")
    dataset = read(tokenizer, write(folder, row(1, pair(2, mask="turned.png")), row(2, pair(1))))
    (problem,) = dataset.check_images(10)
    assert problem.name.endswith("row 0") and "has 4 x 6 pixels and its image 6 x 4" in problem.reason
    _, bad = dataset.load(dataset.plan(shuffle=False), 0, 2, pixels)
    assert [row.name for row in bad] == [problem.name]
    with pytest.raises(UserError, match=r"row 0: image none.png does not exist"):
        read(tokenizer, write(folder, row(1, pair(2, mask="none.png")))).sample(0)


@pytest.mark.slow
def test_validate_names_each_row_that_cannot_be_used(folder, capsys):
    run_length = {"size": [HEIGHT, WIDTH], "counts": [0, 12, 12]}
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "empty.png")
    path = write(
        folder,
        row(0, pair(1), pair(2), pair(3)),
        row(0, pair(1, mask={"mask": run_length})),
        {"image1": "0.png", "mask1": "0_mask.png", "image2": "1.png", "mask2": "1_mask.png"},
        row(0, pair(1, mask="empty.png")),
        row(0),
        row(0, pair(1), target_mask=None),
        row(0, pair(1, mask="../outside.png")),
    )
    with pytest.raises(SystemExit) as end:
        cli.main(["validate", str(path), "--processes", "1", "--json", str(folder / "found.json")])
    assert end.value.code == 1
    capsys.readouterr()
    found = json.loads((folder / "found.json").read_text())
    assert [(bad["row"], bad["rules"]) for bad in found["bad_rows"]] == [
        (3, ["image"]),
        (4, ["layout"]),
        (5, ["layout"]),
        (6, ["image path"]),
    ]
    assert "holds no pixel of its image of 6 x 4" in found["bad_rows"][0]["reason"]
    assert "it holds 0 examples" in found["bad_rows"][1]["reason"]
    assert found["images"]["named"] == 4 + 2 + 2 + 2
    # One question about one picture, of which other masks are asked for, is not a repeated row.
    cli.main(["validate", str(write(folder, *(row(0, pair(1), target_mask=f"{n}_mask.png") for n in (0, 1, 0))))])
    assert "rows that repeat another one: 1 (rows 0 = 2)" in capsys.readouterr().out


@pytest.mark.slow
def test_stats_counts_the_pictures_of_a_row(folder, capsys):
    path = write(folder, row(0, pair(1), pair(2)), row(1, pair(2)))
    assert cli.main(["stats", str(path), "--processes", "1"]) == 0
    assert "images: 4 files, named 5 times (1 row with 2, 1 row with 3)" in capsys.readouterr().out


def test_the_images_of_such_rows_are_not_resized_and_are_all_searched_for_leaks(folder, capsys):
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "There."}]
    drawn = {"image": {"image": "1.png", "overlay": "1_mask.png"}, "conversations": turns}
    path = write(folder, row(0, pair(1), pair(2)), drawn)
    words = ["--source", str(path), "--out", str(folder / "out"), "--workers", "1", "--size", "4"]
    with pytest.raises(SystemExit):
        cli.main(["prepare", "images", *words])
    failures = (folder / "out/failures.jsonl").read_text()
    assert "its examples have masks" in failures and "1.png is shown with a mask" in failures
    assert [image.name.rsplit("/", 1)[-1] for image in list_images(write(folder, row(0, pair(1), pair(2))))] == [
        "1.png",
        "2.png",
        "0.png",
    ]


@pytest.mark.slow
def test_a_run_learns_from_examples(tmp_path):
    workspace = Workspace(tmp_path)
    Image.new("L", (24, 20), 1).save(tmp_path / "images/mask.png")
    pairs = [{"image": f"images/{number}.png", "mask": "images/mask.png"} for number in range(4)]
    rows = [
        {"image": f"images/{number}.png", "target_mask": "images/mask.png", "icl_examples": pairs[:number]}
        for number in (1, 2, 3)
    ]
    workspace.data = workspace.write_data("examples.json", rows)
    model = ("words=[<SEG>]", "mask_decoder.width=16", "trainable=[projector,words,mask_decoder]")
    data = ("dataset.examples=separate", "dataset.packed=true", "dataset.max_seq_len=512")
    run = workspace.train(*model, *data, "batch_size=1")
    steps = [json.loads(line) for line in (run / "log/metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert losses and all(map(np.isfinite, losses))
    assert "examples: separate" in (run / "config.yaml").read_text()
