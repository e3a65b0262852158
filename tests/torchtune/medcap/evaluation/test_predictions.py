import hashlib
import json

import pytest
from PIL import Image
from torchtune.data import Message

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError
from medcap.evaluation.predictions import (
    PredictionFile,
    dataset_fingerprint,
    request_fingerprint,
    settings_fingerprint,
)
from medcap.generation.request import Request

SETTINGS = {"checkpoint": "abc", "temperature": 0.0}


def test_rows_are_on_disk_as_soon_as_they_are_appended(tmp_path):
    path = tmp_path / "task" / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": "clear\nlungs ①"})
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"fingerprint": "1", "generated": "clear\nlungs ①", "settings": settings_fingerprint(SETTINGS)}]
    assert json.loads((tmp_path / "task" / "predictions.settings.json").read_text()) == SETTINGS


def test_a_line_that_a_kill_cut_off_is_removed(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": "é"})
    complete = path.read_bytes()
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "2", "generated": "日本"})
    longer = path.read_bytes()
    for cut in range(len(complete), len(longer)):
        path.write_bytes(longer[:cut])
        with PredictionFile(path, SETTINGS) as file:
            assert list(file.rows) == ["1"]
        assert path.read_bytes() == complete
    path.write_bytes(complete + b"\x00\x00\n")
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "2", "generated": "日本"})
    assert path.read_bytes() == longer


def test_other_settings_are_refused_with_the_difference_and_the_keys(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": "a"})
    with pytest.raises(UserError) as error:
        PredictionFile(path, {**SETTINGS, "temperature": 0.7})
    message = str(error.value)
    assert "temperature: 0.0 there, 0.7 now" in message
    assert "output_dir=..." in message
    assert "overwrite=true" in message
    assert "\n" not in message
    with PredictionFile(path, dict(reversed(SETTINGS.items()))) as file:
        assert list(file.rows) == ["1"]


def test_overwrite_starts_over(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": "a"})
    with PredictionFile(path, {"other": 1}, overwrite=True) as file:
        assert file.rows == {}
    assert path.read_bytes() == b""
    with PredictionFile(path, {"other": 1}) as file:
        assert file.rows == {}


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": "a"})
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(UserError, match="line 1 is damaged"):
        PredictionFile(path, SETTINGS)


def test_two_runs_do_not_write_one_file(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS), pytest.raises(UserError, match="another run"):
        PredictionFile(path, SETTINGS)


def test_a_later_row_of_one_fingerprint_replaces_the_earlier(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionFile(path, SETTINGS) as file:
        file.append({"fingerprint": "1", "generated": ""})
        file.append({"fingerprint": "1", "generated": "b"})
    with PredictionFile(path, SETTINGS) as file:
        assert file.rows["1"]["generated"] == "b"


def test_a_request_is_known_by_its_id_words_and_images():
    def request(id="1", text="q", image="a.png"):
        content = [{"type": "image", "content": image}, {"type": "text", "content": text}]
        return Request([Message(role="user", content=content)], id)

    assert request_fingerprint(request()) == request_fingerprint(request())
    others = [request(id="2"), request(text="r"), request(image="b.png"), request(image=Image.new("L", (2, 2)))]
    others += [request(image=Image.new("L", (2, 2), 1)), request(image=Image.new("L", (4, 1)))]
    others += [request(image=ImageRef("a.png", View(frames=number))) for number in (0, 1)]
    assert len({request_fingerprint(other) for other in [request(), *others]}) == 9
    # Files that were written when images were plain paths are continued.
    known = "a4b183232521362a77c4f0cd77a9124204c6f6354bd9749e5700f622d5c49709"
    assert request_fingerprint(request()) == request_fingerprint(request(image=ImageRef("a.png"))) == known


def test_dataset_fingerprint_is_the_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[1]")
    assert dataset_fingerprint(path) == hashlib.sha256(b"[1]").hexdigest()
    with pytest.raises(UserError, match="cannot be read"):
        dataset_fingerprint(tmp_path / "none.json")
