import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchtune.data import Message
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from helpers.llava_sources import LINEAR, MLP, llava_original
from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.run_folders import LLAMA3, POOLED_MLP, picture, write_run
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.run import read_run
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.generation.prompt import question_request, user_message
from medcap.generation.request import Sampling
from medcap.generation.run import open_run
from medcap.importing.sources import ImportOptions, import_model
from medcap.models.preprocess import Preprocess

PICTURE = picture(48, 32)


def vision_tensors(run):
    file = run / "vision.safetensors"
    return load_file(file if file.is_file() else run / "checkpoint/latest/vision.safetensors")


def answer(run):
    (generation,) = open_run(run, ["device=cpu"]).generate(
        [question_request(PICTURE, "Is there a circle?")], Sampling(max_new_tokens=8)
    )
    return generation.tokens


def image_rows(run, image=PICTURE):
    model = open_run(run, ["device=cpu"]).model
    with torch.no_grad():
        return model.encode_images(model.tower.preprocess.transform()(image)[None])


def fingerprint(run):
    return plan_model(read_run(run)).llm.fingerprint(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "left_behind"),
    [("siglip", set()), ("clip", {"vision.visual_projection.weight"}), ("biomedclip", {"vision.head.proj.weight"})],
)
def test_the_import_of_an_export_gives_the_same_tensors_back(tmp_path, tower, left_behind):
    run = write_run(tmp_path, tower)
    export_run(run, tmp_path / "out")
    assert import_model(tmp_path / "out", tmp_path / "back") == []
    before, after = vision_tensors(run), vision_tensors(tmp_path / "back")
    assert before.keys() - after.keys() == left_behind and not after.keys() - before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert fingerprint(tmp_path / "back") == fingerprint(run)
    assert answer(tmp_path / "back") == answer(run)


@pytest.mark.slow
def test_an_imported_run_is_exported_to_the_same_files(tmp_path):
    export_run(write_run(tmp_path, "siglip"), tmp_path / "out")
    import_model(tmp_path / "out", tmp_path / "back")
    export_run(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    card = (tmp_path / "again/README.md").read_text()
    assert "Imported into medcap and written again; nothing was trained there." in card and "`None`" not in card


def llava(folder, layer, activation="gelu"):
    """A random model of transformers, saved by it, with Llama 3's tokenizer beside it."""
    llm = write_hugging_face_llm(folder / "llm", random_decoder(tiny_llm(LLAMA3)))
    text = LlamaConfig(**json.loads((llm / "config.json").read_text()))
    clip = write_hugging_face_folder(folder / "clip", "clip", "vision")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=clip.config, text_config=text, image_token_id=630, vision_feature_layer=layer,
        projector_hidden_act=activation,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.state_dict())
    model.save_pretrained(folder / "llava")
    (folder / "clip/preprocessor_config.json").rename(folder / "llava/preprocessor_config.json")
    (llm / "original").rename(folder / "llava/original")
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_a_model_of_transformers_sees_the_same_after_its_import(tmp_path, layer):
    model = llava(tmp_path, layer)
    assert import_model(tmp_path / "llava", tmp_path / "run") == []
    generator = open_run(tmp_path / "run", ["device=cpu"])
    assert len(generator.model.tower.vision_model.encoder.layers) == (2 if layer == -1 else 1)
    pixels = generator.preprocess.transform()(PICTURE)[None]
    with torch.no_grad():
        seen = model.get_image_features(generator.preprocess.normalize(pixels), return_dict=True).pooler_output[0]
        assert (generator.model.encode_images(pixels) - seen).abs().max() < 1e-5
        prompt = generator.tokenizer.prompt([user_message(None, "Is it clear?")]).tokens
        assert prompt == generator.tokenizer.prompt([Message(role="user", content="Is it clear?")]).tokens
        ours = generator.model.decoder(torch.tensor([prompt]))
        assert (ours - model(torch.tensor([prompt])).logits).abs().max() < 1e-4


def expected_rows(clip, weights, shift=0.0):
    preprocess = Preprocess(32)
    pixels = preprocess.normalize(preprocess.transform()(PICTURE)[None])
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += shift
        rows = clip(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
        if not weights:
            return rows
        if "weight" in weights:
            return rows @ weights["weight"].T + weights["bias"]
        hidden = torch.nn.functional.gelu(rows @ weights["0.weight"].T + weights["0.bias"])
        return hidden @ weights["2.weight"].T + weights["2.bias"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "projector"), [("mlp2x_gelu", MLP), ("linear", LINEAR)])
