"""A language model of transformers the whole way: trained with adapters and words, divided, answered with."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers.transformers_families import write_family
from helpers.workspace import Workspace
from medcap.cli import main
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow


class TransformersWorkspace(Workspace):
    """One whose language model is a Qwen3 as transformers writes it."""

    def model_overrides(self):
        return [
            "llm={_component_: medcap.models.transformers_decoder}",
            f"tokenizer.path={self.folder}/tokenizer/tokenizer.model",
            f"checkpointer.checkpoint_dir={self.folder}/llm",
            "device=cpu",
        ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = TransformersWorkspace(tmp_path_factory.mktemp("transformers"))
    shutil.move(workspace.folder / "llm/original", workspace.folder / "tokenizer")
    shutil.rmtree(workspace.folder / "llm")
    write_family(workspace.folder / "llm", "qwen3")
    return workspace


@pytest.fixture(scope="module")
def run(place):
    return place.train("llm_lora.rank=2", "words=[<SEG>]", "trainable=[projector,llm_lora,words]", "llm_weights=int8")


def test_it_trains_and_stays_what_it_was(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"]
    assert summary["history"] == [
        {"step": 2, "trained": ["projector", "llm_lora", "words"], "data": summary["history"][0]["data"]}
    ]
    saved = json.loads((run / "checkpoint/step_000002/vision.json").read_text())
    assert saved["llm"]["component"] == "medcap.models.transformers_decoder"


def test_it_answers(place, run):
    generator = open_run(run, ["device=cpu"])
    requests = [question_request(str(place.folder / f"images/{index}.png"), "Is there a circle?") for index in range(2)]
    answers = generator.generate(requests, Sampling(max_new_tokens=4))
    assert [len(answer.tokens) for answer in answers] == [4, 4]
    assert [answer.error for answer in answers] == ["", ""]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["merge"], "llm._component_=medcap.models.transformers_decoder cannot be merged: medcap merge writes Llama"),
        (["export"], "--format hf: llm._component_=medcap.models.transformers_decoder is not torchtune's Llama"),
    ],
)
def test_what_only_a_llama_has_a_place_for_is_one_line(run, tmp_path, capsys, command, message):
    with pytest.raises(SystemExit) as stop:
        main([*command, str(run), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
