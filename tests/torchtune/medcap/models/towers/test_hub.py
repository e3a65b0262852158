import pytest

from helpers.vision_checkpoints import write_hugging_face_folder, write_open_clip_folder
from medcap.errors import UserError
from medcap.models.towers import hub
from medcap.models.towers.registry import resolve_tower

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no network: every request fails the test unless it is expected to."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def snapshot(cache, repository):
    """The folder in which the hub's client keeps the files of a repository's main branch."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    return folder / "snapshots" / "0123abc"


@pytest.mark.parametrize(
    ("vision", "repository", "files"),
    [
        ("biomedclip", BIOMEDCLIP, "open_clip_config.json, open_clip_model.safetensors"),
        ("siglip", "google/siglip-so400m-patch14-384", "config.json, model.safetensors"),
        ("clip", "openai/clip-vit-large-patch14-336", "config.json, model.safetensors"),
        ("owner/model", "owner/model", "open_clip_config.json or config.json"),
        ("open_clip:ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP", "open_clip_model.safetensors"),
        ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors"),
    ],
)
def test_without_a_network_one_line_says_what_to_download_and_where(cache, vision, repository, files):
    with pytest.raises(UserError) as caught:
        resolve_tower(vision)
    message, folder = str(caught.value), f"./models/{repository.rsplit('/', 1)[-1]}"
    assert files in message and f"hf download {repository} --local-dir {folder}" in message
    assert f"vision={folder}" in message and "\n" not in message


def test_any_failure_of_the_network_is_that_line(cache, monkeypatch):
    def refuse(*_arguments):
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr(hub, "_probe", refuse)
    with pytest.raises(UserError, match="no network, offline mode, or no access"):
        hub.fetch("owner/model", ["config.json"])


def test_a_name_that_the_hub_cannot_have_is_refused(cache):
    with pytest.raises(UserError, match="not a name of a hub repository"):
        resolve_tower("models/..")


def test_cached_files_are_used_without_asking_the_network(cache):
    folder = snapshot(cache, "owner/model")
    write_hugging_face_folder(folder, "siglip", sharded=True)
    source = resolve_tower("owner/model")
    assert source.location == folder / "model.safetensors.index.json"
    folder = snapshot(cache, "owner/other")
    write_open_clip_folder(folder, as_pickle=True)
    assert resolve_tower("owner/other").location == folder / "open_clip_pytorch_model.bin"


def test_files_are_downloaded_one_by_one_and_a_missing_choice_is_skipped(cache, monkeypatch, tmp_path):
    from huggingface_hub.errors import EntryNotFoundError

    there = {"config.json", "pytorch_model.bin"}
    asked = []

    def probe(_repository, name):
        asked.append(name)
        if name not in there:
            raise EntryNotFoundError(name)

    monkeypatch.setattr(hub, "_probe", probe)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _repository, name: str(tmp_path / name))
    choices = ("model.safetensors", "pytorch_model.bin")
    assert hub.fetch("owner/model", ["config.json"], choices, ["preprocessor_config.json"]) == tmp_path
    assert asked == ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
    with pytest.raises(UserError, match=r"holds none of model.safetensors"):
        hub.fetch("owner/model", ["config.json"], ("model.safetensors",))
    with pytest.raises(UserError, match=r"lacks one of params.json"):
        hub.fetch("owner/model", ["params.json"])


def test_a_folder_that_is_missing_beside_others_is_no_name_of_the_hub(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    (tmp_path / "results").mkdir()
    words = "there is no folder results/nope beside others in results/; .*run `hf download results/nope` first"
    with pytest.raises(UserError, match=words):
        resolve_tower("results/nope")
    write_open_clip_folder(snapshot(cache, "results/nope"))
    assert resolve_tower("results/nope").spec["kind"] == "open_clip"


def test_a_copy_in_models_comes_before_the_hub(cache, tmp_path):
    folder = tmp_path / "models" / BIOMEDCLIP.rsplit("/", 1)[-1]
    write_open_clip_folder(folder)
    assert resolve_tower("biomedclip").location.resolve() == folder / "open_clip_model.safetensors"


def test_nothing_is_asked_for_when_only_the_architecture_is_needed(cache):
    for name in ("biomedclip", "siglip", "clip", "ViT-B-16", "timm:vit_small_patch16_224"):
        assert resolve_tower(name, weights=False).weights is None
