"""The published recipes of other systems, on small stand-ins for the weights: each stage trains and goes on."""

import json

import pytest
import yaml
from PIL import Image

from helpers.sam_folders import write_sam
from helpers.vision_checkpoints import write_hugging_face_folder
from helpers.workspace import tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.configs import packaged_configs, packaged_pipelines
from medcap.models.component_registry import further_components
from medcap.pipeline.overrides import override_text

pytestmark = pytest.mark.slow


def coloninst(folder):
    """Write ColonINST's test files, one question of each task; returns the number of questions that are scored."""
    image = "CVC-ClinicDB/Test/polyp/11.png"
    path = folder / "ColonINST" / "Positive-images" / image
    path.parent.mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(path)
    box = "{<10><2><30><18>}"
    asked = {"cls": ("Categorize the object.", "polyp"), "reg": (f"What is {box}?", "polyp"), "rec": ("Where?", box)}
    for part, (question, answer) in asked.items():
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        file = folder / "ColonINST" / "Json-file" / "test" / f"ColonINST-test-{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([{"id": image, "image": "11", "conversations": turns}]), encoding="utf-8")
    return len(asked)


def medgrit(folder):
    """Write Med-GRIT's test files, one question of each task; returns their number."""
    name = "ct_00--AbdomenCT1K--Case_00220--x_0359"
    (folder / "Med-GRIT-270k" / "images").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(folder / "Med-GRIT-270k" / "images" / f"{name}.png")
    box = "<ref>liver</ref><box>(100,200),(500,600)</box>"
    asked = {
        "VG": ("Where?", box),
        "RO": (f"What is {box}?", "liver"),
        "GC": ("Describe.", box),
        "MII": ("What?", "CT"),
    }
    for kind, turn in asked.items():
        file = folder / "Med-GRIT-270k" / f"test_chatlm_{kind}_img_coord_OneConv.json"
        file.write_text(json.dumps([{"id": name, "conversations": [turn]}]), encoding="utf-8")
    return len(asked)


# System -> task of the last stage of its pipeline, and what writes its test files.
TESTS = {"colongpt": ("coloninst", coloninst), "bird": ("medgrit", medgrit)}
STAGES = {
    "llava_med": ("clip", ["stage1", "stage2", "vqa"]),
    "colongpt": ("siglip", ["stage1", "stage2"]),
    "medplib": ("clip", ["stage1", "stage2", "stage3", "stage4"]),
    "bird": ("siglip", ["instruct"]),
}


def parts_data(workspace, cfg):
    """Write the rows of a stage: with a region and a mask where it has what reads them."""
    rows = workspace.records()
    for row in rows:
        if "image" in row and "region_encoder" in cfg:
            row["conversations"][0]["value"] += " <region></region>"
            row["regions"] = [[2, 2, 20, 12]]
        if "image" in row and "mask_decoder" in cfg:
            row["conversations"][1]["value"] += " <SEG>"
            row["masks"] = [[2, 2, 20, 12]]
    return workspace.write_data("parts.json", rows)


@pytest.mark.parametrize("system", STAGES)
def test_its_stages_train_one_after_another(workspace, system):
    family, stages = STAGES[system]
    tower = workspace.folder / "tower"
    write_hugging_face_folder(tower, family)
    before = None
    for stage in stages:
        name = f"medcap/{system}/{stage}"
        cfg = yaml.safe_load(packaged_configs()[name].read_text())
        layer = cfg["vision"]["select_layer"] if isinstance(cfg["vision"], dict) else -1
        overrides = [
            "llm={_component_: torchtune}",  # in place of the whole section; its values follow
            "tokenizer={_component_: medcap.models.llama3_tokenizer}",
            *workspace.model_overrides(),
            f"output_dir={workspace.folder / stage}",
            f"vision={{name: {tower}, select_layer: {layer}}}",
            f"dataset.source={parts_data(workspace, cfg)}",
            "dataset.image_roots=null",
            "num_workers=0",
            "batch_size=4",
            "epochs=1",
            "gradient_accumulation_steps=1",
            "max_steps_per_epoch=2",
            "optimizer.fused=null",
        ]
        if "levels" in cfg["projector"]:
            overrides.append("projector.levels=[3,2,1]")
        if "num_image_tokens" in cfg["projector"]:
            overrides.append("projector.num_image_tokens=4")
        if "experts" in cfg.get("llm_lora", {}):
            assert cfg["llm_lora"]["experts"] == [f"./results/{system}/{name}" for name in ("stage3", "stage2")]
            # Adapters of any earlier stage will do; there are those of one here.
            overrides.append(f"llm_lora.experts=[{', '.join([str(workspace.folder / before)] * 2)}]")
        elif "llm_lora" in cfg:
            overrides.append("llm_lora.rank=2")
        if "mask_decoder" in cfg:
            if not (workspace.folder / "sam").exists():
                write_sam(workspace.folder / "sam")
            overrides.append(f"mask_decoder.path={workspace.folder / 'sam'}")
        if before is not None:
            assert cfg["init_from"] == f"./results/{system}/{before}"
            overrides.append(f"init_from={workspace.folder / before}")
        tune("full_finetune_single_device", name, *overrides)
        files = {path.name for path in latest_checkpoint(workspace.folder / stage).glob("*.safetensors")}
        further = [f"{part}.safetensors" for part in further_components() if part in cfg]
        assert files == {"vision.safetensors", *further}
        before = stage
    if system in TESTS:
        task, write = TESTS[system]
        count = write(workspace.folder / "datasets")
        asked = yaml.safe_load(packaged_pipelines()[f"medcap/{system}/pipeline"].read_text())["stages"]["test"]
        given = asked["overrides"] | {"vision_checkpoint": str(workspace.folder / before)}
        given |= {"dataset_source": str(workspace.folder / "datasets"), "dataset_max_seq_len": 100, "device": "cpu"}
        given |= {"output_dir": str(workspace.folder / "test"), "controls": False}
        tune("generate", asked["config"], *(f"{key}={override_text(value, key)}" for key, value in given.items()))
        folder = workspace.folder / "test" / task
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert [row["error"] for row in rows] == [None] * count
        assert json.loads((folder / "metrics.json").read_text())["failures"] == 0