@pytest.mark.parametrize("tower_inside", [False, True])
def test_llavas_own_format_sees_the_same(tmp_path, kind, projector, tower_inside):
    source, clip = llava_original(tmp_path, kind, projector, tower_inside)
    assert import_model(source, tmp_path / "run") == []
    expected = expected_rows(clip, projector, shift=1.0 if tower_inside else 0.0)
    assert torch.allclose(image_rows(tmp_path / "run"), expected, atol=1e-4)
    assert answer(tmp_path / "run")


@pytest.mark.slow
def test_a_model_without_a_projector_gives_its_patches(tmp_path):
    llm = tiny_llm(LLAMA3, embed_dim=16, num_heads=2, num_kv_heads=1)
    source, clip = llava_original(tmp_path, "identity", {}, False, llm)
    assert import_model(source, tmp_path / "run") == []
    assert torch.allclose(image_rows(tmp_path / "run"), expected_rows(clip, {}), atol=1e-5)


def test_without_a_projector_the_tower_must_be_as_wide_as_the_language_model(tmp_path):
    source, _ = llava_original(tmp_path, "identity", {}, False)
    with pytest.raises(UserError, match="no projector, but the tower's patches have width 16 and the language"):
        import_model(source, tmp_path / "run")


@pytest.mark.slow
def test_a_projectors_own_file_needs_its_tower(tmp_path):
    _, clip = llava_original(tmp_path, "linear", LINEAR, False)
    file = tmp_path / "mm_projector.bin"
    torch.save({f"model.mm_projector.{name}": tensor for name, tensor in LINEAR.items()}, file)
    with pytest.raises(UserError, match="does not say which tower it reads: give --vision FOLDER"):
        import_model(file, tmp_path / "run")
    options = ImportOptions(vision=str(tmp_path / "clip"), llm=tmp_path / "llm")
    write_hugging_face_llm(tmp_path / "llm", random_decoder(tiny_llm(LLAMA3)))
    assert import_model(file, tmp_path / "run", options) == []
    assert torch.allclose(image_rows(tmp_path / "run"), expected_rows(clip, LINEAR), atol=1e-5)
    assert not (tmp_path / "run/llm").exists()


def test_a_projector_of_llava_med_with_embeddings_says_what_is_left_out(tmp_path):
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    tensors = {f"base_model.model.model.mm_projector.{name}": tensor for name, tensor in MLP.items()}
    torch.save(tensors | {"model.embed_tokens.weight": torch.zeros(2, 32)}, tmp_path / "mm_projector.bin")
    notices = import_model(
        tmp_path / "mm_projector.bin", tmp_path / "run", ImportOptions(str(tmp_path / "clip"), select_layer=-1)
    )
    assert notices[0] == "1 tensors of mm_projector.bin are no projector's (such as embeddings): left out"
    assert "has no language model: train with vision_checkpoint=" in notices[1]
    assert json.loads((tmp_path / "run/vision.json").read_text())["tower"]["config"]["num_hidden_layers"] == 2
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.slow
def test_medcaps_meta_model_becomes_a_run_and_one_again(tmp_path, monkeypatch):
    run = write_run(tmp_path, "biomedclip", POOLED_MLP)
    notices = export_run(run, tmp_path / "out", "medcap")
    assert notices == ["medcap 2024 itself builds BiomedCLIP and no other tower; meta_model.pt is for medcap import"]
    file = tmp_path / "out/meta_model.pt"
    with pytest.raises(UserError, match="does not say which tower it holds: give --vision biomedclip"):
        import_model(file, tmp_path / "back")
    options = ImportOptions(vision=str(tmp_path / "biomedclip"), llm=tmp_path / "llm")
    import_model(file, tmp_path / "back", options)
    before, after = vision_tensors(run), vision_tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].bfloat16().float(), tensor) for name, tensor in after.items())
    assert answer(tmp_path / "back")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type=mlp3x_gelu; medcap import knows linear"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "LLaVA 1.6 cuts a picture into tiles"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature must be patch"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower: give it as --vision FOLDER"),
        ({"mm_vision_select_layer": -9}, "the layer -9 that is read is none of the tower's 2"),
        ({"model_type": "llava_qwen"}, "model_type 'llava_qwen' is no LLaVA"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "no torchtune builder makes this language model: rope"),
        ({"mm_projector_type": "linear"}, None),
    ],
)
def test_what_cannot_be_imported_is_reported_in_one_line(tmp_path, changes, message):
    source, _ = llava_original(tmp_path, "mlp2x_gelu", MLP, False, **changes)
    if message is None:  # the tensors decide: an outdated key is no obstacle
        assert import_model(source, tmp_path / "run") == []
        return
    with pytest.raises(UserError, match=message) as caught:
        import_model(source, tmp_path / "run")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*run*"))


