"""The published recipes of other systems, on small stand-ins for the weights: each stage trains and goes on."""

import pytest
import yaml

from helpers.vision_checkpoints import write_hugging_face_folder
from helpers.workspace import tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.configs import packaged_configs
from medcap.models.component_registry import further_components

pytestmark = pytest.mark.slow

STAGES = {
    "llava_med": ("clip", ["stage1", "stage2", "vqa"]),
    "colongpt": ("siglip", ["stage1", "stage2"]),
    "medplib": ("clip", ["stage1", "stage2"]),
    "bird": ("siglip", ["instruct"]),
}


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
            f"dataset.source={workspace.data}",
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
        if "llm_lora" in cfg:
            overrides.append("llm_lora.rank=2")
        if before is not None:
            assert cfg["init_from"] == f"./results/{system}/{before}"
            overrides.append(f"init_from={workspace.folder / before}")
        tune("full_finetune_single_device", name, *overrides)
        files = {path.name for path in latest_checkpoint(workspace.folder / stage).glob("*.safetensors")}
        further = [f"{part}.safetensors" for part in further_components() if part in cfg]
        assert files == {"vision.safetensors", *further}
        before = stage
