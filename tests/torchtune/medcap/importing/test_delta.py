"""Deltas: made, applied, refused; and those of LLaVA's own scripts."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from medcap.cli import main
from medcap.errors import UserError
from medcap.export.delta_format import difference, restored
from medcap.export.make_delta import make_delta
from medcap.importing.apply_delta import apply_delta

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 90,
}


def model(seed, dtype=torch.float16, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **changes})).to(dtype)


def tuned(base, dtype=torch.float16, rows=3):
    """A model that a training made of the base: other numbers, new tokens, and a projector."""
    torch.manual_seed(7)
    tensors = {}
    for name, tensor in base.state_dict().items():
        tensors[name] = (tensor.float() + torch.randn(tensor.shape) * 0.01).to(dtype)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], torch.randn(rows, tensor.shape[1]).to(dtype)])
    tensors["model.mm_projector.weight"] = torch.randn(32, 16).to(dtype)
    tensors["model.mm_projector.bias"] = torch.randn(32).to(dtype)
    return tensors


def write(folder, tensors, suffix="safetensors", shards=1):
    folder.mkdir()
    stem, names = ("model" if suffix == "safetensors" else "pytorch_model"), list(tensors)
    save = save_file if suffix == "safetensors" else torch.save
    if shards == 1:
        save(tensors, folder / f"{stem}.{suffix}")
    else:
        weight_map = {}
        for number in range(shards):
            file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
            part = {name: tensors[name] for name in names[number::shards]}
            save(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "vocab_size": len(tensors["lm_head.weight"])})
    )
    (folder / "tokenizer.model").write_bytes(b"sentences")
    return folder


def same(folder, tensors):
    found = load_file(folder / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", DTYPES)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_delta_gives_every_bit_back(tmp_path, dtype, base_dtype, suffix):
    base, target = model(0, base_dtype).state_dict(), tuned(model(0), dtype)
    write(tmp_path / "base", base, suffix, shards=2)
    write(tmp_path / "target", target, suffix, shards=3)
    (notice,) = make_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta")
    assert notice.startswith("2 tensors that only the target has are stored whole, such as model.mm_projector.bias")
    stored = load_file(tmp_path / "delta/model.safetensors")
    assert torch.equal(stored["model.mm_projector.weight"], target["model.mm_projector.weight"])
    assert stored["model.norm.weight"].dtype == {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    # New rows are the target's own.
    assert torch.equal(stored["lm_head.weight"][-3:].view(dtype), target["lm_head.weight"][-3:])
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "back")
    same(tmp_path / "back", target)
    for name in ("config.json", "tokenizer.model"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "target" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]


def llavas_delta(base, target):
    """llava/model/make_delta.py, on tensors: the target loses the base, in fp16."""
    result = {name: tensor.clone() for name, tensor in target.items()}
    for name, tensor in result.items():
        if name in base:
            rows, columns = (*base[name].shape, 0)[:2]
            part = tensor if tensor.shape == base[name].shape else tensor[:rows, :columns]
            part -= base[name]
    return result


def llavas_target(base, delta):
    """llava/model/apply_delta.py, on tensors."""
    result = {name: tensor.clone() for name, tensor in delta.items()}
    for name, tensor in result.items():
        if name in base:
            part = tensor if tensor.shape == base[name].shape else tensor[: base[name].shape[0], : base[name].shape[1]]
            part += base[name]
    return result


def test_a_published_delta_applies_as_its_authors_script_does(tmp_path):
    base = model(0).state_dict()
    delta = llavas_delta(base, tuned(model(0)))
    expected = llavas_target(base, delta)
    # Older releases of transformers saved precomputed tables too.
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    write(tmp_path / "base", base, "bin")
    write(tmp_path / "delta", delta | table, "bin", shards=2)
    notices = apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "target")
    assert notices[0] == "2 tensors are the delta's own, such as model.mm_projector.bias"
    assert notices[1].startswith("the delta has no delta.json, like all published ones")
    same(tmp_path / "target", expected)


def test_a_base_of_more_precision_is_read_in_fp16_as_there(tmp_path):
    base = model(0, torch.float32).state_dict()
    halved = {name: tensor.half() for name, tensor in base.items()}
    delta = llavas_delta(halved, tuned(model(0)))
    write(tmp_path / "base", base)
    write(tmp_path / "delta", delta)
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "target")
    same(tmp_path / "target", llavas_target(halved, delta))


def test_a_delta_in_fp16_is_the_one_that_llavas_script_makes_and_says_what_it_rounds(tmp_path):
    base, target = model(0).state_dict(), tuned(model(0))
    write(tmp_path / "base", base)
    write(tmp_path / "target", target)
    notices = make_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta", "fp16")
    expected = llavas_delta(base, target)
    same(tmp_path / "delta", expected)
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    wrong = sum(int((back[name] != tensor).sum()) for name, tensor in target.items())
    total = sum(tensor.numel() for name, tensor in target.items() if "projector" not in name)
    assert wrong > 0
    assert notices[1].startswith(f"{wrong} of {total} numbers come back rounded, at most ")
    assert notices[1].endswith("--dtype exact restores all of them")
    largest = max(float((back[name].double() - tensor.double()).abs().max()) for name, tensor in target.items())
    assert f"at most {largest:.2g} from" in notices[1]


def test_differences_in_fp32_of_16_bits_are_exact_but_for_tiny_numbers_beside_large_ones():
    target, base = torch.tensor([1.5, 1e-9]), torch.tensor([0.25, 100.0])
    for dtype in (torch.float16, torch.bfloat16):
        back = restored(difference(target[:1].to(dtype), base[:1].to(dtype), torch.float32), base[:1].to(dtype), dtype)
        assert torch.equal(back, target[:1].to(dtype))
    small, large = target[1:].bfloat16(), base[1:].bfloat16()
    assert restored(difference(small, large, torch.float32), large, torch.bfloat16).item() == 0.0
    assert torch.equal(restored(difference(small, large, None), large, torch.bfloat16), small)


def test_the_command_makes_a_model_that_transformers_loads(tmp_path, capsys):
    base, target = model(0, torch.float32), model(1, torch.float32)
    for name, one in (("base", base), ("target", target)):
        one.save_pretrained(tmp_path / name)
    paths = {name: str(tmp_path / name) for name in ("base", "target", "delta", "back")}
    main(["delta", "make", "--base", paths["base"], "--target", paths["target"], "--out", paths["delta"]])
    main(["delta", "apply", "--base", paths["base"], "--delta", paths["delta"], "--out", paths["back"]])
    assert capsys.readouterr().out == f"wrote {paths['delta']}\nwrote {paths['back']}\n"
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        back = LlamaForCausalLM.from_pretrained(paths["back"])
        assert torch.equal(back(tokens).logits, target.eval()(tokens).logits)


@pytest.fixture
def made(tmp_path):
    write(tmp_path / "base", model(0).state_dict())
    write(tmp_path / "target", tuned(model(0)))
    make_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta")
    return tmp_path


def refused(tmp_path, message, base="other"):
    with pytest.raises(UserError, match=message) as raised:
        apply_delta(tmp_path / base, tmp_path / "delta", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_base_with_other_numbers_is_refused(made):
    write(made / "other", model(1).state_dict())
    refused(made, r"tensor .* has other numbers than the base that .*delta\.json was made from")


def test_a_base_of_another_shape_is_refused_by_tensor_name(made):
    write(made / "other", model(0, intermediate_size=40).state_dict())
    refused(made, r"tensor model\.layers\.0\.mlp\.down_proj\.weight has shape \[32, 48\] and the base's \[32, 40\]")


def test_a_base_with_more_rows_is_refused(made):
    write(made / "other", model(0, vocab_size=94).state_dict())
    refused(made, r"tensor lm_head\.weight has shape \[93, 32\] and the base's \[94, 32\]")


@pytest.mark.parametrize("described", [True, False])
def test_a_base_with_more_or_fewer_layers_is_refused_by_tensor_name(made, described):
    if not described:
        (made / "delta/delta.json").unlink()
    write(made / "other", model(0, num_hidden_layers=3).state_dict())
    refused(made, r"tensor model\.layers\.2\.input_layernorm\.weight of the base is missing, so this delta belongs to")
    write(made / "fewer", model(0, num_hidden_layers=1).state_dict())
    refused(
        made, r"the base has no tensor model\.layers\.1\.input_layernorm\.weight, so this delta belongs to", "fewer"
    )


def test_a_base_with_the_deltas_own_tensors_is_refused(made):
    (tensors,) = [load_file(made / "base/model.safetensors")]
    projector = {f"model.mm_projector.{name}": torch.ones(shape).half() for name, shape in
                 (("weight", (32, 16)), ("bias", (32,)))}  # fmt: skip
    write(made / "other", tensors | projector)
    refused(made, r"delta's tensor model\.mm_projector\.bias was made without one of the base")


def test_two_models_that_do_not_belong_together_make_no_delta(made):
    write(made / "other", model(0, num_hidden_layers=1).state_dict())
    with pytest.raises(UserError, match=r"has no tensor model\.layers\.1\.input_layernorm\.weight, so this target"):
        make_delta(made / "other", made / "target", made / "out")
    with pytest.raises(UserError, match="exists already"):
        make_delta(made / "base", made / "target", made / "delta")
    with pytest.raises(UserError, match=r"--base .*nowhere does not exist"):
        make_delta(made / "nowhere", made / "target", made / "out")
    (made / "empty").mkdir()
    with pytest.raises(UserError, match=r"--target .*empty holds no weights: none of model\.safetensors"):
        make_delta(made / "base", made / "empty", made / "out")
    assert not (made / "out").exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None])
@pytest.mark.parametrize("name", ["model.safetensors", "delta.json"])
def test_damaged_files_are_named(made, name, content):
    path = made / "delta" / name
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    refused(made, path.name, "base")


def test_a_description_of_another_delta_is_refused(made):
    path = made / "delta/delta.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 2}))
    refused(made, "format_version 2 is unknown here; update medcap", "base")
    del content["tensors"]["model.norm.weight"]
    path.write_text(json.dumps(content))
    refused(made, r"do not agree on tensor model\.norm\.weight: download both again", "base")


def test_numbers_that_are_not_finite_are_refused(made):
    tensors = load_file(made / "target/model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    write(made / "bad", tensors)
    with pytest.raises(UserError, match=r"1 of 32 values of tensor model\.norm\.weight are NaN or infinite"):
        make_delta(made / "base", made / "bad", made / "out")
    assert not (made / "out").exists()


def test_a_fingerprint_is_of_the_bytes_in_the_targets_dtype(made):
    table = json.loads((made / "delta/delta.json").read_text())["tensors"]
    norm = load_file(made / "base/model.safetensors")["model.norm.weight"]
    assert table["model.norm.weight"] == {
        "dtype": "float16",
        "base_sha256": hashlib.sha256(norm.numpy().tobytes()).hexdigest(),
    }
    assert table["model.mm_projector.bias"] == {"dtype": "float16"}
