import json
import re
import signal

import pytest

from helpers.serving import Client, asking, noise_png
from helpers.workspace import Workspace
from medcap.cli import main

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("web"))
    workspace.train("max_steps_per_epoch=1")
    return workspace


@pytest.mark.slow
def test_a_run_is_shown_in_a_browser(workspace, server):
    process = server.program(
        workspace.folder / "printed",
        "import sys; from medcap.cli import main; sys.exit(main())",
        *("web", "run", "--port=0", "--votes=said/votes.jsonl", "--examples=images", "device=cpu"),
        folder=workspace.folder,
    )
    try:
        lines = process.lines(3)
        address = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ in a browser", lines[1])
        assert address and lines[2].startswith("no key is needed"), lines
        client = Client(int(address.group(1)))
        assert b"<title>medcap</title>" in client.request("GET", "/").body
        settings = client.request("GET", "/page/settings").json
        assert (settings["models"], settings["examples"]) == (["run"], [f"{number}.png" for number in range(4)])
        answer = client.chat({**asking("Is there a circle?", noise_png(1)), "model": "run"})
        assert answer.status == 200
        vote = {"vote": "up", "model": "run", "question": "Is there a circle?", "images": [], "turn": 1}
        vote |= {"answers": {"run": answer.json["choices"][0]["message"]["content"]}, "settings": {}}
        assert client.request("POST", "/page/votes", vote).status == 204
        assert process.end(signal.SIGTERM) == 0
        row = json.loads((workspace.folder / "said/votes.jsonl").read_text(encoding="utf-8"))
        assert row.pop("time") and row == vote
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples=none"], "--examples none: there is no such folder"),
        (["--examples=."], "--examples .: the folder holds no image"),
        (["--votes=run/config.yaml/votes.jsonl"], "give another --votes"),
        (["--host=0.0.0.0"], "is reached from other machines: set a key"),
    ],
)
def test_mistakes_are_one_line_before_weights_are_read(workspace, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.delenv("MEDCAP_API_KEY", raising=False)
    monkeypatch.setattr(
        "medcap.checkpoints.build_model.ModelPlan.load", lambda *_, **__: pytest.fail("weights were read")
    )
    with pytest.raises(SystemExit) as end:
        main(["web", "run", "--port=0", *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
