"""A run whose images are cut into tiles, from training to answers, and what other commands say of it."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.workspace import TINY_VISION, Workspace, log
from medcap.chat.terminal import Chat
from medcap.cli import main as medcap
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run
from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import read_chat_body
from medcap.serving.api.conversation_reader import ConversationReader
from medcap.serving.limits import Limits

TILES = TINY_VISION.replace("}", ", tiles: 4}")
# The tower's pictures are 16 x 16, and each has 4 tokens.
SHAPES = {"0.png": (64, 16), "1.png": (20, 48), "2.png": (40, 40), "3.png": (12, 10)}
PICTURES = {"0.png": 5, "1.png": 4, "2.png": 5, "3.png": 1, "4.dcm": 3}
GREEDY = Sampling(max_new_tokens=5)


class Shapes(Workspace):
    """The workspace with pictures that are wide, tall, square and small, and a DICOM image of wide pixels."""

    def __init__(self, folder):
        super().__init__(folder)
        random = np.random.default_rng(2)
        for name, (width, height) in SHAPES.items():
            pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
        write_dicom(folder / "images" / "4.dcm", random.integers(0, 255, (16, 16), dtype=np.uint8), PixelSpacing=[1, 2])
        scan = {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Yes"}]}
        self.data = self.write_data("train.json", [*self.records(), scan | {"image": "images/4.dcm"}])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Shapes(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def packed(workspace):
    return workspace.train(f"vision={TILES}", "dtype=fp32", "dataset.packed=true", "epochs=2", output="packed")


def image_tokens(generator, workspace, names):
    requests = [question_request(str(workspace.folder / "images" / name), "What is it?") for name in names]
    return [generator.prompt(request, GREEDY).image_lengths for request in requests]


def test_a_run_with_tiles_learns_and_its_checkpoint_knows_them(packed, workspace):
    losses = [row["loss"] for row in log(packed)]
    assert losses[-1] < losses[0]
    generator = open_run(packed, ["device=cpu"], progress=False)
    assert generator.preprocess.tiles == 4
    assert image_tokens(generator, workspace, PICTURES) == [[4 * count] for count in PICTURES.values()]


def test_answers_of_its_checkpoint_do_not_depend_on_the_batch(packed, workspace):
    generator = open_run(packed, ["device=cpu"], progress=False)
    requests = [
        question_request(str(workspace.folder / "images" / name), words)
        for name in PICTURES
        for words in ("Is there a circle?", "What is shown?")
    ]
    together = generator.generate(requests, GREEDY)
    assert [answer.error for answer in together] == [""] * 10
    assert [generator.generate([request], GREEDY)[0].tokens for request in requests] == [a.tokens for a in together]


def test_single_samples_take_the_same_steps_as_rows(workspace):
    """One batch of all samples: packed into rows, and one by one."""
    options = ["dtype=fp32", f"vision={TILES}", "shuffle=false", "epochs=1", "seed=3"]
    one = workspace.train(*options, "dataset.packed=false", "batch_size=14", output="unpacked")
    two = workspace.train(*options, "dataset.packed=true", "batch_size=8", output="rows")
    assert [len(log(run)) for run in (one, two)] == [1, 1]
    (first,), (second,) = log(one), log(two)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)


def config(workspace, *overrides):
    return ["--processes", "1", "--config", *workspace.training(*overrides)[1:]]


def test_stats_and_validate_count_the_pictures(workspace, capsys, tmp_path):
    medcap(["stats", "--json", str(tmp_path / "stats.json"), *config(workspace, f"vision={TILES}")])
    assert "tokens a row, 4 to 20 for an image" in capsys.readouterr().out
    found = json.loads((tmp_path / "stats.json").read_text())
    assert found["settings"]["most_image_tokens"] == 20
    # Three questions about each of four images, and a caption of the DICOM image.
    assert found["tokens"]["image"]["total"] == 4 * (3 * (5 + 4 + 5 + 1) + 3)
    packed = next(plan for plan in found["packing"] if plan["packed"])
    assert packed["images"] == 5 + 4 + 5 + 1 + 3
    medcap(["validate", "--json", str(tmp_path / "found.json"), *config(workspace, f"vision={TILES}")])
    assert "4 to 20 for an image" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["bad_rows"] == []


def test_an_image_without_a_readable_header_is_a_bad_row(workspace, tmp_path, capsys):
    (workspace.folder / "images" / "bad.png").write_bytes(b"no image")
    rows = workspace.records()
    rows[5]["image"] = "images/bad.png"
    data = workspace.write_data("bad.json", rows)
    with pytest.raises(SystemExit):
        options = config(workspace, f"vision={TILES}", f"dataset.source={data}")
        medcap(["validate", "--json", str(tmp_path / "found.json"), *options])
    (row,) = json.loads((tmp_path / "found.json").read_text())["bad_rows"]
    assert row["rules"] == ["image"] and "bad.png is not a readable image" in str(row)


def test_a_later_stage_may_add_tiles(workspace):
    plain = workspace.train("dtype=fp32", "epochs=1", output="plain")
    more = workspace.train("dtype=fp32", "epochs=1", f"init_from={plain}", f"vision={TILES}", output="more")
    described = [next((run / "checkpoint").glob("step_*")) / "vision.json" for run in (plain, more)]
    assert [json.loads(path.read_text())["preprocess"].get("tiles") for path in described] == [None, 4]
    # What looks at the data of a third stage knows the tiles of the second.
    medcap(["stats", "--json", str(workspace.folder / "out.json"), *config(workspace, f"init_from={more}")])
    assert json.loads((workspace.folder / "out.json").read_text())["settings"]["most_image_tokens"] == 20


def test_max_seq_len_must_hold_the_largest_image(workspace, capsys):
    with pytest.raises(SystemExit):
        workspace.train(f"vision={TILES}", "dataset.max_seq_len=20", output="short")
    assert "is not longer than one image's 20 tokens: raise it, or lower" in capsys.readouterr().err


def test_one_crop_is_no_grid(workspace, capsys):
    with pytest.raises(SystemExit):
        workspace.train(f"vision={TILES.replace('4}', '1}')}", output="one")
    assert "vision.tiles=1 must be a whole number from 2, or 0 for none" in capsys.readouterr().err


def test_a_format_that_cannot_say_tiles_refuses_them(packed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        medcap(["export", str(packed), "--out", str(tmp_path / "hf"), "--format", "hf"])
    assert "LLaVA shows each image in one picture" in capsys.readouterr().err


def test_a_fit_is_refused_in_a_request_and_in_the_chat(packed, workspace, monkeypatch, capsys):
    generator = open_run(packed, ["device=cpu"], progress=False)
    data = base64.b64encode((workspace.folder / "images" / "0.png").read_bytes()).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}, "view": {"fit": "pad"}}
    body = {"model": "mine", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(ApiError, match=r"view\.fit': this model sees all of an image, cut into tiles"):
        ConversationReader(generator, Limits()).read(read_chat_body(json.dumps(body).encode(), 9), "req-1")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/image {workspace.folder / 'images' / '0.png'} fit=pad\n"))
    Chat(GREEDY).talk(generator)
    assert capsys.readouterr().err.startswith("fit=pad: vision.tiles shows all of an image")


@pytest.mark.slow
def test_a_fit_is_refused_before_training_and_named(workspace, capsys, tmp_path):
    with pytest.raises(SystemExit):
        workspace.train(f"vision={TILES}", "dataset.view.fit=pad", output="fit")
    assert "dataset.view.fit=pad: vision.tiles shows all of an image" in capsys.readouterr().err
    rows = workspace.records()
    rows[3]["fit"] = "squash"
    data = workspace.write_data("fit.json", rows)
    with pytest.raises(SystemExit):
        options = config(workspace, f"vision={TILES}", f"dataset.source={data}")
        medcap(["validate", "--json", str(tmp_path / "found.json"), *options])
    (row,) = json.loads((tmp_path / "found.json").read_text())["bad_rows"]
    assert (row["row"], row["rules"]) == (3, ["image"])
    assert row["reason"].startswith("fit=squash: vision.tiles shows all of an image")
