"""medcap 2024's documented commands with their own keys, on small stand-ins for the weights."""

import csv
import dataclasses
import json

import pytest

from helpers.vision_checkpoints import TIMM_VISION, write_meta_model, write_open_clip_folder
from helpers.workspace import Workspace, log, tune
from medcap.models.towers import registry

NAME = "results_medcap/vqarad_biomedclip"
LLM = "./models/llama3/Meta-Llama-3.1-8B-Instruct"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    (tmp_path / "models" / "llama3").mkdir(parents=True)
    (tmp_path / "llm").rename(tmp_path / LLM)
    # The name biomedclip then means a trunk of the same structure with few parameters.
    small = {"kind": "open_clip", "embed_dim": 12, "vision_cfg": dict(TIMM_VISION), "quick_gelu": False}
    named = registry.NAMED_TOWERS["biomedclip"]
    spec = {**named.spec, **{key: value for key, value in small.items() if key in named.spec}}
    preprocess = dataclasses.replace(named.preprocess, image_size=160)
    small_tower = dataclasses.replace(named, spec=spec, preprocess=preprocess)
    monkeypatch.setitem(registry.NAMED_TOWERS, "biomedclip", small_tower)
    state = write_open_clip_folder(tmp_path / "source")
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    pretrained = tmp_path / "models" / "medcap-textplus-pmcoa-patients-llama3.1"
    pretrained.mkdir()
    write_meta_model(pretrained / "meta_model_last.pt", visual, llm_dim=32, num_image_tokens=50)
    folder = tmp_path / "datasets" / "VQA_RAD" / "VQA_RAD Image Folder"
    folder.parent.mkdir(parents=True)
    (tmp_path / "images").rename(folder)
    rows = [
        {
            "conversations": [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": f"Normal image {index}."}],
            "image": f"{index}.png",
            "meta": "dir=./datasets/VQA_RAD/VQA_RAD Image Folder",
        }
        for index in range(4)
    ]
    (tmp_path / "datasets" / "medcap").mkdir()
    workspace.write_data("datasets/medcap/vqarad_train.json", rows)
    workspace.write_data("datasets/medcap/vqarad_test.json", rows[:2])
    official = [
        {
            "qid": index,
            "phrase_type": phrase,
            "image_name": f"{index % 2}.png",
            "image_organ": "CHEST",
            "question": f"Is there mass {index}?",
            "question_type": "PRES",
            "answer": "No",
            "answer_type": answer_type,
        }
        for index, (phrase, answer_type) in enumerate(
            [("test_freeform", "CLOSED"), ("test_para", "CLOSED"), ("test_freeform", "OPEN"), ("freeform", "CLOSED")]
        )
    ]
    workspace.write_data("datasets/VQA_RAD/VQA_RAD Dataset Public.json", official)
    monkeypatch.chdir(tmp_path)
    return workspace


def llm_stand_in(workspace):
    return [word for word in workspace.model_overrides() if word.startswith("llm.")]


def test_vqarad_fine_tune_caption_test_and_closed_questions(workspace):
    paths = [f"tokenizer.path={LLM}/original/tokenizer.model", f"checkpointer.checkpoint_dir={LLM}"]
    tune(
        "full_finetune_single_device",
        "medcap/llama3_1/8B_biomedclip_single_device",
        *llm_stand_in(workspace),
        *paths,
        "epochs=5",
        "batch_size=4",
        "gradient_accumulation_steps=1",
        "optimizer.lr=2e-5",
        "vision=biomedclip",
        "dataset._component_=torchtune.datasets.chat_dataset",
        "dataset.source=./datasets/medcap/vqarad_train.json",
        "dataset.conversation_style=sharegpt",
        "dataset.max_seq_len=500",
        "vision_checkpoint=./models/medcap-textplus-pmcoa-patients-llama3.1/meta_model_last.pt",
        f"checkpointer.output_dir=./{NAME}/checkpoint",
        f"metric_logger.log_dir=./{NAME}/log",
        f"output_dir=./{NAME}",
    )
    output = workspace.folder / NAME
    assert len(log(output)) == 5
    assert (output / "checkpoint" / "meta_model_5.pt").is_file()
    described = json.loads((output / "checkpoint" / "latest" / "vision.json").read_text())
    assert described["num_image_tokens"] == 50
    tune(
        "generate",
        "medcap/generation",
        *llm_stand_in(workspace),
        *paths,
        "test_metrics=True",
        "vqa_type=no_cond_desc",
        "seed=1",
        "max_new_tokens=500",
        "top_k=null",
        "temperature=0",
        "vision=biomedclip",
        "dataset_source=./datasets/medcap/vqarad_test.json",
        "dataset_conversation_style=sharegpt",
        "dataset_max_seq_len=100",  # 500 in medcap's command; the stand-in never stops by itself
        f"vision_checkpoint=./{NAME}/checkpoint/meta_model_5.pt",
        f"output_dir=./{NAME}",
    )
    metrics = json.loads((output / "caption" / "metrics.json").read_text())
    assert metrics["n"] == 2
    assert {"Bleu_1", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"} <= metrics["scores"].keys()
    with (output / "metrics-raw-meta_model_5.csv").open(encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    assert [row["output"] for row in table] == ["Normal image 0.", "Normal image 1."]
    tune(
        "generate",
        "medcap/generation",
        *llm_stand_in(workspace),
        *paths,
        "test_vqarad=True",
        "vqa_type=no_cond_desc",
        "seed=1",
        "max_new_tokens=500",
        "top_k=null",
        "temperature=0",
        "vision=biomedclip",
        "dataset_source=./datasets/",
        "dataset_conversation_style=sharegpt",
        "dataset_max_seq_len=500",
        f"vision_checkpoint=./{NAME}/checkpoint/meta_model_5.pt",
        f"output_dir=./{NAME}",
    )
    result = json.loads((output / "vqarad" / "metrics.json").read_text())
    assert (result["n"], result["asked"]) == (3, "no_cond_desc")
    with (output / "vqarad-no_cond_desc-raw-meta_model_5.csv").open(encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", "instruction", "output", "generated"]
    assert [row["output"] for row in table] == ["No", "No"]
    assert "Is there mass 1?" in table[1]["instruction"]
    assert len((output / "vqarad" / "descriptions.jsonl").read_text().splitlines()) == 2
