"""A SAM as mask decoder takes the whole way: trained, resumed, opened without its folder, and asked."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.sam_folders import write_sam
from helpers.workspace import Workspace, log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.run import read_run
from medcap.data.regions.run_length import decode
from medcap.data.regions.shown import original_mask
from medcap.export.model_card import model_card
from medcap.export.run_facts import read_facts
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

BOXES = {0: [2, 2, 12, 10], 1: [10, 4, 22, 18], 2: [0, 10, 8, 20], 3: [6, 0, 24, 8]}


def rows():
    """A mask on every picture of 24 x 20 pixels."""
    return [
        {
            "image": f"images/{index}.png",
            "masks": [{"box": box}],
            "conversations": [
                {"from": "human", "value": f"<image>\nOutline the {thing}."},
                {"from": "gpt", "value": "<SEG>"},
            ],
        }
        for thing in ("lung", "mass", "cyst")
        for index, box in BOXES.items()
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("sam_masks"))
    workspace.data = workspace.write_data("masks.json", rows())
    write_sam(workspace.folder / "sam")
    return workspace


def options(place, *further):
    sam = f"mask_decoder={{_component_: medcap.models.sam_mask_decoder, path: {place.folder}/sam}}"
    trained = "trainable={projector: {}, words: {lr: 0.1}, mask_decoder: {}}"
    return ("words=[<SEG>]", sam, trained, "dtype=fp32", "seed=3", "epochs=2", *further)


@pytest.fixture(scope="module")
def run(place):
    return place.train(*options(place, "save_every_n_steps=2"), output="whole")


def tensors(output):
    step = latest_checkpoint(output)
    return {
        key: value
        for name in ("words", "mask_decoder")
        for key, value in load_file(step / f"{name}.safetensors").items()
    }


@pytest.mark.slow
def test_a_run_trains_the_decoder_and_keeps_the_encoder(place, run):
    first, last = log(run)[0], log(run)[-1]
    weighed = (
        2 * first["loss_mask_bce"] + first["loss_mask_dice"] + 0.1 * first["loss_mask_iou"] + first["loss_mask_seen"]
    )
    assert first["loss"] == pytest.approx(first["loss_text"] + weighed, rel=1e-5)
    assert last["loss_mask_iou"] < first["loss_mask_iou"]
    before = load_file(place.folder / "sam" / "model.safetensors")
    after = tensors(run)
    for name, value in before.items():
        changed = not torch.equal(after[f"mask_decoder.sam.{name}"], value)
        assert not changed or name.startswith("mask_decoder."), name
    assert not torch.equal(
        after["mask_decoder.sam.mask_decoder.mask_tokens.weight"], before["mask_decoder.mask_tokens.weight"]
    )
    card = model_card(read_facts(run, read_run(run)), "vision")
    assert "| mask decoder | SAM for pictures of 32 pixels | yes |" in card


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(place, run):
    step = run / "checkpoint" / "step_000002"
    resumed = place.train(*options(place, f"resume_from_checkpoint={step}"), output="resumed")
    wanted, found = tensors(run), tensors(resumed)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.slow
def test_the_runs_folder_alone_answers_as_training_computes(place, run):
    moved = shutil.move(place.folder / "sam", place.folder / "elsewhere")
    try:
        generator = open_run(run, image_roots=[place.folder], progress=False)
    finally:
        shutil.move(moved, place.folder / "sam")
    requests = [question_request(f"images/{index}.png", "Outline the lung.") for index in BOXES]
    answers = generator.generate(requests, Sampling(max_new_tokens=1))
    model = generator.model.eval()
    decoder = model.components["mask_decoder"]
    compared = 0
    for index, answer in zip(BOXES, answers, strict=True):
        if not answer.outputs.masks or answer.outputs.masks[0] is None:
            continue
        picture = Image.open(place.folder / "images" / f"{index}.png").convert("RGB")
        prompt = generator.tokenizer.prompt(requests[index].messages)
        ids = torch.tensor([prompt.tokens])
        with torch.no_grad():
            image_rows = model.encode_images(generator.preprocess.transform()(picture)[None])
            places = (ids.flatten() == model.image_token_id).nonzero().flatten()
            hidden = model.hidden(model.embed(ids, image_rows, places), None, torch.arange(ids.shape[1])[None])[0, -1:]
            own = decoder.own_picture.transform()(picture)
            logits = decoder(hidden, None, own[None], torch.tensor([0])).logits[0]
        shape = answer.outputs.masks[0].shape
        mask = decode({"size": list(shape.size), "counts": shape.counts}, "mask")
        assert mask.shape == (20, 24)
        wanted = original_mask(logits, decoder.own_picture.frame(picture.size))
        assert np.mean(mask != wanted) < 0.01, "a logit near 0 may fall on either side"
        compared += 1
    assert compared, [answer.text for answer in answers]


@pytest.mark.slow
def test_boxes_of_any_run_are_outlined_by_the_generation_recipe(place, run, capsys):
    plain = place.train(
        "trainable=[projector]",
        "optimizer.lr=0",
        "epochs=1",
        "max_steps_per_epoch=1",
        f"dataset.source={place.folder}/train.json",
        output="plain",
    )
    image = (f"image={place.folder}/images/1.png", "prompt=Where?", "vision=null")
    place.generate(f"vision_checkpoint={plain}", *image, f"mask_from_boxes={place.folder}/sam")
    assert capsys.readouterr().out
    with pytest.raises(SystemExit):
        place.generate(f"vision_checkpoint={run}", *image, f"mask_from_boxes={place.folder}/sam")
    assert "the run has a mask_decoder, which gives the masks" in capsys.readouterr().err


def test_a_folder_without_a_sam_is_refused(place, capsys):
    words = options(place)
    with pytest.raises(SystemExit):
        place.train(words[0], words[1].replace("/sam}", "/images}"), *words[2:], output="never")
    assert re.search(r"mask_decoder\.path=.*images: config\.json is missing in it", capsys.readouterr().err)