def test_transformers_variants_without_a_place_are_reported_in_one_line(tmp_path):
    llava(tmp_path, [-2, -1])
    with pytest.raises(UserError, match=r"vision_feature_layer=\[-2, -1\]"):
        import_model(tmp_path / "llava", tmp_path / "run")
    path = tmp_path / "llava/config.json"
    config = json.loads(path.read_text())
    for changes, message in (
        ({"projector_hidden_act": "relu"}, "the projector's activation is relu"),
        ({"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}, "strategy=full is not supported"),
        ({"text_config": {"model_type": "qwen2"}}, "the language model is a qwen2"),
    ):
        path.write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message):
            import_model(tmp_path / "llava", tmp_path / "run")


def test_how_pictures_were_shown_is_said(tmp_path):
    source, _ = llava_original(tmp_path, "linear", LINEAR, False, image_aspect_ratio="pad")
    (notice,) = import_model(source, tmp_path / "run")
    assert notice.split(";")[0] == "this model was trained on pictures padded to a square"


def test_padding_is_said_for_a_model_of_transformers_too(tmp_path):
    llava(tmp_path, -2)
    path = tmp_path / "llava/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_aspect_ratio": "pad"}))
    (notice,) = import_model(tmp_path / "llava", tmp_path / "run")
    assert notice.startswith("this model was trained on pictures padded to a square; medcap crops or squashes them")


def test_a_folder_that_says_it_itself_takes_no_option(tmp_path):
    llava(tmp_path, -2)
    for options, name in ((ImportOptions(vision="clip"), "--vision"), (ImportOptions(llm=tmp_path), "--llm")):
        with pytest.raises(UserError, match=f"{name}: .*llava says it itself; leave it out"):
            import_model(tmp_path / "llava", tmp_path / "run", options)


def test_tensors_that_do_not_fit_are_named(tmp_path):
    llava(tmp_path, -2)
    path = tmp_path / "llava/model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"image_newline": torch.zeros(4)}, path)
    with pytest.raises(UserError, match="tensor image_newline belongs to no tower, projector or language model"):
        import_model(tmp_path / "llava", tmp_path / "run")
    removed = "multi_modal_projector.linear_2.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != removed}, path)
    with pytest.raises(UserError, match=r"tensor 2.weight of the projector is missing, but its configuration needs"):
        import_model(tmp_path / "llava", tmp_path / "run")


@pytest.mark.slow
def test_a_vit_of_others_is_refused(tmp_path):
    export_run(write_run(tmp_path, "biomedclip"), tmp_path / "out")
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    del config["vision_config"]["timm_model_name"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="a vit is imported only from medcap's own exports"):
        import_model(tmp_path / "out", tmp_path / "back")


def test_a_projector_for_another_width_or_of_another_kind_is_refused(tmp_path):
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    write_hugging_face_llm(tmp_path / "llm", random_decoder(tiny_llm(LLAMA3, embed_dim=64)))
    options = ImportOptions(vision=str(tmp_path / "clip"), llm=tmp_path / "llm")
    file = tmp_path / "mm_projector.bin"
    torch.save({f"model.mm_projector.{name}": tensor for name, tensor in MLP.items()}, file)
    with pytest.raises(UserError, match=r"is for a language model of width 32, and --llm .* has 64"):
        import_model(file, tmp_path / "run", options)
    torch.save(
        {f"model.mm_projector.{name}": tensor for name, tensor in {**MLP, "4.weight": MLP["2.weight"]}.items()}, file
    )
    with pytest.raises(
        UserError, match=r"tensor 4.(bias|weight) of the projector is .* but its configuration has no place"
    ):
        import_model(file, tmp_path / "run", ImportOptions(vision=str(tmp_path / "clip")))
    torch.save({"weight": MLP["0.weight"]}, file)
    with pytest.raises(UserError, match=r"holds no tensor named \*mm_projector"):
        import_model(file, tmp_path / "run", options)
