"""Questions about regions take the whole way: trained through a frozen language model, resumed, opened, answered."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.workspace import Workspace
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.run import read_run
from medcap.data.regions.region import regions_from_json
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.export.model_card import model_card
from medcap.export.run_facts import read_facts
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

WORDS = (
    *("words=[<region>, </region>]", "region_encoder={_component_: medcap.models.region_resampler, num_tokens: 2}"),
    *("trainable={projector: {}, words: {lr: 0.01}, region_encoder: {}}", "dtype=fp32", "seed=3"),
)
QUESTION = "What is <region></region>?"
REGIONS = [{"box": [2, 2, 12, 10]}, {"point": [18, 12], "radius": 5}, {"mask": "images/mask.png"}]


def rows():
    """Questions about three regions of each picture; images are 24 x 20 pixels."""
    return [
        {
            "image": f"images/{index}.png",
            "regions": [region],
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for region, answer in zip(REGIONS, ("lung", "mass", "cyst"), strict=True)
        for index in range(4)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("region_questions"))
    mask = np.zeros((20, 24), np.uint8)
    mask[12:, :8] = 255
    Image.fromarray(mask).save(workspace.folder / "images" / "mask.png")
    workspace.data = workspace.write_data("regions.json", rows())
    return workspace


@pytest.fixture(scope="module")
def run(place):
    return place.train(*WORDS, "epochs=3", output="whole")


def tensors(output):
    step = latest_checkpoint(output)
    files = (step / f"{name}.safetensors" for name in ("vision", "words", "region_encoder"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(place, run):
    half = place.train(*WORDS, "epochs=3", "save_every_n_steps=4", output="again")
    step = half / "checkpoint" / "step_000004"
    resumed = place.train(*WORDS, "epochs=3", f"resume_from_checkpoint={step}", output="resumed")
    wanted, found = tensors(run), tensors(resumed)
    assert wanted.keys() == found.keys() and "region_encoder.queries" in found
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.slow
def test_the_run_answers_and_is_described_and_handed_on(place, run):
    generator = open_run(run, image_roots=[place.folder], progress=False)
    regions = regions_from_json(REGIONS)
    asked = [question_request("images/1.png", QUESTION, regions=[region]) for region in regions]
    answers = generator.generate(asked, Sampling(max_new_tokens=3))
    assert [answer.error for answer in answers] == ["", "", ""]
    (scores,) = generator.score([asked[0]], [["lung", "mass"]])
    (others,) = generator.score([asked[1]], [["lung", "mass"]])
    assert scores.sums != others.sums
    described = json.loads((latest_checkpoint(run) / "vision.json").read_text())
    assert described["components"]["region_encoder"] == {
        "_component_": "medcap.models.region_resampler",
        **{"num_tokens": 2, "width": 128, "heads": 4},
    }
    card = model_card(read_facts(run, read_run(run)), "vision")
    assert "| region encoder | region_resampler, 2 tokens a region | yes |" in card
    with pytest.raises(UserError, match="--format medcap: the run has the component words"):
        export_run(run, place.folder / "out", format="medcap")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ({}, ("words=[<region>]",), "but this model lacks </region>: add words="),
        ({"regions": None}, (), "1 <region></region> in its questions but 0 regions under 'regions'"),
        (
            {
                "conversations": [{"from": "human", "value": "<image>\nAll?"}, {"from": "gpt", "value": "Yes."}],
                "regions": None,
            },
            (),
            "no question of its rows names a region for region_encoder to learn from",
        ),
        ({"regions": [{"mask": "images/small.png"}]}, (), "a mask has the size of the original image"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_training(place, changed, overrides, message, capsys):
    Image.new("L", (5, 5), 1).save(place.folder / "images" / "small.png")
    data = place.write_data("changed.json", [row | changed for row in rows()])
    with pytest.raises((UserError, SystemExit)) as raised:
        place.train(*WORDS, *overrides, f"dataset.source={data}", "max_bad_fraction=0", output="refused")
    assert message in f"{raised.value}{capsys.readouterr().err}"


@pytest.mark.slow
def test_a_region_that_nothing_reads_makes_a_bad_row(place, capsys):
    with pytest.raises((UserError, SystemExit)):
        place.train("words=[<region>, </region>]", "trainable=[projector, words]", output="unread")
    assert "name 1 region, but the model reads none: add region_encoder, or leave" in capsys.readouterr().err
