import base64
import json
from unittest import mock

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.workspace import log
from medcap.checkpoints.atomic import latest_checkpoint


def weights(output):
    return load_file(latest_checkpoint(output) / "vision.safetensors")


def test_a_run_writes_everything_that_is_promised(workspace, capsys):
    output = workspace.train(
        "projector=medcap.models.pooled_mlp", "save_meta_model=auto", "validation_source=" + str(workspace.data)
    )
    step = latest_checkpoint(output)
    assert {path.name for path in step.iterdir()} == {"vision.safetensors", "vision.json", "state", "COMPLETE"}
    assert (output / "checkpoint" / "latest").resolve() == step
    assert (output / "checkpoint" / "meta_model_1.pt").is_file()
    assert (output / "config.yaml").is_file()
    row = log(output)[0]
    assert row["step"] == 1
    assert {
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "label_tokens_per_second",
        "images_per_second",
    } <= row.keys()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["samples"] == 13
    assert summary["peak_memory_bytes"] > 10**8
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"]
    described = json.loads((step / "vision.json").read_text())
    assert described["llm"]["fingerprint"] == summary["llm_sha256_before"]
    printed = capsys.readouterr().err
    assert "language model       frozen" in printed
    assert "vision tower         trained" in printed
    assert "validation loss" in printed


def test_the_loss_falls(workspace):
    rows = log(workspace.train("epochs=30", "optimizer.lr=3e-3"))
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]


def test_packed_and_unpacked_batches_of_the_same_samples_take_the_same_step(workspace):
    # Without a shuffle, one batch of everything is the same in every layout.
    shared = ("shuffle=false", "batch_size=100", "lr_scheduler=null")
    plain = workspace.train(*shared, "dataset.packed=false", "dataset.share_images=false", output="plain")
    packed = workspace.train(*shared, "dataset.packed=true", output="packed")
    assert log(plain)[0]["loss"] == pytest.approx(log(packed)[0]["loss"], abs=1e-5)
    assert log(plain)[0]["grad_norm"] == pytest.approx(log(packed)[0]["grad_norm"], rel=1e-5)


def test_accumulation_is_the_mean_over_all_label_tokens(workspace):
    shared = (
        "shuffle=false",
        "lr_scheduler=null",
        "dataset.packed=false",
        "optimizer=torch.optim.SGD",
        "~optimizer.betas",
    )
    whole = workspace.train(*shared, "batch_size=13", output="whole")
    parts = workspace.train(*shared, "batch_size=4", "gradient_accumulation_steps=4", output="parts")
    assert log(whole)[0]["loss"] == pytest.approx(log(parts)[0]["loss"], abs=1e-5)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_bit_identical(workspace):
    shared = ("epochs=2", "batch_size=1", "save_every_n_steps=2")
    whole = workspace.train(*shared, output="whole")
    workspace.train(*shared, output="stopped")
    steps = sorted((workspace.folder / "stopped" / "checkpoint").glob("step_*"))
    first_epoch = steps[0]
    resumed = workspace.train(*shared, f"resume_from_checkpoint={first_epoch}", output="resumed")
    assert weights(whole).keys() == weights(resumed).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    tail = [row["loss"] for row in log(whole)][-len(log(resumed)) :]
    assert [row["loss"] for row in log(resumed)] == tail
    assert len(log(resumed)) < len(log(whole))


def test_only_the_named_parts_change(workspace):
    output = workspace.train("trainable=[projector]")
    start = workspace.train("trainable=[projector]", "optimizer.lr=0", output="start")
    for name, tensor in weights(start).items():
        assert torch.equal(weights(output)[name], tensor) == name.startswith("vision."), name


def test_a_run_continues_from_another_runs_weights(workspace):
    first = workspace.train()
    second = workspace.train(f"vision_checkpoint={first}", "optimizer.lr=0", output="second")
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor), name


