import json
from pathlib import Path

import numpy as np
import pytest

from medcap.errors import UserError
from medcap.retrieval import index as index_files
from medcap.retrieval.candidates import Candidate, Failure
from medcap.retrieval.index import read_index, write_index

TOWER = {"name": "tiny", "fingerprint": "abc"}
VALUES = np.eye(2, 3, dtype=np.float32)


def candidates(folder):
    counts = {"mask": {"size": [2, 2], "counts": "04"}, "label": "liver"}
    return [
        Candidate(folder / "index/images/a.png", str(folder / "masks/a.png"), "p1", {"organ": "liver"}),
        Candidate(folder / "b.png", counts),
    ]


def test_an_index_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / "index"
    write_index(folder, candidates(tmp_path), VALUES, TOWER, [Failure("c.png", "is damaged")])
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "embeddings.npy",
        "failures.jsonl",
        "index.json",
        "metadata.json",
    ]
    assert json.loads((folder / "metadata.json").read_text())[0] == {
        "image": "images/a.png",
        "mask": f"{tmp_path}/masks/a.png",
        "patient": "p1",
        "keys": {"organ": "liver"},
    }
    assert json.loads((folder / "failures.jsonl").read_text()) == {"name": "c.png", "reason": "is damaged"}
    facts = json.loads((folder / "index.json").read_text())
    assert facts == {
        "format_version": 1,
        "candidates": 2,
        "images": 2,
        "failures": 1,
        "dim": 3,
        "tower": TOWER,
    }
    found = read_index(folder)
    assert list(found.candidates) == candidates(tmp_path)
    assert found.embeddings.dtype == np.float32 and np.array_equal(found.embeddings, VALUES)


@pytest.mark.parametrize("step", ["write_json", "atomic_file"])
def test_an_interrupted_write_leaves_no_index_and_the_next_one_a_whole_one(tmp_path, monkeypatch, step):
    write_index(tmp_path, candidates(tmp_path), VALUES, TOWER, [Failure("c.png", "is damaged")])

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index_files, step, stop)
        write_index(tmp_path, candidates(tmp_path)[:1], VALUES[:1], TOWER)
    with pytest.raises(UserError, match=r"has no index.json, which is written last: make it again by medcap retrieve"):
        read_index(tmp_path)
    write_index(tmp_path, candidates(tmp_path)[:1], VALUES[:1], TOWER)
    assert len(read_index(tmp_path).candidates) == 1 and not (tmp_path / "failures.jsonl").exists()


def test_what_is_not_an_index_is_told(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist, so it has no index.json"):
        read_index(Path("nowhere"))
    write_index(tmp_path, candidates(tmp_path), VALUES, TOWER)
    np.save(tmp_path / "embeddings.npy", VALUES[:1])
    with pytest.raises(UserError, match="holds files of different builds"):
        read_index(tmp_path)
    (tmp_path / "embeddings.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"cannot be read \(.*make it again"):
        read_index(tmp_path)
    write_index(tmp_path, candidates(tmp_path), VALUES, TOWER)
    facts = json.loads((tmp_path / "index.json").read_text()) | {"format_version": 2}
    (tmp_path / "index.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="has format 2: update medcap"):
        read_index(tmp_path)
