"""A run whose language model has its own tokenizer.json and chat template: train, open, merge, validate."""

import json

import pytest
from torchtune.data import Message

from helpers.chat_template_folders import chat_template_folder
from helpers.workspace import Workspace, log
from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.run import read_run
from medcap.cli import main
from medcap.errors import UserError
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("own_template"), vocab_size=380)
    chat_template_folder("qwen3", workspace.folder / "llm")
    workspace.train(*own(workspace), "llm_lora.rank=2", "max_steps_per_epoch=2")
    return workspace


def own(workspace):
    return ("tokenizer._component_=medcap.models.transformers_tokenizer", f"tokenizer.path={workspace.folder}/llm")


def test_it_trains_and_its_prompt_is_that_of_the_training(place):
    assert len(log(place.folder / "run")) == 2
    chat = plan_model(read_run(place.folder / "run")).tokenizer
    question = [Message(role="user", content="Is there a circle?")]
    sample = chat.tokenize([*question, Message(role="assistant", content="Yes")])
    prompt = chat.prompt(question).tokens
    assert sample.tokens == [*prompt, *chat.answer("Yes"), *chat.tokenizer.tokenize_messages(question)[0][-1:]]


def test_it_answers_alone_as_in_a_batch(place):
    generator = open_run(place.folder / "run", ["device=cpu"])
    image = place.folder / "images" / "0.png"
    requests = [question_request(image, "Is there a circle?"), question_request(None, "What is shown?")]
    answers = generator.generate(requests, Sampling(max_new_tokens=6))
    alone = [generator.generate([request], Sampling(max_new_tokens=6))[0] for request in requests]
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
    scores = generator.score(requests[:1], [["Yes", "No"]])[0].sums
    assert len(scores) == 2


def test_a_merged_folder_has_the_template_and_the_ends(place):
    out = place.folder / "merged"
    assert main(["merge", str(place.folder / "run"), "--out", str(out)]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (place.folder / "llm" / name).read_bytes()


def test_validate_takes_the_folder(place, capsys):
    out = place.folder / "found.json"
    found = main(["validate", str(place.data), "--tokenizer", str(place.folder / "llm"), "--json", str(out)])
    assert found == 0, capsys.readouterr()
    assert json.loads(out.read_text())["rows"] == 13


def test_a_template_that_cannot_be_used_stops_the_run_before_its_weights(place):
    template = place.folder / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(SystemExit):
        place.train(*own(place), f"tokenizer.chat_template={template}", output="bad")
    with pytest.raises(UserError, match="cannot be split into turns"):
        plan_model(read_run(place.folder / "run", [f"tokenizer.chat_template={template}"]))
