"""medcap 2024's documented commands with their own keys, on small stand-ins for the weights."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.small_biomedclip import install_in_children, small_biomedclip
from helpers.vision_checkpoints import write_meta_model, write_open_clip_folder
from helpers.waiting import PATIENCE
from helpers.workspace import Workspace, log, tune
from medcap.models.towers import registry

pytestmark = pytest.mark.processes

NAME = "results_medcap/vqarad_biomedclip"
TEXTPLUS = "results_medcap/textplus_pmcoa_patients_biomedclip"
PRETRAINED = "./models/medcap-textplus-pmcoa-patients-llama3.1/meta_model_last.pt"
LLM = "./models/llama3/Meta-Llama-3.1-8B-Instruct"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    (tmp_path / "models" / "llama3").mkdir(parents=True)
    (tmp_path / "llm").rename(tmp_path / LLM)
    monkeypatch.setitem(registry.NAMED_TOWERS, "biomedclip", small_biomedclip())
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
        f"vision_checkpoint={PRETRAINED}",
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
        "dataset_max_seq_len=100",  # 500 in medcap 2024's command; the stand-in never stops by itself
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


def test_textplus_fine_tune_on_two_processes(workspace):
    folder = workspace.folder / "datasets" / "PMC-VQA-text" / "images"
    folder.mkdir(parents=True)
    for index in range(4):
        (workspace.folder / "datasets/VQA_RAD/VQA_RAD Image Folder" / f"{index}.png").rename(folder / f"{index}.png")
    workspace.write_data(
        "datasets/medcap/textplus_pmcoa_patients_train.json",
        [
            {
                "conversations": [
                    {"from": "human", "value": "①" * 50},
                    {"from": "gpt", "value": f"Figure (1) is normal, number {index}."},
                ],
                "image": f"{index % 4}.png",
                "meta": "dir=./datasets/PMC-VQA-text/images",
            }
            for index in range(20)
        ],
    )
    # medcap 2024's has --nproc_per_node 8. On one node a port is chosen whatever --master_port says.
    launcher = ["--master_port", "29500", "--nproc_per_node", "2"]
    command = [
        *launcher,
        "medcap/recipes/full_finetune_distributed",
        "--config",
        "medcap/llama3_1/8B_biomedclip_distributed",
        *llm_stand_in(workspace),
        "device=cpu",
        "epochs=5",
        "batch_size=8",
        "gradient_accumulation_steps=1",
        "optimizer.lr=2e-5",
        "vision=biomedclip",
        "dataset._component_=torchtune.datasets.chat_dataset",
        "dataset.source=./datasets/medcap/textplus_pmcoa_patients_train.json",
        "dataset.conversation_style=sharegpt",
        "dataset.max_seq_len=1000",
        f"tokenizer.path={LLM}/original/tokenizer.model",
        f"checkpointer.checkpoint_dir={LLM}",
        f"vision_checkpoint={PRETRAINED}",
        f"checkpointer.output_dir=./{TEXTPLUS}/checkpoint",
        f"metric_logger.log_dir=./{TEXTPLUS}/log",
        f"output_dir=./{TEXTPLUS}",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "helpers.forking_torchrun", "run", *command],
        env=os.environ | install_in_children(workspace.folder / "site") | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    output = workspace.folder / TEXTPLUS
    summary = json.loads((output / "summary.json").read_text())
    # 20 rows, 8 on each of two processes: two steps an epoch.
    assert (summary["processes"], summary["samples"], summary["steps"]) == (2, 20, 10)
    assert [row["epoch"] for row in log(output)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"] is not None
    written = sorted(path.name for path in (output / "checkpoint").glob("meta_model_*.pt"))
    assert written == [f"meta_model_{epoch}.pt" for epoch in (1, 2, 3, 4, 5)]
    saved = load_file(output / "checkpoint" / "latest" / "vision.safetensors")
    last = torch.load(output / "checkpoint" / "meta_model_5.pt", weights_only=True)
    before = torch.load(workspace.folder / PRETRAINED, weights_only=True)
    for section, prefix in (("visual", "vision."), ("projector", "projector.")):
        for name, tensor in last[section].items():
            torch.testing.assert_close(saved[prefix + name].bfloat16(), tensor, rtol=0, atol=0)
    trained = "projector.2.weight"
    assert not torch.equal(saved[trained], before["projector"]["2.weight"].float())
