import io
import os
import re
import signal
import subprocess
import sys

import openai
import psutil
import pytest
from PIL import Image

from helpers.serving import Client, asking, image_part, noise_png, url_part
from helpers.waiting import PATIENCE
from helpers.workspace import Workspace
from medcap.cli import main
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run
from medcap.serving.answer import REQUEST_KEY

pytestmark = pytest.mark.processes

KEY = "a-key-for-tests"
WORDS = "Is there a circle?"
MEGABYTE = 2**20


# What comes after a refusal is read, however long a busy machine takes for it.
PROGRAM = (
    "import sys; from medcap.cli import main; from medcap.serving import body;"
    f" body.DRAINED_SECONDS = {PATIENCE}; sys.exit(main())"
)


def words(workspace, *arguments):
    return ["serve", str(workspace.folder / "first"), str(workspace.folder / "second"), "device=cpu", *arguments]


def client_of(lines, log):
    """A client of what has printed these two lines."""
    found = re.fullmatch(r"serving first, second at http://127\.0\.0\.1:(\d+)/v1", lines[0])
    assert found, f"{lines} {log.read_text()}"
    assert "a key is needed" in lines[1]
    return Client(int(found.group(1)), KEY)


class Process:
    """``medcap serve`` as a program of its own."""

    def __init__(self, workspace, log, *arguments):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words(workspace, *arguments)],
                cwd=workspace.folder,
                env={**os.environ, "MEDCAP_API_KEY": KEY, "OMP_WAIT_POLICY": "passive"},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.client = client_of([self.process.stdout.readline().rstrip("\n") for _ in range(2)], log)

    @property
    def memory(self):
        return psutil.Process(self.process.pid).memory_info().rss

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("runs"))
    workspace.train("max_steps_per_epoch=1", output="first")
    workspace.train("max_steps_per_epoch=1", "seed=5", output="second")
    return workspace


@pytest.fixture(scope="module")
def started(workspace):
    limits = ("--max-queue=50", "--max-rows=8", "--max-bodies-mb=64")
    process = Process(workspace, workspace.folder / "first.log", "--port=0", *limits)
    yield process
    process.process.kill()
    process.process.wait()


def test_two_runs_are_served_to_openai_clients(workspace, started):
    api = started.client.openai()
    assert [model.id for model in api.models.list().data] == ["first", "second"]
    path = workspace.folder / "images/0.png"
    for name in ("first", "second"):
        request = question_request(path, WORDS, REQUEST_KEY)
        expected = open_run(workspace.folder / name).generate([request], Sampling(max_new_tokens=24))[0]
        body = {**asking(WORDS, path.read_bytes(), max_tokens=24), "model": name}
        completion = api.chat.completions.create(**body)
        assert completion.choices[0].message.content == expected.text
        chunks = api.chat.completions.create(**body, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    with pytest.raises(openai.AuthenticationError):
        started.client.openai(api_key="wrong").models.list()


@pytest.mark.slow
def test_abuse_is_refused_within_bounded_memory(started):
    client = started.client
    body = {**asking(WORDS, noise_png(1, 400, 300), max_tokens=4), "model": "first"}
    expected = client.chat(body).json["choices"][0]["message"]["content"]
    memory = [started.memory]
    for _ in range(2):
        abuse(client, body)
        statuses = [reply.status for reply in client.chat_at_once(body, 1000)]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 58
        assert client.chat(body).json["choices"][0]["message"]["content"] == expected
        memory.append(started.memory)
    # All bodies together have 64 MiB; seven rounds were seen to need no more than two.
    assert max(memory) - memory[0] < 500 * MEGABYTE
    log = started.log.read_text()
    assert "Traceback" not in log and KEY not in log and WORDS not in log


def abuse(client, body):
    """Everything that must be refused."""
    assert client.chat(b"x" * (50 * MEGABYTE)).status == 413
    assert client.chat(iter([b"x" * MEGABYTE] * 50)).status == 413
    assert client.chat(b"[" * 30 * MEGABYTE).status == 400
    assert client.chat(b'{"model":' * (3 * MEGABYTE)).status == 400
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    for part in (
        image_part(file.getvalue()),
        image_part(noise_png(1, 400, 300)[:5000]),
        image_part(b"<!doctype html><p>no image"),
        image_part(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        url_part("file:///etc/passwd"),
        url_part("/etc/passwd"),
        url_part("http://127.0.0.1:9/a.png"),
    ):
        turn = {"role": "user", "content": [part, {"type": "text", "text": WORDS}]}
        assert client.chat({**body, "messages": [turn]}).status == 400


@pytest.mark.slow
def test_a_killed_server_starts_again_at_its_port_and_ends_when_asked(workspace, started, server):
    client = started.client
    with client.begin_chat({**asking(WORDS, stream=True), "model": "first"}):
        assert started.end(signal.SIGKILL) == -signal.SIGKILL
    again = server.program(
        workspace.folder / "second.out",
        PROGRAM,
        *words(workspace, "--port", str(client.port)),
        folder=workspace.folder,
        environment={"MEDCAP_API_KEY": KEY},
    )
    try:
        client = client_of(again.lines(2), again.errors)
        stream = client.openai().chat.completions.create(**{**asking(WORDS), "model": "second"}, stream=True)
        first = next(stream)
        again.kill(number=signal.SIGTERM)
        chunks = [first, *stream]
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert again.wait() == [0]
        with pytest.raises(ConnectionRefusedError):
            client.connect()
        assert "Traceback" not in again.errors.read_text()
    finally:
        again.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is reached from other machines"),
        (["--api-key", ""], "an API key"),
        (["--api-key", "a\tb"], "an API key"),
        (["--api-key-file", "nowhere"], "--api-key-file nowhere cannot be read"),
        (["--api-key-file", "empty"], "holds no key"),
        (["--name", "a", "--name", "b"], "there are 1 runs and 2 names"),
        (["device=cpu", "--port", "0"], "there is no such run"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid --port 8000 cannot be used"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_loaded(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDCAP_API_KEY", raising=False)
    (tmp_path / "empty").write_text("\n")
    if "--port" not in arguments and "--host" not in arguments:
        arguments = [*arguments, "--port", "0"]
    with pytest.raises(SystemExit) as end:
        main(["serve", "nowhere", *arguments])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("medcap: ")]) == 1 and message in lines[-1]


def test_all_options_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    for option in ("host", "port", "api-key", "max-rows", "max-queue", "max-body-mb", "max-pixels", "timeout", "grace"):
        assert f"--{option}" in shown
