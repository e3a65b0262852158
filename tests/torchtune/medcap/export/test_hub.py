import pytest

from helpers.hub_server import hub_server
from medcap.errors import UserError
from medcap.export.hub import check_folder, push_folder


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    for name in ("README.md", "config.json", "model.safetensors", "chat_template.jinja", "original/tokenizer.model"):
        (folder / name).write_text(f"content of {name}")
    (folder / "README.md").write_text("---\nlicense: other\n---\n\n# A model\n")
    return folder


@pytest.fixture
def hub(monkeypatch):
    # No login of the machine is looked at: the token below belongs to the stand-in.
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


def test_all_of_a_folder_is_uploaded(folder, hub):
    assert push_folder(folder, "tester/model", private=True) == f"{hub.url}/tester/model"
    assert hub.repositories["tester/model"]["visibility"] == "private"
    assert {name: content.decode() for name, content in hub.files["tester/model", "main"].items()} == {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_nothing_private_goes_to_a_public_repository(folder, hub):
    push_folder(folder, "tester/model", revision="first")
    with pytest.raises(UserError, match="tester/model exists and is public: make it private there"):
        push_folder(folder, "tester/model", private=True)
    assert list(hub.files) == [("tester/model", "first")]


def test_a_branch_is_made_and_filled(folder, hub):
    assert push_folder(folder, "tester/model", revision="step-120") == f"{hub.url}/tester/model/tree/step-120"
    assert hub.branches == [("tester/model", "step-120")]
    assert list(hub.files) == [("tester/model", "step-120")]


def test_a_refusal_of_the_hub_is_one_line(folder, hub):
    hub.status = 403
    with pytest.raises(UserError, match=r"the hub refused other/model: .*rights to create a model") as caught:
        push_folder(folder, "other/model")
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line(folder, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"tester/model cannot be uploaded \(.*\): check the network") as caught:
        push_folder(folder, "tester/model")
    assert "\n" not in str(caught.value)


def test_offline_mode_is_one_line(folder, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from huggingface_hub.utils import close_session

    close_session()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded"):
        push_folder(folder, "tester/model")
    close_session()


def test_no_login_is_one_line(folder, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(UserError, match="you are not logged in to the hub: run `hf auth login` first"):
        push_folder(folder, "tester/model")
    assert hub.repositories == {}


def test_a_wrong_name_or_folder_is_reported_before_anything_is_sent(folder, hub, tmp_path):
    with pytest.raises(UserError, match="no such folder; medcap export writes one"):
        push_folder(tmp_path / "nowhere", "tester/model")
    with pytest.raises(UserError, match="model is not a name on the hub: write OWNER/NAME"):
        push_folder(folder, "model")
    (folder / "README.md").unlink()
    with pytest.raises(UserError, match=r"holds no model card \(README.md\)"):
        push_folder(folder, "tester/model")
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".env", "is hidden"),
        (".git/config", "is hidden"),
        ("optimizer.bin", "is a pickle, which can run code"),
        ("old/meta_model.pt", "is a pickle, which can run code"),
        ("patients.csv", "belongs to no model"),
        ("config.yaml", "belongs to no model"),
    ],
)
def test_what_does_not_belong_stops_the_upload(folder, hub, name, reason):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("secret")
    with pytest.raises(UserError, match=f"{name} {reason}, so nothing is uploaded"):
        push_folder(folder, "tester/model")
    assert hub.repositories == {}


def test_links_out_of_the_folder_stop_the_upload(folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match=r"link.json is a link that leads out of the folder"):
        check_folder(folder)
    (folder / "link.json").unlink()
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(UserError, match="more is a link that leads out of the folder"):
        check_folder(folder)


def test_medcaps_own_pickle_belongs(folder):
    (folder / "meta_model.pt").touch()
    assert folder / "meta_model.pt" in check_folder(folder)
