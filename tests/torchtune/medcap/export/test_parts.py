"""Exports of runs with box head, mask decoder and region encoder: parts beside the folder, and what loads them."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.llava_parity import FIRST, our_logits, ours
from helpers.run_folders import write_run
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.build_model import ComponentPlan, plan_model
from medcap.checkpoints.run import read_run
from medcap.checkpoints.vision_files import read_vision_checkpoint, save_components
from medcap.data.regions.shown import original_mask
from medcap.data.row_regions import with_regions
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.export.parts import read_parts
from medcap.generation.request import Request, Sampling
from medcap.generation.run import open_run
from medcap.importing.sources import import_model

pytestmark = pytest.mark.slow
COMPONENTS = {
    "words": {"_component_": "medcap.models.added_words", "tokens": ["<BOX>", "<SEG>", "<region>", "</region>"]},
    "box_decoder": {"_component_": "medcap.models.box_decoder.box_decoder", "width": 16, "heads": 2},
    "mask_decoder": {"_component_": "medcap.models.patch_mask_decoder", "width": 16, "heads": 2},
    "region_encoder": {"_component_": "medcap.models.region_resampler", "num_tokens": 2, "width": 16, "heads": 2},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    run = write_run(folder)
    plan = plan_model(read_run(run))
    plan.further += [ComponentPlan(name, config) for name, config in COMPONENTS.items()]
    torch.manual_seed(5)
    parts = [part.build(plan) for part in plan.further]
    for parameter in (parameter for part in parts for parameter in part.parameters()):
        nn.init.normal_(parameter, std=0.15)
    nn.init.zeros_(parts[2].bias)  # so that a mask is a part of its image
    step = latest_checkpoint(run)
    saved = read_vision_checkpoint(step / "vision.safetensors")
    save_components(step, [part.state() for part in (*plan.vision.build(), *parts)], saved.llm)
    return run, folder / "out", export_run(run, folder / "out")


def test_the_parts_are_named_and_loaded_with_their_weights(exported):
    run, out, notices = exported
    assert notices[0] == (
        "parts/ holds box_decoder and mask_decoder and region_encoder, which transformers has no place for;"
        " parts/README.md says how to load them"
    )
    files = {"README.md", "load_parts.py", "parts.json", *(f"{name}.safetensors" for name in list(COMPONENTS)[1:])}
    assert {path.name for path in (out / "parts").iterdir()} == files
    model = open_run(run).model
    found = read_parts(out / "parts", model.decoder.norm)
    assert list(found) == ["box_decoder", "mask_decoder", "region_encoder"]
    for name, part in found.items():
        wanted = model.components[name].state_dict()
        assert part.state_dict().keys() == wanted.keys() and len(wanted) > 5
        assert all(torch.equal(value, wanted[key]) for key, value in part.state_dict().items())


def test_the_example_gives_the_box_and_the_mask_of_the_run(exported, tmp_path):
    run, out, _ = exported
    FIRST.save(tmp_path / "first.png")
    generator = open_run(run)
    model, kept = generator.model, {}
    hook = model.decoder.norm.register_forward_pre_hook(lambda module, given: kept.update(hidden=given[0]))
    turns = [("user", Image.open(tmp_path / "first.png"), "Where? <BOX> <SEG>")]
    with torch.no_grad():
        our_logits(generator, turns)
        hook.remove()
        prompt = generator.tokenizer.prompt(ours(turns))
        pictures = torch.stack([model.tower.preprocess.transform()(image) for image in prompt.images])
        patches = model.encode_with_patches(pictures)[1]
        hidden = kept["hidden"].flatten(0, -2)[prompt.tokens.index(generator.tokenizer.added.box_id) - 1]
        edges, there = model.components["box_decoder"](hidden[None], patches)
        hidden = kept["hidden"].flatten(0, -2)[prompt.tokens.index(generator.tokenizer.added.mask_id) - 1]
        found = model.components["mask_decoder"](hidden[None], patches, pictures, torch.zeros(1, dtype=torch.int64))
        mask = original_mask(found.logits[0], model.tower.preprocess.frame(FIRST.size))
    assert found.seen.item() > 0 and 0 < mask.sum() < mask.size
    told = run_example(out, tmp_path, "Where? <BOX> <SEG>")
    assert "mask_decoder" in told and "region_encoder" in told
    (line,) = re.findall(r"box (\[.*?\]) (\S+)", told)[:1]
    assert json.loads(line[0]) == pytest.approx(edges[0].tolist(), abs=2e-4)
    assert float(line[1]) == pytest.approx(there.sigmoid().item(), abs=2e-4)
    written = np.asarray(Image.open(tmp_path / "mask_1.png"))
    assert f"mask_1.png: {written.sum()} pixels of {FIRST.width} x {FIRST.height}" in told
    assert written.shape == mask.shape and (written != mask).mean() < 0.01  # sums are rounded in another order


def run_example(out, folder, *words):
    """Run the export's own script on ``first.png`` of a folder as a user does, and return what it prints."""
    command = [sys.executable, str(out / "parts" / "load_parts.py"), "first.png", *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def example(exported, tmp_path, monkeypatch, capsys):
    """The export's own script as a function of the words behind its name: what it prints, or ends with."""
    script = exported[1] / "parts" / "load_parts.py"
    monkeypatch.chdir(tmp_path)
    FIRST.save("first.png")

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return run


def test_the_example_answers_about_regions_as_the_run_does(exported, example):
    run, _, _ = exported
    generator = open_run(run)
    question = "What is <region></region>, and what <region></region>?"
    boxes = [[0, 0, 24, 32], [24, 0, 48, 32]]
    answers = []
    for given in (boxes, boxes[::-1]):
        messages = with_regions(ours([("user", FIRST, question)]), given, Path)
        answers.append(generator.generate([Request(messages)], Sampling(max_new_tokens=32))[0])
    assert answers[0].tokens != answers[1].tokens
    told = example("first.png", question, *(",".join(map(str, box)) for box in boxes))
    # transformers writes the special tokens too.
    assert answers[0].text in re.sub(r"<\|\w+\|>", "", told)


def test_mistakes_in_the_words_behind_the_example_are_one_line(example):
    asked = "What is <region></region>?"
    counted = "error: {} times <region></region> in the question, {} boxes behind it: give a box for each"
    assert example("first.png", asked) == counted.format(1, 0)
    assert example("first.png", asked, *["0,0,9,9"] * 3) == counted.format(1, 3)
    assert example("first.png", "What is it?", "0,0,9,9") == counted.format(0, 1)
    for box in ("a,b,c,d", "1,2,3", "1 2 3 4"):
        wanted = f"error: '{box}' is not a box: write left,top,right,bottom in pixels, such as 10,20,60,80"
        assert example("first.png", asked, box) == wanted
    assert example("first.png", asked, "900,900,950,950") == (
        "error: the box of a region [900.0, 900.0, 950.0, 950.0] holds no pixel of its image of"
        f" {FIRST.width} x {FIRST.height}"
    )
    assert "No such file or directory: 'second.png'" in example("second.png", "Where?")


def test_the_example_looks_at_an_image_upright(example):
    upright = example("first.png", "Where? <BOX> <SEG>")
    turned = FIRST.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: to be turned by 90 degrees to the right
    turned.save("first.png", exif=exif)
    assert "mask_1.png" in upright
    assert example("first.png", "Where? <BOX> <SEG>") == upright


def test_an_import_of_the_export_has_the_parts_again(exported, tmp_path):
    run, out, _ = exported
    import_model(out, tmp_path / "again")
    wanted, found = open_run(run).model.components, open_run(tmp_path / "again", ["device=cpu"]).model.components
    assert list(found) == list(wanted) == ["vision", "projector", *COMPONENTS]
    for name in COMPONENTS:
        tensors, own = found[name].state_dict(), wanted[name].state_dict()
        assert tensors.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in tensors.items())
        assert found[name].config() == wanted[name].config()
    shutil.copytree(out, tmp_path / "damaged")
    (tmp_path / "damaged/parts/mask_decoder.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match=r"damaged/parts cannot be read .*: export the run again"):
        import_model(tmp_path / "damaged", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_damaged_and_newer_parts_end_in_one_line(exported, tmp_path):
    _, out, _ = exported
    with pytest.raises(UserError, match=r"cannot be read .*export the run again"):
        read_parts(tmp_path, nn.Identity())
    facts = json.loads((out / "parts/parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps(facts | {"format_version": 2}))
    with pytest.raises(UserError, match="has format 2: update medcap"):
        read_parts(tmp_path, nn.Identity())
    (tmp_path / "parts.json").write_text(json.dumps(facts | {"parts": {"image_gain": {}}}))
    with pytest.raises(UserError, match="names the part image_gain, which this medcap does not know"):
        read_parts(tmp_path, nn.Identity())
