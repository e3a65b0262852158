import json
import threading

import pytest

from medcap.errors import UserError
from medcap.serving.web import votes
from medcap.serving.web.votes import VoteLog


def test_votes_are_appended_line_by_line_and_a_later_log_continues(tmp_path):
    path = tmp_path / "new/votes.jsonl"
    log = VoteLog(path)
    threads = [threading.Thread(target=log.add, args=({"vote": "up", "words": "ja ü\n" * 99},)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert VoteLog(path).add({"vote": "down"})
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["vote"] for row in rows] == ["up"] * 20 + ["down"]
    assert rows[0]["words"] == "ja ü\n" * 99 and rows[0]["time"].endswith("+00:00")


def test_a_full_log_takes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(votes, "MAX_BYTES", 100)
    log = VoteLog(tmp_path / "votes.jsonl")
    assert log.add({"vote": "up"})
    assert not log.add({"vote": "up"})
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 1


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --votes"):
        VoteLog(tmp_path / "file/votes.jsonl")
