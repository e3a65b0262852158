"""A box head takes the whole way: trained through a frozen language model, resumed, opened, and answered with."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from helpers.workspace import Workspace, log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.run import read_run
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.export.model_card import model_card
from medcap.export.run_facts import read_facts
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

WORDS = (
    *("words=[<BOX>]", "box_decoder.width=16", "box_decoder.heads=2", "dataset.box_answer=head"),
    *("trainable={projector: {}, words: {lr: 0.1}, box_decoder: {}}", "dtype=fp32", "seed=3"),
)
BOXES = {0: [2, 2, 12, 10], 1: [10, 4, 22, 18], 2: [0, 10, 8, 20], 3: [6, 0, 24, 8]}


def rows(absent=()):
    """A box in every picture, or none; images are 24 x 20 pixels."""
    return [
        {
            "image": f"images/{index}.png",
            "boxes": [] if index in absent else [box],
            "conversations": [
                {"from": "human", "value": f"<image>\nWhere is the {thing}?"},
                {"from": "gpt", "value": "None." if index in absent else "<BOX>"},
            ],
        }
        for thing in ("lung", "mass", "cyst")
        for index, box in BOXES.items()
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("box_head"))
    workspace.data = workspace.write_data("boxes.json", rows())
    return workspace


@pytest.fixture(scope="module")
def run(place):
    return place.train(*WORDS, "epochs=3", output="whole")


def tensors(output):
    step = latest_checkpoint(output)
    names = ("vision", "words", "box_decoder")
    return {key: value for name in names for key, value in load_file(step / f"{name}.safetensors").items()}


@pytest.mark.slow
def test_its_loss_terms_fall_and_are_weighed_as_in_detr(run):
    lines = log(run)
    first, last = lines[0], lines[-1]
    weights = {"text": 1, "box_l1": 5, "box_giou": 2, "box_seen": 1, "box_look": 2}
    weighed = sum(weight * first[f"loss_{name}"] for name, weight in weights.items())
    assert first["loss"] == pytest.approx(weighed, rel=1e-5)
    assert last["loss_box_l1"] < first["loss_box_l1"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"] is not None
    described = json.loads((latest_checkpoint(run) / "vision.json").read_text())
    assert described["components"]["box_decoder"] == {
        "_component_": "medcap.models.box_decoder.box_decoder",
        **{"width": 16, "layers": 1, "heads": 2},
    }


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(place, run):
    half = place.train(*WORDS, "epochs=3", "save_every_n_steps=4", output="again")
    step = half / "checkpoint" / "step_000004"
    resumed = place.train(*WORDS, "epochs=3", f"resume_from_checkpoint={step}", output="resumed")
    wanted, found = tensors(run), tensors(resumed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.slow
def test_the_runs_folder_alone_answers_with_boxes(place, run):
    generator = open_run(run, image_roots=[place.folder], progress=False)
    requests = [question_request(f"images/{index}.png", "Where is the lung?") for index in BOXES]
    requests = [*requests, question_request(None, "Where is the lung?")]
    *seen, blind = generator.generate(requests, Sampling(max_new_tokens=3))
    said = [answer for answer in seen if answer.outputs.boxes]
    assert said, [answer.text for answer in seen]
    for answer in said:
        left, top, right, bottom = answer.outputs.boxes[0].edges
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        numbers = [min(999, int(1000 * edge + 1e-6)) for edge in (left, top, right, bottom)]
        assert str(numbers) in answer.text
    assert not blind.outputs.boxes and "<BOX>" not in blind.text


@pytest.mark.slow
def test_the_recipe_answers_with_a_box(place, run, capsys):
    image = f"image={place.folder}/images/1.png"
    place.generate(f"vision_checkpoint={run}", image, "prompt=Where is the lung?", "vision=null")
    assert re.search(r"\[\d+, \d+, \d+, \d+\]", capsys.readouterr().out)


@pytest.mark.slow
def test_it_is_started_from_and_handed_on(place, run):
    other = place.train(*WORDS, f"init_from={run}", "optimizer.lr=0", output="next")
    assert tensors(other).keys() == tensors(run).keys()
    card = model_card(read_facts(run, read_run(run)), "vision")
    assert "| box head | 1 layer of width 16 | yes |" in card
    # The head itself goes beside the folder: tests/torchtune/medcap/export/test_parts.py.
    with pytest.raises(UserError, match="--format medcap: the run has the component words"):
        export_run(run, place.folder / "out", format="medcap")


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ({}, ("words=[<SEG>]",), "asked for by the word <BOX>, which this model does not have"),
        ({}, ("dataset.box_answer=null",), "no answer of its rows has a box for box_decoder to learn from"),
        ({"boxes": [[2, 2, 12, 10]] * 2}, (), "1 <BOX> in its turns but 2 under 'boxes'"),
        ({"boxes": [[2, 2, 4, 10], [3, 3, 9, 9]]}, ("max_bad_fraction=0",), "boxes.json, row 0: 1 <BOX> in its turns"),
    ],
)
@pytest.mark.slow
def test_what_cannot_teach_it_is_refused_before_training(place, capsys, changed, overrides, message):
    broken = [row | (changed if number == 0 else {}) for number, row in enumerate(rows())]
    data = place.write_data("broken.json" if changed else "boxes.json", broken)
    strict = ("max_bad_fraction=0", f"dataset.source={data}")
    with pytest.raises(SystemExit):
        place.train(*WORDS, *strict, *overrides, output="refused")
    assert message in capsys.readouterr().err.replace("broken.json", "boxes.json")
