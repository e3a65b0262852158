"""A sweep through the real recipes."""

import json

import yaml
from omegaconf import OmegaConf

import medcap.sweep
from helpers.workspace import TINY_VISION


def test_a_trial_trains_is_asked_and_is_scored(workspace):
    out = workspace.folder / "sweep"
    model = OmegaConf.to_container(OmegaConf.from_dotlist(workspace.model_overrides()))
    rows = workspace.write_data("test.json", workspace.records()[:4])
    (row,) = medcap.sweep.run(
        {
            "output_dir": str(out),
            "config": "medcap/tiny/single_device",
            "overrides": {
                **model,
                "vision": yaml.safe_load(TINY_VISION),
                "projector.num_image_tokens": 4,
                "dataset.source": str(workspace.data),
                "dataset.max_seq_len": 96,
                "validation_source": str(workspace.data),
                "epochs": 1,
                "batch_size": 2,
                "lr_scheduler.num_warmup_steps": 1,
            },
            "grid": {"optimizer.lr": [1.0e-3]},
            "test": {
                "config": "medcap/tiny/generation",
                "overrides": {**model, "max_new_tokens": 4, "test_vqa": True, "dataset_source": str(rows)},
            },
            "objective": {"metric": "vqa.scores.accuracy", "direction": "maximize"},
        }
    )
    assert (row["state"], row["reason"], row["optimizer.lr"]) == ("complete", None, "0.001")
    assert 0.0 <= row["value"] <= 1.0
    trial = out / "trials" / "0000"
    assert json.loads((trial / "vqa" / "metrics.json").read_text())["scores"]["accuracy"] == row["value"]
    losses = [json.loads(line) for line in (trial / "log" / "metrics.jsonl").open()]
    assert row["step"] == losses[-1]["step"] and "validation_loss" in losses[-1]