def test_eight_bit_adamw_trains(workspace):
    output = workspace.train("optimizer=bitsandbytes.optim.AdamW8bit", "~optimizer.fused")
    assert torch.isfinite(torch.tensor(log(output)[-1]["loss"]))


@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_a_low_precision_language_model_trains_unchanged(workspace, capsys, llm_weights):
    first = workspace.train(output="first")
    output = workspace.train(f"llm_weights={llm_weights}", f"vision_checkpoint={first}", "epochs=5")
    printed = capsys.readouterr().err
    assert f"parameters  float32, layers in {llm_weights}" in printed
    # The checkpoint was trained with other weights of the same language model.
    assert "another language model" not in printed
    rows = log(output)
    assert rows[-1]["loss"] < rows[0]["loss"]
    summary = json.loads((output / "summary.json").read_text())
    described, plain = (
        json.loads((latest_checkpoint(run) / "vision.json").read_text())["llm"] for run in (output, first)
    )
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"] != described["fingerprint"]
    assert (described["weights"], plain["weights"]) == (llm_weights, "bf16")
    assert described["fingerprint"] == plain["fingerprint"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("llm_weights=int4", "llm_weights='int4' must be one of bf16, fp8, int8, nf4"),
        ("batchsize=4", "unknown key batchsize: did you mean batch_size?"),
        ("dataset.max_seq_length=4", "unknown key dataset.max_seq_length: did you mean dataset.max_seq_len?"),
        ("optimizer.learning=4", "unknown key optimizer.learning"),
        ("epochs=many", "epochs='many' must be of type int"),
        ("batch_size=0", "batch_size=0 must be at least 1"),
        ("dataset.source=nowhere.json", "data file nowhere.json does not exist"),
        ("dataset.max_seq_len=4", "dataset.max_seq_len=4 is not longer than one image's 4 tokens"),
        ("trainable=[llm]", "choose from vision, projector"),
        ("llm._component_=torchtune.models.nothing.here", "cannot be found"),
        ("device=tpu", "device=tpu"),
        ("save_meta_model=true", "can only hold projector=medcap.models.pooled_mlp"),
        ("tokenizer.path=nowhere.model", "tokenizer.path=nowhere.model"),
        ("checkpointer.checkpoint_dir=nowhere", "nowhere"),
        ("resume_from_checkpoint=nowhere", "resume_from_checkpoint=nowhere is not a complete checkpoint"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(workspace, capsys, monkeypatch, override, message):
    from medcap.checkpoints.frozen_llm import LLMPlan

    def no_weights(*_):
        raise AssertionError("weights were read before the mistake was found")

    monkeypatch.setattr(LLMPlan, "load", no_weights)
    with pytest.raises(SystemExit) as end:
        workspace.train(override)
    printed = capsys.readouterr().err
    line = printed.strip().splitlines()[-1]
    assert end.value.code == 2
    assert line.startswith("medcap: ")
    assert message in line
    assert "Traceback" not in printed


def test_weights_that_do_not_fit_are_found_by_their_headers(workspace, capsys, monkeypatch):
    from safetensors.torch import save_file

    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    file = workspace.folder / "llm" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.q_proj.weight"
    for damaged in ({name: tensors[name][:-1].contiguous()}, {}):
        kept = {key: value for key, value in tensors.items() if key != name}
        save_file({**kept, **damaged}, file, metadata={"format": "pt"})
        with pytest.raises(SystemExit):
            workspace.train()
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("medcap: ")
        assert name in line


def test_a_tokenizer_of_another_vocabulary_is_refused(workspace, capsys, monkeypatch):
    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    file = workspace.folder / "llm" / "original" / "tokenizer.model"
    lines = file.read_text().splitlines(keepends=True)
    more = [f"{base64.b64encode(f'word{index}'.encode()).decode()} {len(lines) + index}\n" for index in range(50)]
    (workspace.folder / "other.model").write_text("".join(lines + more))
    with pytest.raises(SystemExit):
        workspace.train(f"tokenizer.path={workspace.folder}/other.model")
    assert "tokenizer" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_hub_name_without_a_network_says_what_to_download(workspace, capsys, monkeypatch):
    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(workspace.folder / "no_cache"))
    monkeypatch.chdir(workspace.folder)
    with pytest.raises(SystemExit):
        workspace.train("vision=siglip")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "hf download google/siglip-so400m-patch14-384" in line


def test_a_machine_without_a_compiler_is_named_before_weights_are_read(workspace, capsys, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", mock.Mock(side_effect=InvalidCxxCompiler))
    with pytest.raises(SystemExit) as end:
        workspace.train("compile=true", "device=cpu")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert "compile=true needs a C++ compiler on a CPU, and none was found: install g++" in line


def damage(workspace, kind):
    rows = workspace.records()
    image = workspace.folder / "images" / "1.png"
    if kind == "cut":
        image.write_bytes(image.read_bytes()[:200])
    elif kind == "missing":
        image.unlink()
    elif kind == "outside":
        rows[1]["image"] = "/etc/hostname"
    elif kind == "empty row":
        del rows[1]["conversations"]
    elif kind == "silent":
        rows[1]["conversations"][1]["value"] = ""
    elif kind == "too large":
        Image.new("1", (9000, 9000)).save(image)
    path = workspace.write_data("bad.json", rows)
    if kind == "json":
        path.write_text(json.dumps(rows, indent=1)[:700])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "1.png is damaged"),
        ("missing", "1.png does not exist"),
        ("too large", "1.png is 9000 x 9000, more than the 50,000,000 pixels allowed"),
        ("outside", "outside the allowed folders"),
        ("empty row", "row 1: there is no 'conversations'"),
        ("silent", "row 1: no token is left to learn"),
        ("json", "not valid JSON"),
    ],
)
def test_bad_data_is_found_before_weights_are_read(workspace, capsys, monkeypatch, kind, message):
    from medcap.checkpoints.frozen_llm import LLMPlan

    monkeypatch.setattr(LLMPlan, "load", lambda *_: pytest.fail("weights were read"))
    monkeypatch.chdir(workspace.folder)
    with pytest.raises(SystemExit) as end:
        workspace.train(f"dataset.source={damage(workspace, kind)}")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert message in line


