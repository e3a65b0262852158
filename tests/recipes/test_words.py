"""Added words the whole way: trained, saved, resumed, divided over processes, answered with and left out."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.tokenizers import tiny_vocab_size
from helpers.workspace import Workspace, log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.run import read_run
from medcap.cli import main
from medcap.errors import UserError
from medcap.evaluation.judges.model_under_test import ModelUnderTestJudge
from medcap.export.merged_language import MergeOptions, merge_run
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run, open_runs

FIRST = tiny_vocab_size()
WORDS = ("words={tokens: [<SEG>, <im_start>, <im_end>], image_words: [<im_start>, <im_end>]}",)
STEP = ("max_steps_per_epoch=1", "lr_scheduler._component_=null")


def workspace_with_words(folder):
    """Records of which some questions and answers hold a word."""
    workspace = Workspace(folder)
    rows = workspace.records()
    for number, row in enumerate(rows):
        turns = row["conversations"]
        turns[0]["value"] += " <SEG>?" * (number % 3 == 0)
        turns[1]["value"] += " <SEG>." * (number % 2 == 0)
    workspace.write_data("train.json", rows)
    return workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return workspace_with_words(tmp_path_factory.mktemp("words"))


def tensors(output):
    step = latest_checkpoint(output)
    files = [step / f"{name}.safetensors" for name in ("vision", "words", "llm_lora")]
    return {name: tensor for file in files if file.is_file() for name, tensor in load_file(file).items()}


def request(place, words="Is there a circle?", **changes):
    return replace(question_request(str(place.folder / "images/0.png"), words), **changes)


@pytest.fixture(scope="module")
def trained(place):
    return place.train(*WORDS, "trainable={projector: {}, words: {lr: 0.05}}", "epochs=3", output="trained")


@pytest.mark.parametrize("others", [(), ("llm_lora.rank=2",)], ids=["alone", "with adapters"])
def test_a_step_changes_the_words_and_nothing_else(place, others, capsys):
    options = (*others, "words=[<SEG>, <b>]", "trainable={words: {weight_decay: 0.0}}", *STEP)
    before = tensors(place.train(*options, "optimizer.lr=0", output=f"before{len(others)}"))
    output = place.train(*options, output=f"after{len(others)}")
    after = tensors(output)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"words.embedding", "words.output"}
    # The other word stands in no text, so that only its output, which is never right, learns.
    assert torch.equal(after["words.embedding"][1], before["words.embedding"][1])
    assert not any(torch.equal(after["words.output"][row], before["words.output"][row]) for row in (0, 1))
    found = json.loads((output / "summary.json").read_text())
    assert found["llm_sha256_before"] == found["llm_sha256_after"] is not None
    assert "added words          trained             128 parameters  float32" in capsys.readouterr().err


def test_a_resumed_run_is_the_undisturbed_one(place):
    options = (*WORDS, "trainable=[projector,words]", "epochs=2", "dataset.packed=false")
    whole = place.train(*options, output="whole")
    place.train(*options, "save_every_n_steps=1", output="again")
    step = place.folder / "again/checkpoint/step_000001"
    resumed = place.train(*options, f"resume_from_checkpoint={step}", output="resumed")
    assert log(resumed)[-1]["loss"] == log(whole)[-1]["loss"]
    expected = tensors(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(resumed).items())


@pytest.mark.processes
def test_two_processes_train_what_one_trains(place, server):
    options = (
        *WORDS,
        "llm_lora.rank=2",
        "trainable={projector: {}, llm_lora: {}, words: {weight_decay: 0.0}}",
        "optimizer.eps=1e-4",
        "dataset.packed=false",
    )
    outputs = []
    # Divided layers; whole ones differ from one process only in whose gradients are added up.
    for processes, how in ((1, ()), (2, ("parallelism=shard",))):
        output = f"processes{processes}"
        started = server.train(place, output, *options, *how, processes=processes)
        assert started.wait() == [0] * processes, started.printed()
        outputs.append(place.folder / output)
    one, two = map(tensors, outputs)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


def test_a_run_alone_says_which_words_it_has(place, trained):
    generator = open_run(trained, ["device=cpu"])
    tokens = generator.tokenizer.prompt(request(place, "Is <SEG> there?").messages).tokens
    assert [token for token in tokens if token >= FIRST] == [FIRST + 1, FIRST + 2, FIRST]
    candidates = [["Yes <SEG>.", "No"]]
    found = generator.score([request(place)], candidates)[0]
    assert found.num_tokens[0] == 5
    bare = open_run(trained, ["device=cpu", "without=[words]"])
    assert max(bare.tokenizer.prompt(request(place, "Is <SEG> there?").messages).tokens) < FIRST
    without = bare.score([request(place)], candidates)[0]
    asked = [request(place), request(place, without=("words",))]
    mixed = generator.score(asked, candidates * 2)
    assert mixed[0].sums == pytest.approx(found.sums, abs=1e-5)
    assert mixed[1].sums == pytest.approx(without.sums, abs=1e-5)
    with pytest.raises(UserError, match=r"without=words: this model has no such component"):
        bare.generate([asked[1]], Sampling(max_new_tokens=2))
    first, second = open_runs([trained, trained], ["device=cpu"])
    assert first.score([request(place)], candidates)[0].sums == second.score([request(place)], candidates)[0].sums


def test_a_later_run_goes_on_with_the_words_of_a_checkpoint(place, trained):
    output = place.train(f"vision_checkpoint={trained}", "vision=null", "trainable=[projector]", *STEP, output="later")
    assert torch.equal(tensors(output)["words.embedding"], tensors(trained)["words.embedding"])
    bare = place.train(f"vision_checkpoint={trained}", "vision=null", "without=[words]", *STEP, output="bare")
    assert not (latest_checkpoint(bare) / "words.safetensors").exists()


def test_the_run_judges_itself_without_words(place, trained):
    cfg = read_run(trained, ["device=cpu"])
    prompts, replies = ["Is <SEG> right?"], {}
    judge = ModelUnderTestJudge(cfg, plan_model(cfg), {}, max_new_tokens=4, progress=False)
    judge.ask(prompts, replies.__setitem__)
    bare = open_run(trained, ["device=cpu", "without=[words]"])
    (expected,) = bare.generate([question_request(None, prompts[0])], Sampling(max_new_tokens=4))
    assert replies[0].text == expected.text


def test_data_is_counted_with_the_words(place, capsys):
    training = place.training(*WORDS)
    counts = []
    for words in ((), WORDS):
        config = ["--config", training[1], *training[2:-1], *words]
        assert main(["stats", str(place.data), *config]) == 0
        counts.append(capsys.readouterr().out)
    assert counts[0] != counts[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("words=[]", "words.tokens is empty: name at least one word"),
        ("words=[user]", "words.tokens: 'user' is one token of the tokenizer already: leave it out"),
        ("words=['<|eot_id|>']", "words.tokens: '<|eot_id|>' is one token of the tokenizer already: leave it out"),
        ("words=[<a>,'']", "words.tokens: word 2 is empty: remove it"),
        ("words=[<a>,<a>]", "words.tokens: '<a>' is given twice: remove one"),
        ("words=[' <a>']", "words.tokens: ' <a>' begins or ends with white space: leave the white space out"),
        ("words=[3]", "words.tokens"),
        ("words={image_words: [<a>, <b>]}", "words.tokens is missing"),
        ("words={tokens: [<a>], image_words: [<a>, <b>]}", "words.image_words: '<b>' is none of words.tokens=['<a>']"),
        ("words.token=[<a>]", "unknown key words.token: did you mean words.tokens?"),
        (
            "trainable=[projector,words]",
            "trainable: this model has no words; add words._component_=medcap",
        ),
        ("without=[words]", "without=words: this model has no such component that can be left out"),
    ],
)
def test_mistakes_are_one_line_before_weights_load(place, capsys, monkeypatch, given, message):
    monkeypatch.setattr("medcap.checkpoints.frozen_llm.TensorReader.read", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit):
        place.train(given, output="mistaken")
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_other_words_than_the_checkpoints_are_refused(place, trained, monkeypatch):
    monkeypatch.setattr("medcap.checkpoints.frozen_llm.TensorReader.read", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=r"words.tokens=\['<SEG>'\]: .* was trained with \['<SEG>', '<im_start>'"):
        open_run(trained, ["device=cpu", "words=[<SEG>]"])


def test_a_run_is_not_resumed_with_other_words(place, capsys):
    place.train("words=[<a>]", "trainable=[words]", *STEP, output="first")
    step = latest_checkpoint(place.folder / "first")
    with pytest.raises(SystemExit):
        place.train("words=[<b>]", "trainable=[words]", *STEP, f"resume_from_checkpoint={step}", output="other")
    assert "has words.tokens=['<a>'], this run ['<b>']" in capsys.readouterr().err


def test_a_merged_language_model_has_the_adapters_and_not_the_words(place, tmp_path):
    model = (*WORDS, "llm_lora.rank=2", "trainable=[words,llm_lora]", "optimizer.lr=0.05")
    run = place.train(*model, output="with_adapters")
    (notice,) = merge_run(run, tmp_path / "merged", options=MergeOptions("fp32"))
    assert "the run's words are not in the merged language model" in notice
    tokens = torch.arange(20, 40)[None]
    elsewhere = ("without=[llm_lora]", f"checkpointer.checkpoint_dir={tmp_path}/merged")
    with torch.no_grad():
        expected, found = (
            open_run(run, ["device=cpu", *overrides]).model.eval().decoder(tokens) for overrides in ((), elsewhere)
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="no adapters to merge"):
        merge_run(place.train(*WORDS, "trainable=[words]", *STEP, output="words_alone"), tmp_path / "none")