def test_some_bad_rows_are_skipped_and_counted_when_allowed(workspace, capsys):
    output = workspace.train(f"dataset.source={damage(workspace, 'cut')}", "max_bad_fraction=0.4", "check_images=0")
    assert json.loads((output / "summary.json").read_text())["bad_rows"] == 3
    assert capsys.readouterr().err.count("skipped ") == 3


def test_too_many_damaged_images_end_the_run(workspace, capsys):
    with pytest.raises(SystemExit):
        workspace.train(f"dataset.source={damage(workspace, 'cut')}", "max_bad_fraction=0.1", "check_images=0")
    assert "more than max_bad_fraction=0.1 allows" in capsys.readouterr().err


def test_a_step_that_is_not_finite_is_skipped_and_ends_the_run_when_it_continues(workspace, capsys):
    with pytest.raises(SystemExit):
        workspace.train("optimizer.lr=1e38", "clip_grad_norm=null", "lr_scheduler=null", "epochs=9", "max_bad_steps=3")
    printed = capsys.readouterr().err
    assert "skipped: loss or gradient is not finite; its records: " in printed
    assert "3 steps in a row" in printed


def test_an_old_name_of_the_dataset_component_still_works(workspace):
    old_name = ("dataset._component_=torchtune.datasets.chat_dataset", "dataset.conversation_style=sharegpt")
    # It means samples and not rows, as in medcap 2024.
    old, new = (
        log(workspace.train(*words, output=name))
        for name, words in (("old", old_name), ("new", ("dataset.packed=false",)))
    )
    assert [row["loss"] for row in old] == [row["loss"] for row in new] and len(old) == 7
